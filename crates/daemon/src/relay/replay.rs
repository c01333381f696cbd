//! Replays the client's MCP handshake and subscriptions to a new daemon.
//!
//! The replies to replayed requests are consumed by the relay, since the client already had its own.

use std::{cell::RefCell, io, time::Duration};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::forward::{Client, DaemonLink};
use cortex_lines::Line;

/// The time limit of a replay.
const REPLAY_WAIT_MAX: Duration = Duration::from_secs(5);

/// The prefix of the ids of the relay's own requests.
const ID_PREFIX: &str = "relay-";

/// Sends the client's `initialize`, subscriptions and listens again.
///
/// # Errors
/// The daemon is lost, too slow, or refuses `initialize`.
pub(super) async fn replay<R, W>(client: &RefCell<&mut Client<R, W>>, link: &mut DaemonLink) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    timeout(REPLAY_WAIT_MAX, replay_session(client, link)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn replay_session<R, W>(client: &RefCell<&mut Client<R, W>>, link: &mut DaemonLink) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let initialize = client.borrow().session.initialize().map(|(line, is_in_flight)| (line.to_vec(), is_in_flight));
    match initialize {
        // The client still waits for the reply, so that there is nothing else to replay.
        Some((line, true)) => return write_line(link, &line).await,
        Some((line, false)) => {
            let mut initialize: Map<String, Value> = serde_json::from_slice(&line)?;
            let id = format!("{ID_PREFIX}initialize");
            initialize.insert("id".to_owned(), Value::from(id.as_str()));
            write_line(link, &serde_json::to_vec(&initialize)?).await?;
            if is_refused(client, link, &id).await? {
                return Err(io::Error::other(
                    "the new daemon refuses the initialize request that the last one accepted",
                ));
            }
        }
        None => {}
    }
    let initialized = client.borrow().session.initialized().map(<[u8]>::to_vec);
    if let Some(line) = initialized {
        write_line(link, &line).await?;
    }
    let subscriptions: Vec<String> = client.borrow().session.subscriptions().map(str::to_owned).collect();
    for (number, uri) in subscriptions.iter().enumerate() {
        let id = format!("{ID_PREFIX}{number}");
        let subscribe = json!({"jsonrpc": "2.0", "id": id, "method": "resources/subscribe", "params": {"uri": uri}});
        write_line(link, &serde_json::to_vec(&subscribe)?).await?;
        // A refusal is ignored: the resource no longer exists, which the client sees when it reads it.
        is_refused(client, link, &id).await?;
        // It may have changed while no daemon was connected.
        let updated = json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}});
        client.borrow_mut().output.push(format!("{updated}\n").as_bytes());
    }
    let listens = client.borrow().session.listens();
    for listen in listens {
        write_line(link, &listen).await?;
    }
    Ok(())
}

async fn write_line(link: &mut DaemonLink, line: &[u8]) -> io::Result<()> {
    link.stream.write_all(&[line, b"\n"].concat()).await
}

/// Waits for the reply to a request of the relay, and returns whether it is an error. Lines before it are forwarded to
/// the client.
async fn is_refused<R, W>(client: &RefCell<&mut Client<R, W>>, link: &mut DaemonLink, id: &str) -> io::Result<bool> {
    #[derive(Deserialize)]
    struct Reply<'a> {
        id: Option<&'a str>,
        error: Option<serde::de::IgnoredAny>,
    }
    loop {
        match link.lines.next_line() {
            Line::Text(line) => match serde_json::from_slice::<Reply<'_>>(line) {
                Ok(reply) if reply.id == Some(id) => return Ok(reply.error.is_some()),
                _ => client.borrow_mut().output.push(&[line, b"\n"].concat()),
            },
            Line::TooLong { bytes, .. } => {
                return Err(io::Error::other(format!("the reply is too long: {bytes} bytes")));
            }
            Line::End => return Err(io::ErrorKind::UnexpectedEof.into()),
            Line::Incomplete => {
                std::future::poll_fn(|context| link.lines.poll_fill(&mut link.stream, context)).await;
            }
        }
    }
}
