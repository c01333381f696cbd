//! The life of something real, an MCP server or a worker: it is started, looked after, started again, and ended.
//!
//! A task of its own lives it and shows where it stands. The first start either answers or has failed; one that ran and was
//! lost is started again, the later the more often that happens, until that looks hopeless. Nothing is started again
//! before the whole tree of the one before is gone.

mod reasons;
mod remote;
mod server;
mod wanted;
mod worker;

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::bridge::{ChildState, Endpoint};
use super::catalog::Entry;
use super::process::child::{LastLines, Spawner};
use super::process::tree::ProcessTree;
use super::worker::Worker;
use cortex_core::ids::AllocationId;
use cortex_core::time::Timestamp;
use cortex_core::units::MemoryMb;
use cortex_managed::{MemoryLimit, ProcessState};
use remote::Elsewhere;
use server::ServerProcess;
use worker::WorkerProcess;

pub(super) use reasons::without_lines;
pub(super) use wanted::{wait_until_restarted, wait_until_running};

/// How long a server has to end after it was asked to, before it is made to.
pub const SERVER_GRACE: Duration = Duration::from_secs(5);

/// Why one is restarting that was asked to.
const ASKED_FOR: &str = "it is started again since somebody asked for it";

/// The periods by which servers and workers are looked after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// How often a server is asked whether it still answers.
    pub health: Duration,
    /// How many times in a row it may fail to.
    pub misses_max: u32,
    /// How long it is waited before the first new start; before each further one twice as long.
    pub backoff: Duration,
    /// The longest such wait.
    pub backoff_max: Duration,
    /// After how long a server that runs counts as sound, so that the next loss is its first.
    pub sound_after: Duration,
    /// How many times in a row it may be lost before it is not started again.
    pub losses_max: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            health: Duration::from_secs(10),
            misses_max: 3,
            backoff: Duration::from_secs(1),
            backoff_max: Duration::from_secs(60),
            sound_after: Duration::from_secs(30),
            losses_max: 5,
        }
    }
}

impl Timing {
    /// How long it is waited after so many losses in a row.
    fn wait_after(&self, losses: u32) -> Duration {
        let doublings = losses.saturating_sub(1).min(16);
        (self.backoff * (1 << doublings)).min(self.backoff_max)
    }
}

/// Where it stands.
#[derive(Clone, Debug)]
pub(super) struct Status {
    pub(super) state: ProcessState,
    /// Why it is restarting or failed.
    pub(super) reason: Option<String>,
    pub(super) running_since: Option<Timestamp>,
    /// How often it was started again by itself.
    pub(super) restarts: u64,
    /// How many starts have come to something, good or bad.
    pub(super) starts: u64,
    /// Which of the restarts that were asked for the last start served that came to something, good or bad, and with it all
    /// before.
    ///
    /// Nothing while another that was asked for is under way, which has ended what this came to.
    restarts_served: Option<u64>,
    /// What the last process of it wrote.
    pub(super) lines: LastLines,
    /// Its processes, while there are some.
    pub(super) tree: Option<ProcessTree>,
    pub(super) memory_limit: Option<MemoryLimit>,
}

impl Default for Status {
    fn default() -> Self {
        Self {
            state: ProcessState::Starting,
            reason: None,
            running_since: None,
            restarts: 0,
            starts: 0,
            restarts_served: None,
            lines: LastLines::default(),
            tree: None,
            memory_limit: None,
        }
    }
}

/// What is kept running.
#[derive(Debug)]
pub(super) enum Kind {
    /// A server that is run here, where its clients come in, and whose own it is if it is not shared.
    Server(Arc<Entry>, Arc<Endpoint>, Option<AllocationId>),
    /// A server that runs elsewhere.
    Remote(Arc<Entry>),
    /// A worker.
    Worker(Worker),
}

/// Something real with its life.
#[derive(Debug)]
pub(super) struct Service {
    status: watch::Receiver<Status>,
    /// How many restarts were asked for. It is told anew, and stays the same, when it is only to run.
    restarts: watch::Sender<u64>,
    /// Dropped to end it.
    stay: oneshot::Sender<()>,
    life: JoinHandle<()>,
}

