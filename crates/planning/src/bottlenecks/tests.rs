use super::*;
use cortex_core::fleet::agent::Capabilities;
use cortex_core::fleet::task::Selector;
use cortex_core::fleet::view::{ConservationView, QueueUsage, TypeUsage};

/// Returns a fleet with capacity for ten agents and without bottlenecks.
fn calm() -> FleetMetrics {
    let usage = UsageView {
        at: Timestamp::from_millis(0),
        agents: AgentUsage { quota: None, workers: 10, active: 1, free_workers: 9, by_type: Vec::new() },
        tokens: TokenUsage {
            all: BudgetUsage { total: 1_000, ..BudgetUsage::default() },
            window: Millis(0),
            refills_at: None,
            mean_per_task: None,
            jobs: Vec::new(),
        },
        queue: QueueUsage {
            all: WaitingTasks::default(),
            by_priority: [WaitingTasks::default(); 4],
            running: 0,
            bytes: 0,
        },
        conservation: ConservationView::default(),
    };
    FleetMetrics { usage, agents: Vec::new(), unserved: UnservedTasks::default() }
}

fn budget(total: u64, settled: u64, reserved: u64) -> BudgetUsage {
    BudgetUsage { total, settled, reserved, overrun: 0 }
}

fn agent(name: &str, tasks: u64, successes: u64, duration_ms: u64) -> AgentMetrics {
    let agent = AgentId::new(name).expect("a name");
    AgentMetrics { agent, tasks, successes, duration_mean: Millis(duration_ms) }
}

/// Changes a calm fleet, and checks the kinds, names and severities of the bottlenecks, in order.
fn check(change: impl FnOnce(&mut FleetMetrics), expected: &[(&str, &str, &str)]) {
    let mut figures = calm();
    change(&mut figures);
    let bottlenecks = Bottlenecks::find(&figures);
    let found: Vec<_> = bottlenecks
        .found
        .iter()
        .map(|one| (one.subject.kind(), one.subject.name().unwrap_or("all"), one.severity.as_str()))
        .collect();
    assert_eq!(found, expected, "{:#?}", bottlenecks.found);
}

#[test]
fn a_calm_fleet_has_no_bottleneck() {
    check(|_| {}, &[]);
}

#[test]
fn a_token_budget_is_short_above_four_fifths() {
    let check_all = |settled, reserved, severity: Option<&str>| {
        let expected: Vec<_> = severity.iter().map(|severity| ("token_exhaustion", "all", *severity)).collect();
        check(|figures| figures.usage.tokens.all = budget(1_000, settled, reserved), &expected);
    };
    check_all(800, 0, None);
    check_all(400, 400, None);
    check_all(400, 401, Some("low"));
    check_all(899, 0, Some("low"));
    check_all(900, 0, Some("medium"));
    check_all(0, 950, Some("high"));
    check_all(999, 0, Some("high"));
    check_all(1_000, 0, Some("critical"));
    check_all(5_000, 0, Some("critical"));
    check(|figures| figures.usage.tokens.all = budget(0, 0, 0), &[("token_exhaustion", "all", "critical")]);
}

#[test]
fn the_budget_of_each_job_is_checked() {
    let job = |name: &str, usage| (JobId::new(name).expect("a name"), usage);
    check(
        |figures| {
            figures.usage.tokens.jobs =
                vec![job("a", budget(100, 81, 0)), job("b", budget(100, 80, 0)), job("c", budget(100, 90, 10))];
        },
        &[("token_exhaustion", "c", "critical"), ("token_exhaustion", "a", "low")],
    );
}

