//! `get_worker`: returns the status of one worker.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::{self, AnyParameter, Arguments, Parameter};
use crate::results::WorkerResult;
use cortex_managed::{RuntimeError, RuntimeRequest};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use std::sync::Arc;

pub(super) struct GetWorker {
    worker_id: Parameter<String>,
    last_lines: Parameter<u64>,
}

impl GetWorker {
    pub(super) fn new() -> Self {
        Self { worker_id: arguments::worker_id(), last_lines: arguments::last_lines() }
    }

    fn parameters(&self) -> [&dyn AnyParameter; 2] {
        [&self.worker_id, &self.last_lines]
    }
}

impl ToolHandler for GetWorker {
    fn name(&self) -> &'static str {
        "get_worker"
    }

    fn describe(&self) -> Tool {
        definition::<WorkerResult>(
            self.name(),
            "Get worker",
            "Show one worker process: state and why it failed, its allocation and job, restarts, memory and last \
             lines of output.",
            &self.parameters(),
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            let arguments = Arguments::new(invocation.arguments, &self.parameters())?;
            let worker = arguments.required(&self.worker_id)?;
            let lines_max = usize::try_from(arguments.or_default(&self.last_lines)?).unwrap_or(usize::MAX);
            let managed = invocation.managed.ok_or(ToolError::NoCatalog)?;
            let report = managed.request(|reply| RuntimeRequest::Worker(worker.clone(), reply)).await?;
            let report = report.ok_or(RuntimeError::UnknownWorker { worker })?;
            ToolOutput::new(&WorkerResult::with_lines(&report, lines_max))
        }
        .boxed()
    }
}