impl Service {
    /// Starts it, once what `after` waits for is over.
    pub(super) fn start(
        name: String,
        kind: Kind,
        (spawner, timing): (Arc<Spawner>, Timing),
        after: Option<JoinHandle<()>>,
    ) -> Self {
        let (show, status) = watch::channel(Status::default());
        let (restarts, asked) = watch::channel(0);
        let (stay, leave) = oneshot::channel();
        let life = Life { name, kind, spawner, timing, show, asked, serves: 0, losses: 0 };
        let life = tokio::spawn(async move {
            if let Some(after) = after {
                // However it ended, it is over.
                let _ = after.await;
            }
            life.live(leave).await;
        });
        Self { status, restarts, stay, life }
    }

    /// Where it stands.
    pub(super) fn status(&self) -> Status {
        self.status.borrow().clone()
    }

    /// To hear where it stands.
    pub(super) fn watch(&self) -> watch::Receiver<Status> {
        self.status.clone()
    }

    /// Ends it. What is returned is over when nothing is left of it.
    pub(super) fn end(self) -> JoinHandle<()> {
        drop(self.stay);
        self.life
    }
}

/// What a run that answered came to.
enum Lost {
    /// It was told to start anew.
    Restart,
    /// It ended or answers no more: why.
    Crash(String),
}

struct Life {
    name: String,
    kind: Kind,
    spawner: Arc<Spawner>,
    timing: Timing,
    show: watch::Sender<Status>,
    /// How many restarts were asked for.
    asked: watch::Receiver<u64>,
    /// How many had been when the last start began, which serves them all.
    serves: u64,
    /// How many times in a row it was lost.
    losses: u32,
}

enum Running {
    Server(ServerProcess),
    Elsewhere(Elsewhere),
    Worker(WorkerProcess),
}

impl Life {
    /// Lives until `leave` is over.
    async fn live(mut self, mut leave: oneshot::Receiver<()>) {
        let mut has_run = false;
        loop {
            self.serves = *self.asked.borrow_and_update();
            let mut running = match self.start(&mut leave).await {
                None => break,
                Some(Ok(running)) => running,
                Some(Err(why)) => {
                    // One that never answered is for whoever asked for it to mend, and no use to start again.
                    let losses = if has_run { self.losses + 1 } else { u32::MAX };
                    if !self.wait(losses, why, &mut leave).await {
                        break;
                    }
                    continue;
                }
            };
            has_run = true;
            let since = Instant::now();
            self.change(|status| {
                status.state = ProcessState::Running;
                (status.reason, status.starts) = (None, status.starts + 1);
                status.restarts_served = Some(self.serves);
                status.running_since = Some(now());
            });
            tracing::info!(name = %self.name, "running");
            let lost = tokio::select! {
                lost = running.watch(&self.timing, &mut self.asked, self.serves) => Some(lost),
                _ = &mut leave => None,
            };
            match lost {
                None => self.change(|status| status.state = ProcessState::Stopping),
                // Nobody who asks from now on is told that it runs.
                Some(Lost::Restart) => self.change(|status| {
                    (status.state, status.reason) = (ProcessState::Restarting, Some(ASKED_FOR.to_owned()));
                    status.restarts_served = None;
                }),
                Some(Lost::Crash(_)) => {}
            }
            let why = running.end(lost.as_ref()).await;
            self.change(|status| (status.tree, status.running_since) = (None, None));
            match lost {
                None => break,
                Some(Lost::Restart) => {
                    self.losses = 0;
                    self.tell(ChildState::Restarting { why: ASKED_FOR.to_owned(), since: Instant::now() });
                }
                Some(Lost::Crash(_)) => {
                    let losses = if since.elapsed() >= self.timing.sound_after { 1 } else { self.losses + 1 };
                    if !self.wait(losses, why, &mut leave).await {
                        break;
                    }
                }
            }
        }
        self.change(|status| (status.state, status.running_since) = (ProcessState::Stopped, None));
        tracing::info!(name = %self.name, "stopped");
    }

    /// Starts it; nothing if it is to end meanwhile, and then nothing of it is left.
    async fn start(&mut self, leave: &mut oneshot::Receiver<()>) -> Option<Result<Running, String>> {
        match &self.kind {
            Kind::Server(entry, endpoint, owner) => {
                let started = ServerProcess::start(self, (entry, endpoint), *owner, leave).await?;
                Some(started.map(Running::Server))
            }
            Kind::Remote(entry) => {
                let started = Elsewhere::start(entry);
                tokio::select! {
                    started = started => Some(started.map(Running::Elsewhere)),
                    _ = leave => None,
                }
            }
            Kind::Worker(worker) => {
                let started = WorkerProcess::start(self, worker, leave).await?;
                Some(started.map(Running::Worker))
            }
        }
    }

