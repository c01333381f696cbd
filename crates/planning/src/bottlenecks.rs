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

use cortex_core::fleet::view::{
    AgentFigures, AgentUsage, BudgetUsage, FleetFigures, TokenUsage, Unserved, UsageView, Waiting,
};
use cortex_core::ids::{AgentId, AgentType, Capability, JobId};
use cortex_core::time::{Millis, Timestamp};

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
mod tests;
