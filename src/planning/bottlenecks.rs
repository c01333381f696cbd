//! Bottlenecks: what holds tasks up, or is about to. Each comes with the figures that it was told by, and with a way out.
//!
//! How severe one is follows from the same figures:
//!
//! | what | low | medium | high | critical |
//! |---|---|---|---|---|
//! | a token budget | over 80 % | from 90 % | from 95 % | nothing remains |
//! | a quota of agents | from 90 % | from 95 % | nobody more may come | the same, while the queue has a backlog |
//! | an agent's mean duration against the others' | over 2 times | from 4 times | from 8 times | from 16 times |
//! | an agent's tasks that went well | | under 70 % | under 50 % | none |
//! | waiting tasks | from 50 | from 100 | from 200 | from 400, or from 50 while there is no agent |

use crate::core::{
    AgentFigures, AgentId, AgentType, AgentUsage, BudgetUsage, Capability, FleetFigures, JobId, Millis, Timestamp,
    TokenUsage, Unserved, UsageView, Waiting,
};

/// Above this part settled or reserved a token budget runs out. It is where the Resource Allocation Module begins to save tokens.
pub const TOKEN_RATIO_MAX: f64 = 0.8;

/// From this part on a quota of agents is as good as exceeded: one in ten is the least that leaves room for a change of shifts.
pub const QUOTA_RATIO_MIN: f64 = 0.9;

/// An agent whose tasks take over so many times as long as those of the others is slow.
pub const SLOWNESS_MAX: f64 = 2.0;

/// An agent less than this part of whose tasks goes well is slow too: each failure is an attempt to be made again.
pub const SUCCESS_RATE_MIN: f64 = 0.7;

/// From so many waiting tasks on the queue has a backlog.
pub const BACKLOG_TASKS_MIN: u64 = 50;

/// So many tasks of an agent, and so many of the others, say something of it. With fewer than four one failure alone
/// would be under 70 %, and so a single bad task would condemn an agent; five leaves one to spare.
pub const ENDED_TASKS_MIN: u64 = 5;

/// How much is said of whom waiting tasks are for: names may be long, and there may be many.
const NAME_CHARACTERS_MAX: usize = 60;

/// How severe a bottleneck is, from the least to the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// To be watched.
    Low,
    /// To be seen to.
    Medium,
    /// Tasks are held up, or will be soon.
    High,
    /// Nothing goes on there.
    Critical,
}

impl Severity {
    /// Its name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// One level more for each step that the figure has reached.
    fn by_steps(figure: f64, steps: [f64; 3]) -> Self {
        match steps.iter().filter(|step| figure >= **step).count() {
            0 => Self::Low,
            1 => Self::Medium,
            2 => Self::High,
            _ => Self::Critical,
        }
    }
}

/// What is short, or holds others up: by this a bottleneck is known from one look to the next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The token budget of a job, or of all tasks together.
    TokenBudget(Option<JobId>),
    /// The quota of agents of a type, or of all.
    AgentQuota(Option<AgentType>),
    /// An agent.
    Agent(AgentId),
    /// The queue.
    Queue,
}

impl Subject {
    /// What kind of bottleneck it is, as on the wire.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::TokenBudget(_) => "token_exhaustion",
            Self::AgentQuota(_) => "quota_exceeded",
            Self::Agent(_) => "slow_agent",
            Self::Queue => "task_queue_backlog",
        }
    }

    /// The job, type or agent that it is about; none if it is about all of them.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::TokenBudget(job) => job.as_ref().map(JobId::as_str),
            Self::AgentQuota(agent_type) => agent_type.as_ref().map(AgentType::as_str),
            Self::Agent(agent) => Some(agent.as_str()),
            Self::Queue => None,
        }
    }
}

/// The figures that a bottleneck was told by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Figures {
    /// Of a token budget.
    Tokens(BudgetUsage),
    /// Of a quota.
    Agents {
        /// How many agents there may be.
        quota: u64,
        /// How many there are.
        active: u64,
        /// How many more may come, as far as there are free workers for them.
        available: u64,
    },
    /// Of an agent, over the last minute.
    Work {
        /// How many tasks ended in its hands.
        tasks: u64,
        /// Which part of them went well.
        success_rate: f64,
        /// How long they took, in the mean.
        duration_mean: Millis,
        /// How long the tasks of the others took, if there were enough.
        others_mean: Option<Millis>,
    },
    /// Of the queue.
    Queue {
        /// What waits.
        waiting: Waiting,
        /// How many of those wait for tokens.
        deferred: u64,
        /// How many tasks agents hold.
        running: u64,
        /// How many of those that wait no registered agent may take.
        unserved: u64,
        /// How many agents there are.
        agents: u64,
    },
}

