//! Bottlenecks: what delays tasks, or soon will. Each has the measurements that show it, and advice.
//!
//! The severity follows from the same measurements:
//!
//! | measurement | low | medium | high | critical |
//! |---|---|---|---|---|
//! | usage of a token budget | over 80 % | from 90 % | from 95 % | nothing remains |
//! | usage of a quota of agents | from 90 % | from 95 % | exhausted | exhausted, and the queue has a backlog |
//! | an agent's mean duration relative to the others' | over 2 times | from 4 times | from 8 times | from 16 times |
//! | success rate of an agent's tasks | | under 70 % | under 50 % | none succeeded |
//! | waiting tasks | from 50 | from 100 | from 200 | from 400, or from 50 without an agent |

use cortex_core::fleet::view::{
    AgentMetrics, AgentUsage, BudgetUsage, FleetMetrics, TokenUsage, UnservedTasks, UsageView, WaitingTasks,
};
use cortex_core::ids::{AgentId, AgentType, Capability, JobId};
use cortex_core::time::{Millis, Timestamp};

/// A token budget is a bottleneck if more than this fraction is settled or reserved. At the same fraction the
/// Resource Allocation Module begins to conserve tokens.
const TOKEN_RATIO_MAX: f64 = 0.8;

/// A quota of agents is a bottleneck from this fraction on: one agent in ten is the smallest margin that allows
/// agents to be replaced.
const QUOTA_RATIO_MIN: f64 = 0.9;

/// An agent is slow if its tasks take more than this many times as long as those of the other agents.
const DURATION_RATIO_MAX: f64 = 2.0;

/// An agent is slow as well if less than this fraction of its tasks succeeds: each failure leads to another attempt.
const SUCCESS_RATE_MIN: f64 = 0.7;

/// The queue has a backlog from this number of waiting tasks on.
const BACKLOG_TASKS_MIN: u64 = 50;

/// The number of ended tasks, of an agent and of the others, that a judgment requires. With fewer than four tasks one
/// failure alone would push the success rate below 70 %; five leaves a margin of one.
const ENDED_TASKS_MIN: u64 = 5;

/// The maximum length of a selector in a text: names may be long, and there may be many.
const SELECTOR_CHARACTERS_MAX: usize = 60;

/// The severity of a bottleneck, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// Needs attention if it grows.
    Low,
    /// Needs action.
    Medium,
    /// Tasks are delayed, or will be soon.
    High,
    /// Tasks make no progress.
    Critical,
}

impl Severity {
    /// Returns the name on the wire.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// Returns `Low`, raised by one level for each threshold that the value reaches.
    fn from_thresholds(value: f64, thresholds: [f64; 3]) -> Self {
        match thresholds.iter().filter(|threshold| value >= **threshold).count() {
            0 => Self::Low,
            1 => Self::Medium,
            2 => Self::High,
            _ => Self::Critical,
        }
    }
}

/// The resource, agent or queue that is the bottleneck. It identifies the bottleneck from one check to the next.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Subject {
    /// The token budget of a job; `None` is the budget of all tasks together.
    TokenBudget(Option<JobId>),
    /// The quota of agents of a type; `None` is the quota of all agents together.
    AgentQuota(Option<AgentType>),
    /// A slow agent.
    Agent(AgentId),
    /// The task queue.
    Queue,
}

impl Subject {
    /// Returns the kind of bottleneck, as on the wire.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::TokenBudget(_) => "token_exhaustion",
            Self::AgentQuota(_) => "quota_exceeded",
            Self::Agent(_) => "slow_agent",
            Self::Queue => "task_queue_backlog",
        }
    }

    /// Returns the job, agent type or agent; `None` if it concerns all of them.
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

