//! `cleanup_expired`: records the expiry of leases past their deadline.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::Arguments;
use crate::results::CleanupResult;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
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