#[test]
fn a_quota_is_exceeded_from_nine_tenths() {
    let check_all = |quota, active, pending, severity: Option<&str>| {
        let mut expected: Vec<_> = severity.iter().map(|severity| ("quota_exceeded", "all", *severity)).collect();
        if pending >= BACKLOG_TASKS_MIN {
            expected.push(("task_queue_backlog", "all", "low"));
        }
        let change = |figures: &mut FleetMetrics| {
            figures.usage.agents.quota = quota;
            figures.usage.agents.active = active;
            figures.usage.queue.all.tasks = pending;
        };
        check(change, &expected);
    };
    check_all(None, 8, 0, None);
    check_all(None, 9, 0, Some("low"));
    check_all(None, 10, 0, Some("high"));
    check_all(None, 10, 49, Some("high"));
    check_all(None, 10, 50, Some("critical"));
    check_all(Some(100), 89, 0, None);
    check_all(Some(100), 90, 0, Some("low"));
    check_all(Some(100), 95, 0, Some("medium"));
    check_all(Some(5), 7, 0, Some("high"));
    check_all(Some(0), 3, 0, Some("high"));
    check_all(Some(0), 3, 50, Some("critical"));
    check_all(Some(0), 0, 0, None);
}

#[test]
fn each_type_with_a_quota_is_checked() {
    let of_type =
        |name: &str, quota, active| TypeUsage { agent_type: AgentType::new(name).expect("a name"), quota, active };
    check(
        |figures| {
            figures.usage.agents.by_type = vec![
                of_type("a", Some(10), 9),
                of_type("b", Some(10), 8),
                of_type("c", None, 99),
                of_type("d", Some(0), 0),
                of_type("e", Some(2), 2),
            ];
        },
        &[("quota_exceeded", "e", "high"), ("quota_exceeded", "a", "low")],
    );
}

#[test]
fn an_agent_is_slow_relative_to_the_others_or_if_it_fails() {
    let check = |agents: &[AgentMetrics], expected: &[(&str, &str, &str)]| {
        check(|figures| figures.agents = agents.to_vec(), expected);
    };
    let calm = agent("b", 5, 5, 1_000);
    let slow = |name, severity| ("slow_agent", name, severity);
    check(&[agent("a", 5, 5, 2_000), calm.clone()], &[]);
    check(&[agent("a", 5, 5, 2_001), calm.clone()], &[slow("a", "low")]);
    check(&[agent("a", 5, 5, 4_000), calm.clone()], &[slow("a", "medium")]);
    check(&[agent("a", 5, 5, 8_000), calm.clone()], &[slow("a", "high")]);
    check(&[agent("a", 5, 5, 16_000), calm.clone()], &[slow("a", "critical")]);
    // Too few tasks, its own or those of the others, prove nothing.
    check(&[agent("a", 4, 0, 16_000), calm.clone()], &[]);
    check(&[agent("a", 5, 5, 16_000), agent("b", 4, 4, 1_000)], &[]);
    check(&[agent("a", 5, 5, 16_000)], &[]);
    // The others are weighted by their tasks: (5 * 1000 + 15 * 9000) / 20 = 7000.
    check(&[agent("a", 5, 5, 14_000), calm.clone(), agent("c", 15, 15, 9_000)], &[]);
    check(&[agent("a", 5, 5, 14_001), calm.clone(), agent("c", 15, 15, 9_000)], &[slow("a", "low")]);
    // The success rate needs no other agents.
    check(&[agent("a", 10, 7, 1_000)], &[]);
    check(&[agent("a", 100, 69, 1_000)], &[slow("a", "medium")]);
    check(&[agent("a", 5, 4, 1_000)], &[]);
    check(&[agent("a", 5, 3, 1_000)], &[slow("a", "medium")]);
    check(&[agent("a", 5, 2, 1_000)], &[slow("a", "high")]);
    check(&[agent("a", 5, 0, 1_000)], &[slow("a", "critical")]);
    // Both together are one bottleneck with the higher severity.
    check(&[agent("a", 5, 3, 9_000), calm], &[slow("a", "high")]);
    check(&[agent("a", 5, 5, 2), agent("b", 5, 5, 0)], &[]);
    check(&[agent("a", 5, 5, u64::MAX), agent("b", 5, 5, u64::MAX)], &[]);
}

