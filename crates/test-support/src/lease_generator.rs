//! Random commands: the shape of a run, and the values within it. Clusters are small and names few, so that limits
//! are reached and names collide often.

use crate::model::Model;
use cortex_core::allocation::{EndReason, Metadata, State};
use cortex_core::command::{Command, DistinctServers, Request};
use cortex_core::event::Limits;
use cortex_core::ids::{AllocationId, FencingToken, JobId, NodeId, RequestId, ServerName};
use cortex_core::ports::Port;
use cortex_core::priority::Priority;
use cortex_core::provisioning::{Provisioning, Sharing};
use cortex_core::time::{Millis, Timestamp, TtlSeconds};
use cortex_core::units::{CpuMillis, MemoryMb, Resources, WorkerSize};
use cortex_core::view::Filter;
use fastrand::Rng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// The bounds of the values in a run.
#[derive(Clone, Debug)]
pub struct Shape {
    /// The number of commands in the run.
    pub steps: u64,
    /// Whether the state is compared with a replay after each event.
    pub every_prefix: bool,
    workers_max: u64,
    request_workers_max: u64,
    servers: u64,
    request_servers_max: u64,
    live_min: u64,
    live_max: u64,
    history_max: u64,
    /// The percentage of grants and releases whose second half comes later.
    halves_percent: u64,
    nodes: &'static [&'static str],
    pub provisioning: Provisioning,
}

impl Shape {
    /// Generates the shape of a run from the run's seed.
    pub fn generate(rng: &mut Rng) -> Self {
        let small = Self {
            steps: 4_000,
            every_prefix: false,
            workers_max: rng.u64(1..=12),
            request_workers_max: rng.u64(1..=6),
            servers: rng.u64(1..=8),
            request_servers_max: 4,
            live_min: 0,
            live_max: rng.u64(1..=12),
            history_max: rng.u64(0..=12),
            halves_percent: if rng.bool() { 0 } else { 20 },
            nodes: &["local"],
            provisioning: Provisioning::default(),
        };
        let shape = Self::special(rng, small);
        // With provisioning, decisions come in halves anyway.
        match rng.u8(0..3) {
            0 => Self { halves_percent: 0, provisioning: provisioning(rng, shape.servers), ..shape },
            _ => shape,
        }
    }

    fn special(rng: &mut Rng, small: Self) -> Self {
        match rng.u8(0..16) {
            0 => Self { steps: 400, every_prefix: true, ..small },
            // More servers than there are ports for them.
            1 => Self { steps: 3_000, servers: 130, request_servers_max: 64, live_max: 40, live_min: 20, ..small },
            // Enough workers to wrap around the range of their ports.
            2 => {
                Self { steps: 500, workers_max: 1_200, request_workers_max: 600, live_max: 6, history_max: 3, ..small }
            }
            3 | 4 => Self { nodes: &["local", "annex", "zoo"], ..small },
            _ => small,
        }
    }

    /// Returns whether the second half of a grant or a release comes later.
    pub fn comes_in_halves(&self, rng: &mut Rng) -> bool {
        rng.u64(0..100) < self.halves_percent
    }

    /// Returns a command that sets the capacity of a node.
    pub fn capacity(&self, rng: &mut Rng) -> Command {
        let workers = rng.u64(0..=self.workers_max);
        let capacity = Resources {
            workers,
            cpu_millis: CpuMillis::from_millis(rng.u64(0..=workers * 1_200)),
            memory_mb: MemoryMb(rng.u64(0..=workers * 2_500)),
        };
        Command::SetCapacity { node: self.node(rng), capacity }
    }

    /// Returns any command.
    pub fn command(&self, rng: &mut Rng, model: &Model) -> Command {
        match rng.u8(0..100) {
            0..45 => {
                Command::Request { request: Box::new(self.request(rng)), worker_size: size(rng), random: id_bits(rng) }
            }
            45..70 => Command::Release { allocation: allocation(rng, model), reason: reason(rng) },
            70..82 => self.renewal(rng, model),
            82..88 => Command::Sweep { leases_max: rng.usize(0..4) },
            // Often everything that ended before this moment.
            88..92 => Command::TrimHistory { older_than: Millis(if rng.bool() { 0 } else { rng.u64(0..60_000) }) },
            92..95 => Command::SetLimits(Limits {
                live_allocations_max: rng.u64(self.live_min..=self.live_max),
                history_records_max: rng.u64(0..=self.history_max),
            }),
            95..97 => self.capacity(rng),
            _ => second_half(rng, model),
        }
    }

    fn renewal(&self, rng: &mut Rng, model: &Model) -> Command {
        let allocation = allocation(rng, model);
        let fencing_token = match rng.u8(0..3) {
            0 => None,
            1 => model.token(allocation),
            _ => Some(FencingToken::new(rng.u64(0..50))),
        };
        Command::Renew { allocation, ttl_seconds: rng.bool().then(|| ttl(rng)), fencing_token }
    }

    fn request(&self, rng: &mut Rng) -> Request {
        let key = rng.u8(0..24);
        let request_id = (key < 6).then(|| RequestId::new(&format!("request-{key}")).expect("a name"));
        // Half of the requests with an id repeat the same body for that id.
        let mut again = Rng::with_seed(u64::from(key));
        let repeats = request_id.is_some() && rng.bool();
        let body = self.request_body(if repeats { &mut again } else { rng });
        Request { request_id, ..body }
    }

