//! Accepts and serves the connections of an endpoint.
//!
//! Invariant: a connection does not keep its permit without sending requests, or without reading the responses.

use std::{
    convert::Infallible, io, net::TcpListener as StdTcpListener, pin::pin, sync::Arc, task::Poll, time::Duration,
};

use axum::{Router, http::Request};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{Service, service_fn},
};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    activity::{Activity, TrackedSocket},
    http_response,
    lingering_close::LingeringClose,
    origin_check,
    router::router,
};
use crate::bridge::{
    endpoint::Endpoint,
    limits::connection_permits::{CloseMode, ConnectionPermit},
};

/// How many bytes of a request are buffered, which is also the longest request head.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// How often a connection is checked for being stale.
const STALE_CHECK_INTERVAL: Duration = Duration::from_secs(2);

/// How long responses may take to be sent after the endpoint closes or the lease of their connection ends.
const CLOSE_WAIT_MAX: Duration = Duration::from_millis(500);

/// How long the endpoint waits after an `accept` that failed.
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(100);

/// The most rejected connections that are closed with a [`LingeringClose`] concurrently. Further ones are dropped after
/// one write.
const REJECTIONS_MAX: usize = 64;

/// The response to a connection over the limit.
const TOO_MANY_CONNECTIONS: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 5\r\ncontent-type: application/json\r\n\
    content-length: 37\r\nconnection: close\r\n\r\n{\"error\":\"too many connections: 256\"}";

/// What the routes know of the connection of a request.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    pub(crate) endpoint: Arc<Endpoint>,
    pub(crate) permit: Arc<ConnectionPermit>,
}

impl Endpoint {
    /// Serves clients on these sockets until `closing` is cancelled. Responses that are ready by then are still sent,
    /// for at most 500 ms.
    pub async fn serve(self: Arc<Self>, listeners: Vec<StdTcpListener>, closing: CancellationToken) {
        let listeners: Vec<_> = listeners.into_iter().filter_map(listen).collect();
        let router = router();
        let (mut connections, mut rejections) = (JoinSet::new(), JoinSet::new());
        loop {
            tokio::select! {
                () = closing.cancelled() => break,
                Some(_) = connections.join_next(), if !connections.is_empty() => {}
                Some(_) = rejections.join_next(), if !rejections.is_empty() => {}
                accepted = accept(&listeners) => match accepted {
                    Ok(socket) => match self.connection_permits.acquire() {
                        Some(permit) => {
                            let connection = Connection { endpoint: Arc::clone(&self), permit: Arc::new(permit) };
                            connections.spawn(serve_connection(router.clone(), socket, connection, closing.clone()));
                        }
                        None if rejections.len() < REJECTIONS_MAX => {
                            rejections.spawn(reject(socket));
                        }
                        None => {
                            let _ = socket.try_write(TOO_MANY_CONNECTIONS);
                        }
                    },
                    Err(error) => {
                        tracing::warn!(%error, "accepting a connection failed");
                        tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                    }
                },
            }
        }
        drop(listeners);
        self.multiplexer().end_matching(|_| true, "the endpoint is closing");
        let sent = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(CLOSE_WAIT_MAX, sent).await;
    }
}

fn listen(listener: StdTcpListener) -> Option<TcpListener> {
    let listening = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
    listening.inspect_err(|error| tracing::warn!(%error, "listening on a socket failed")).ok()
}

/// Accepts the next connection on any of the sockets.
async fn accept(listeners: &[TcpListener]) -> io::Result<TcpStream> {
    std::future::poll_fn(|context| {
        for listener in listeners {
            if let Poll::Ready(accepted) = listener.poll_accept(context) {
                return Poll::Ready(accepted.map(|(socket, _)| socket));
            }
        }
        Poll::Pending
    })
    .await
}

/// Rejects a connection over the limit with 503.
async fn reject(mut socket: TcpStream) {
    // The send buffer of a new socket always takes this many bytes.
    if socket.write_all(TOO_MANY_CONNECTIONS).await.is_ok() {
        let mut lingering_close = LingeringClose::new();
        std::future::poll_fn(|context| lingering_close.poll(&mut socket, context)).await;
    }
}

async fn serve_connection(
    router: Router<Connection>,
    socket: TcpStream,
    connection: Connection,
    closing: CancellationToken,
) {
    // Without `TCP_NODELAY`, the end of a response may wait for the client to acknowledge its beginning.
    let _ = socket.set_nodelay(true);
    let activity = Arc::new(Activity::new());
    let io = TokioIo::new(TrackedSocket::new(socket, Arc::clone(&activity)));
    let permit = Arc::clone(&connection.permit);
    let routes = TowerToHyperService::new(router.with_state(connection));
    let service = {
        let activity = Arc::clone(&activity);
        service_fn(move |request: Request<Incoming>| {
            let guard = activity.begin_request();
            let routed = origin_check::check(request.uri(), request.headers()).map(|()| routes.call(request));
            async move {
                let response = match routed {
                    Ok(response) => response.await?,
                    Err(why) => http_response::forbidden(why),
                };
                // The request ends when the body is dropped, and the guard with it.
                Ok::<_, Infallible>(response.map(|body| body.inspect_frame(move |_| _ = &guard)))
            }
        })
    };
    let mut serving = pin!(http1::Builder::new().max_buf_size(HEAD_BYTES_MAX).serve_connection(io, service));
    let mut stale_check = tokio::time::interval(STALE_CHECK_INTERVAL);
    let mut is_closing = false;
    let mut close_deadline = None;
    loop {
        tokio::select! {
            biased;
            served = serving.as_mut() => {
                if let Err(error) = served {
                    tracing::debug!(%error, "connection closed early");
                }
                return;
            }
            () = closing.cancelled(), if !is_closing => {
                is_closing = true;
                serving.as_mut().graceful_shutdown();
            }
            mode = permit.close_requested() => match mode {
                CloseMode::Immediate => return,
                CloseMode::Graceful => {
                    close_deadline = Some(Instant::now() + CLOSE_WAIT_MAX);
                    serving.as_mut().graceful_shutdown();
                }
            },
            () = tokio::time::sleep_until(close_deadline.unwrap_or_else(Instant::now)),
                if close_deadline.is_some() => return,
            _ = stale_check.tick() => if activity.is_stale() { return },
        }
    }
}
