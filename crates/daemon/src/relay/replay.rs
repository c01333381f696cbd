//! Agreeing with a new daemon on what the client had agreed on with the one that is gone.
//!
//! The answers to what is sent here are for the relay alone: the client has had its own.

use std::{cell::RefCell, io, time::Duration};

use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::carry::{Client, Link};
use cortex_lines::Line;

/// How long all of it may take.
const REPLAY_WAIT_MAX: Duration = Duration::from_secs(5);

/// How the ids of the relay's own requests begin.
const ID_PREFIX: &str = "relay-";

/// Says again what the client has said: its greeting, its subscriptions and its listens.
///
/// # Errors
/// The daemon is lost, too slow, or does not agree.
pub(super) async fn replay<R, W>(client: &RefCell<&mut Client<R, W>>, link: &mut Link) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    timeout(REPLAY_WAIT_MAX, say_again(client, link)).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn say_again<R, W>(client: &RefCell<&mut Client<R, W>>, link: &mut Link) -> io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let greeting = client.borrow().memory.greeting().map(|(line, is_in_flight)| (line.to_vec(), is_in_flight));
    match greeting {
        // The client waits for the answer itself, and has agreed on nothing yet.
        Some((line, true)) => return write_line(link, &line).await,
        Some((line, false)) => {
            let mut greeting: Map<String, Value> = serde_json::from_slice(&line)?;
            let id = format!("{ID_PREFIX}initialize");
            greeting.insert("id".to_owned(), Value::from(id.as_str()));
            write_line(link, &serde_json::to_vec(&greeting)?).await?;
            if is_refused(client, link, &id).await? {
                return Err(io::Error::other("it refuses the greeting that the old one took"));
            }
        }
        None => {}
    }
    let initialized = client.borrow().memory.initialized().map(<[u8]>::to_vec);
    if let Some(line) = initialized {
        write_line(link, &line).await?;
    }
    let subscriptions: Vec<String> = client.borrow().memory.subscriptions().map(str::to_owned).collect();
    for (number, uri) in subscriptions.iter().enumerate() {
        let id = format!("{ID_PREFIX}{number}");
        let subscribe = json!({"jsonrpc": "2.0", "id": id, "method": "resources/subscribe", "params": {"uri": uri}});
        write_line(link, &serde_json::to_vec(&subscribe)?).await?;
        // What is gone cannot be subscribed to; the client sees that it is when it looks.
        is_refused(client, link, &id).await?;
        // It may have changed while nobody told of changes.
        let updated = json!({"jsonrpc": "2.0", "method": "notifications/resources/updated", "params": {"uri": uri}});
        client.borrow_mut().waiting.push(format!("{updated}\n").as_bytes());
    }
    let listens = client.borrow().memory.listens();
    for listen in listens {
        write_line(link, &listen).await?;
    }
    Ok(())
}

async fn write_line(link: &mut Link, line: &[u8]) -> io::Result<()> {
    link.stream.write_all(&[line, b"\n"].concat()).await
}

/// Waits for the answer to a request of the relay's own: whether it is an error. What comes before it is the client's.
async fn is_refused<R, W>(client: &RefCell<&mut Client<R, W>>, link: &mut Link, id: &str) -> io::Result<bool> {
    #[derive(Deserialize)]
    struct Reply<'a> {
        id: Option<&'a str>,
        error: Option<serde::de::IgnoredAny>,
    }
    loop {
        match link.lines.next_line() {
            Line::Text(line) => match serde_json::from_slice::<Reply<'_>>(line) {
                Ok(reply) if reply.id == Some(id) => return Ok(reply.error.is_some()),
                _ => client.borrow_mut().waiting.push(&[line, b"\n"].concat()),
            },
            Line::TooLong { bytes, .. } => return Err(io::Error::other(format!("it answers with {bytes} bytes"))),
            Line::End => return Err(io::ErrorKind::UnexpectedEof.into()),
            Line::Incomplete => {
                std::future::poll_fn(|context| link.lines.poll_fill(&mut link.stream, context)).await;
            }
        }
    }
}
