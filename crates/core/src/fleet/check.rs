//! The invariants of the fleet, which hold between events.

use super::super::allocation::State;
use super::super::check::expect;
use super::super::cluster::Cluster;
use super::super::ids::{FencingToken, NodeId};
use super::super::sequence_index::LiveFilter;
use super::super::table::Slot;
use super::super::units::Resources;
use super::Fleet;
use super::apply::{ended_index, tasks_kept_max};
use super::queue::{Queue, priority_index};
use super::task::{AttemptOutcome, Task, TaskPhase, TaskRecord, TaskState};
use super::view::BudgetUsage;
use std::collections::{BTreeMap, BTreeSet};

/// Returns what the agents of a node take that have a worker slot of their own.
pub(in super::super) fn agent_resources(cluster: &Cluster, node: &NodeId) -> Resources {
    let mut taken = Resources::default();
    for slot in cluster.fleet.agents_by_id.values() {
        let registration = &cluster.fleet.agents[*slot].registration;
        if let Some(size) = registration.takes.filter(|_| registration.node == *node) {
            taken += Resources::of_workers(1, size);
        }
    }
    taken
}

/// Adds a description of every broken invariant of the fleet.
pub(in super::super) fn fleet_violations(cluster: &Cluster, broken: &mut Vec<String>) {
    agent_violations(cluster, broken);
    task_violations(cluster, broken);
    queue_violations(&cluster.fleet, broken);
    token_violations(&cluster.fleet, broken);
    record_violations(cluster, broken);
}

fn tasks(fleet: &Fleet) -> impl Iterator<Item = (Slot, &TaskRecord)> {
    fleet.tasks_by_number.iter(LiveFilter::ALL).filter_map(|(_, slot)| Some((slot, fleet.tasks.get(slot)?)))
}

fn waiting(fleet: &Fleet) -> impl Iterator<Item = (Slot, &TaskRecord)> {
    tasks(fleet).filter(|(_, record)| record.task.phase == TaskPhase::Queued)
}

fn agent_violations(cluster: &Cluster, broken: &mut Vec<String>) {
    let fleet = &cluster.fleet;
    let mut types = BTreeMap::new();
    let mut by_allocation: BTreeMap<_, BTreeSet<Slot>> = BTreeMap::new();
    for (id, slot) in &fleet.agents_by_id {
        let Some(agent) = fleet.agents.get(*slot) else {
            broken.push(format!("agent {id} refers to the free slot {slot:?}"));
            continue;
        };
        let request = agent.request();
        expect(broken, request.agent == *id, || format!("agent {} is indexed as {id}", request.agent));
        expect(broken, agent.number < fleet.registered, || format!("the number of agent {id} would be reused"));
        *types.entry(request.agent_type.clone()).or_insert(0) += 1;
        let held = agent.tasks.len();
        expect(broken, held <= request.tasks_max as usize, || {
            format!("agent {id} holds {held} tasks, and may hold {}", request.tasks_max)
        });
        for task in &agent.tasks {
            let lease = fleet.tasks.get(*task).and_then(|record| record.task.lease());
            expect(broken, lease.is_some_and(|lease| lease.agent == *id), || {
                format!("agent {id} lists {task:?}, whose lease is {lease:?}")
            });
        }
        match request.allocation {
            Some(allocation) => {
                by_allocation.entry(allocation).or_default().insert(*slot);
                expect(broken, agent.registration.takes.is_none(), || format!("agent {id} takes a slot of its own"));
            }
            None => expect(broken, agent.registration.takes.is_some(), || format!("agent {id} takes no slot")),
        }
        expect(broken, agent.recent_tasks.len() <= super::agent::HEALTH_TASKS_MAX, || {
            format!("agent {id} has too many recent tasks")
        });
    }
    expect(broken, types == fleet.types, || format!("the types {types:?} are counted as {:?}", fleet.types));
    expect(broken, by_allocation == fleet.by_allocation, || "the agents by allocation are wrong".to_owned());
    for (allocation, agents) in &by_allocation {
        let active = cluster.find(*allocation).filter(|lease| lease.state() == State::Active);
        let workers = active.map_or(0, |lease| lease.reservation.workers.count());
        let agents = agents.len() as u64;
        expect(broken, agents <= workers, || format!("{allocation} has {workers} workers and {agents} agents"));
    }
    let count = fleet.agents.len();
    expect(broken, count == fleet.agents_by_id.len(), || "an agent is not indexed".to_owned());
    expect(broken, fleet.tracked_counts() == [count; 3], || {
        format!("{count} agents have {:?} heartbeat entries", fleet.tracked_counts())
    });
    let mut weighed = 0;
    for group in fleet.heartbeats.0.load_balancer.groups() {
        weighed += group.agents.len();
        let total: u64 = group.weights.iter().copied().map(u64::from).sum();
        expect(broken, total == group.total, || format!("the weights sum to {total}, stored is {}", group.total));
        for ((_, slot), weight) in group.agents.iter().zip(&group.weights) {
            let has_free_slot = fleet.agents.get(*slot).is_some_and(|agent| agent.free_slots() > 0);
            expect(broken, *weight == 0 || has_free_slot, || {
                format!("{slot:?} has weight {weight} and no free task slot")
            });
        }
    }
    expect(broken, weighed == count, || format!("{weighed} of {count} agents have a weight"));
    expect(broken, fleet.agents.leaked_slots() == 0, || "slots of agents are leaked".to_owned());
}