    /// Waits until it is to be started again, and says whether it is, rather than to end. After too many losses it waits until
    /// somebody asks for it.
    async fn wait(&mut self, losses: u32, why: String, leave: &mut oneshot::Receiver<()>) -> bool {
        let is_hopeless = losses > self.timing.losses_max;
        self.losses = if is_hopeless { 0 } else { losses };
        tracing::warn!(name = %self.name, is_hopeless, why = ?without_lines(&why), "lost, or not started");
        if is_hopeless {
            let why =
                if losses == u32::MAX { why } else { format!("it was lost {losses} times in a row; at last: {why}") };
            self.tell(ChildState::Failed { why: why.clone() });
            self.change(|status| {
                (status.state, status.reason) = (ProcessState::Failed, Some(why));
                (status.starts, status.restarts_served) = (status.starts + 1, Some(self.serves));
            });
        } else {
            self.tell(ChildState::Restarting { why: why.clone(), since: Instant::now() });
            self.change(|status| {
                (status.state, status.reason) = (ProcessState::Restarting, Some(why));
                status.restarts_served = Some(self.serves);
            });
        }
        let pause = async {
            if is_hopeless {
                std::future::pending::<()>().await;
            }
            sleep(self.timing.wait_after(losses)).await;
        };
        let goes_on = tokio::select! {
            () = pause => true,
            // Whatever is asked, it is to run now; without somebody who asks it is to end.
            asked = self.asked.changed() => asked.is_ok(),
            _ = leave => false,
        };
        if goes_on && is_hopeless {
            self.tell(ChildState::Starting);
            self.change(|status| status.state = ProcessState::Starting);
        } else if goes_on {
            self.change(|status| status.restarts += 1);
        }
        goes_on
    }

    fn tell(&self, state: ChildState) {
        if let Kind::Server(_, endpoint, _) = &self.kind {
            endpoint.set_state(state);
        }
    }

    fn change(&self, change: impl FnOnce(&mut Status)) {
        self.show.send_modify(change);
    }
}

impl Running {
    /// Waits until it is lost, or to be started again: until more restarts were asked for than its start serves.
    async fn watch(&mut self, timing: &Timing, asked: &mut watch::Receiver<u64>, serves: u64) -> Lost {
        let restart = async {
            if asked.wait_for(|asked| *asked > serves).await.is_err() {
                // Then it is about to be ended.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            why = async {
                match self {
                    Self::Server(server) => server.lost(timing).await,
                    Self::Elsewhere(elsewhere) => elsewhere.lost(timing).await,
                    Self::Worker(worker) => worker.lost().await,
                }
            } => Lost::Crash(why),
            () = restart => Lost::Restart,
        }
    }

    /// Ends it, and says in full how, and why if it was lost.
    async fn end(self, lost: Option<&Lost>) -> String {
        let why = match lost {
            Some(Lost::Crash(why)) => Some(why.as_str()),
            Some(Lost::Restart) | None => None,
        };
        match self {
            Self::Server(server) => server.end(why).await,
            Self::Worker(worker) => worker.end(why).await,
            Self::Elsewhere(elsewhere) => {
                elsewhere.end().await;
                why.unwrap_or("it is not asked any more").to_owned()
            }
        }
    }
}

/// Counts the checks in a row that failed, and says when there were too many.
struct Misses {
    count: u32,
    max: u32,
}

impl Misses {
    /// Why it counts as lost, if it does.
    fn note(&mut self, checked: Result<(), String>) -> Option<String> {
        match checked {
            Ok(()) => self.count = 0,
            Err(why) => {
                self.count += 1;
                if self.count >= self.max {
                    return Some(format!("{why}, {} times in a row", self.count));
                }
            }
        }
        None
    }
}

fn now() -> Timestamp {
    let since_1970 = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    Timestamp::since_1970(since_1970.unwrap_or_default())
}

fn memory_limit(
    memory: Option<MemoryMb>,
    enforced: Option<&super::process::memory_limit::Enforcement>,
) -> Option<MemoryLimit> {
    use super::process::memory_limit::Enforcement;
    let held_by = match enforced? {
        Enforcement::Cgroup => "cgroup",
        Enforcement::Rlimit => "rlimit",
        Enforcement::Unenforced(_) => "none",
    };
    Some(MemoryLimit { memory: memory?, held_by })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_minute() {
        let waits: Vec<u64> = (1..=9).map(|losses| Timing::default().wait_after(losses).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(Timing::default().wait_after(u32::MAX).as_secs(), 60);
    }
}
