//! The situations that a simulation of the fleet must cover to be worth running.

use crate::fleet_simulation::SIZE;
use crate::fleet_simulation::fleet::Fleet;
use cortex_core::command::{Command, Denied, Outcome};
use cortex_core::fleet::command::{Deferral, FleetDenied, FleetOutcome, NoAgentReason, NoTaskReason};
use cortex_core::fleet::task::TaskState;
use cortex_core::fleet::view::TaskFilter;
use cortex_core::ids::TaskNumber;
use cortex_core::time::Timestamp;

pub(crate) const SITUATIONS: [&str; 53] = [
    "a batch was given together",
    "a budget below its use",
    "a claim of a full agent",
    "a claim with no task",
    "a claim with no tokens",
    "a copy of a report",
    "a lease that expired and was reported on",
    "a lease that was released",
    "a quota of a type reached",
    "a quota reached",
    "a stale token of a task",
    "a task for no agent",
    "a task for agents that are busy",
    "a task for which there are no tokens",
    "a task of another agent",
    "a task past its deadline",
    "a task that had ended",
    "a task that had ended was cancelled",
    "a task that is held",
    "a task that was cancelled",
    "a task that was cancelled while it was held",
    "agents lost",
    "agents who left with their allocation",
    "an agent again",
    "an agent for which leases had to go",
    "an agent in an allocation that is full",
    "an agent in an allocation that is not active",
    "an agent of an allocation",
    "an agent of an unknown allocation",
    "an agent that exists",
    "an agent that left",
    "an agent without a free worker",
    "an attempt that failed",
    "an attempt that is over",
    "an estimate from what was learned",
    "an unknown agent",
    "an unknown task",
    "aged tasks in the queue",
    "budgets refilled",
    "deferred for a job's tokens",
    "deferred tasks",
    "leases of tasks that expired",
    "more left by time",
    "of leases: granted",
    "saving tokens",
    "tasks completed",
    "tasks leased",
    "tasks that failed",
    "tasks submitted",
    "tasks submitted again",
    "too many bytes",
    "too many tasks",
    "urgent tasks in the queue",
];

/// Returns the kind of outcome.
pub(crate) fn situation(command: &Command, outcome: &Result<Outcome, Denied>) -> &'static str {
    let is_of_fleet = matches!(command, Command::Fleet(_));
    match outcome {
        Ok(Outcome::Fleet(outcome)) => situation_of_outcome(outcome),
        Ok(Outcome::Granted { .. }) => "of leases: granted",
        Ok(Outcome::Released(_)) => "a lease that was released",
        Ok(_) => "of leases: something else",
        Err(Denied::Fleet(denied)) => situation_of_denial(denied),
        Err(Denied::UnknownAllocation(_)) if is_of_fleet => "an agent of an unknown allocation",
        Err(_) => "of leases: refused",
    }
}

fn situation_of_outcome(outcome: &FleetOutcome) -> &'static str {
    match outcome {
        FleetOutcome::Done => "done",
        FleetOutcome::Registered { is_new: false, .. } => "an agent again",
        FleetOutcome::Registered { reclaimed, .. } if !reclaimed.is_empty() => "an agent for which leases had to go",
        FleetOutcome::Registered { .. } => "an agent",
        FleetOutcome::Unregistered(_) => "an agent that left",
        FleetOutcome::Submitted { is_new: true, .. } => "tasks submitted",
        FleetOutcome::Submitted { .. } => "tasks submitted again",
        FleetOutcome::Leased { tasks, .. } if tasks.len() > 1 => "a batch was given together",
        FleetOutcome::Leased { .. } => "tasks leased",
        FleetOutcome::NoTask(NoTaskReason::Draining) => "a claim of a draining agent",
        FleetOutcome::NoTask(NoTaskReason::AgentFull) => "a claim of a full agent",
        FleetOutcome::NoTask(NoTaskReason::NoTask) => "a claim with no task",
        FleetOutcome::NoTask(NoTaskReason::NoTokens) => "a claim with no tokens",
        FleetOutcome::Reported(left) => match left.state {
            TaskState::Completed => "tasks completed",
            TaskState::Failed => "tasks that failed",
            _ => "an attempt that failed",
        },
        FleetOutcome::AlreadyReported { .. } => "a copy of a report",
        FleetOutcome::Cancelled { agent: None } => "a task that was cancelled",
        FleetOutcome::Cancelled { .. } => "a task that was cancelled while it was held",
        FleetOutcome::AlreadyEnded { .. } => "a task that had ended was cancelled",
        FleetOutcome::TimeAdvanced(advance) if advance.more => "more left by time",
        FleetOutcome::TimeAdvanced(advance) if advance.refilled => "budgets refilled",
        FleetOutcome::TimeAdvanced(advance) if !advance.lost.is_empty() => "agents lost",
        FleetOutcome::TimeAdvanced(advance) if !advance.expired.is_empty() => "leases of tasks that expired",
        FleetOutcome::TimeAdvanced(_) => "nothing done by time",
    }
}

