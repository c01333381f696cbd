//! `drain_worker`: ends a worker of the pool once it has no task.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, Arguments, Parameter};
use crate::results::WorkerResult;
use cortex_managed::{RuntimeRequest, WorkerReport};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

pub(super) struct DrainWorker {
    worker_id: Parameter<String>,
}

impl DrainWorker {
    pub(super) fn new() -> Self {
        Self { worker_id: arguments::worker_id() }
    }
}

impl ToolHandler for DrainWorker {
    fn name(&self) -> &'static str {
        "drain_worker"
    }

    fn describe(&self) -> Tool {
        definition::<DrainResult>(
            self.name(),
            "Drain worker",
            "Drain a worker of the agent pool: it gets no new tasks, finishes those it holds, then ends. Refused \
             for a worker of an allocation, which ends with release_resources.",
            &[&self.worker_id],
            &Hints { is_read_only: false, is_destructive: true, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &[&self.worker_id])?;
            let worker = arguments.required(&self.worker_id)?;
            let managed = invocation.managed.ok_or(ToolError::NoCatalog)?;
            let report = managed.request(|reply| RuntimeRequest::DrainWorker(worker, reply)).await??;
            ToolOutput::new(&DrainResult::from(&report))
        }
        .boxed()
    }
}

/// The result of drain_worker.
#[derive(Serialize, JsonSchema)]
struct DrainResult {
    /// `draining`.
    status: &'static str,
    worker: WorkerResult,
}

impl From<&WorkerReport> for DrainResult {
    fn from(report: &WorkerReport) -> Self {
        Self { status: "draining", worker: WorkerResult::from(report) }
    }
}
