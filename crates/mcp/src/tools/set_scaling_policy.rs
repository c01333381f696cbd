//! `set_scaling_policy`: sets when the planner scales, and how far.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, ArgumentError, Arguments, Parameter};
use crate::results::PolicyResult;
use cortex_core::command::{Command, Outcome};
use cortex_core::policy::{Percent, Policy, PolicyName};
use cortex_core::time::Millis;
use cortex_engine::EngineError;
use cortex_planning::SCALE_IN_WINDOW_MAX;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// The largest threshold in tasks, far above any queue.
const TASKS_MAX: u64 = 1_000_000_000;

/// The longest wait of a threshold, and the longest cooldown: a day.
const WAIT_MS_MAX: u64 = 86_400_000;

const POLICIES: [PolicyName; 4] =
    [PolicyName::Aggressive, PolicyName::Balanced, PolicyName::Conservative, PolicyName::Custom];

pub(super) struct SetScalingPolicy {
    policy: Parameter<PolicyName>,
    figures: PolicyParameters,
}

/// The arguments of a custom policy.
struct PolicyParameters {
    scale_up_threshold: Parameter<u64>,
    scale_down_threshold: Parameter<u64>,
    agents_per_threshold: Parameter<u64>,
    cooldown_ms: Parameter<u64>,
    wait_up_ms: Parameter<u64>,
    wait_down_ms: Parameter<u64>,
    utilization_up_percent: Parameter<u64>,
    utilization_down_percent: Parameter<u64>,
    utilization_target_percent: Parameter<u64>,
    tolerance_percent: Parameter<u64>,
    scale_in_window_seconds: Parameter<u64>,
}

impl SetScalingPolicy {
    pub(super) fn new() -> Self {
        let words = POLICIES.map(PolicyName::as_str);
        let read = |text: &str| POLICIES.into_iter().find(|one| text.eq_ignore_ascii_case(one.as_str()));
        let policy = arguments::choice(
            "policy",
            "aggressive scales early and far, conservative late and little, balanced in between. custom takes the \
            figures below, by default those of balanced.",
            &words,
            read,
        );
        Self { policy: policy.required(), figures: PolicyParameters::new() }
    }

    fn parameters(&self) -> Vec<&dyn AnyParameter> {
        let mut all: Vec<&dyn AnyParameter> = vec![&self.policy];
        all.extend(self.figures.all().map(|figure| figure as &dyn AnyParameter));
        all
    }

    fn read(&self, arguments: &Arguments) -> Result<Policy, ArgumentError> {
        let name = arguments.required(&self.policy)?;
        let policy = self.figures.read(arguments, name.policy())?;
        if name != PolicyName::Custom && policy != name.policy() {
            let text = format!("figures are given with policy {name}, which has its own: give custom as policy");
            return Err(ArgumentError::Combination(text));
        }
        Ok(policy)
    }
}

impl PolicyParameters {
    fn new() -> Self {
        let balanced = Policy::BALANCED;
        let whole = |name, description: &str, range, of_balanced: u64| {
            arguments::integer(name, &format!("{description}; balanced {of_balanced}"), range)
        };
        let percent = |name, description: &str, least, of_balanced: Percent| {
            whole(name, description, least..=100, u64::from(of_balanced.as_hundredths()))
        };
        Self {
            scale_up_threshold: whole(
                "scale_up_threshold",
                "More agents above this many waiting tasks",
                0..=TASKS_MAX,
                balanced.queue_depth_up,
            ),
            scale_down_threshold: whole(
                "scale_down_threshold",
                "Keep agents while this many tasks wait",
                0..=TASKS_MAX,
                balanced.queue_depth_down,
            ),
            agents_per_threshold: whole(
                "agents_per_threshold",
                "One agent per this many tasks above scale_up_threshold",
                1..=TASKS_MAX,
                balanced.tasks_per_agent,
            ),
            cooldown_ms: whole("cooldown_ms", "Pause after a change", 0..=WAIT_MS_MAX, balanced.cooldown_ms.0),
            wait_up_ms: whole("wait_up_ms", "More agents above this mean wait", 0..=WAIT_MS_MAX, balanced.wait_up_ms.0),
            wait_down_ms: whole(
                "wait_down_ms",
                "Keep agents while the mean wait is this long",
                0..=WAIT_MS_MAX,
                balanced.wait_down_ms.0,
            ),
            utilization_up_percent: percent(
                "utilization_up_percent",
                "More agents or workers above this",
                1,
                balanced.utilization_up,
            ),
            utilization_down_percent: percent(
                "utilization_down_percent",
                "Fewer agents or workers below this",
                0,
                balanced.utilization_down,
            ),
            utilization_target_percent: percent(
                "utilization_target_percent",
                "Usage to aim for",
                1,
                balanced.utilization_target,
            ),
            tolerance_percent: percent(
                "tolerance_percent",
                "Accepted difference from the wanted number unless work waits or was refused",
                0,
                balanced.tolerance,
            ),
            scale_in_window_seconds: whole(
                "scale_in_window_seconds",
                "Never scale in below the highest number wanted in this time",
                0..=SCALE_IN_WINDOW_MAX.as_seconds(),
                balanced.scale_in_window_ms.as_seconds(),
            ),
        }
    }

