//! `detect_bottlenecks`: returns what delays tasks.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::Arguments;
use crate::results::{BudgetBlock, LIST_BYTES_MAX, count_fitting};
use cortex_planning::{Bottleneck, Bottlenecks, Evidence};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

pub(super) struct DetectBottlenecks;

impl ToolHandler for DetectBottlenecks {
    fn name(&self) -> &'static str {
        "detect_bottlenecks"
    }

    fn describe(&self) -> Tool {
        definition::<BottlenecksResult>(
            self.name(),
            "Detect bottlenecks",
            "Find what delays tasks now or soon: token budgets over 80 % used, agent quotas 90 % used, agents that \
             fail often or are twice as slow as the others, a queue of 50 tasks. Each comes with severity, figures \
             and advice. Subscribe to cluster://bottlenecks for changes.",
            &[],
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            Arguments::new(invocation.arguments, &[])?;
            let figures = invocation.engine.read(|state, now| state.fleet_metrics(now)).await?;
            ToolOutput::new(&BottlenecksResult::from(&Bottlenecks::find(&figures)))
        }
        .boxed()
    }
}

/// The most bytes of a bottleneck without the name of what is affected, once as data and once as text.
const BOTTLENECK_BYTES: usize = 2_000;

/// The most bottlenecks of a result.
const BOTTLENECKS_MAX: usize = 1_000;

/// The figures of a quota.
#[derive(Serialize, JsonSchema)]
struct QuotaMetrics {
    /// The most agents that may be registered.
    quota: u64,
    /// How many there are.
    active_agents: u64,
    /// Agents that can still register without an allocation, limited by free workers.
    available_slots: u64,
    /// The part of the quota in use; 1 for a quota of 0.
    usage_ratio: f64,
}

/// The figures of an agent over the last minute.
#[derive(Serialize, JsonSchema)]
struct AgentMetrics {
    /// Attempts of the agent that ended.
    ended_tasks: u64,
    /// The part of them that succeeded.
    success_rate: f64,
    /// Their mean duration.
    avg_duration_ms: u64,
    /// The mean duration of other agents' attempts; null if too few ended.
    others_avg_duration_ms: Option<u64>,
}

/// The figures of the queue.
#[derive(Serialize, JsonSchema)]
struct QueueMetrics {
    /// Waiting tasks.
    pending_tasks: u64,
    /// Of these, the tasks deferred for lack of tokens.
    deferred_tasks: u64,
    /// Of these, the tasks that no registered agent may take.
    unserved_tasks: u64,
    /// Tasks that agents hold.
    running_tasks: u64,
    /// Registered agents.
    active_agents: u64,
    /// The mean wait of waiting tasks.
    avg_wait_time_ms: u64,
    /// The wait of the oldest task.
    oldest_task_age_ms: u64,
}

/// The figures of a bottleneck, by its type.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
enum Metrics {
    /// Of `token_exhaustion`.
    Tokens(BudgetBlock),
    /// Of `quota_exceeded`.
    Quota(QuotaMetrics),
    /// Of `slow_agent`.
    Agent(AgentMetrics),
    /// Of `task_queue_backlog`.
    Queue(QueueMetrics),
}

impl From<&Evidence> for Metrics {
    fn from(figures: &Evidence) -> Self {
        match *figures {
            Evidence::TokenBudget(usage) => Self::Tokens(BudgetBlock::from(&usage)),
            Evidence::AgentQuota { quota, active, available } => Self::Quota(QuotaMetrics {
                quota,
                active_agents: active,
                available_slots: available,
                usage_ratio: if quota == 0 { 1.0 } else { active as f64 / quota as f64 },
            }),
            Evidence::AgentTasks { tasks, success_rate, duration_mean, others_mean } => Self::Agent(AgentMetrics {
                ended_tasks: tasks,
                success_rate: (success_rate * 1_000.0).round() / 1_000.0,
                avg_duration_ms: duration_mean.0,
                others_avg_duration_ms: others_mean.map(|mean| mean.0),
            }),
            Evidence::Queue { waiting, deferred, unserved, running, agents } => Self::Queue(QueueMetrics {
                pending_tasks: waiting.tasks,
                deferred_tasks: deferred,
                unserved_tasks: unserved,
                running_tasks: running,
                active_agents: agents,
                avg_wait_time_ms: waiting.wait_mean.0,
                oldest_task_age_ms: waiting.wait_max.0,
            }),
        }
    }
}

