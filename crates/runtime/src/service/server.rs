//! The process of an MCP server.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::oneshot;
use tokio::time::{Instant, MissedTickBehavior, interval_at, timeout};

use super::super::bridge::{Endpoint, Link};
use super::super::catalog::{ALLOCATION_VARIABLE, CatalogEntry, Program};
use super::failure::Milestone;
use super::{Failure, FailureReason, MissedChecks, ProcessEnd, SERVER_GRACE, SupervisedProcess, Timing, memory_limit};
use crate::process::child::{Child, ChildSpec, Input};
use cortex_core::ids::AllocationId;

pub(super) struct ServerProcess {
    child: Child,
    link: Link,
}

impl ServerProcess {
    /// Starts the process and waits until it answers. Returns none if it is to stop before that. Unless it answers, its
    /// process tree has ended when this returns.
    pub(super) async fn start(
        process: &SupervisedProcess,
        entry: &CatalogEntry,
        endpoint: &Arc<Endpoint>,
        owner: Option<AllocationId>,
        stop: &mut oneshot::Receiver<()>,
    ) -> Option<Result<Self, Failure>> {
        let spec = match child_spec(&process.name, entry, owner) {
            Ok(spec) => spec,
            Err(reason) => return Some(Err(reason.into())),
        };
        if let Err(reason) = create_own_folder(entry, owner) {
            return Some(Err(reason.into()));
        }
        let mut child = match process.spawner.start(spec) {
            Ok(child) => child,
            Err(error) => return Some(Err(FailureReason::NotSpawned(error).into())),
        };
        let lines = child.last_lines();
        process.change(|status| {
            (status.lines, status.tree) = (child.last_lines(), Some(child.tree()));
            status.memory_limit = memory_limit(entry.memory, child.enforcement());
        });
        if let Some(enforcement) = child.enforcement() {
            tracing::info!(name = %process.name, "memory limit of the server is {enforcement}");
        }
        let (Some(input), Some(output)) = (child.take_input(), child.take_output()) else {
            return Some(Err(FailureReason::NoPipes.into()));
        };
        let has_invalid_output = Arc::new(AtomicBool::new(false));
        let on_invalid_output = {
            let (lines, has_invalid_output) = (lines.clone(), Arc::clone(&has_invalid_output));
            Box::new(move |line: &str| {
                has_invalid_output.store(true, Ordering::Relaxed);
                lines.note(&format!("(on its standard output) {line}"));
            })
        };
        let connected = timeout(entry.start_timeout, endpoint.connect(input, output, on_invalid_output));
        let connected = tokio::select! {
            connected = connected => connected,
            _ = stop => {
                child.stop().await;
                process.change(|status| status.tree = None);
                return None;
            }
        };
        let failure = match connected {
            Ok(Ok(link)) => return Some(Ok(Self { child, link })),
            Ok(Err(error)) => {
                // A server that closed its pipes is about to end by itself, and how it ends says more than that it was
                // killed.
                let ended = timeout(SERVER_GRACE / 10, child.ended()).await;
                match ended {
                    Ok(ended) => Failure::ended_early(ended, Milestone::Answered, &lines.last()),
                    Err(_) => {
                        child.stop().await;
                        Failure::of_process(FailureReason::Handshake(error), &lines.last())
                    }
                }
            }
            Err(_) => {
                child.stop().await;
                let has_invalid_output = has_invalid_output.load(Ordering::Relaxed);
                let reason = FailureReason::NoAnswer { within: entry.start_timeout, has_invalid_output };
                Failure::of_process(reason, &lines.last())
            }
        };
        process.change(|status| status.tree = None);
        Some(Err(failure))
    }

    /// Waits until it ends or no longer answers, and returns why.
    pub(super) async fn failed(&mut self, timing: &Timing) -> FailureReason {
        let Self { child, link } = self;
        let unhealthy = async {
            let mut misses = MissedChecks { count: 0, max: timing.misses_max };
            let mut ticks = interval_at(Instant::now() + timing.health, timing.health);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                if let Some(reason) = misses.add(link.ping(timing.health).await) {
                    return reason;
                }
            }
        };
        tokio::select! {
            // How the process ended says more than that its pipes are closed.
            biased;
            ended = child.ended() => FailureReason::Ended(ended),
            error = link.closed() => error.into(),
            reason = unhealthy => reason,
        }
    }

    /// Ends it, and returns how it ended. Calls in flight are answered with an error.
    pub(super) async fn end(self) -> ProcessEnd {
        let Self { mut child, link } = self;
        drop(link);
        let exit_reason = match timeout(SERVER_GRACE / 10, child.ended()).await {
            Ok(ended) => ended,
            Err(_) => child.stop().await,
        };
        ProcessEnd { exit_reason, lines: child.lines() }
    }
}

/// Creates the folder that is named after the allocation. Nothing else knows its name before the start.
fn create_own_folder(entry: &CatalogEntry, owner: Option<AllocationId>) -> Result<(), FailureReason> {
    let Program::Command { folder: Some(folder), .. } = &entry.program else { return Ok(()) };
    if !folder.path.names_allocation() {
        return Ok(());
    }
    let folder = folder.for_allocation(owner);
    match std::fs::create_dir(&folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(FailureReason::OwnFolder { folder, error }),
        _ => Ok(()),
    }
}

/// Returns the child to start for its owner, or for all allocations; or why it cannot be started.
fn child_spec(name: &str, entry: &CatalogEntry, owner: Option<AllocationId>) -> Result<ChildSpec, FailureReason> {
    let (command, arguments, environment, folder) = match &entry.program {
        Program::Command { command, arguments, environment, folder } => (command, arguments, environment, folder),
        Program::Remote { .. } => return Err(FailureReason::OtherKind),
        Program::Removed => return Err(FailureReason::Removed),
    };
    let configured = environment.iter().map(|(name, value)| (name.clone(), value.for_allocation(owner)));
    // Last, so that an entry cannot override the owner.
    let own = owner.map(|owner| (ALLOCATION_VARIABLE.to_owned(), owner.to_string()));
    Ok(ChildSpec {
        name: name.to_owned(),
        command: command.clone(),
        arguments: arguments.iter().map(|argument| argument.for_allocation(owner)).collect(),
        environment: configured.chain(own).collect(),
        folder: folder.as_ref().map(|folder| folder.for_allocation(owner)),
        memory: entry.memory,
        grace: SERVER_GRACE,
        input: Input::Pipe,
    })
}