/// Something that holds tasks up, or is about to.
#[derive(Clone, Debug, PartialEq)]
pub struct Bottleneck {
    /// What it is about.
    pub subject: Subject,
    /// How severe it is.
    pub severity: Severity,
    /// What it was told by.
    pub figures: Figures,
    /// The same in words.
    pub description: String,
    /// What can be done about it.
    pub advice: String,
}

/// What one look found.
#[derive(Clone, Debug, PartialEq)]
pub struct Bottlenecks {
    /// When.
    pub at: Timestamp,
    /// The most severe first.
    pub found: Vec<Bottleneck>,
}

impl Bottlenecks {
    /// Looks at these figures.
    #[must_use]
    pub fn find(figures: &FleetFigures) -> Self {
        let usage = &figures.usage;
        let mut found: Vec<Bottleneck> = of_tokens(&usage.tokens).chain(of_quotas(usage)).collect();
        found.extend(of_agents(&figures.agents));
        found.extend(of_queue(figures));
        found.sort_by(|one, other| (other.severity, &one.subject).cmp(&(one.severity, &other.subject)));
        Self { at: usage.at, found }
    }
}

/// A part in percent, with a decimal where it has one.
fn percent(part: f64) -> String {
    format!("{} %", (part * 1_000.0).round() / 10.0)
}

fn of_tokens(tokens: &TokenUsage) -> impl Iterator<Item = Bottleneck> {
    let all = std::iter::once((None, &tokens.all));
    let jobs = tokens.jobs.iter().map(|(job, usage)| (Some(job), usage));
    let is_short = |(_, usage): &(_, &BudgetUsage)| usage.ratio() > TOKEN_RATIO_MAX;
    all.chain(jobs).filter(is_short).map(|(job, usage)| {
        let ratio = usage.ratio();
        let whose = if job.is_some() { " of the job" } else { "" };
        let wait = tokens.refills_at.map_or_else(String::new, |at| format!(", or wait for the refill at {at}"));
        Bottleneck {
            subject: Subject::TokenBudget(job.cloned()),
            severity: Severity::by_steps(ratio, [0.9, 0.95, 1.0]),
            figures: Figures::Tokens(*usage),
            description: format!(
                "{} of {} tokens{whose} are settled and {} reserved: {}, over {}; {} remain",
                usage.settled,
                usage.total,
                usage.reserved,
                percent(ratio),
                percent(TOKEN_RATIO_MAX),
                usage.remaining()
            ),
            advice: format!(
                "raise the budget{whose} with set_token_budget{wait}, or cancel tasks that are not worth their tokens"
            ),
        }
    })
}

fn of_quotas(usage: &UsageView) -> impl Iterator<Item = Bottleneck> {
    let agents = &usage.agents;
    let has_backlog = usage.queue.all.tasks >= BACKLOG_TASKS_MIN;
    let total_advice = if agents.quota.is_some() {
        "raise the quota with set_agent_quota, or unregister agents that are idle"
    } else {
        "there are no more worker slots: give the server a larger --total-workers, or unregister agents that are idle"
    };
    let all = std::iter::once((None, agents.total(), agents.active, total_advice));
    let type_advice =
        "raise the quota of the type with set_agent_quota, or unregister agents of the type that are idle";
    let types = agents
        .by_type
        .iter()
        .filter_map(move |of_type| Some((Some(&of_type.agent_type), of_type.quota?, of_type.active, type_advice)));
    // Where nobody is nothing is exceeded, even if nobody may come.
    let has_agents = |(.., active, _): &(_, _, u64, _)| *active > 0;
    all.chain(types).filter(has_agents).filter_map(move |(agent_type, quota, active, advice)| {
        let ratio = active as f64 / quota as f64;
        let severity = if active >= quota && has_backlog {
            Severity::Critical
        } else {
            Severity::by_steps(ratio, [0.95, 1.0, f64::INFINITY]).min(Severity::High)
        };
        let of_type = if agent_type.is_some() { " of the type" } else { "" };
        (ratio >= QUOTA_RATIO_MIN).then(|| Bottleneck {
            subject: Subject::AgentQuota(agent_type.cloned()),
            severity,
            figures: Figures::Agents { quota, active, available: agents.available().min(quota.saturating_sub(active)) },
            description: format!(
                "{active} of {quota} agents{of_type} are registered, at least {} of what may be",
                percent(QUOTA_RATIO_MIN)
            ),
            advice: advice.to_owned(),
        })
    })
}