/// The measurements that show a bottleneck.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Evidence {
    /// The usage of a token budget.
    TokenBudget(BudgetUsage),
    /// The usage of a quota of agents.
    AgentQuota {
        /// The maximum number of agents.
        quota: u64,
        /// The number of registered agents.
        active: u64,
        /// The number of agents that can still register, limited by free workers.
        available: u64,
    },
    /// The tasks of an agent that ended in the last minute.
    AgentTasks {
        /// The number of ended tasks.
        tasks: u64,
        /// The fraction that succeeded, from 0 to 1.
        success_rate: f64,
        /// The mean duration.
        duration_mean: Millis,
        /// The mean duration of the other agents' tasks; `None` if there were too few.
        others_mean: Option<Millis>,
    },
    /// The state of the queue.
    Queue {
        /// The waiting tasks.
        waiting: WaitingTasks,
        /// The number of waiting tasks that wait for tokens.
        deferred: u64,
        /// The number of tasks held by agents.
        running: u64,
        /// The number of waiting tasks that match no registered agent.
        unserved: u64,
        /// The number of registered agents.
        agents: u64,
    },
}

/// A cause of delayed tasks, present or imminent.
#[derive(Clone, Debug, PartialEq)]
pub struct Bottleneck {
    pub subject: Subject,
    pub severity: Severity,
    /// The measurements behind it.
    pub evidence: Evidence,
    /// The measurements in words.
    pub description: String,
    /// The recommended action.
    pub advice: String,
}

/// The bottlenecks found by one check.
#[derive(Clone, Debug, PartialEq)]
pub struct Bottlenecks {
    /// The time of the measurements.
    pub at: Timestamp,
    /// The bottlenecks, the most severe first.
    pub found: Vec<Bottleneck>,
}

impl Bottlenecks {
    /// Finds the bottlenecks in the measurements of the fleet.
    #[must_use]
    pub fn find(fleet: &FleetMetrics) -> Self {
        let usage = &fleet.usage;
        let mut found: Vec<Bottleneck> = token_bottlenecks(&usage.tokens).chain(quota_bottlenecks(usage)).collect();
        found.extend(agent_bottlenecks(&fleet.agents));
        found.extend(queue_bottleneck(fleet));
        found.sort_by(|one, other| (other.severity, &one.subject).cmp(&(one.severity, &other.subject)));
        Self { at: usage.at, found }
    }
}

/// Formats a fraction as a percentage with at most one decimal.
fn percent(fraction: f64) -> String {
    format!("{} %", (fraction * 1_000.0).round() / 10.0)
}

fn token_bottlenecks(tokens: &TokenUsage) -> impl Iterator<Item = Bottleneck> {
    let all = std::iter::once((None, &tokens.all));
    let jobs = tokens.jobs.iter().map(|(job, usage)| (Some(job), usage));
    let is_short = |(_, usage): &(_, &BudgetUsage)| usage.ratio() > TOKEN_RATIO_MAX;
    all.chain(jobs).filter(is_short).map(|(job, usage)| {
        let ratio = usage.ratio();
        let whose = if job.is_some() { " of the job" } else { "" };
        let wait = tokens.refills_at.map_or_else(String::new, |at| format!(", or wait for the refill at {at}"));
        Bottleneck {
            subject: Subject::TokenBudget(job.cloned()),
            severity: Severity::from_thresholds(ratio, [0.9, 0.95, 1.0]),
            evidence: Evidence::TokenBudget(*usage),
            description: format!(
                "{} of {} tokens{whose} are settled and {} reserved: {}, over {}; {} remain",
                usage.settled,
                usage.total,
                usage.reserved,
                percent(ratio),
                percent(TOKEN_RATIO_MAX),
                usage.remaining()
            ),
            advice: format!("raise the budget{whose} with set_token_budget{wait}, or cancel tasks of low value"),
        }
    })
}

