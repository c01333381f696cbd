//! The process of a worker.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::super::worker::{Ready, WORKER_START_TIMEOUT, Worker};
use super::failure::Milestone;
use super::{Failure, FailureReason, ProcessEnd, SupervisedProcess};
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
    ) -> Option<Result<Self, Failure>> {
        let mut child = match process.spawner.start(worker.spec.clone()) {
            Ok(child) => child,
            Err(error) => return Some(Err(FailureReason::NotSpawned(error).into())),
        };
        process.change(|status| (status.lines, status.tree) = (child.last_lines(), Some(child.tree())));
        let ready = timeout(WORKER_START_TIMEOUT, until_ready(worker));
        tokio::select! {
            // First, since another process may answer at the port of a worker that has ended.
            biased;
            ended = child.ended() => {
                process.change(|status| status.tree = None);
                return Some(Err(Failure::ended_early(ended, Milestone::Ready, &child.lines())));
            }
            _ = stop => {
                child.stop().await;
                process.change(|status| status.tree = None);
                return None;
            }
            ready = ready => if ready.is_ok() {
                return Some(Ok(Self { child }));
            },
        }
        child.stop().await;
        process.change(|status| status.tree = None);
        let reason = FailureReason::NotReady { ready: worker.ready.clone(), port: worker.port };
        Some(Err(Failure::of_process(reason, &child.lines())))
    }

    /// Waits until it ends, and returns how.
    pub(super) async fn failed(&mut self) -> FailureReason {
        FailureReason::Ended(self.child.ended().await)
    }

    /// Ends it, and returns how it ended.
    pub(super) async fn end(mut self) -> ProcessEnd {
        ProcessEnd { exit_reason: self.child.stop().await, lines: self.child.lines() }
    }
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