fn task_violations(cluster: &Cluster, broken: &mut Vec<String>) {
    let fleet = &cluster.fleet;
    let mut leases = BTreeMap::new();
    let mut tokens: BTreeSet<FencingToken> = BTreeSet::new();
    expect(broken, fleet.tasks_by_number.is_sound(), || "the pages of task numbers are inconsistent".to_owned());
    for (number, slot) in fleet.tasks_by_number.iter(LiveFilter::ALL) {
        let Some(TaskRecord { task, .. }) = fleet.tasks.get(slot) else {
            broken.push(format!("task {number:?} refers to the free slot {slot:?}"));
            continue;
        };
        let id = &task.spec.task;
        expect(broken, task.spec.number == number && number < fleet.next_task, || {
            format!("task {id} is indexed as {number:?}")
        });
        expect(broken, fleet.tasks.find(id) == Some(slot), || format!("task {id} is not found in its slot"));
        if let Some(lease) = task.lease() {
            leases.insert((lease.deadline, lease.fencing_token), slot);
            let holder = fleet.agents.find(&lease.agent).map(|slot| &fleet.agents[slot]);
            expect(broken, holder.is_some_and(|agent| agent.tasks.contains(&slot)), || {
                format!("task {id} is held by agent {}, which does not hold it", lease.agent)
            });
        }
        let (attempts, max) = (task.attempts.len(), task.spec.request.attempts_max as usize);
        let last = task.attempts.last().map(|attempt| attempt.outcome);
        let is_due = match task.end().map(|end| end.state) {
            None => attempts < max,
            Some(TaskState::Completed) => last == Some(AttemptOutcome::Success),
            Some(TaskState::Failed) => attempts == max && last != Some(AttemptOutcome::Success),
            Some(TaskState::Cancelled) => attempts < max || last == Some(AttemptOutcome::Cancelled),
            Some(TaskState::Queued | TaskState::Deferred | TaskState::Running) => false,
        };
        expect(broken, is_due, || {
            let state = task.end().map_or("open", |end| end.state.as_str());
            format!("task {id} is {state} after {attempts} attempts of {max}, of which the last was {last:?}")
        });
        let own = task.attempts.iter().map(|attempt| attempt.fencing_token);
        for token in own.chain(task.lease().map(|lease| lease.fencing_token)) {
            expect(broken, token < cluster.next_token && tokens.insert(token), || {
                format!("token {token} of task {id} is used twice, or would be reused")
            });
        }
        let completed = task.attempts.iter().filter(|attempt| attempt.outcome == AttemptOutcome::Success).count();
        let is_completed = task.end().is_some_and(|end| end.state == TaskState::Completed);
        expect(broken, completed == usize::from(is_completed), || format!("task {id} was completed {completed} times"));
    }
    let held: usize =
        fleet.agents_by_id.values().filter_map(|slot| fleet.agents.get(*slot)).map(|a| a.tasks.len()).sum();
    expect(broken, held == leases.len(), || format!("agents hold {held} tasks under {} leases", leases.len()));
    expect(broken, leases == fleet.leases, || "the leases by deadline are not those of the running tasks".to_owned());
    expect(broken, fleet.tasks.len() == fleet.tasks_by_number.iter(LiveFilter::ALL).count(), || {
        "a task is not indexed".to_owned()
    });
    expect(broken, fleet.tasks.leaked_slots() == 0, || "slots of tasks are leaked".to_owned());
    let bytes: u64 = tasks(fleet).filter(|(_, r)| r.task.is_open()).map(|(_, r)| r.task.bytes()).sum();
    expect(broken, bytes == fleet.open_bytes, || {
        format!("{bytes} bytes of open tasks are counted as {}", fleet.open_bytes)
    });
}

