//! A process of ours that answers as a server.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::super::bridge::{Endpoint, Link};
use super::super::catalog::{ALLOCATION_VARIABLE, Entry, Program};
use super::reasons::{ended_early, with_lines};
use super::{Life, Misses, SERVER_GRACE, Timing, memory_limit};
use crate::process::child::{Child, ChildSpec, Input};
use cortex_core::ids::AllocationId;

/// Why one does not start that the catalog has no more.
const MISSING: &str = "the catalog has it no more: put its entry back and restart it, or release it";

pub(super) struct ServerProcess {
    child: Child,
    link: Link,
}

impl ServerProcess {
    /// Starts the process and waits until it answers; nothing if it is to leave meanwhile. Unless it answers, nothing of it
    /// is left.
    pub(super) async fn start(
        life: &Life,
        (entry, endpoint): (&Entry, &Arc<Endpoint>),
        owner: Option<AllocationId>,
        leave: &mut oneshot::Receiver<()>,
    ) -> Option<Result<Self, String>> {
        let launch = match launch_of(&life.name, entry, owner) {
            Ok(launch) => launch,
            Err(why) => return Some(Err(why.to_owned())),
        };
        if let Err(why) = make_own_folder(entry, owner) {
            return Some(Err(why));
        }
        let mut child = match life.spawner.start(launch) {
            Ok(child) => child,
            Err(error) => return Some(Err(format!("it could not be started ({error})"))),
        };
        let lines = child.last_lines();
        life.change(|status| {
            (status.lines, status.tree) = (child.last_lines(), Some(child.tree()));
            status.memory_limit = memory_limit(entry.memory, child.enforcement());
        });
        if let Some(enforced) = child.enforcement() {
            tracing::info!(name = %life.name, "the limit on its memory is {enforced}");
        }
        let (Some(input), Some(output)) = (child.take_input(), child.take_output()) else {
            return Some(Err("it has no pipes".to_owned()));
        };
        let has_garbage = Arc::new(AtomicBool::new(false));
        let garbage = {
            let (lines, has_garbage) = (lines.clone(), Arc::clone(&has_garbage));
            Box::new(move |line: &str| {
                has_garbage.store(true, Ordering::Relaxed);
                lines.note(&format!("(on its standard output) {line}"));
            })
        };
        let connected = timeout(entry.start_timeout, endpoint.connect(input, output, garbage));
        let connected = tokio::select! {
            connected = connected => connected,
            _ = leave => {
                child.stop().await;
                life.change(|status| status.tree = None);
                return None;
            }
        };
        let why = match connected {
            Ok(Ok(link)) => return Some(Ok(Self { child, link })),
            Ok(Err(why)) => {
                // One that closed its pipes is about to end by itself, and how it does says more than that it was ended.
                let ended = timeout(SERVER_GRACE / 10, child.ended()).await;
                match ended {
                    Ok(ended) => ended_early(&ended, "it answered", &lines.last()),
                    Err(_) => {
                        child.stop().await;
                        with_lines(&why, &lines.last())
                    }
                }
            }
            Err(_) => {
                child.stop().await;
                let seconds = entry.start_timeout.as_secs();
                let advice = if has_garbage.load(Ordering::Relaxed) {
                    "it writes to its standard output what is no message of MCP: start it as a server that speaks over standard \
                     input and output"
                } else {
                    "if it needs longer, as for a download, give its entry a larger start_timeout_seconds"
                };
                with_lines(&format!("it did not answer within {seconds} s: {advice}"), &lines.last())
            }
        };
        life.change(|status| status.tree = None);
        Some(Err(why))
    }

    /// Waits until it ends, or does not answer any more, and says why.
    pub(super) async fn lost(&mut self, timing: &Timing) -> String {
        let Self { child, link } = self;
        let unhealthy = async {
            let mut misses = Misses { count: 0, max: timing.misses_max };
            let mut ticks = interval_at(Instant::now() + timing.health, timing.health);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if let Some(why) = misses.note(link.ping(timing.health).await) {
                    return why;
                }
            }
        };
        tokio::select! {
            // How the process ended says more than that its pipes are closed.
            biased;
            ended = child.ended() => format!("it {ended}"),
            why = link.closed() => why,
            why = unhealthy => why,
        }
    }

    /// Ends it, and says how, and why if it was lost. Calls in flight are answered with an error.
    pub(super) async fn end(self, lost: Option<&str>) -> String {
        let Self { mut child, link } = self;
        drop(link);
        let is_over = timeout(SERVER_GRACE / 10, child.ended()).await.ok();
        let ended = match is_over {
            Some(ended) => ended,
            None => child.stop().await,
        };
        let how = format!("it {ended}");
        let why = match lost {
            Some(why) if !why.contains(&how) => format!("{why}; {how}"),
            _ => how,
        };
        with_lines(&why, &child.lines())
    }
}

/// Makes the folder that is named after the allocation: nobody else could in time.
fn make_own_folder(entry: &Entry, owner: Option<AllocationId>) -> Result<(), String> {
    let Program::Command { folder: Some(folder), .. } = &entry.program else { return Ok(()) };
    if !folder.path.names_allocation() {
        return Ok(());
    }
    let folder = folder.for_allocation(owner);
    match std::fs::create_dir(&folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(format!("its folder {} cannot be made ({error}): make the one above it", folder.display()))
        }
        _ => Ok(()),
    }
}

/// What is started for the allocation whose own it is, or for all; or why nothing is.
fn launch_of(name: &str, entry: &Entry, owner: Option<AllocationId>) -> Result<ChildSpec, &'static str> {
    let (command, arguments, environment, folder) = match &entry.program {
        Program::Command { command, arguments, environment, folder } => (command, arguments, environment, folder),
        Program::Remote { .. } => return Err("it is not run here"),
        Program::Missing => return Err(MISSING),
    };
    let given = environment.iter().map(|(name, value)| (name.clone(), value.for_allocation(owner)));
    // What says whose it is cannot be overridden.
    let own = owner.map(|owner| (ALLOCATION_VARIABLE.to_owned(), owner.to_string()));
    Ok(ChildSpec {
        name: name.to_owned(),
        command: command.clone(),
        arguments: arguments.iter().map(|argument| argument.for_allocation(owner)).collect(),
        environment: given.chain(own).collect(),
        folder: folder.as_ref().map(|folder| folder.for_allocation(owner)),
        memory: entry.memory,
        grace: SERVER_GRACE,
        input: Input::Pipe,
    })
}
