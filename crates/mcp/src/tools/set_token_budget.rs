//! `set_token_budget`: sets the token budget of all tasks or of a job.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, ArgumentError, Arguments, Parameter};
use crate::results::{ConservationBlock, TokensBlock, change_status};
use cortex_core::command::Command;
use cortex_core::fleet::command::FleetCommand;
use cortex_core::fleet::view::UsageView;
use cortex_core::ids::JobId;
use cortex_core::time::Millis;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

/// The largest budget, as for the setting `token_budget`.
const TOKENS_MAX: u64 = 1_000_000_000_000_000;

/// The longest window, as for the setting `token_window_seconds`: a year.
const WINDOW_SECONDS_MAX: u64 = 31_536_000;

pub(super) struct SetTokenBudget {
    budget_tokens: Parameter<u64>,
    job_id: Parameter<JobId>,
    window_seconds: Parameter<u64>,
    remove: Parameter<bool>,
}

struct BudgetChange {
    job: Option<JobId>,
    tokens: Option<u64>,
    window: Option<Millis>,
    is_removal: bool,
}

impl SetTokenBudget {
    pub(super) fn new() -> Self {
        let tokens = "At least what is used and reserved.";
        let job = "Job whose tasks share this budget; all tasks if absent.";
        let window = "Used tokens are cleared after each window; 0 for never. Not with job_id.";
        Self {
            budget_tokens: arguments::integer("budget_tokens", tokens, 0..=TOKENS_MAX),
            job_id: arguments::name("job_id", job, JobId::new),
            window_seconds: arguments::integer("window_seconds", window, 0..=WINDOW_SECONDS_MAX),
            remove: arguments::flag("remove", "Remove the job's budget instead."),
        }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 4] {
        [&self.budget_tokens, &self.job_id, &self.window_seconds, &self.remove]
    }

    fn read(&self, arguments: &Arguments) -> Result<BudgetChange, ArgumentError> {
        let change = BudgetChange {
            tokens: arguments.optional(&self.budget_tokens)?,
            job: arguments.optional(&self.job_id)?,
            window: arguments.optional(&self.window_seconds)?.map(Millis::from_seconds),
            is_removal: arguments.or_default(&self.remove)?,
        };
        let together = |text: &str| Err(ArgumentError::Combination(text.to_owned()));
        match change {
            BudgetChange { job: Some(_), window: Some(_), .. } => together(
                "window_seconds is given with job_id: give one of them, as a job's budget has no window of its own",
            ),
            BudgetChange { job: None, is_removal: true, .. } => together(
                "remove is true without job_id: give the job_id whose budget to remove, as that of all tasks stays",
            ),
            BudgetChange { tokens: Some(_), is_removal: true, .. } => {
                together("remove is true and budget_tokens is given: give one of them")
            }
            BudgetChange { job: Some(_), tokens: None, is_removal: false, .. } => {
                together("budget_tokens is missing: give the budget of the job, or remove as true")
            }
            BudgetChange { job: None, tokens: None, window: None, .. } => {
                together("budget_tokens and window_seconds are missing: give at least one of them")
            }
            change => Ok(change),
        }
    }
}

impl ToolHandler for SetTokenBudget {
    fn name(&self) -> &'static str {
        "set_token_budget"
    }

    fn describe(&self) -> Tool {
        definition::<BudgetSetResult>(
            self.name(),
            "Set token budget",
            "Set the token budget of all tasks or, with job_id, of one job. window_seconds says when used tokens are \
             available again. An absent argument keeps its value. Raising a budget requeues deferred tasks; it cannot \
             go below what is used and reserved.",
            &self.parameters(),
            &Hints { is_read_only: false, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let BudgetChange { job, tokens, window, is_removal } = self.read(&arguments)?;
            let command = Command::Fleet(FleetCommand::SetTokenBudget { job: job.clone(), tokens, window });
            let usage = invocation.engine.execute(command, |_, state, now| state.usage(now)).await?;
            ToolOutput::new(&BudgetSetResult::new(&usage, is_removal, job.as_ref()))
        }
        .boxed()
    }
}

/// The result of set_token_budget.
#[derive(Serialize, JsonSchema)]
struct BudgetSetResult {
    /// `set` or `removed`.
    status: &'static str,
    /// The tokens and budgets from now on.
    tokens: TokensBlock,
    conservation: ConservationBlock,
}

impl BudgetSetResult {
    fn new(view: &UsageView, is_removed: bool, about: Option<&JobId>) -> Self {
        Self {
            status: change_status(is_removed),
            tokens: TokensBlock::new(&view.tokens, about),
            conservation: ConservationBlock::from(&view.conservation),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_config::SETTINGS;

    #[test]
    fn the_bounds_are_those_of_the_settings() {
        for (key, most) in [("token_budget", TOKENS_MAX), ("token_window_seconds", WINDOW_SECONDS_MAX)] {
            let setting = SETTINGS.iter().find(|setting| setting.key == key).expect("a setting");
            assert_eq!(setting.allowed(), format!("0 to {most}"), "{key}");
        }
    }
}
