//! Observations: the input of a plan.

use cortex_core::fleet::view::FleetLoad;
use cortex_core::policy::Policy;
use cortex_core::time::{Millis, Timestamp};

/// The load of the cluster and the fleet at one moment.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// The time of the observation.
    pub at: Timestamp,
    /// The period over which requests were counted; zero if nothing was counted yet.
    pub window: Millis,
    /// The worker slots of the pool.
    pub workers_total: u64,
    /// The leased worker slots, without those of leases past their deadline, which are available to the next request.
    pub workers_leased: u64,
    /// The worker slots that cannot be removed: all that are leased, including those of leases past their deadline.
    pub workers_held: u64,
    /// The number of workers that CPU and memory suffice for.
    pub workers_fit: u64,
    /// The requests granted in the window.
    pub granted: u64,
    /// The requests refused in the window for lack of capacity.
    pub refused: u64,
    /// The largest number of workers in a request that was refused for lack of workers, since the last plan or before
    /// a plan that could not satisfy it; 0 if there was none.
    pub refused_workers_max: u64,
    /// The load of the fleet.
    pub fleet: FleetLoad,
    /// The scaling policy in effect.
    pub policy: Policy,
    /// The mean arrival rate of tasks over the scale-in window of the policy, or since the first sample; `None`
    /// before that.
    pub tasks_per_second: Option<f64>,
    /// The assumed tasks per minute of a what-if question; `None` to use the forecast.
    pub tasks_per_minute: Option<u64>,
}

/// Assumptions that replace observed figures, for a what-if plan.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WhatIf {
    /// The number of tasks that wait for an agent.
    pub waiting: Option<u64>,
    /// The number of requests for resources per minute, and of tasks per minute.
    pub rate_per_minute: Option<u64>,
    /// The number of registered agents.
    pub agents: Option<u64>,
}

/// The assumed task limit of an agent if no agent is registered: the default of its registration.
const TASKS_PER_AGENT_DEFAULT: u64 = 3;

impl Observation {
    /// Returns the observation with the assumptions applied, together with what follows from them: more agents have
    /// more capacity, and fewer agents hold fewer tasks.
    #[must_use]
    pub fn with(self, what_if: &WhatIf) -> Self {
        let mut seen = self;
        if let Some(waiting) = what_if.waiting {
            seen.fleet.waiting = waiting;
        }
        if let Some(agents) = what_if.agents.filter(|agents| *agents != seen.fleet.agents) {
            let fleet = &mut seen.fleet;
            let room_each = fleet.task_slots.checked_div(fleet.agents).unwrap_or(TASKS_PER_AGENT_DEFAULT);
            fleet.task_slots = agents.saturating_mul(room_each);
            fleet.running = fleet.running.min(fleet.task_slots);
            (fleet.agents, fleet.agents_at_work) = (agents, fleet.agents_at_work.min(agents));
        }
        if let Some(requests) = what_if.rate_per_minute {
            seen.tasks_per_minute = Some(requests);
            seen.tasks_per_second = Some(requests as f64 / 60.0);
            // A whole minute, so that the rate does not depend on the distance between two samples.
            seen.window = Millis::from_seconds(60);
            seen.refused = seen.refused.min(requests);
            seen.granted = requests - seen.refused;
        }
        seen
    }
}