fn quota_bottlenecks(usage: &UsageView) -> impl Iterator<Item = Bottleneck> {
    let agents = &usage.agents;
    let has_backlog = usage.queue.all.tasks >= BACKLOG_TASKS_MIN;
    let total_advice = if agents.quota.is_some() {
        "raise the quota with set_agent_quota, or unregister idle agents"
    } else {
        "raise the number of worker slots with --total-workers, or unregister idle agents"
    };
    let all = std::iter::once((None, agents.total(), agents.active, total_advice));
    let type_advice = "raise the quota of the type with set_agent_quota, or unregister idle agents of the type";
    let types = agents
        .by_type
        .iter()
        .filter_map(move |of_type| Some((Some(&of_type.agent_type), of_type.quota?, of_type.active, type_advice)));
    // A quota without agents is not exceeded, even if it is 0.
    let has_agents = |(.., active, _): &(_, _, u64, _)| *active > 0;
    all.chain(types).filter(has_agents).filter_map(move |(agent_type, quota, active, advice)| {
        let ratio = active as f64 / quota as f64;
        let severity = if active >= quota && has_backlog {
            Severity::Critical
        } else {
            Severity::from_thresholds(ratio, [0.95, 1.0, f64::INFINITY]).min(Severity::High)
        };
        let of_type = if agent_type.is_some() { " of the type" } else { "" };
        (ratio >= QUOTA_RATIO_MIN).then(|| Bottleneck {
            subject: Subject::AgentQuota(agent_type.cloned()),
            severity,
            evidence: Evidence::AgentQuota {
                quota,
                active,
                available: agents.available().min(quota.saturating_sub(active)),
            },
            description: format!(
                "{active} of {quota} agents{of_type} are registered, at least {} of the limit",
                percent(QUOTA_RATIO_MIN)
            ),
            advice: advice.to_owned(),
        })
    })
}

/// Compares each agent with the tasks of the others. If its own tasks were included, neither of two agents could ever
/// exceed twice the mean.
fn agent_bottlenecks(agents: &[AgentMetrics]) -> impl Iterator<Item = Bottleneck> {
    let total_duration = |agent: &AgentMetrics| u128::from(agent.tasks) * u128::from(agent.duration_mean.0);
    let all_tasks: u64 = agents.iter().map(|agent| agent.tasks).sum();
    let all_durations: u128 = agents.iter().map(total_duration).sum();
    agents.iter().filter(|agent| agent.tasks >= ENDED_TASKS_MIN).filter_map(move |agent| {
        let others = all_tasks - agent.tasks;
        let others_mean = (others >= ENDED_TASKS_MIN).then(|| {
            Millis(u64::try_from((all_durations - total_duration(agent)) / u128::from(others)).unwrap_or(u64::MAX))
        });
        agent_bottleneck(agent, others_mean)
    })
}

fn agent_bottleneck(agent: &AgentMetrics, others_mean: Option<Millis>) -> Option<Bottleneck> {
    let AgentMetrics { tasks, successes, duration_mean, .. } = *agent;
    let success_rate = successes as f64 / tasks as f64;
    // Durations are measured in milliseconds, so a mean of 0 counts as 1 ms.
    let duration_ratio = others_mean.map_or(0.0, |others| duration_mean.0 as f64 / others.0.max(1) as f64);
    let (is_slow, is_failing) = (duration_ratio > DURATION_RATIO_MAX, success_rate < SUCCESS_RATE_MIN);
    let by_duration = is_slow.then(|| Severity::from_thresholds(duration_ratio, [4.0, 8.0, 16.0]));
    let by_success = is_failing.then_some(match success_rate {
        rate if rate <= 0.0 => Severity::Critical,
        rate if rate < 0.5 => Severity::High,
        _ => Severity::Medium,
    });
    let severity = by_duration.max(by_success)?;
    let mut findings = Vec::new();
    let mut advice = Vec::new();
    if is_failing {
        findings.push(format!(
            "{successes} of its {tasks} tasks in the last minute succeeded: {}, under {}",
            percent(success_rate),
            percent(SUCCESS_RATE_MIN)
        ));
        advice
            .push("check the attempts of its tasks with get_task, and unregister the agent if it causes the failures");
    }
    if let Some(others) = others_mean.filter(|_| is_slow) {
        findings.push(format!(
            "its {tasks} tasks in the last minute took {} ms on average, {duration_ratio:.1} times the {} ms of the \
             other agents' tasks",
            duration_mean.0, others.0
        ));
        advice.push("register it again with a smaller max_concurrent, or register more agents");
    }
    Some(Bottleneck {
        subject: Subject::Agent(agent.agent.clone()),
        severity,
        evidence: Evidence::AgentTasks { tasks, success_rate, duration_mean, others_mean },
        description: format!("agent {}: {}", agent.agent, findings.join("; ")),
        advice: advice.join("; "),
    })
}