/// What an agent is held against are the tasks of the others: were its own among them, of two agents neither could ever take
/// over twice the mean.
fn of_agents(agents: &[AgentFigures]) -> impl Iterator<Item = Bottleneck> {
    let time = |agent: &AgentFigures| u128::from(agent.tasks) * u128::from(agent.duration_mean.0);
    let all_tasks: u64 = agents.iter().map(|agent| agent.tasks).sum();
    let all_time: u128 = agents.iter().map(time).sum();
    agents.iter().filter(|agent| agent.tasks >= ENDED_TASKS_MIN).filter_map(move |agent| {
        let others = all_tasks - agent.tasks;
        let others_mean = (others >= ENDED_TASKS_MIN)
            .then(|| Millis(u64::try_from((all_time - time(agent)) / u128::from(others)).unwrap_or(u64::MAX)));
        of_agent(agent, others_mean)
    })
}

fn of_agent(agent: &AgentFigures, others_mean: Option<Millis>) -> Option<Bottleneck> {
    let AgentFigures { tasks, successes, duration_mean, .. } = *agent;
    let success_rate = successes as f64 / tasks as f64;
    // Below a millisecond nothing is measured.
    let slowness = others_mean.map_or(0.0, |others| duration_mean.0 as f64 / others.0.max(1) as f64);
    let (is_slow, is_failing) = (slowness > SLOWNESS_MAX, success_rate < SUCCESS_RATE_MIN);
    let by_time = is_slow.then(|| Severity::by_steps(slowness, [4.0, 8.0, 16.0]));
    let by_success = is_failing.then_some(match success_rate {
        rate if rate <= 0.0 => Severity::Critical,
        rate if rate < 0.5 => Severity::High,
        _ => Severity::Medium,
    });
    let severity = by_time.max(by_success)?;
    let mut said = Vec::new();
    let mut advice = Vec::new();
    if is_failing {
        said.push(format!(
            "{successes} of its {tasks} tasks of the last minute went well: {}, under {}",
            percent(success_rate),
            percent(SUCCESS_RATE_MIN)
        ));
        advice.push("look at the attempts of its tasks with get_task, and unregister it if the fault is its own");
    }
    if let Some(others) = others_mean.filter(|_| is_slow) {
        said.push(format!(
            "its {tasks} tasks of the last minute took {} ms in the mean, {slowness:.1} times the {} ms of the others",
            duration_mean.0, others.0
        ));
        advice.push("register it anew with a smaller max_concurrent, or register more agents beside it");
    }
    Some(Bottleneck {
        subject: Subject::Agent(agent.agent.clone()),
        severity,
        figures: Figures::Work { tasks, success_rate, duration_mean, others_mean },
        description: format!("agent {}: {}", agent.agent, said.join("; ")),
        advice: advice.join("; "),
    })
}

fn of_queue(figures: &FleetFigures) -> Option<Bottleneck> {
    let FleetFigures { usage, unserved, .. } = figures;
    let (waiting, agents, deferred) = (usage.queue.all, usage.agents.active, usage.conservation.deferred_tasks);
    if waiting.tasks < BACKLOG_TASKS_MIN {
        return None;
    }
    let severity = match Severity::by_steps(waiting.tasks as f64 / BACKLOG_TASKS_MIN as f64, [2.0, 4.0, 8.0]) {
        _ if agents == 0 => Severity::Critical,
        severity => severity,
    };
    let mut advice = vec![more_agents(&usage.agents)];
    if deferred > 0 {
        advice.push("raise the token budget with set_token_budget for those deferred".to_owned());
    }
    if unserved.tasks > 0 && agents > 0 {
        advice.push(format!("register agents for those that nobody here may take: {}", named(unserved)));
    }
    Some(Bottleneck {
        subject: Subject::Queue,
        severity,
        figures: Figures::Queue { waiting, deferred, unserved: unserved.tasks, running: usage.queue.running, agents },
        description: format!(
            "{} tasks wait, {deferred} of them for tokens, for {} ms in the mean and {} ms at the longest; \
             {agents} agents are registered, none of which may take {} of them",
            waiting.tasks, waiting.wait_mean.0, waiting.wait_max.0, unserved.tasks
        ),
        advice: advice.join("; "),
    })
}