    fn request_body(&self, rng: &mut Rng) -> Request {
        let workers = match rng.u8(0..20) {
            0 => rng.choice([u64::MAX, u64::from(u32::MAX), 57_437, 20]).unwrap_or(20),
            1..5 => 0,
            _ => rng.u64(0..=self.request_workers_max),
        };
        let count = if rng.bool() { 0 } else { rng.u64(0..=self.request_servers_max) };
        let names = (0..count).map(|_| format!("server-{}", rng.u64(0..self.servers)));
        let names: Vec<ServerName> = names.map(|name| ServerName::new(&name).expect("a name")).collect();
        Request {
            job: job(rng),
            servers: DistinctServers::new(names),
            workers,
            priority: rng.choice(Priority::ALL).unwrap_or_default(),
            ttl_seconds: ttl(rng),
            request_id: None,
            metadata: metadata(rng),
        }
    }

    fn node(&self, rng: &mut Rng) -> NodeId {
        let name = rng.choice(self.nodes).copied().unwrap_or("local");
        NodeId::new(name).expect("a name")
    }
}

/// Returns a command that reports what was started or stopped, mostly for an allocation that waits for it.
pub fn second_half(rng: &mut Rng, model: &Model) -> Command {
    let pending = rng.choice(model.ids(State::Pending)).unwrap_or_else(|| allocation(rng, model));
    match rng.u8(0..4) {
        0 => Command::FailActivation { allocation: pending, error: Arc::from("no answer") },
        1 => Command::Activate { allocation: pending },
        _ => {
            let leaving = rng.choice(model.ids(State::Releasing)).unwrap_or_else(|| allocation(rng, model));
            Command::FinishRelease { allocation: leaving }
        }
    }
}

/// Returns provisioning with a catalog of all but one of the requested servers, or without a catalog.
fn provisioning(rng: &mut Rng, servers: u64) -> Provisioning {
    let mut catalog = BTreeMap::new();
    for server in 1..servers {
        let sharing = if rng.u8(0..3) == 0 { Sharing::PerAllocation } else { Sharing::Shared };
        catalog.insert(ServerName::new(&format!("server-{server}")).expect("a name"), sharing);
    }
    let mut occupied_ports = BTreeSet::new();
    if rng.bool() {
        occupied_ports.extend((0..rng.u16(0..4)).map(|_| Port(8_000 + rng.u16(0..12))));
        occupied_ports.extend((0..rng.u16(0..90)).map(|_| Port(9_000 + rng.u16(0..100))));
    }
    Provisioning {
        catalog: (rng.u8(0..4) > 0).then_some(catalog),
        manages_workers: rng.bool(),
        start_max: Millis(rng.u64(0..40_000)),
        occupied_ports,
    }
}

pub fn filter(rng: &mut Rng) -> Filter {
    Filter { state: rng.choice(State::ALL).filter(|_| rng.bool()), job: rng.bool().then(|| job(rng)) }
}

/// Returns the time until the next command, in milliseconds; `to_deadline` is the time until the next deadline.
pub fn wait_ms(rng: &mut Rng, to_deadline: Option<u64>) -> u64 {
    match rng.u8(0..20) {
        0..11 => 0,
        11..14 => rng.u64(0..500),
        14..16 => rng.u64(0..10_000),
        // To the deadline itself, or a moment before or after.
        16..19 => to_deadline.map_or(0, |ms| (ms + rng.u64(0..3)).saturating_sub(1)),
        _ => rng.u64(0..90_000),
    }
}

/// Returns an outage that ends now. `before` is the last moment before it, or sometimes lies within it.
pub fn outage(rng: &mut Rng, before: Timestamp) -> Command {
    let since = if rng.u8(0..8) == 0 { before.before(Millis(rng.u64(0..30_000))) } else { before };
    let spread = Millis(if rng.bool() { 0 } else { rng.u64(0..30_000) });
    Command::NoteOutage { since, grace: Millis(rng.u64(0..30_000)), spread }
}

/// Returns the id of an allocation: mostly of one on record, sometimes of none.
pub fn allocation(rng: &mut Rng, model: &Model) -> AllocationId {
    let state =
        rng.choice([State::Active, State::Active, State::Active, State::Pending, State::Releasing, State::Released]);
    let known = model.ids(state.unwrap_or(State::Active));
    rng.choice(known).unwrap_or_else(|| AllocationId::from_bits(id_bits(rng)))
}

fn job(rng: &mut Rng) -> JobId {
    JobId::new(&format!("job-{}", rng.u8(0..4))).expect("a name")
}

/// Returns one of few numbers, so that they collide; among them are the last ids, which the first one follows.
pub fn id_bits(rng: &mut Rng) -> u64 {
    if rng.bool() { rng.u64(0..40) } else { u64::MAX - rng.u64(0..3) }
}

/// Returns the size of a worker, mostly the usual one.
pub fn size(rng: &mut Rng) -> WorkerSize {
    match rng.u8(0..8) {
        0 => {
            WorkerSize { cpu_millis: CpuMillis::from_millis(rng.u64(0..2_000)), memory_mb: MemoryMb(rng.u64(0..4_000)) }
        }
        _ => WorkerSize { cpu_millis: CpuMillis::from_millis(1_000), memory_mb: MemoryMb(2_048) },
    }
}

fn ttl(rng: &mut Rng) -> TtlSeconds {
    let seconds = if rng.u8(0..50) == 0 { u64::MAX } else { rng.choice([1, 5, 20, 90]).unwrap_or(1) };
    TtlSeconds::new(seconds).expect("at least 1")
}

fn reason(rng: &mut Rng) -> EndReason {
    rng.choice([EndReason::Requested, EndReason::Cancelled, EndReason::Expired]).unwrap_or(EndReason::Requested)
}

fn metadata(rng: &mut Rng) -> Metadata {
    let mut object = serde_json::Map::new();
    if rng.u8(0..4) == 0 {
        object.insert("note".to_owned(), serde_json::json!({"share": 0.5, "for": ["é", null, true]}));
    }
    Metadata::new(&object)
}