fn situation_of_denial(denied: &FleetDenied) -> &'static str {
    match denied {
        FleetDenied::Draining(_) => "a draining agent",
        FleetDenied::UnknownAgent(_) => "an unknown agent",
        FleetDenied::AgentExists { .. } => "an agent that exists",
        FleetDenied::QuotaReached { agent_type: None, .. } => "a quota reached",
        FleetDenied::QuotaReached { .. } => "a quota of a type reached",
        FleetDenied::AllocationFull { .. } => "an agent in an allocation that is full",
        FleetDenied::AllocationNotActive(_) => "an agent in an allocation that is not active",
        FleetDenied::UnknownTask(_) => "an unknown task",
        FleetDenied::TaskExists { .. } => "a task that exists",
        FleetDenied::TooManyTasks { .. } => "too many tasks",
        FleetDenied::TooManyTaskBytes { .. } => "too many bytes",
        FleetDenied::DeadlinePassed { .. } => "a task past its deadline",
        FleetDenied::WrongOwner { .. } => "a task of another agent",
        FleetDenied::AttemptOver { .. } => "an attempt that is over",
        FleetDenied::NoWorker(_) => "an agent without a free worker",
        FleetDenied::StaleTaskToken { .. } => "a stale token of a task",
        FleetDenied::TaskLeaseExpired { .. } => "a lease that expired and was reported on",
        FleetDenied::TaskEnded { .. } => "a task that had ended",
        FleetDenied::TaskRunning { .. } => "a task that is held",
        FleetDenied::NoAgent { reason: NoAgentReason::Unknown, .. } => "a task for no agent",
        FleetDenied::NoAgent { .. } => "a task for agents that are busy",
        FleetDenied::NoTokens { .. } => "a task for which there are no tokens",
        FleetDenied::BudgetBelowUse { .. } => "a budget below its use",
        FleetDenied::TooMany { .. } => "too many jobs or types",
    }
}

/// Returns further situations that the states before and after a command show.
pub(crate) fn situations_of(
    now: Timestamp,
    before: &Fleet,
    after: &Fleet,
    outcome: &Result<Outcome, Denied>,
) -> Vec<&'static str> {
    let mut seen = Vec::new();
    let mut note = |is_so: bool, what| {
        if is_so {
            seen.push(what);
        }
    };
    let usage = after.usage(now, SIZE);
    note(usage.conservation.is_on && usage.queue.all.tasks > 0, "saving tokens");
    note(usage.conservation.deferred_tasks > 0, "deferred tasks");
    let views = after.tasks(now, &TaskFilter::default(), TaskNumber::new(0));
    note(views.iter().any(|view| view.deferral == Some(Deferral::JobTokens)), "deferred for a job's tokens");
    let waiting = || views.iter().filter(|view| view.state == TaskState::Queued);
    note(waiting().any(|view| view.effective_priority > view.task.priority), "aged tasks in the queue");
    note(waiting().any(|view| view.task.urgent_at.is_some_and(|at| at <= now)), "urgent tasks in the queue");
    note(after.has_learned(), "an estimate from what was learned");
    let is_of_leases = matches!(outcome, Ok(Outcome::Released(_) | Outcome::Granted { .. } | Outcome::Swept { .. }));
    note(is_of_leases && after.agent_ids() != before.agent_ids(), "agents who left with their allocation");
    note(after.has_agent_of_allocation(), "an agent of an allocation");
    seen
}
