//! The process of a worker.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::super::worker::{Ready, WORKER_START_TIMEOUT, Worker};
use super::SupervisedProcess;
use super::reasons::{ended_early, with_lines};
use crate::process::child::Child;
use cortex_core::ports::Port;

/// The time between two readiness checks.
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// The time limit of one readiness check.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);

/// The most bytes that are read of a response.
const HEAD_BYTES_MAX: u64 = 4_096;

pub(super) struct WorkerProcess {
    child: Child,
}

impl WorkerProcess {
    /// Starts the process and waits until it is ready. Returns none if it is to stop before that. Unless it becomes
    /// ready, its process tree has ended when this returns.
    pub(super) async fn start(
        process: &SupervisedProcess,
        worker: &Worker,
        stop: &mut oneshot::Receiver<()>,
    ) -> Option<Result<Self, String>> {
        let mut child = match process.spawner.start(worker.spec.clone()) {
            Ok(child) => child,
            Err(error) => return Some(Err(format!("it could not be started ({error})"))),
        };
        process.change(|status| (status.lines, status.tree) = (child.last_lines(), Some(child.tree())));
        let ready = timeout(WORKER_START_TIMEOUT, until_ready(worker));
        let why = tokio::select! {
            // First, since another process may answer at the port of a worker that has ended.
            biased;
            ended = child.ended() => {
                process.change(|status| status.tree = None);
                return Some(Err(ended_early(&ended, "it was ready", &child.lines())));
            }
            _ = stop => {
                child.stop().await;
                process.change(|status| status.tree = None);
                return None;
            }
            ready = ready => match ready {
                Ok(()) => return Some(Ok(Self { child })),
                Err(_) => not_ready(worker),
            },
        };
        child.stop().await;
        process.change(|status| status.tree = None);
        Some(Err(with_lines(&why, &child.lines())))
    }

    /// Waits until it ends, and returns how.
    pub(super) async fn failed(&mut self) -> String {
        format!("it {}", self.child.ended().await)
    }

    /// Ends it, and returns why it failed, or how it ended.
    pub(super) async fn end(mut self, failure: Option<&str>) -> String {
        let ended = self.child.stop().await;
        let why = failure.map_or_else(|| format!("it {ended}"), str::to_owned);
        with_lines(&why, &self.child.lines())
    }
}

/// Returns why a worker did not become ready in time.
fn not_ready(worker: &Worker) -> String {
    let (seconds, port) = (WORKER_START_TIMEOUT.as_secs(), worker.port);
    let missing = match &worker.ready {
        Ready::Immediately => "it was not started".to_owned(),
        Ready::Tcp => format!("nothing listens on its port {port}, which it gets as CORTEX_PORT"),
        Ready::Http(path) => {
            format!("nothing answers GET {path} with 2xx on its port {port}, which it gets as CORTEX_PORT")
        }
    };
    format!("it was not ready within {seconds} s: {missing}")
}

async fn until_ready(worker: &Worker) {
    loop {
        let is_ready = match &worker.ready {
            Ready::Immediately => true,
            Ready::Tcp => timeout(CHECK_TIMEOUT, connect(worker.port)).await.is_ok_and(|socket| socket.is_some()),
            Ready::Http(path) => timeout(CHECK_TIMEOUT, is_healthy(worker.port, path)).await.is_ok_and(|ready| ready),
        };
        if is_ready {
            return;
        }
        sleep(CHECK_INTERVAL).await;
    }
}

/// Connects over IPv4 or IPv6, since a worker may listen on either.
async fn connect(port: Port) -> Option<TcpStream> {
    match TcpStream::connect(("127.0.0.1", port.0)).await {
        Ok(socket) => Some(socket),
        Err(_) => TcpStream::connect(("::1", port.0)).await.ok(),
    }
}

/// Returns whether a GET of the path has a status of 2xx.
async fn is_healthy(port: Port, path: &str) -> bool {
    let status = async {
        let mut socket = connect(port).await?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: localhost:{port}\r\nconnection: close\r\n\r\n");
        socket.write_all(request.as_bytes()).await.ok()?;
        let mut head = Vec::new();
        socket.take(HEAD_BYTES_MAX).read_to_end(&mut head).await.ok()?;
        let status = head.strip_prefix(b"HTTP/1.")?.get(2..5)?;
        Some(status.starts_with(b"2"))
    };
    status.await.unwrap_or(false)
}
