//! `get_capacity`: returns total, leased and available amounts.

use super::{Hints, Invocation, ToolError, ToolHandler, ToolOutput, definition};
use crate::arguments::Arguments;
use cortex_core::view::CapacityView;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rmcp::model::Tool;
use schemars::JsonSchema;
use serde::Serialize;
use std::sync::Arc;

pub(super) struct GetCapacity;

impl ToolHandler for GetCapacity {
    fn name(&self) -> &'static str {
        "get_capacity"
    }

    fn describe(&self) -> Tool {
        definition::<CapacityResult>(
            self.name(),
            "Get capacity",
            "Show total, leased and available workers, CPU (cores) and memory (MB), and MCP servers in use. Check \
             it before a large request. Reclaimable amounts, of expired leases, are available to requests too.",
            &[],
            &Hints { is_read_only: true, is_destructive: false, is_idempotent: true },
        )
    }

    fn run(self: Arc<Self>, invocation: Invocation) -> BoxFuture<'static, Result<ToolOutput, ToolError>> {
        async move {
            Arguments::new(invocation.arguments, &[])?;
            let capacity = invocation.engine.read(|state, now| state.cluster.capacity(now)).await?;
            ToolOutput::new(&CapacityResult::from(&capacity))
        }
        .boxed()
    }
}

/// The result of get_capacity, and the resource `cluster://capacity`.
#[derive(Serialize, JsonSchema)]
pub(crate) struct CapacityResult {
    /// In cores.
    total_cpu: f64,
    /// In MB.
    total_memory: u64,
    /// Worker slots.
    total_workers: u64,
    allocated_cpu: f64,
    allocated_memory: u64,
    allocated_workers: u64,
    available_cpu: f64,
    available_memory: u64,
    available_workers: u64,
    /// CPU of leases past their deadline: a request that needs it gets it.
    reclaimable_cpu: f64,
    /// Memory of leases past their deadline.
    reclaimable_memory: u64,
    /// Worker slots of leases past their deadline.
    reclaimable_workers: u64,
    /// MCP servers that allocations hold.
    running_mcp_servers: Vec<String>,
    /// Allocations that hold resources.
    active_allocations: u64,
}

impl From<&CapacityView> for CapacityResult {
    fn from(view: &CapacityView) -> Self {
        let available = view.total.saturating_sub(view.leased);
        Self {
            total_cpu: view.total.cpu_millis.as_cores(),
            total_memory: view.total.memory_mb.0,
            total_workers: view.total.workers,
            allocated_cpu: view.leased.cpu_millis.as_cores(),
            allocated_memory: view.leased.memory_mb.0,
            allocated_workers: view.leased.workers,
            available_cpu: available.cpu_millis.as_cores(),
            available_memory: available.memory_mb.0,
            available_workers: available.workers,
            reclaimable_cpu: view.reclaimable.cpu_millis.as_cores(),
            reclaimable_memory: view.reclaimable.memory_mb.0,
            reclaimable_workers: view.reclaimable.workers,
            running_mcp_servers: view.running_servers.iter().map(ToString::to_string).collect(),
            active_allocations: view.live_allocations,
        }
    }
}