/// How more agents can come.
fn more_agents(agents: &AgentUsage) -> String {
    if agents.active >= agents.total() && agents.quota.is_some() {
        return "raise the quota with set_agent_quota, and register agents".to_owned();
    }
    match agents.available() {
        0 => "no worker is free for another agent: release allocations, give the server more (--total-workers, --total-cpu, \
              --total-memory), or register agents with the allocation_id of leases whose workers they are"
            .to_owned(),
        free => format!("register agents: {free} more may come"),
    }
}

/// What tasks are for that nobody may take, with how many there are of each.
fn named(unserved: &Unserved) -> String {
    let named = unserved.selectors.iter().map(|(selector, tasks)| {
        let agent_type = selector.agent_type.as_ref().map_or("any agent_type", AgentType::as_str);
        let capabilities: Vec<&str> = selector.capabilities.as_slice().iter().map(Capability::as_str).collect();
        let with = if capabilities.is_empty() { "" } else { " with " };
        let wanted = format!("{agent_type}{with}{}", capabilities.join(", "));
        let cut = if wanted.chars().count() > NAME_CHARACTERS_MAX { "…" } else { "" };
        format!("{tasks} for {}{cut}", wanted.chars().take(NAME_CHARACTERS_MAX).collect::<String>())
    });
    let named: Vec<String> = named.collect();
    let told: u64 = unserved.selectors.iter().map(|(_, tasks)| tasks).sum();
    let others = if told < unserved.tasks { format!(", {} for others", unserved.tasks - told) } else { String::new() };
    format!("{}{others}", named.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::{Capabilities, ConservationView, QueueUsage, Selector, TypeUsage};

    /// A fleet of ten agents' room in which nothing is short.
    fn calm() -> FleetFigures {
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
            queue: QueueUsage { all: Waiting::default(), by_priority: [Waiting::default(); 4], running: 0, bytes: 0 },
            conservation: ConservationView::default(),
        };
        FleetFigures { usage, agents: Vec::new(), unserved: Unserved::default() }
    }

    fn budget(total: u64, settled: u64, reserved: u64) -> BudgetUsage {
        BudgetUsage { total, settled, reserved, overrun: 0 }
    }

    fn agent(name: &str, tasks: u64, successes: u64, duration_ms: u64) -> AgentFigures {
        let agent = AgentId::new(name).expect("a name");
        AgentFigures { agent, tasks, successes, duration_mean: Millis(duration_ms) }
    }

    /// Changes a calm fleet, and checks what is found: kinds, names and severities, in order.
    fn check(change: impl FnOnce(&mut FleetFigures), expected: &[(&str, &str, &str)]) {
        let mut figures = calm();
        change(&mut figures);
        let looked = Bottlenecks::find(&figures);
        let found: Vec<_> = looked
            .found
            .iter()
            .map(|one| (one.subject.kind(), one.subject.name().unwrap_or("all"), one.severity.as_str()))
            .collect();
        assert_eq!(found, expected, "{:#?}", looked.found);
    }

    #[test]
    fn where_nothing_is_short_nothing_is_found() {
        check(|_| {}, &[]);
    }

    #[test]
    fn a_token_budget_runs_out_above_four_fifths() {
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
    fn the_budget_of_each_job_is_looked_at() {
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
            let change = |figures: &mut FleetFigures| {
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
    fn each_type_with_a_quota_is_looked_at() {
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
    fn an_agent_is_slow_against_the_others_or_if_it_fails() {
        let check = |agents: &[AgentFigures], expected: &[(&str, &str, &str)]| {
            check(|figures| figures.agents = agents.to_vec(), expected);
        };
        let calm = agent("b", 5, 5, 1_000);
        let slow = |name, severity| ("slow_agent", name, severity);
        check(&[agent("a", 5, 5, 2_000), calm.clone()], &[]);
        check(&[agent("a", 5, 5, 2_001), calm.clone()], &[slow("a", "low")]);
        check(&[agent("a", 5, 5, 4_000), calm.clone()], &[slow("a", "medium")]);
        check(&[agent("a", 5, 5, 8_000), calm.clone()], &[slow("a", "high")]);
        check(&[agent("a", 5, 5, 16_000), calm.clone()], &[slow("a", "critical")]);
        // Too few tasks, of its own or of the others, prove nothing.
        check(&[agent("a", 4, 0, 16_000), calm.clone()], &[]);
        check(&[agent("a", 5, 5, 16_000), agent("b", 4, 4, 1_000)], &[]);
        check(&[agent("a", 5, 5, 16_000)], &[]);
        // The others count by their tasks: (5 * 1000 + 15 * 9000) / 20 = 7000.
        check(&[agent("a", 5, 5, 14_000), calm.clone(), agent("c", 15, 15, 9_000)], &[]);
        check(&[agent("a", 5, 5, 14_001), calm.clone(), agent("c", 15, 15, 9_000)], &[slow("a", "low")]);
        // How well it does needs no others.
        check(&[agent("a", 10, 7, 1_000)], &[]);
        check(&[agent("a", 100, 69, 1_000)], &[slow("a", "medium")]);
        check(&[agent("a", 5, 4, 1_000)], &[]);
        check(&[agent("a", 5, 3, 1_000)], &[slow("a", "medium")]);
        check(&[agent("a", 5, 2, 1_000)], &[slow("a", "high")]);
        check(&[agent("a", 5, 0, 1_000)], &[slow("a", "critical")]);
        // Both at once are one, as severe as the worse.
        check(&[agent("a", 5, 3, 9_000), calm], &[slow("a", "high")]);
        check(&[agent("a", 5, 5, 2), agent("b", 5, 5, 0)], &[]);
        check(&[agent("a", 5, 5, u64::MAX), agent("b", 5, 5, u64::MAX)], &[]);
    }

    #[test]
    fn fifty_waiting_tasks_are_a_backlog() {
        let check_queue = |tasks, agents, severity: Option<&str>| {
            let expected: Vec<_> = severity.iter().map(|severity| ("task_queue_backlog", "all", *severity)).collect();
            let change = |figures: &mut FleetFigures| {
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
    fn each_says_its_figures_and_the_way_out() {
        let mut figures = calm();
        figures.usage.tokens.all = budget(1_000, 500, 350);
        figures.usage.tokens.refills_at = Some(Timestamp::from_millis(60_000));
        figures.usage.queue.all = Waiting { tasks: 60, wait_mean: Millis(7), wait_max: Millis(9) };
        figures.usage.conservation.deferred_tasks = 4;
        figures.usage.agents.active = 10;
        figures.agents = vec![agent("a", 5, 1, 9_000), agent("b", 5, 5, 1_000)];
        let check = |kind: &str, parts: &[&str]| {
            let looked = Bottlenecks::find(&figures);
            let one = looked.found.iter().find(|one| one.subject.kind() == kind).expect("a bottleneck of this kind");
            let said = format!("{}\n{}", one.description, one.advice);
            for part in parts {
                assert!(said.contains(part), "{part:?} is not in {said:?}");
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
            &[
                "60 tasks wait, 4 of them for tokens",
                "9 ms at the longest",
                "none of which may take 0",
                "set_token_budget",
            ],
        );
    }

    #[test]
    fn a_backlog_says_how_more_agents_come_and_for_what() {
        let check = |change: &dyn Fn(&mut FleetFigures), advice: &str| {
            let mut figures = calm();
            figures.usage.queue.all.tasks = 60;
            change(&mut figures);
            let looked = Bottlenecks::find(&figures);
            let one = looked.found.iter().find(|one| one.subject == Subject::Queue).expect("a backlog");
            assert_eq!(one.advice, advice);
        };
        check(&|_| {}, "register agents: 9 more may come");
        check(&|figures| figures.usage.agents.free_workers = 4, "register agents: 4 more may come");
        let full = "no worker is free for another agent: release allocations, give the server more (--total-workers, --total-cpu, \
                    --total-memory), or register agents with the allocation_id of leases whose workers they are";
        check(&|figures| figures.usage.agents.free_workers = 0, full);
        check(
            &|figures| figures.usage.agents.quota = Some(1),
            "raise the quota with set_agent_quota, and register agents",
        );
        let selector = |agent_type: Option<&str>, capabilities: &[&str]| Selector {
            agent_type: agent_type.map(|name| AgentType::new(name).expect("a name")),
            capabilities: Capabilities::new(capabilities.iter().map(|name| Capability::new(name).expect("a name"))),
        };
        let selectors = vec![
            (selector(Some("bakend"), &[]), 7),
            (selector(None, &["go", "rsut"]), 2),
            (selector(Some(&"x".repeat(100)), &[]), 1),
        ];
        let unserved = Unserved { tasks: 14, selectors };
        let named = format!(
            "register agents: 9 more may come; register agents for those that nobody here may take: 7 for bakend; \
             2 for any agent_type with go, rsut; 1 for {}…, 4 for others",
            "x".repeat(60)
        );
        check(&|figures| figures.unserved = unserved.clone(), &named);
    }
}
