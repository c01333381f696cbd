//! Events of each version, kept as they were first written: they must be read, replayed and written the same forever.
//!
//! `tests/golden/events_v1.jsonl` holds each type of event of version 1 at least once, and `events_v1.txt` describes
//! the state that they lead to. The same holds for version 2, which adds the fleet, version 3, which adds demand and
//! scaling, and version 4, which adds servers that are not shared. These files never change; events of a later
//! version get their own.

use cortex_core::allocation::{EndReason, Phase};
use cortex_core::command::{Command, Denied};
use cortex_core::demand::DemandBin;
use cortex_core::event::Recorded;
use cortex_core::fleet::agent::{Capabilities, Registration};
use cortex_core::fleet::command::FleetCommand;
use cortex_core::fleet::task::JsonText;
use cortex_core::fleet::view::{AgentFilter, AgentView, BudgetUsage, TaskFilter, TaskView, TypeUsage, UsageView};
use cortex_core::ids::{AgentType, BatchKey, Capability, FencingToken, JobId, ServerName, TaskNumber};
use cortex_core::scaling_state::PastScaling;
use cortex_core::time::Timestamp;
use cortex_core::units::{CpuMillis, MemoryMb, WorkerSize};
use cortex_core::view::{AllocationView, DeadlineReason, Filter};
use cortex_core::{Cluster, check};
use std::collections::BTreeSet;
use std::fmt::Write;

const SIZE: WorkerSize = WorkerSize { cpu_millis: CpuMillis::from_millis(1_000), memory_mb: MemoryMb(2_048) };

/// The golden files of a version.
struct Golden {
    /// The events, one per line.
    events: &'static str,
    /// A description of the state that they lead to.
    state: &'static str,
    /// The version that added the types below.
    version: u64,
    /// All types of events that the version added.
    kinds: &'static [&'static str],
}

const VERSION_1: Golden = Golden {
    events: include_str!("../golden/events_v1.jsonl"),
    state: include_str!("../golden/events_v1.txt"),
    version: 1,
    kinds: &KINDS_1,
};

const VERSION_2: Golden = Golden {
    events: include_str!("../golden/events_v2.jsonl"),
    state: include_str!("../golden/events_v2.txt"),
    version: 2,
    kinds: &KINDS_2,
};

const VERSION_3: Golden = Golden {
    events: include_str!("../golden/events_v3.jsonl"),
    state: include_str!("../golden/events_v3.txt"),
    version: 3,
    kinds: &KINDS_3,
};

const VERSION_4: Golden = Golden {
    events: include_str!("../golden/events_v4.jsonl"),
    state: include_str!("../golden/events_v4.txt"),
    version: 4,
    kinds: &KINDS_4,
};

const ALL: [Golden; 4] = [VERSION_1, VERSION_2, VERSION_3, VERSION_4];

const KINDS_1: [&str; 10] = [
    "activated",
    "activation_failed",
    "capacity_set",
    "history_trimmed",
    "limits_set",
    "outage_noted",
    "released",
    "releasing",
    "renewed",
    "reserved",
];

const KINDS_2: [&str; 12] = [
    "agent_left",
    "agent_quota_set",
    "agent_registered",
    "attempt_ended",
    "fleet_settings_set",
    "task_cancelled",
    "task_leased",
    "task_returned",
    "task_submitted",
    "task_updated",
    "token_budget_refilled",
    "token_budget_set",
];

const KINDS_3: [&str; 3] = ["demand_counted", "scaling_noted", "scaling_policy_set"];

/// With a server that is not shared.
const KINDS_4: [&str; 1] = ["reserved"];

fn events(golden: &Golden) -> Vec<Recorded> {
    let read = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    golden.events.lines().map(read).collect()
}

fn replayed(golden: &Golden) -> (Cluster, Timestamp) {
    let mut cluster = Cluster::default();
    let mut now = Timestamp::MIN;
    for (recorded, line) in events(golden).iter().zip(golden.events.lines()) {
        cluster.apply(recorded);
        assert_eq!(check::violations(&cluster), [""; 0], "after {line}");
        now = recorded.at;
        cluster.observe(now);
        assert_eq!(check::violations(&cluster), [""; 0], "after {line} and an observation");
    }
    (cluster, now)
}

#[test]
fn the_events_lead_to_the_same_state() {
    for golden in ALL {
        let (cluster, now) = replayed(&golden);
        let added = match golden.version {
            1 | 4 => String::new(),
            2 => fleet_text(&cluster, now),
            _ => scaling_state_text(&cluster),
        };
        assert_eq!(state_text(&cluster, now) + &added, golden.state, "version {}", golden.version);
    }
}