/// Something that delays tasks, or soon will.
#[derive(Serialize, JsonSchema)]
struct BottleneckResult {
    /// `token_exhaustion`, `quota_exceeded`, `slow_agent` or `task_queue_backlog`.
    bottleneck_type: &'static str,
    /// `low`, `medium`, `high` or `critical`.
    severity: &'static str,
    description: String,
    /// The job, agent type or agent concerned; empty if it concerns all.
    affected: Vec<String>,
    metrics: Metrics,
    advice: String,
}

impl From<&Bottleneck> for BottleneckResult {
    fn from(bottleneck: &Bottleneck) -> Self {
        Self {
            bottleneck_type: bottleneck.subject.kind(),
            severity: bottleneck.severity.as_str(),
            description: bottleneck.description.clone(),
            affected: bottleneck.subject.name().map(str::to_owned).into_iter().collect(),
            metrics: Metrics::from(&bottleneck.evidence),
            advice: bottleneck.advice.clone(),
        }
    }
}

/// The result of detect_bottlenecks, and the resource `cluster://bottlenecks`.
#[derive(Serialize, JsonSchema)]
pub(crate) struct BottlenecksResult {
    /// The most severe first.
    bottlenecks: Vec<BottleneckResult>,
    /// Bottlenecks found, omitted ones included.
    count: u64,
    /// Entries left out because the list would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted: Option<u64>,
    detected_at: String,
}

impl From<&Bottlenecks> for BottlenecksResult {
    fn from(bottlenecks: &Bottlenecks) -> Self {
        let found = &bottlenecks.found;
        let names = found.iter().map(|one| one.subject.name().unwrap_or_default().len());
        let fits = count_fitting(names.take(BOTTLENECKS_MAX), BOTTLENECK_BYTES, LIST_BYTES_MAX);
        let left_out = found.len() - fits;
        Self {
            bottlenecks: found.iter().take(fits).map(BottleneckResult::from).collect(),
            count: found.len() as u64,
            omitted: (left_out > 0).then_some(left_out as u64),
            detected_at: bottlenecks.at.to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_core::ids::AgentId;
    use cortex_core::time::Timestamp;
    use cortex_planning::{Severity, Subject};

    #[test]
    fn a_long_list_is_cut_and_says_so() {
        let check = |name_length: usize, count: usize, shown: usize| {
            let bottleneck = |number: usize| Bottleneck {
                subject: Subject::Agent(
                    AgentId::new(&format!("{number:05}{}", "😀".repeat(name_length - 5))).expect("a name"),
                ),
                severity: Severity::High,
                evidence: Evidence::AgentQuota { quota: 0, active: u64::MAX, available: 0 },
                description: "d".repeat(400),
                advice: "a".repeat(200),
            };
            let found = (0..count).map(bottleneck).collect();
            let result = BottlenecksResult::from(&Bottlenecks { at: Timestamp::from_millis(0), found });
            let text = serde_json::to_string(&result).expect("JSON");
            assert!(2 * text.len() < LIST_BYTES_MAX, "{count} take {} bytes", text.len());
            assert!(text.contains("\"usage_ratio\":1.0") || count == 0, "a figure is a number");
            assert_eq!((result.bottlenecks.len(), result.count), (shown, count as u64));
            assert_eq!(result.omitted, (count > shown).then(|| (count - shown) as u64));
        };
        check(5, 0, 0);
        check(5, 1_000, 1_000);
        check(5, 1_001, 1_000);
        check(256, 2_000, 781);
    }
}
