//! `cleanup_expired`: records the expiry of leases past their deadline.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::Arguments;
use cortex_engine::Expired;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

pub(super) struct CleanupExpired;

impl ToolHandler for CleanupExpired {
    fn name(&self) -> &'static str {
        "cleanup_expired"
    }

    fn describe(&self) -> Tool {
        definition::<CleanupResult>(
            self.name(),
            "Clean up expired",
            "Reclaim all expired leases now and return their ids. Rarely needed: the server does it every few \
             minutes, and requests reclaim what they need.",
            &[],
            &Hints { is_read_only: false, is_destructive: true, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            Arguments::new(invocation.arguments, &[])?;
            let expired = invocation.engine.sweep().await?;
            ToolOutput::new(&CleanupResult::from(&expired))
        }
        .boxed()
    }
}

/// The result of cleanup_expired.
#[derive(Serialize, JsonSchema)]
struct CleanupResult {
    /// The ids of the reclaimed allocations, the longest overdue first.
    cleaned_up: Vec<String>,
    /// Reclaimed allocations, omitted ones included.
    count: u64,
    /// Ids left out because the list would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted: Option<u64>,
}

impl From<&Expired> for CleanupResult {
    fn from(expired: &Expired) -> Self {
        let left_out = expired.count - expired.named.len() as u64;
        Self {
            cleaned_up: expired.named.iter().map(ToString::to_string).collect(),
            count: expired.count,
            omitted: (left_out > 0).then_some(left_out),
        }
    }
}
