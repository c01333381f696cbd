//! The process of a worker.

use std::time::Duration;

use hyper::client::conn::http1;
use hyper::{Request, header};
use hyper_util::rt::TokioIo;
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

/// Returns whether a GET of the path has a status of 2xx. The body is not read.
async fn is_healthy(port: Port, path: &str) -> bool {
    let status = async {
        let (mut sender, connection) = http1::handshake(TokioIo::new(connect(port).await?)).await.ok()?;
        let request = Request::get(path)
            .header(header::HOST, format!("localhost:{port}"))
            .header(header::CONNECTION, "close")
            .body(String::new())
            .ok()?;
        // Ends with `sender` and the response.
        tokio::spawn(connection);
        Some(sender.send_request(request).await.ok()?.status().is_success())
    };
    status.await.unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    /// Returns whether a worker that answers this is healthy. It keeps the connection open.
    async fn is_healthy_with(answer: &'static str) -> bool {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = Port(listener.local_addr().expect("an address").port());
        let worker = tokio::spawn(async move {
            let (mut socket, _) = listener.accept().await.expect("a check");
            let mut request = [0; 1_024];
            let length = socket.read(&mut request).await.expect("a request");
            assert!(request[..length].starts_with(b"GET /health?x=1 HTTP/1.1\r\nhost: localhost:"));
            socket.write_all(answer.as_bytes()).await.expect("a check that reads");
            // Until the check closes the connection.
            let _ = socket.read_to_end(&mut Vec::new()).await;
        });
        let healthy = timeout(CHECK_TIMEOUT, is_healthy(port, "/health?x=1")).await.expect("an answer in time");
        worker.await.expect("no panic");
        healthy
    }

    #[tokio::test]
    async fn the_status_decides_even_if_the_connection_stays_open() {
        assert!(is_healthy_with("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await);
        assert!(is_healthy_with("HTTP/1.1 204 No Content\r\n\r\n").await);
        assert!(!is_healthy_with("HTTP/1.1 302 Found\r\nlocation: /\r\ncontent-length: 0\r\n\r\n").await);
        assert!(!is_healthy_with("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n").await);
        assert!(!is_healthy_with("not HTTP\r\n\r\n").await);
    }
}
