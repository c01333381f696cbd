//! Observations: what a plan is made of.

use cortex_core::fleet::view::FleetLoad;
use cortex_core::policy::Policy;
use cortex_core::time::{Millis, Timestamp};

/// What was seen since the last plan.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Observation {
    /// When.
    pub at: Timestamp,
    /// Over how long the requests were counted.
    pub window: Millis,
    /// Worker slots there are.
    pub workers_total: u64,
    /// Worker slots taken, those of leases past their deadline left out: they are there for the next request.
    pub workers_leased: u64,
    /// Worker slots that cannot be taken away: all that are taken.
    pub workers_held: u64,
    /// For how many workers in all CPU and memory are enough.
    pub workers_fit: u64,
    /// Requests granted in the window.
    pub granted: u64,
    /// Requests refused for want of room in the window.
    pub refused: u64,
    /// The most workers that a request asked for which was refused for want of workers, since the last plan or before a plan that could
    /// not do all about it; 0 if none was.
    pub refused_workers_max: u64,
    /// The fleet.
    pub fleet: FleetLoad,
    /// The policy to go by.
    pub policy: Policy,
    /// How many tasks a second came lately, in the mean over the time that the policy looks back for going down, or since the first
    /// look; nothing before that.
    pub tasks_per_second: Option<f64>,
    /// How many tasks a minute are to come, if that is asked about; else it is forecast.
    pub tasks_per_minute: Option<u64>,
}

/// Other figures than those that were seen, to ask what would be done then.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct WhatIf {
    /// So many tasks wait for an agent.
    pub waiting: Option<u64>,
    /// So many requests for resources a minute come, and as many tasks.
    pub rate_per_minute: Option<u64>,
    /// There are so many agents.
    pub agents: Option<u64>,
}

/// How many tasks an agent may hold of whom nothing is known: the default of its registration.
const ROOM_EACH_DEFAULT: u64 = 3;

impl Observation {
    /// The same with other figures. What they lead to follows: more agents have more room, and fewer hold fewer tasks.
    #[must_use]
    pub fn with(self, what_if: &WhatIf) -> Self {
        let mut seen = self;
        if let Some(waiting) = what_if.waiting {
            seen.fleet.waiting = waiting;
        }
        if let Some(agents) = what_if.agents.filter(|agents| *agents != seen.fleet.agents) {
            let fleet = &mut seen.fleet;
            let room_each = fleet.room.checked_div(fleet.agents).unwrap_or(ROOM_EACH_DEFAULT);
            fleet.room = agents.saturating_mul(room_each);
            fleet.running = fleet.running.min(fleet.room);
            (fleet.agents, fleet.agents_at_work) = (agents, fleet.agents_at_work.min(agents));
        }
        if let Some(requests) = what_if.rate_per_minute {
            seen.tasks_per_minute = Some(requests);
            seen.tasks_per_second = Some(requests as f64 / 60.0);
            // A whole minute, so that no rate is lost between two looks that are close together.
            seen.window = Millis::from_seconds(60);
            seen.refused = seen.refused.min(requests);
            seen.granted = requests - seen.refused;
        }
        seen
    }
}