#[test]
fn the_events_are_written_as_they_were() {
    for golden in ALL {
        for (recorded, line) in events(&golden).iter().zip(golden.events.lines()) {
            assert_eq!(serde_json::to_string(recorded).expect("an event has a text"), line);
        }
    }
}

#[test]
fn each_kind_of_event_is_among_them() {
    for golden in ALL {
        let kind = |line| {
            let event: serde_json::Value = serde_json::from_str(line).expect("JSON");
            let kind = event["event"]["type"].as_str().expect("a type").to_owned();
            (event["version"] == golden.version).then_some(kind)
        };
        let kinds: BTreeSet<String> = golden.events.lines().filter_map(kind).collect();
        assert!(kinds.iter().map(String::as_str).eq(golden.kinds.iter().copied()), "{kinds:?}");
    }
}

#[test]
fn the_state_accepts_further_commands() {
    for golden in ALL {
        release_all(&golden);
    }
}

fn release_all(golden: &Golden) {
    let (mut cluster, now) = replayed(golden);
    let mut carry_out = |command: &Command| {
        let decided: Result<_, Denied> = cluster.decide(now, command);
        for event in decided.expect("what is live can be ended").events {
            cluster.apply(&Recorded { at: now, event });
            assert_eq!(check::violations(&cluster), [""; 0]);
        }
    };
    let (before, _) = replayed(golden);
    for view in before.tasks(now, &TaskFilter::default(), TaskNumber::new(0)) {
        carry_out(&Command::Fleet(FleetCommand::Cancel { task: view.task.spec.task.clone() }));
    }
    for view in before.agents(now, &AgentFilter::default(), None) {
        carry_out(&Command::Fleet(FleetCommand::Unregister { agent: view.registration.request.agent.clone() }));
    }
    let all = Filter::default();
    for view in before.list(now, &all, FencingToken::new(0)).filter(|view| view.allocation.state().is_live()) {
        let allocation = view.allocation.reservation.allocation;
        carry_out(&Command::Release { allocation, reason: EndReason::Requested });
    }
    let (capacity, usage) = (cluster.capacity(now), cluster.usage(now, SIZE));
    assert_eq!((capacity.leased.workers, capacity.live_allocations, capacity.running_servers.len()), (0, 0, 0));
    assert_eq!(
        (usage.queue.all.tasks, usage.queue.running, usage.agents.active, usage.tokens.all.reserved),
        (0, 0, 0, 0)
    );
}

/// Describes the state of the leases.
fn state_text(cluster: &Cluster, now: Timestamp) -> String {
    let mut text = String::new();
    let capacity = cluster.capacity(now);
    let servers: Vec<&str> = capacity.running_servers.iter().map(ServerName::as_str).collect();
    let _ = writeln!(text, "at {now}");
    for (name, amount) in
        [("total", capacity.total), ("leased", capacity.leased), ("reclaimable", capacity.reclaimable)]
    {
        let _ =
            writeln!(text, "{name}: {} workers, {} cores, {} MB", amount.workers, amount.cpu_millis, amount.memory_mb);
    }
    let _ = writeln!(text, "live: {}; servers: {}", capacity.live_allocations, servers.join(", "));
    let _ = match cluster.next_deadline() {
        None => writeln!(text, "next deadline: none"),
        Some((at, DeadlineReason::LeaseExpires(id))) => writeln!(text, "next deadline: {at}, {id} expires"),
        Some((at, DeadlineReason::ActivationFails(id))) => writeln!(text, "next deadline: {at}, {id} fails"),
    };
    for view in cluster.list(now, &Filter::default(), FencingToken::new(0)) {
        text += "\n";
        text += &allocation_text(&view);
    }
    text
}

