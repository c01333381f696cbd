//! The process of a worker.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::super::worker::{Ready, WORKER_START_TIMEOUT, Worker};
use super::Life;
use super::reasons::{ended_early, with_lines};
use crate::process::child::Child;
use cortex_core::ports::Port;

/// The time between two looks whether a worker is ready.
const LOOK_INTERVAL: Duration = Duration::from_millis(20);

/// How long one look may take.
const LOOK_MAX: Duration = Duration::from_secs(2);

/// How much is read of the head of an answer.
const HEAD_BYTES_MAX: u64 = 4_096;

pub(super) struct WorkerProcess {
    child: Child,
}

impl WorkerProcess {
    /// Starts the process and waits until it is ready; nothing if it is to leave meanwhile. Unless it gets ready, nothing of
    /// it is left.
    pub(super) async fn start(
        life: &Life,
        worker: &Worker,
        leave: &mut oneshot::Receiver<()>,
    ) -> Option<Result<Self, String>> {
        let mut child = match life.spawner.start(worker.launch.clone()) {
            Ok(child) => child,
            Err(error) => return Some(Err(format!("it could not be started ({error})"))),
        };
        life.change(|status| (status.lines, status.tree) = (child.last_lines(), Some(child.tree())));
        let ready = timeout(WORKER_START_TIMEOUT, until_ready(worker));
        let why = tokio::select! {
            // One that has ended while something else answers at its port is not ready.
            biased;
            ended = child.ended() => {
                life.change(|status| status.tree = None);
                return Some(Err(ended_early(&ended, "it was ready", &child.lines())));
            }
            _ = leave => {
                child.stop().await;
                life.change(|status| status.tree = None);
                return None;
            }
            ready = ready => match ready {
                Ok(()) => return Some(Ok(Self { child })),
                Err(_) => not_ready(worker),
            },
        };
        child.stop().await;
        life.change(|status| status.tree = None);
        Some(Err(with_lines(&why, &child.lines())))
    }

    /// Waits until it ends, and says how.
    pub(super) async fn lost(&mut self) -> String {
        format!("it {}", self.child.ended().await)
    }

    /// Asks it to end, and makes it; says how that went, or why it was lost.
    pub(super) async fn end(mut self, lost: Option<&str>) -> String {
        let ended = self.child.stop().await;
        let why = lost.map_or_else(|| format!("it {ended}"), str::to_owned);
        with_lines(&why, &self.child.lines())
    }
}

/// Why one counts as not ready that did not get so in its time.
fn not_ready(worker: &Worker) -> String {
    let (seconds, port) = (WORKER_START_TIMEOUT.as_secs(), worker.port);
    let missing = match &worker.ready {
        Ready::AtOnce => "it was not started".to_owned(),
        Ready::Tcp => format!("nothing listens at its port {port}, which it has in CORTEX_PORT"),
        Ready::Http(path) => {
            format!("nothing answers GET {path} with 2xx at its port {port}, which it has in CORTEX_PORT")
        }
    };
    format!("it was not ready within {seconds} s: {missing}")
}

async fn until_ready(worker: &Worker) {
    loop {
        let is_ready = match &worker.ready {
            Ready::AtOnce => true,
            Ready::Tcp => timeout(LOOK_MAX, connect(worker.port)).await.is_ok_and(|socket| socket.is_some()),
            Ready::Http(path) => timeout(LOOK_MAX, answers(worker.port, path)).await.is_ok_and(|answers| answers),
        };
        if is_ready {
            return;
        }
        sleep(LOOK_INTERVAL).await;
    }
}

/// A worker may listen at either family of addresses.
async fn connect(port: Port) -> Option<TcpStream> {
    match TcpStream::connect(("127.0.0.1", port.0)).await {
        Ok(socket) => Some(socket),
        Err(_) => TcpStream::connect(("::1", port.0)).await.ok(),
    }
}

async fn answers(port: Port, path: &str) -> bool {
    let ask = async {
        let mut socket = connect(port).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.ok()?;
        let mut head = Vec::new();
        socket.take(HEAD_BYTES_MAX).read_to_end(&mut head).await.ok()?;
        let status = head.strip_prefix(b"HTTP/1.")?.get(2..5)?;
        Some(status.starts_with(b"2"))
    };
    ask.await.unwrap_or(false)
}
