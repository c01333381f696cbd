//! What get_capacity answers.

use cortex_core::view::CapacityView;
use schemars::JsonSchema;
use serde::Serialize;

/// The answer to get_capacity, and the resource `cluster://capacity`.
#[derive(Serialize, JsonSchema)]
pub(crate) struct CapacityResult {
    /// CPU there is, in cores.
    total_cpu: f64,
    /// Memory there is, in MB.
    total_memory: u64,
    /// Worker slots there are.
    total_workers: u64,
    /// CPU leased.
    allocated_cpu: f64,
    /// Memory leased.
    allocated_memory: u64,
    /// Worker slots leased.
    allocated_workers: u64,
    /// CPU not leased.
    available_cpu: f64,
    /// Memory not leased.
    available_memory: u64,
    /// Worker slots not leased.
    available_workers: u64,
    /// CPU leased by leases past their deadline: a request that needs it gets it.
    reclaimable_cpu: f64,
    /// Memory leased by leases past their deadline.
    reclaimable_memory: u64,
    /// Worker slots leased by leases past their deadline.
    reclaimable_workers: u64,
    /// MCP servers that some allocation holds.
    running_mcp_servers: Vec<String>,
    /// Allocations that hold something.
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