fn allocation_text(view: &AllocationView) -> String {
    let allocation = &view.allocation;
    let reservation = &allocation.reservation;
    let mut text = String::new();
    let (id, token, state) = (reservation.allocation, reservation.fencing_token, allocation.state());
    let _ = writeln!(text, "{id}, token {token}: {state}");
    let (job, priority, node) = (&reservation.job, reservation.priority, &reservation.node);
    let ttl = allocation.ttl_seconds.as_seconds();
    let _ = writeln!(text, "  job {job}, {priority}, on {node}, created {}, ttl {ttl} s", allocation.created_at);
    for (number, port) in reservation.workers.iter() {
        let _ = writeln!(text, "  {} at {}", number.worker_id(job), port.endpoint());
    }
    for hold in &reservation.servers {
        let alone = if hold.is_private { ", not shared" } else { "" };
        let _ = writeln!(text, "  {} at {}, {:?}{alone}", hold.name, hold.port.endpoint(), hold.instance);
    }
    if let Some(request_id) = &reservation.request_id {
        let _ = writeln!(text, "  request id {request_id}");
    }
    let _ = writeln!(text, "  metadata {}", reservation.metadata.as_json());
    let since = allocation.activated_at().map_or("never active".to_owned(), |at| format!("active since {at}"));
    let _ = match &allocation.phase {
        Phase::Pending => writeln!(text, "  to be active by {}", reservation.activate_by),
        Phase::Active { runs_from, .. } => {
            let expires_at = view.expires_at.unwrap_or_default();
            writeln!(text, "  {since}, runs from {runs_from} to {expires_at}")
        }
        Phase::Releasing { reason, .. } => writeln!(text, "  {since}, being released, {reason:?}"),
        Phase::Released { reason, released_at, .. } => writeln!(text, "  {since}, released {released_at}, {reason:?}"),
        Phase::Failed { error, failed_at } => writeln!(text, "  failed {failed_at}: {error}"),
    };
    text
}

/// Describes the scaling state.
fn scaling_state_text(cluster: &Cluster) -> String {
    let mut text = String::new();
    let policy = cluster.policy();
    let (up, down, each) = (policy.queue_depth_up, policy.queue_depth_down, policy.tasks_per_agent);
    let _ = writeln!(text, "\npolicy {}: queue {up} and {down}, an agent for {each}", policy.name);
    let (up, down) = (policy.wait_up_ms.0, policy.wait_down_ms.0);
    let _ = writeln!(text, "  waits {up} and {down} ms");
    let (up, down, target) = (policy.utilization_up, policy.utilization_down, policy.utilization_target);
    let _ = writeln!(text, "  in use {up} and {down}, {target} to be; tolerance {}", policy.tolerance);
    let (cooldown, window) = (policy.cooldown_ms.0, policy.scale_in_window_ms.0);
    let _ = writeln!(text, "  cooldown {cooldown} ms, looks back {window} ms");
    for bin in cluster.demand_bins(None) {
        let DemandBin { from, requests, refused, task_submissions, workers_max } = bin;
        let _ = writeln!(
            text,
            "from {from}: {requests} requests, {refused} refused, {task_submissions} tasks, {workers_max} workers"
        );
    }
    for PastScaling { at, scaling } in cluster.scalings() {
        let (workers, agents) = ((scaling.workers_from, scaling.workers_to), (scaling.agents_from, scaling.agents_to));
        let _ =
            writeln!(text, "{at}: workers {workers:?}, agents {agents:?} by {}: {}", scaling.policy, scaling.reason);
    }
    text
}

/// Describes the state of the fleet.
fn fleet_text(cluster: &Cluster, now: Timestamp) -> String {
    let mut text = String::new();
    let UsageView { agents, tokens, queue, conservation, .. } = cluster.usage(now, SIZE);
    let quota = |quota: Option<u64>| quota.map_or("any number".to_owned(), |quota| quota.to_string());
    let _ = writeln!(text, "\nagents: {} of {}", agents.active, quota(agents.quota));
    for TypeUsage { agent_type, quota: of_type, active } in agents.by_type {
        let _ = writeln!(text, "  {agent_type}: {active} of {}", quota(of_type));
    }
    let budget = |budget: &BudgetUsage| {
        let BudgetUsage { total, settled, reserved, overrun } = budget;
        format!("{total}, {settled} settled, {reserved} reserved, overrun {overrun}")
    };
    let next = tokens.refills_at.map_or("never".to_owned(), |at| at.to_string());
    let _ = writeln!(text, "tokens: {}, refilled each {} ms, next {next}", budget(&tokens.all), tokens.window.0);
    for (job, tokens) in &tokens.jobs {
        let _ = writeln!(text, "  job {job}: {}", budget(tokens));
    }
    let _ = writeln!(text, "a task in the mean: {:?} tokens", tokens.mean_per_task);
    let (waiting, running, bytes) = (queue.all.tasks, queue.running, queue.bytes);
    let _ = writeln!(text, "queue: {waiting} waiting, {} deferred, {running} running", conservation.deferred_tasks);
    let settings = cluster.fleet_settings();
    let (tasks, open, ended) = (settings.tasks_max, settings.task_bytes_max, settings.ended_task_bytes_max);
    let _ = writeln!(text, "bounds: {tasks} tasks, {bytes} of {open} bytes, {ended} ended");
    let (beat, aging) = (settings.heartbeat_ms.0, settings.priority_aging_ms.0);
    let _ =
        writeln!(text, "periods: heartbeat {beat} ms, aging {aging} ms, target {} ms", settings.response_target_ms.0);
    for view in cluster.agents(now, &AgentFilter::default(), None) {
        text += "\n";
        text += &agent_text(&view);
    }
    for view in cluster.tasks(now, &TaskFilter::default(), TaskNumber::new(0)) {
        text += "\n";
        text += &task_text(&view);
    }
    text
}

