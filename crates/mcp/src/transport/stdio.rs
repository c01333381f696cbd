//! The process's standard streams, each in the fastest way that its type allows.
//!
//! tokio's own `stdin()` and `stdout()` pass every read and write to a thread, which takes most of the
//! time of a call. A pipe or a socket can be polled instead. The two directions are chosen
//! independently, and a stream that cannot be polled falls back to the threads.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

#[cfg(target_os = "linux")]
use std::os::fd::AsRawFd;
#[cfg(unix)]
use std::os::fd::{AsFd, BorrowedFd};
#[cfg(unix)]
use tokio::net::UnixStream;
#[cfg(target_os = "linux")]
use tokio::net::unix::pipe;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Opens standard input and standard output, each in the fastest way for its type.
///
/// On Linux a pipe is reopened, so that the stream that children inherit keeps its blocking flag. A
/// socket cannot be reopened: it becomes non-blocking for all processes that share it.
///
/// # Panics
/// If called outside of a tokio runtime with its I/O enabled.
pub fn open() -> (StdioReader, StdioWriter) {
    #[cfg(unix)]
    let (reader, writer) = (StdioReader::of(io::stdin().as_fd()), StdioWriter::of(io::stdout().as_fd()));
    #[cfg(not(unix))]
    let (reader, writer) = (StdioReader::blocking(), StdioWriter::blocking());
    tracing::debug!(reader = reader.kind(), writer = writer.kind(), "standard streams opened");
    (reader, writer)
}

/// Standard input.
pub struct StdioReader(Input);

enum Input {
    #[cfg(target_os = "linux")]
    Pipe(pipe::Receiver),
    #[cfg(unix)]
    Socket(UnixStream),
    Blocking(tokio::io::Stdin),
}

/// Standard output.
pub struct StdioWriter(Output);

enum Output {
    #[cfg(target_os = "linux")]
    Pipe(pipe::Sender),
    #[cfg(unix)]
    Socket(UnixStream),
    Blocking(tokio::io::Stdout),
}

impl StdioReader {
    #[cfg(unix)]
    fn of(stream: BorrowedFd<'_>) -> Self {
        match StreamKind::of(stream) {
            #[cfg(target_os = "linux")]
            StreamKind::Pipe => pipe::OpenOptions::new()
                .open_receiver(path(stream))
                .map(|receiver| Self(Input::Pipe(receiver)))
                .unwrap_or_else(|error| {
                    tracing::debug!(%error, "standard input could not be reopened");
                    Self::blocking()
                }),
            StreamKind::Socket => socket(stream).map(|socket| Self(Input::Socket(socket))).unwrap_or_else(|error| {
                tracing::debug!(%error, "standard input could not be polled");
                Self::blocking()
            }),
            _ => Self::blocking(),
        }
    }

    fn blocking() -> Self {
        Self(Input::Blocking(tokio::io::stdin()))
    }

    /// Returns how the stream is driven: `pipe`, `socket` or `blocking`.
    pub fn kind(&self) -> &'static str {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Input::Pipe(_) => "pipe",
            #[cfg(unix)]
            Input::Socket(_) => "socket",
            Input::Blocking(_) => "blocking",
        }
    }
}

impl StdioWriter {
    #[cfg(unix)]
    fn of(stream: BorrowedFd<'_>) -> Self {
        match StreamKind::of(stream) {
            #[cfg(target_os = "linux")]
            StreamKind::Pipe => pipe::OpenOptions::new()
                .open_sender(path(stream))
                .map(|sender| Self(Output::Pipe(sender)))
                .unwrap_or_else(|error| {
                    tracing::debug!(%error, "standard output could not be reopened");
                    Self::blocking()
                }),
            StreamKind::Socket => socket(stream).map(|socket| Self(Output::Socket(socket))).unwrap_or_else(|error| {
                tracing::debug!(%error, "standard output could not be polled");
                Self::blocking()
            }),
            _ => Self::blocking(),
        }
    }

    fn blocking() -> Self {
        Self(Output::Blocking(tokio::io::stdout()))
    }

    /// Returns how the stream is driven: `pipe`, `socket` or `blocking`.
    pub fn kind(&self) -> &'static str {
        match &self.0 {
            #[cfg(target_os = "linux")]
            Output::Pipe(_) => "pipe",
            #[cfg(unix)]
            Output::Socket(_) => "socket",
            Output::Blocking(_) => "blocking",
        }
    }
}

