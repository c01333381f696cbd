//! The stdio side of a shared session: carries lines between its client and the daemon, and outlives the daemon.
//!
//! When the daemon is lost, the calls in flight are answered with an error that asks to try again, another daemon is found or
//! started, and what the client had agreed on with the old one is agreed on with the new one, so that the client's session
//! goes on. Invariants: a request is answered once, by the daemon or from here; the end of the input or a signal ends the
//! process within a second, whatever the daemon does.

mod carry;
mod memory;
mod replay;

use std::{cell::RefCell, collections::VecDeque, future::poll_fn, pin::pin, task::Poll, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use tokio_util::sync::CancellationToken;

use self::{
    carry::{Client, Link, Parting, Waiting},
    memory::Memory,
    replay::replay,
};
use super::{
    hello::Hello,
    launch::{attach, excluded},
    runtime_directory::Place,
    subject,
};
use cortex_config::Settings;
use cortex_lines::LineBuffer;
use cortex_mcp::transport::{LISTENS_MAX, stdio};
use cortex_serving::{END_WAIT_MAX, StartupError};

/// How many daemons that said nothing to the client and ended at once may be lost within [`LOSSES_WINDOW`] before this gives up.
const LOSSES_MAX: usize = 5;

/// A daemon that was there for so long did not end for what this session said: it does not count, whether or not the client
/// asked for anything meanwhile.
const LIFE_MIN: Duration = Duration::from_secs(1);

/// The time in which losses are counted.
const LOSSES_WINDOW: Duration = Duration::from_secs(30);

/// How long this waits after the second loss in a row; after each further one twice as long.
const LOSS_PAUSE: Duration = Duration::from_millis(50);

/// How many more requests than the daemon takes at a time may be on their way to it.
const IN_FLIGHT_SPARE: usize = 1_024;

type StdioClient = Client<stdio::StdioReader, stdio::StdioWriter>;

/// Why there is nothing more to do.
enum End {
    /// The client is gone, or all that it said is answered, or the time for that is over.
    Done,
    /// There is no daemon.
    NoDaemon(StartupError),
}

/// Carries lines until the client goes away or `stop` is cancelled.
///
/// # Errors
/// The daemon cannot be found or started, or refuses the session; or too many were lost in a row.
pub(super) async fn run(
    place: Place,
    hello: Hello,
    settings: &Settings,
    stop: CancellationToken,
) -> Result<(), StartupError> {
    let (reader, writer) = stdio::open();
    let client = Client {
        reader,
        writer,
        input: LineBuffer::new(settings.max_line_bytes),
        waiting: Waiting::default(),
        memory: Memory::default(),
        held: None,
        is_over: false,
        line_bytes_max: settings.max_line_bytes,
        // Those that the daemon has and those that wait before it: with fewer, both sides would wait for each other.
        in_flight_max: 2 * settings.max_calls_in_flight + LISTENS_MAX + IN_FLIGHT_SPARE,
    };
    let mut relay = Relay { place, hello, client, stop, deadline: None, losses: VecDeque::new() };
    let end = match relay.attach().await? {
        Ok(link) => relay.serve(link).await,
        Err(end) => end,
    };
    relay.part(end).await
}

/// Does something without a daemon that carries lines, while the client is heard as far as to see its end. Nothing if the
/// client or the time for the end is gone first.
async fn tend<T>(
    client: &RefCell<&mut StdioClient>,
    stop: &CancellationToken,
    deadline: &mut Option<Instant>,
    doing: impl Future<Output = T>,
) -> Option<T> {
    let mut doing = pin!(doing);
    loop {
        let (is_ending, until) = (deadline.is_some(), deadline.unwrap_or_else(Instant::now));
        let tended = poll_fn(|context| {
            let mut client = client.borrow_mut();
            match client.poll_alone(false, context) {
                Poll::Pending if client.is_ending() && !is_ending => Poll::Ready(None),
                polled => polled,
            }
        });
        tokio::select! {
            done = &mut doing => return Some(done),
            parting = tended, if !is_ending => match parting {
                Some(_) => return None,
                None => *deadline = Some(Instant::now() + END_WAIT_MAX),
            },
            () = stop.cancelled() => return None,
            () = sleep_until(until), if is_ending => return None,
        }
    }
}

struct Relay {
    place: Place,
    hello: Hello,
    client: StdioClient,
    stop: CancellationToken,
    /// By when the process is to end, once the end has begun.
    deadline: Option<Instant>,
    /// When daemons were lost lately, since one served the client.
    losses: VecDeque<Instant>,
}

impl Relay {
    /// Finds or starts the first daemon. Nothing of the client's is passed on before, so that who cannot be served sees the
    /// process end, without an answer.
    async fn attach(&mut self) -> Result<Result<Link, End>, StartupError> {
        let Self { place, hello, client, stop, deadline, .. } = self;
        let attaching = attach(place, hello);
        let Some(attached) = tend(&RefCell::new(client), stop, deadline, attaching).await else {
            return Ok(Err(self.unattached()));
        };
        let attached = attached?;
        tracing::info!(pid = attached.answer.pid, version = attached.answer.version, "attached to the daemon");
        Ok(Ok(Link::new(attached.stream, attached.lines)))
    }

    /// What it comes to when the time is over before there was a daemon.
    fn unattached(&self) -> End {
        if self.stop.is_cancelled() {
            return End::Done;
        }
        if let Some(unusable) = excluded(&self.place) {
            return End::NoDaemon(unusable);
        }
        if !self.client.has_more() {
            return End::Done;
        }
        End::NoDaemon(StartupError::new(format!(
            "the input ended, and no daemon answered on {} within {} ms: see its log {}",
            subject(self.place.state.as_deref()),
            END_WAIT_MAX.as_millis(),
            self.place.log.display()
        )))
    }

    /// Carries lines over one daemon after another.
    async fn serve(&mut self, mut link: Link) -> End {
        loop {
            match self.carry(&mut link).await {
                None | Some(Parting::Client) => return End::Done,
                Some(Parting::Daemon) => {}
            }
            if link.is_half_closed {
                // It has answered what it wanted to answer: the rest was waiting, and ends with the session.
                return End::Done;
            }
            if link.has_served || link.since.elapsed() >= LIFE_MIN {
                // However often daemons are killed that do their work, the next one is worth a try.
                self.losses.clear();
            }
            // One that was told to end has ended in order; without a state its books are gone all the same.
            let answers = self.client.memory.lose(self.place.state.is_some());
            self.client.waiting.push(&answers);
            if self.client.is_ending() && !self.client.has_more() {
                return End::Done;
            }
            if link.said_goodbye {
                tracing::info!("the daemon was told to end; another is started when the client asks for something");
                if let Some(end) = self.wait_for_a_line().await {
                    return end;
                }
            } else {
                tracing::warn!("the daemon is gone: another is found or started");
            }
            link = match self.reattach(!link.said_goodbye).await {
                Ok(link) => link,
                Err(end) => return end,
            };
        }
    }

    /// Carries lines over this daemon. Nothing if the time for the end is over.
    async fn carry(&mut self, link: &mut Link) -> Option<Parting> {
        loop {
            let Self { client, stop, deadline, .. } = self;
            let (is_ending, until) = (deadline.is_some(), deadline.unwrap_or_else(Instant::now));
            let carried = poll_fn(|context| match client.poll_carry(link, context) {
                Poll::Ready(parting) => Poll::Ready(Some(parting)),
                // The time for the end begins when the end of the input is seen.
                Poll::Pending if client.is_ending() && !is_ending => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            });
            tokio::select! {
                parting = carried => match parting {
                    Some(parting) => return Some(parting),
                    None => *deadline = Some(Instant::now() + END_WAIT_MAX),
                },
                () = stop.cancelled(), if !is_ending => self.begin_end(),
                () = sleep_until(until), if is_ending => return None,
            }
        }
    }

    /// Told to end: what the client says from now on is not looked at.
    fn begin_end(&mut self) {
        self.client.is_over = true;
        self.deadline = Some(Instant::now() + END_WAIT_MAX);
    }

    /// Waits until the client says something.
    async fn wait_for_a_line(&mut self) -> Option<End> {
        let Self { client, stop, .. } = self;
        tokio::select! {
            parting = poll_fn(|context| client.poll_alone(true, context)) => {
                (parting.is_some() || client.held.is_none()).then_some(End::Done)
            }
            () = stop.cancelled() => Some(End::Done),
        }
    }

    /// Finds or starts another daemon and agrees with it on what the client had agreed on. Meanwhile the client is heard as
    /// far as to see its end. `is_lost` says whether the old one was lost, rather than told to end.
    async fn reattach(&mut self, mut is_lost: bool) -> Result<Link, End> {
        loop {
            let pause = if is_lost { self.note_loss().map_err(End::NoDaemon)? } else { Duration::ZERO };
            is_lost = true;
            let Self { place, hello, client, stop, deadline, .. } = self;
            let attaching = async {
                sleep(pause).await;
                attach(place, hello).await
            };
            let client = RefCell::new(client);
            let attached = tend(&client, stop, deadline, attaching).await.ok_or(End::Done)?.map_err(End::NoDaemon)?;
            tracing::info!(pid = attached.answer.pid, "attached to another daemon");
            let mut link = Link::new(attached.stream, attached.lines);
            let replayed = tend(&client, stop, deadline, replay(&client, &mut link)).await.ok_or(End::Done)?;
            match replayed {
                Ok(()) => return Ok(link),
                Err(error) => tracing::warn!("the new daemon does not go on where the old one was: {error}"),
            }
        }
    }

    /// How long to wait before the next attempt, or that there is none.
    fn note_loss(&mut self) -> Result<Duration, StartupError> {
        let now = Instant::now();
        self.losses.retain(|at| now.duration_since(*at) < LOSSES_WINDOW);
        if self.losses.len() >= LOSSES_MAX {
            return Err(StartupError::new(format!(
                "{LOSSES_MAX} daemons were lost within {} s, and none answered: see the log {}",
                LOSSES_WINDOW.as_secs(),
                self.place.log.display()
            )));
        }
        let pause = match self.losses.len() {
            0 => Duration::ZERO,
            earlier => LOSS_PAUSE * (1 << (earlier - 1)),
        };
        self.losses.push_back(now);
        Ok(pause)
    }

    /// Answers what nobody else will, and lets the client have it.
    async fn part(mut self, end: End) -> Result<(), StartupError> {
        if matches!(end, End::NoDaemon(_)) {
            self.client.note_rest();
            let answers = self.client.memory.give_up();
            self.client.waiting.push(&answers);
        }
        let until = self.deadline.unwrap_or_else(|| Instant::now() + END_WAIT_MAX);
        // A client that does not read is left with what it took.
        let _ = timeout_at(until, poll_fn(|context| self.client.poll_flush(context))).await;
        match end {
            End::Done => {
                tracing::info!("ended");
                Ok(())
            }
            End::NoDaemon(unusable) => Err(unusable),
        }
    }
}