fn capabilities_text(capabilities: &Capabilities) -> String {
    let names: Vec<&str> = capabilities.as_slice().iter().map(Capability::as_str).collect();
    names.join(" and ")
}

fn agent_text(view: &AgentView) -> String {
    let mut text = String::new();
    let Registration { request, node, takes } = &*view.registration;
    let (agent, agent_type, tasks_max) = (&request.agent, &request.agent_type, request.tasks_max);
    let _ = writeln!(text, "agent {agent}: {agent_type}, at most {tasks_max} tasks, since {}", view.registered_at);
    let _ = writeln!(text, "  can do {}", capabilities_text(&request.capabilities));
    let _ = match (request.allocation, takes) {
        (Some(allocation), _) => writeln!(text, "  a worker of {allocation} on {node}"),
        (None, Some(size)) => writeln!(text, "  takes {} cores and {} MB of {node}", size.cpu_millis, size.memory_mb),
        (None, None) => writeln!(text, "  takes nothing of {node}"),
    };
    let _ = writeln!(text, "  metadata {}", request.metadata.as_json());
    for held in &view.tasks {
        let _ = writeln!(text, "  holds {} under {} until {}", held.task, held.fencing_token, held.expires_at);
    }
    text
}

fn task_text(view: &TaskView) -> String {
    let mut text = String::new();
    let task = &view.task;
    let (spec, request) = (&task.spec, &task.spec.request);
    let _ = writeln!(text, "task {}, number {}: {}", spec.task, spec.number.as_u64(), view.state);
    let _ = writeln!(text, "  {}, at first {}, submitted {}", task.priority, request.priority, task.submitted_at);
    let job = request.job.as_ref().map_or("none", JobId::as_str);
    let batch = request.batch.as_ref().map_or("none", BatchKey::as_str);
    let _ = writeln!(text, "  job {job}, batch {batch}, named by its submitter: {}", request.task.is_some());
    let agent_type = request.selector.agent_type.as_ref().map_or("any", AgentType::as_str);
    let _ = writeln!(text, "  for {agent_type}, who can do {}", capabilities_text(&request.selector.capabilities));
    let tokens = request.tokens;
    let (complexity, characters) = (tokens.complexity.as_str(), tokens.input_characters);
    let _ = writeln!(
        text,
        "  {} tokens: given {:?}, {complexity}, {characters} characters",
        spec.estimated_tokens, tokens.given
    );
    let moment = |moment: Option<Timestamp>| moment.map_or("never".to_owned(), |at| at.to_string());
    let (deadline, urgent_at) = (moment(task.deadline), moment(task.urgent_at));
    let _ = writeln!(text, "  deadline {deadline}, urgent from {urgent_at}");
    let (deadline, urgent_at) = (moment(request.deadline), moment(spec.urgent_at));
    let _ = writeln!(text, "  at first deadline {deadline}, urgent from {urgent_at}");
    let payload = request.payload.as_ref().map_or("none", JsonText::as_str);
    let _ = writeln!(text, "  payload {payload}");
    let _ = writeln!(text, "  {} attempts of {} s", request.attempts_max, request.lease_seconds.as_seconds());
    if let Some(lease) = task.lease() {
        let (agent, token, deadline) = (&lease.agent, lease.fencing_token, lease.deadline);
        let _ = writeln!(text, "  held by {agent} under {token} from {} to {deadline}", lease.leased_at);
    }
    for attempt in &task.attempts {
        let (agent, token, outcome) = (&attempt.agent, attempt.fencing_token, attempt.outcome.as_str());
        let (from, to) = (attempt.started_at, attempt.ended_at);
        let _ = writeln!(text, "  {outcome}: {agent} under {token} from {from} to {to}");
        let (tokens, duration) = (attempt.tokens_used, attempt.duration_ms.0);
        let error = attempt.error.as_deref().unwrap_or("none");
        let _ = writeln!(text, "    {tokens} tokens, {duration} ms, error {error}");
    }
    if let Some(end) = task.end() {
        let output = end.output.as_ref().map_or("none", JsonText::as_str);
        let _ = writeln!(text, "  {} at {}, output {output}", end.state, end.at);
    }
    text
}