fn queue_violations(fleet: &Fleet, broken: &mut Vec<String>) {
    // Build the same queue from the tasks, and compare.
    let mut queue = Queue::new(fleet.settings.priority_aging_ms);
    queue.observed_at = fleet.queue.observed_at;
    let mut open: BTreeMap<Slot, u64> = BTreeMap::new();
    for (slot, TaskRecord { task, lane }) in tasks(fleet).filter(|(_, record)| record.task.is_open()) {
        *open.entry(*lane).or_default() += 1;
        let own = queue.retain_lane(&fleet.lane_key(&task.spec));
        let known = fleet.queue.lanes.get(*lane).map(|lane| &lane.key);
        expect(broken, known == Some(&fleet.lane_key(&task.spec)), || {
            format!("task {} is in the wrong lane: {known:?}", task.spec.task)
        });
        match task.phase {
            TaskPhase::Queued => queue.insert(slot, own, task),
            _ => queue.add_running(slot, task),
        }
    }
    let waiting_now = waiting(fleet).count() as u64;
    expect(broken, fleet.queue.len() == waiting_now, || {
        format!("{waiting_now} waiting tasks are counted as {}", fleet.queue.len())
    });
    expect(broken, queue.waiting == fleet.queue.waiting, || "the waiting tasks by priority are wrong".to_owned());
    expect(broken, queue.submitted_ms_sum == fleet.queue.submitted_ms_sum, || {
        "the sums of submission times are wrong".to_owned()
    });
    expect(broken, queue.batches == fleet.queue.batches, || "the batches are wrong".to_owned());
    expect(broken, queue.index_sizes() == fleet.queue.index_sizes(), || {
        "the number of lanes or of due changes is wrong".to_owned()
    });
    for (_, lane) in queue.all_lanes() {
        let known = fleet.queue.lanes.find(&lane.key).map(|slot| &fleet.queue.lanes[slot]);
        expect(broken, known == Some(lane), || format!("the lane {:?} has the wrong tasks", lane.key));
    }
    for (slot, counted) in open {
        let lane = fleet.queue.lanes.get(slot).map(|lane| lane.open);
        expect(broken, lane == Some(counted), || format!("{counted} open tasks of a lane are counted as {lane:?}"));
    }
    expect(broken, fleet.queue.lanes.leaked_slots() == 0, || "slots of lanes are leaked".to_owned());
}

fn token_violations(fleet: &Fleet, broken: &mut Vec<String>) {
    let running = || tasks(fleet).filter(|(_, record)| record.task.lease().is_some()).map(|(_, record)| &record.task);
    let reserved = |of: &dyn Fn(&Task) -> bool| -> u64 {
        running().filter(|task| of(task)).map(|task| task.spec.estimated_tokens).sum()
    };
    let mut check = |name: &str, budget: &BudgetUsage, held: u64, may_start_exceeded: bool| {
        expect(broken, budget.reserved == held, || {
            format!("{} tokens are reserved of {name}, running tasks have {held}", budget.reserved)
        });
        let used = budget.settled.saturating_add(budget.reserved);
        expect(broken, may_start_exceeded || used <= budget.total.saturating_add(budget.overrun), || {
            format!("{used} tokens are used of {name}, which has {} and an overrun of {}", budget.total, budget.overrun)
        });
    };
    check("all", &fleet.budgets.all, reserved(&|_| true), false);
    for (job, budget) in &fleet.budgets.jobs {
        let of_job = |task: &Task| task.spec.request.job.as_ref() == Some(job);
        // A budget may be set below what the running tasks of its job have reserved.
        check(job.as_str(), budget, reserved(&of_job), true);
    }
}

fn record_violations(cluster: &Cluster, broken: &mut Vec<String>) {
    let fleet = &cluster.fleet;
    let ended: Vec<&Task> = fleet.ended.iter().filter_map(|slot| Some(&fleet.tasks.get(*slot)?.task)).collect();
    let all: BTreeSet<Slot> = tasks(fleet).filter(|(_, record)| !record.task.is_open()).map(|(slot, _)| slot).collect();
    let listed: BTreeSet<Slot> = fleet.ended.iter().copied().collect();
    expect(broken, all == listed && listed.len() == fleet.ended.len(), || {
        "the records are not those of the ended tasks".to_owned()
    });
    let ends: Vec<_> = ended.iter().filter_map(|task| task.end()).map(|end| end.at).collect();
    expect(broken, ends.is_sorted(), || "ended tasks are not in the order in which they ended".to_owned());
    let mut counts = [0; 3];
    ended.iter().for_each(|task| counts[ended_index(task)] += 1);
    expect(broken, counts == fleet.ended_counts, || {
        format!("{counts:?} ended tasks are counted as {:?}", fleet.ended_counts)
    });
    let bytes: u64 = ended.iter().map(|task| task.bytes()).sum();
    expect(broken, bytes == fleet.ended_bytes && bytes <= fleet.settings.ended_task_bytes_max, || {
        format!("{bytes} bytes of ended tasks are counted as {}", fleet.ended_bytes)
    });
    let (kept, max) = (ended.len() as u64, tasks_kept_max(cluster.limits));
    expect(broken, kept <= max, || format!("{kept} ended tasks are on record, the maximum is {max}"));
    for (_, record) in waiting(fleet) {
        let (priority, task) = (priority_index(record.task.priority), &record.task.spec.task);
        let is_queued = fleet.queue.waiting[priority].contains(&record.task.spec.number);
        expect(broken, is_queued, || format!("task {task} waits, but is not in the queue"));
    }
}