#[test]
fn fifty_waiting_tasks_are_a_backlog() {
    let check_queue = |tasks, agents, severity: Option<&str>| {
        let expected: Vec<_> = severity.iter().map(|severity| ("task_queue_backlog", "all", *severity)).collect();
        let change = |figures: &mut FleetMetrics| {
            figures.usage.queue.all.tasks = tasks;
            figures.usage.agents.active = agents;
        };
        check(change, &expected);
    };
    check_queue(49, 1, None);
    check_queue(50, 1, Some("low"));
    check_queue(99, 1, Some("low"));
    check_queue(100, 1, Some("medium"));
    check_queue(200, 1, Some("high"));
    check_queue(400, 1, Some("critical"));
    check_queue(49, 0, None);
    check_queue(50, 0, Some("critical"));
}

#[test]
fn each_states_its_measurements_and_advice() {
    let mut figures = calm();
    figures.usage.tokens.all = budget(1_000, 500, 350);
    figures.usage.tokens.refills_at = Some(Timestamp::from_millis(60_000));
    figures.usage.queue.all = WaitingTasks { tasks: 60, wait_mean: Millis(7), wait_max: Millis(9) };
    figures.usage.conservation.deferred_tasks = 4;
    figures.usage.agents.active = 10;
    figures.agents = vec![agent("a", 5, 1, 9_000), agent("b", 5, 5, 1_000)];
    let check = |kind: &str, parts: &[&str]| {
        let bottlenecks = Bottlenecks::find(&figures);
        let one = bottlenecks.found.iter().find(|one| one.subject.kind() == kind).expect("a bottleneck of this kind");
        let text = format!("{}\n{}", one.description, one.advice);
        for part in parts {
            assert!(text.contains(part), "{part:?} is not in {text:?}");
        }
    };
    check("token_exhaustion", &["500 of 1000", "350 reserved", "85 %", "150 remain", "1970-01-01T00:01:00.000Z"]);
    check("quota_exceeded", &["10 of 10 agents are registered, at least 90 %", "--total-workers"]);
    check(
        "slow_agent",
        &["agent a: 1 of its 5", "20 %", "9000 ms", "9.0 times the 1000 ms", "get_task", "max_concurrent"],
    );
    check(
        "task_queue_backlog",
        &["60 tasks wait, 4 of them for tokens", "9 ms at most", "cannot take 0", "set_token_budget"],
    );
}

#[test]
fn a_backlog_advises_how_to_get_more_agents_and_which() {
    let check = |change: &dyn Fn(&mut FleetMetrics), advice: &str| {
        let mut figures = calm();
        figures.usage.queue.all.tasks = 60;
        change(&mut figures);
        let bottlenecks = Bottlenecks::find(&figures);
        let one = bottlenecks.found.iter().find(|one| one.subject == Subject::Queue).expect("a backlog");
        assert_eq!(one.advice, advice);
    };
    check(&|_| {}, "register up to 9 more agents");
    check(&|figures| figures.usage.agents.free_workers = 4, "register up to 4 more agents");
    let full = "no worker is free for another agent: release allocations, raise --total-workers, --total-cpu or \
                --total-memory, or register agents on leased workers with their allocation_id";
    check(&|figures| figures.usage.agents.free_workers = 0, full);
    check(&|figures| figures.usage.agents.quota = Some(1), "raise the quota with set_agent_quota, and register agents");
    let selector = |agent_type: Option<&str>, capabilities: &[&str]| Selector {
        agent_type: agent_type.map(|name| AgentType::new(name).expect("a name")),
        capabilities: Capabilities::new(capabilities.iter().map(|name| Capability::new(name).expect("a name"))),
    };
    let selectors = vec![
        (selector(Some("bakend"), &[]), 7),
        (selector(None, &["go", "rsut"]), 2),
        (selector(Some(&"x".repeat(100)), &[]), 1),
    ];
    let unserved = UnservedTasks { tasks: 14, selectors };
    let named = format!(
        "register up to 9 more agents; register agents for the tasks that no registered agent can take: 7 for bakend; \
         2 for any agent_type with go, rsut; 1 for {}…, 4 for others",
        "x".repeat(60)
    );
    check(&|figures| figures.unserved = unserved.clone(), &named);
}
