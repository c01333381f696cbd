//! The result of get_capacity.

use cortex_core::view::CapacityView;
use schemars::JsonSchema;
use serde::Serialize;

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
