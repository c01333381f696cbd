//! The relay: the stdio side of a session, which forwards lines between its client and the daemon, and outlives the
//! daemon.
//!
//! When the daemon is lost, the relay answers the calls in flight with a retryable error, connects to another daemon or
//! starts one, and replays the client's handshake and subscriptions, so that the client's session continues.
//! Invariants: every request is answered once, by the daemon or by the relay; the end of the input or a signal ends the
//! process within a second, whatever the daemon does.

mod forward;
mod replay;
mod session_state;

use std::{cell::RefCell, collections::VecDeque, future::poll_fn, pin::pin, task::Poll, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use self::{
    forward::{Client, DaemonLink, Disconnected, WriteBuffer},
    replay::replay,
    session_state::SessionState,
};
use super::{
    connection::{attach, exclusive_owner},
    handshake::HandshakeRequest,
    runtime_directory::DaemonFiles,
    state_label,
};
use cortex_config::Settings;
use cortex_lines::LineBuffer;
use cortex_mcp::transport::{LISTENS_MAX, stdio};
use cortex_serving::{END_WAIT_MAX, StartupError};

/// The maximum number of daemons that may be lost within [`LOSSES_WINDOW`] without serving the client, each within
/// [`LIFE_MIN`].
const LOSSES_MAX: usize = 5;

/// A daemon that was connected for this long did not fail because of this session, and does not count as a loss,
/// whether or not it served the client.
const LIFE_MIN: Duration = Duration::from_secs(1);

/// The time window in which losses are counted.
const LOSSES_WINDOW: Duration = Duration::from_secs(30);

/// The pause after the second loss in a row; it doubles after each further one.
const LOSS_PAUSE: Duration = Duration::from_millis(50);

/// The number of requests in flight that the relay allows beyond the limits of the daemon.
const IN_FLIGHT_SPARE: usize = 1_024;

type StdioClient = Client<stdio::StdioReader, stdio::StdioWriter>;

/// The reason why the relay ends.
enum RelayEnd {
    /// The client has disconnected, or all its requests are answered, or the time for the end is over.
    Done,
    /// No daemon can be reached.
    NoDaemon(StartupError),
}

/// Forwards lines until the client disconnects or `stop` is cancelled.
///
/// # Errors
/// The daemon cannot be found or started, or refuses the session; or too many daemons were lost in a row.
pub(super) async fn run(
    files: DaemonFiles,
    request: HandshakeRequest,
    settings: &Settings,
    stop: CancellationToken,
) -> Result<(), StartupError> {
    let (reader, writer) = stdio::open();
    let client = Client {
        reader,
        writer,
        input: LineBuffer::new(settings.max_line_bytes),
        output: WriteBuffer::default(),
        session: SessionState::default(),
        held_line: None,
        is_input_done: false,
        line_bytes_max: settings.max_line_bytes,
        // The requests in the daemon and those before it. With a lower limit, both sides could wait for each other.
        in_flight_max: 2 * settings.max_calls_in_flight + LISTENS_MAX + IN_FLIGHT_SPARE,
    };
    let mut relay = Relay { files, request, client, stop, deadline: None, losses: VecDeque::new() };
    let end = match relay.attach().await? {
        Ok(link) => relay.serve(link).await,
        Err(end) => end,
    };
    relay.finish(end).await
}

/// Awaits a future while no daemon is connected, and watches the client's input for its end. Returns `None` if the
/// client disconnects, `stop` is cancelled, or the time for the end is over first.
async fn run_until_end<T>(
    client: &RefCell<&mut StdioClient>,
    stop: &CancellationToken,
    deadline: &mut Option<Instant>,
    task: impl Future<Output = T>,
) -> Option<T> {
    let mut task = pin!(task);
    loop {
        let (is_ending, until) = (deadline.is_some(), deadline.unwrap_or_else(Instant::now));
        let watched = poll_fn(|context| {
            let mut client = client.borrow_mut();
            match client.poll_without_daemon(false, context) {
                Poll::Pending if client.is_ending() && !is_ending => Poll::Ready(None),
                polled => polled,
            }
        });
        tokio::select! {
            output = &mut task => return Some(output),
            disconnected = watched, if !is_ending => match disconnected {
                Some(_) => return None,
                None => *deadline = Some(Instant::now() + END_WAIT_MAX),
            },
            () = stop.cancelled() => return None,
            () = sleep_until(until), if is_ending => return None,
        }
    }
}

struct Relay {
    files: DaemonFiles,
    request: HandshakeRequest,
    client: StdioClient,
    stop: CancellationToken,
    /// The deadline of the end, once it has begun.
    deadline: Option<Instant>,
    /// The times of recent losses since a daemon served the client.
    losses: VecDeque<Instant>,
}

impl Relay {
    /// Connects to the first daemon. No input is forwarded before, so that a client that cannot be served sees the
    /// process end, without a reply.
    async fn attach(&mut self) -> Result<Result<DaemonLink, RelayEnd>, StartupError> {
        let Self { files, request, client, stop, deadline, .. } = self;
        let attaching = attach(files, request);
        let Some(connection) = run_until_end(&RefCell::new(client), stop, deadline, attaching).await else {
            return Ok(Err(self.end_without_daemon()));
        };
        let connection = connection?;
        tracing::info!(pid = connection.response.pid, version = connection.response.version, "connected to the daemon");
        Ok(Ok(DaemonLink::new(connection.stream, connection.lines)))
    }

    /// Returns the end for a relay that stopped before a daemon was connected.
    fn end_without_daemon(&self) -> RelayEnd {
        if self.stop.is_cancelled() {
            return RelayEnd::Done;
        }
        if let Some(error) = exclusive_owner(&self.files) {
            return RelayEnd::NoDaemon(error);
        }
        if !self.client.has_unsent_input() {
            return RelayEnd::Done;
        }
        RelayEnd::NoDaemon(StartupError::new(format!(
            "the input ended, and no daemon for {} responded within {} ms: see its log {}",
            state_label(self.files.state.as_deref()),
            END_WAIT_MAX.as_millis(),
            self.files.log.display()
        )))
    }

    /// Forwards lines to one daemon after another.
    async fn serve(&mut self, mut link: DaemonLink) -> RelayEnd {
        loop {
            match self.forward(&mut link).await {
                None | Some(Disconnected::Client) => return RelayEnd::Done,
                Some(Disconnected::Daemon) => {}
            }
            if link.is_half_closed {
                // The daemon has answered what it could; pending calls such as waiting claims end with the session.
                return RelayEnd::Done;
            }
            if link.has_served || link.since.elapsed() >= LIFE_MIN {
                // A daemon that served the client may be killed any number of times; the next one is tried.
                self.losses.clear();
            }
            // Without a state on disk, the leases are lost even if the daemon was stopped in an orderly way.
            let replies = self.client.session.fail_calls(self.files.state.is_some());
            self.client.output.push(&replies);
            if self.client.is_ending() && !self.client.has_unsent_input() {
                return RelayEnd::Done;
            }
            if link.sent_shutdown_notice {
                tracing::info!("daemon was stopped; another is started with the next request of the client");
                if let Some(end) = self.wait_for_line().await {
                    return end;
                }
            } else {
                tracing::warn!("daemon was lost; connecting to another");
            }
            link = match self.reattach(!link.sent_shutdown_notice).await {
                Ok(link) => link,
                Err(end) => return end,
            };
        }
    }

    /// Forwards lines to this daemon. Returns `None` if the time for the end is over.
    async fn forward(&mut self, link: &mut DaemonLink) -> Option<Disconnected> {
        loop {
            let Self { client, stop, deadline, .. } = self;
            let (is_ending, until) = (deadline.is_some(), deadline.unwrap_or_else(Instant::now));
            let forwarded = poll_fn(|context| match client.poll_forward(link, context) {
                Poll::Ready(disconnected) => Poll::Ready(Some(disconnected)),
                // The time for the end begins when the input ends.
                Poll::Pending if client.is_ending() && !is_ending => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            tokio::select! {
                disconnected = forwarded => match disconnected {
                    Some(disconnected) => return Some(disconnected),
                    None => *deadline = Some(Instant::now() + END_WAIT_MAX),
                },
                () = stop.cancelled(), if !is_ending => self.begin_end(),
                () = sleep_until(until), if is_ending => return None,
            }
        }
    }

    /// Begins the end after `stop` was cancelled: further input is ignored.
    fn begin_end(&mut self) {
        self.client.is_input_done = true;
        self.deadline = Some(Instant::now() + END_WAIT_MAX);
    }

    /// Waits until the client sends a line. Returns the end if there is none.
    async fn wait_for_line(&mut self) -> Option<RelayEnd> {
        let Self { client, stop, .. } = self;
        tokio::select! {
            disconnected = poll_fn(|context| client.poll_without_daemon(true, context)) => {
                (disconnected.is_some() || client.held_line.is_none()).then_some(RelayEnd::Done)
            }
            () = stop.cancelled() => Some(RelayEnd::Done),
        }
    }

    /// Connects to another daemon and replays the client's session to it, while watching for the end of the input.
    /// `is_lost` is false if the last daemon was stopped on purpose.
    async fn reattach(&mut self, mut is_lost: bool) -> Result<DaemonLink, RelayEnd> {
        loop {
            let pause = if is_lost { self.note_loss().map_err(RelayEnd::NoDaemon)? } else { Duration::ZERO };
            is_lost = true;
            let Self { files, request, client, stop, deadline, .. } = self;
            let attaching = async {
                sleep(pause).await;
                attach(files, request).await
            };
            let client = RefCell::new(client);
            let connection = run_until_end(&client, stop, deadline, attaching)
                .await
                .ok_or(RelayEnd::Done)?
                .map_err(RelayEnd::NoDaemon)?;
            tracing::info!(pid = connection.response.pid, "connected to another daemon");
            let mut link = DaemonLink::new(connection.stream, connection.lines);
            let replayed =
                run_until_end(&client, stop, deadline, replay(&client, &mut link)).await.ok_or(RelayEnd::Done)?;
            match replayed {
                Ok(()) => return Ok(link),
                Err(error) => tracing::warn!("replay to the new daemon failed: {error}"),
            }
        }
    }

    /// Records a loss and returns the pause before the next attempt.
    ///
    /// # Errors
    /// Too many daemons were lost.
    fn note_loss(&mut self) -> Result<Duration, StartupError> {
        let now = Instant::now();
        self.losses.retain(|at| now.duration_since(*at) < LOSSES_WINDOW);
        if self.losses.len() >= LOSSES_MAX {
            return Err(StartupError::new(format!(
                "{LOSSES_MAX} daemons were lost within {} s without answering: see the log {}",
                LOSSES_WINDOW.as_secs(),
                self.files.log.display()
            )));
        }
        let pause = match self.losses.len() {
            0 => Duration::ZERO,
            earlier => LOSS_PAUSE * (1 << (earlier - 1)),
        };
        self.losses.push_back(now);
        Ok(pause)
    }

    /// Answers the requests that no daemon will answer, and flushes the output.
    async fn finish(mut self, end: RelayEnd) -> Result<(), StartupError> {
        if matches!(end, RelayEnd::NoDaemon(_)) {
            self.client.note_unsent_requests();
            let replies = self.client.session.fail_all();
            self.client.output.push(&replies);
        }
        let until = self.deadline.unwrap_or_else(|| Instant::now() + END_WAIT_MAX);
        // A client that does not read loses the rest of the output.
        let _ = timeout_at(until, poll_fn(|context| self.client.poll_flush(context))).await;
        match end {
            RelayEnd::Done => {
                tracing::info!("session ended");
                Ok(())
            }
            RelayEnd::NoDaemon(error) => Err(error),
        }
    }
}