    fn all(&self) -> impl Iterator<Item = &Parameter<u64>> {
        [
            &self.scale_up_threshold,
            &self.scale_down_threshold,
            &self.agents_per_threshold,
            &self.cooldown_ms,
            &self.wait_up_ms,
            &self.wait_down_ms,
            &self.utilization_up_percent,
            &self.utilization_down_percent,
            &self.utilization_target_percent,
            &self.tolerance_percent,
            &self.scale_in_window_seconds,
        ]
        .into_iter()
    }

    /// Returns the policy `from` with the given figures.
    fn read(&self, arguments: &Arguments, from: Policy) -> Result<Policy, ArgumentError> {
        let whole = |figure: &Parameter<u64>, other: u64| Ok(arguments.optional(figure)?.unwrap_or(other));
        let millis = |figure: &Parameter<u64>, other: Millis| whole(figure, other.0).map(Millis);
        let percent = |figure: &Parameter<u64>, other: Percent| {
            let given = arguments.optional(figure)?.and_then(|given| u8::try_from(given).ok());
            Ok(given.and_then(Percent::new).unwrap_or(other))
        };
        let policy = Policy {
            name: from.name,
            queue_depth_up: whole(&self.scale_up_threshold, from.queue_depth_up)?,
            queue_depth_down: whole(&self.scale_down_threshold, from.queue_depth_down)?,
            tasks_per_agent: whole(&self.agents_per_threshold, from.tasks_per_agent)?,
            wait_up_ms: millis(&self.wait_up_ms, from.wait_up_ms)?,
            wait_down_ms: millis(&self.wait_down_ms, from.wait_down_ms)?,
            utilization_up: percent(&self.utilization_up_percent, from.utilization_up)?,
            utilization_down: percent(&self.utilization_down_percent, from.utilization_down)?,
            utilization_target: percent(&self.utilization_target_percent, from.utilization_target)?,
            tolerance: percent(&self.tolerance_percent, from.tolerance)?,
            cooldown_ms: millis(&self.cooldown_ms, from.cooldown_ms)?,
            scale_in_window_ms: Millis::from_seconds(whole(
                &self.scale_in_window_seconds,
                from.scale_in_window_ms.as_seconds(),
            )?),
        };
        let in_order = |low: (&str, u64), high: (&str, u64)| {
            let is_wrong = low.1 > high.1;
            let text = format!(
                "{} is {}, above {}, which is {}: give a {0} of at most {3}, or a larger {2} (an absent one is that of \
                 balanced)",
                low.0, low.1, high.0, high.1
            );
            if is_wrong { Err(ArgumentError::Combination(text)) } else { Ok(()) }
        };
        let hundredths = |percent: Percent| u64::from(percent.as_hundredths());
        let down = ("utilization_down_percent", hundredths(policy.utilization_down));
        let target = ("utilization_target_percent", hundredths(policy.utilization_target));
        let up = ("utilization_up_percent", hundredths(policy.utilization_up));
        in_order(("scale_down_threshold", policy.queue_depth_down), ("scale_up_threshold", policy.queue_depth_up))?;
        in_order(("wait_down_ms", policy.wait_down_ms.0), ("wait_up_ms", policy.wait_up_ms.0))?;
        in_order(down, target)?;
        in_order(target, up)?;
        Ok(policy)
    }
}

impl ToolHandler for SetScalingPolicy {
    fn name(&self) -> &'static str {
        "set_scaling_policy"
    }

    fn describe(&self) -> Tool {
        definition::<PolicySetResult>(
            self.name(),
            "Set scaling policy",
            "Set when the planner wants more or fewer workers and agents, and how far it goes in one step. Applies \
             from the next plan on; a durable state keeps it over restarts.",
            &self.parameters(),
            &Hints { is_read_only: false, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let policy = self.read(&arguments)?;
            match invocation.engine.execute(Command::SetPolicy(policy), |outcome, _, _| outcome).await? {
                Outcome::PolicySet { previous, .. } => ToolOutput::new(&PolicySetResult::new(&policy, &previous)),
                _ => Err(EngineError::Fault.into()),
            }
        }
        .boxed()
    }
}

/// The result of set_scaling_policy.
#[derive(Serialize, JsonSchema)]
struct PolicySetResult {
    /// `set`.
    status: &'static str,
    policy: PolicyResult,
    previous_policy: PolicyResult,
}

impl PolicySetResult {
    fn new(policy: &Policy, before: &Policy) -> Self {
        Self { status: "set", policy: policy.into(), previous_policy: before.into() }
    }
}