impl AsyncRead for StdioReader {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.0 {
            #[cfg(target_os = "linux")]
            Input::Pipe(stream) => Pin::new(stream).poll_read(context, buffer),
            #[cfg(unix)]
            Input::Socket(stream) => Pin::new(stream).poll_read(context, buffer),
            Input::Blocking(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for StdioWriter {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.0 {
            #[cfg(target_os = "linux")]
            Output::Pipe(stream) => Pin::new(stream).poll_write(context, bytes),
            #[cfg(unix)]
            Output::Socket(stream) => Pin::new(stream).poll_write(context, bytes),
            Output::Blocking(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            #[cfg(target_os = "linux")]
            Output::Pipe(stream) => Pin::new(stream).poll_flush(context),
            #[cfg(unix)]
            Output::Socket(stream) => Pin::new(stream).poll_flush(context),
            Output::Blocking(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.0 {
            #[cfg(target_os = "linux")]
            Output::Pipe(stream) => Pin::new(stream).poll_shutdown(context),
            #[cfg(unix)]
            Output::Socket(stream) => Pin::new(stream).poll_shutdown(context),
            Output::Blocking(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}

/// The type of a stream.
#[cfg(unix)]
enum StreamKind {
    /// Only Linux can reopen a pipe; elsewhere its blocking flag would be shared with its other
    /// writers.
    #[cfg(target_os = "linux")]
    Pipe,
    Socket,
    /// A file, a terminal, a device, or a stream without metadata.
    Other,
}

#[cfg(unix)]
impl StreamKind {
    fn of(stream: BorrowedFd<'_>) -> Self {
        use std::os::unix::fs::FileTypeExt;

        let metadata = stream.try_clone_to_owned().and_then(|stream| std::fs::File::from(stream).metadata());
        match metadata {
            #[cfg(target_os = "linux")]
            Ok(metadata) if metadata.file_type().is_fifo() => Self::Pipe,
            Ok(metadata) if metadata.file_type().is_socket() => Self::Socket,
            Ok(_) | Err(_) => Self::Other,
        }
    }
}

#[cfg(target_os = "linux")]
fn path(stream: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", stream.as_raw_fd())
}

#[cfg(unix)]
fn socket(stream: BorrowedFd<'_>) -> io::Result<UnixStream> {
    let socket = std::os::unix::net::UnixStream::from(stream.try_clone_to_owned()?);
    socket.set_nonblocking(true)?;
    UnixStream::from_std(socket)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_pipe_is_waited_for() {
        let (read, write) = io::pipe().expect("a pipe");
        let mut reader = StdioReader::of(read.as_fd());
        let mut writer = StdioWriter::of(write.as_fd());
        assert_eq!((reader.kind(), writer.kind()), ("pipe", "pipe"));
        drop(write);
        transfer(&mut reader, &mut writer).await;
        drop(writer);
        assert_eq!(reader.read(&mut [0; 8]).await.expect("the end"), 0);
    }

    #[tokio::test]
    async fn a_socket_is_waited_for() {
        let (near, far) = std::os::unix::net::UnixStream::pair().expect("a socket pair");
        let mut reader = StdioReader::of(near.as_fd());
        let mut writer = StdioWriter::of(far.as_fd());
        assert_eq!((reader.kind(), writer.kind()), ("socket", "socket"));
        transfer(&mut reader, &mut writer).await;
    }

    #[tokio::test]
    async fn a_device_is_left_to_the_threads() {
        let device = std::fs::File::options().read(true).write(true).open("/dev/null").expect("the null device");
        assert_eq!(StdioReader::of(device.as_fd()).kind(), "blocking");
        assert_eq!(StdioWriter::of(device.as_fd()).kind(), "blocking");
    }

    /// Sends more than a pipe holds, so that both sides must wait.
    async fn transfer(reader: &mut StdioReader, writer: &mut StdioWriter) {
        let sent = vec![7; 300_000];
        let mut got = vec![0; sent.len()];
        let (written, read) = tokio::join!(writer.write_all(&sent), reader.read_exact(&mut got));
        written.expect("all is written");
        read.expect("all is read");
        assert_eq!(got, sent);
    }
}
