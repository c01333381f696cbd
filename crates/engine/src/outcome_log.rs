//! Log events of what the outcome of a command ended or changed.

use cortex_core::allocation::EndReason;
use cortex_core::command::{Outcome, Release};
use cortex_core::fleet::agent::AgentEndReason;
use cortex_core::fleet::command::{EndedAttempt, FleetOutcome, RemovedAgent, TimeAdvance};
use cortex_core::policy::Policy;

/// Logs the leases, attempts and agents that a command ended, and the policy or token budget that it changed.
pub(super) fn log(outcome: &Outcome) {
    match outcome {
        Outcome::Released(release) => log_end(release),
        Outcome::Granted { reclaimed, .. }
        | Outcome::CapacityPending { reclaimed, .. }
        | Outcome::Fleet(FleetOutcome::Registered { reclaimed, .. })
        | Outcome::Swept { expired: reclaimed, .. } => reclaimed.iter().for_each(log_end),
        Outcome::PolicySet { previous, current } if previous != current => log_policy(current),
        Outcome::Fleet(FleetOutcome::Unregistered(removed)) => log_agent_left(removed),
        Outcome::Fleet(FleetOutcome::Reported(ended)) => log_attempt_ended(ended),
        Outcome::Fleet(FleetOutcome::TimeAdvanced(advance)) => {
            let TimeAdvance { refilled, expired, lost, .. } = &**advance;
            if *refilled {
                tracing::info!("token budget refilled");
            }
            expired.iter().for_each(log_attempt_ended);
            lost.iter().for_each(log_agent_left);
        }
        _ => {}
    }
}

fn log_end(release: &Release) {
    let Release { allocation, job, reason, freed, duration, .. } = release;
    let message = match reason {
        EndReason::Requested => "lease released",
        EndReason::Expired => "lease expired",
        EndReason::Cancelled => "grant revoked: its call was cancelled",
    };
    tracing::info!(
        %job,
        %allocation,
        workers = freed.workers,
        cpu_cores = freed.cpu_millis.as_cores(),
        memory_mb = freed.memory_mb.0,
        duration_seconds = duration.as_seconds(),
        "{message}"
    );
}

fn log_attempt_ended(left: &EndedAttempt) {
    let EndedAttempt { task, agent, outcome, state } = left;
    tracing::info!(%task, %agent, outcome = outcome.as_str(), state = %state, "attempt ended");
}

fn log_agent_left(left: &RemovedAgent) {
    let (agent, tasks) = (&left.agent, left.tasks.len());
    match left.reason {
        AgentEndReason::Unregistered => tracing::info!(%agent, tasks, "agent unregistered"),
        AgentEndReason::Lost => tracing::warn!(%agent, tasks, "agent lost: it missed three heartbeats"),
        AgentEndReason::AllocationEnded => tracing::info!(%agent, tasks, "agent unregistered: its allocation ended"),
    }
    left.tasks.iter().for_each(log_attempt_ended);
}

fn log_policy(policy: &Policy) {
    tracing::info!(
        policy = %policy.name,
        queue_depth_up = policy.queue_depth_up,
        queue_depth_down = policy.queue_depth_down,
        tasks_per_agent = policy.tasks_per_agent,
        cooldown_seconds = policy.cooldown_ms.as_seconds(),
        "scaling policy set"
    );
}