fn queue_bottleneck(fleet: &FleetMetrics) -> Option<Bottleneck> {
    let FleetMetrics { usage, unserved, .. } = fleet;
    let (waiting, agents, deferred) = (usage.queue.all, usage.agents.active, usage.conservation.deferred_tasks);
    if waiting.tasks < BACKLOG_TASKS_MIN {
        return None;
    }
    let severity = match Severity::from_thresholds(waiting.tasks as f64 / BACKLOG_TASKS_MIN as f64, [2.0, 4.0, 8.0]) {
        _ if agents == 0 => Severity::Critical,
        severity => severity,
    };
    let mut advice = vec![advice_for_more_agents(&usage.agents)];
    if deferred > 0 {
        advice.push("raise the token budget with set_token_budget for the deferred tasks".to_owned());
    }
    if unserved.tasks > 0 && agents > 0 {
        advice.push(format!(
            "register agents for the tasks that no registered agent can take: {}",
            list_unserved(unserved)
        ));
    }
    Some(Bottleneck {
        subject: Subject::Queue,
        severity,
        evidence: Evidence::Queue { waiting, deferred, unserved: unserved.tasks, running: usage.queue.running, agents },
        description: format!(
            "{} tasks wait, {deferred} of them for tokens, for {} ms on average and {} ms at most; \
             {agents} agents are registered, which cannot take {} of the tasks",
            waiting.tasks, waiting.wait_mean.0, waiting.wait_max.0, unserved.tasks
        ),
        advice: advice.join("; "),
    })
}

/// Returns how to get more agents.
fn advice_for_more_agents(agents: &AgentUsage) -> String {
    if agents.active >= agents.total() && agents.quota.is_some() {
        return "raise the quota with set_agent_quota, and register agents".to_owned();
    }
    match agents.available() {
        0 => "no worker is free for another agent: release allocations, raise --total-workers, --total-cpu or \
              --total-memory, or register agents on leased workers with their allocation_id"
            .to_owned(),
        free => format!("register up to {free} more agents"),
    }
}

/// Lists the selectors of the tasks that match no registered agent, with the number of tasks of each.
fn list_unserved(unserved: &UnservedTasks) -> String {
    let listed = unserved.selectors.iter().map(|(selector, tasks)| {
        let agent_type = selector.agent_type.as_ref().map_or("any agent_type", AgentType::as_str);
        let capabilities: Vec<&str> = selector.capabilities.as_slice().iter().map(Capability::as_str).collect();
        let with = if capabilities.is_empty() { "" } else { " with " };
        let wanted = format!("{agent_type}{with}{}", capabilities.join(", "));
        let cut = if wanted.chars().count() > SELECTOR_CHARACTERS_MAX { "…" } else { "" };
        format!("{tasks} for {}{cut}", wanted.chars().take(SELECTOR_CHARACTERS_MAX).collect::<String>())
    });
    let listed: Vec<String> = listed.collect();
    let listed_tasks: u64 = unserved.selectors.iter().map(|(_, tasks)| tasks).sum();
    let others = if listed_tasks < unserved.tasks {
        format!(", {} for others", unserved.tasks - listed_tasks)
    } else {
        String::new()
    };
    format!("{}{others}", listed.join("; "))
}

#[cfg(test)]
mod tests;
