//! The status of a state, read from its files.

use cortex_journal::{UnusableSnapshot, open_to_read, recover};
use std::fmt::Write;
use std::path::Path;

/// Returns the status of a state as its log records it, as lines of `name: value`.
///
/// # Errors
/// The state does not exist, or cannot be read.
pub(crate) fn describe(state: &Path) -> anyhow::Result<String> {
    let connection = open_to_read(state)?;
    let mut recovery = recover(&connection, state, None)?;
    let mut lines = String::new();
    let last_at = recovery.last_at();
    // Writing to a string cannot fail.
    let _ = writeln!(lines, "state: {}", state.display());
    let _ = writeln!(lines, "events: {}", recovery.anchor.sequence);
    if let Some(at) = last_at {
        recovery.cluster.observe(at);
        let capacity = recovery.cluster.capacity(at);
        let total = capacity.total;
        let _ = writeln!(lines, "last_event: {at}");
        let free = total.saturating_sub(capacity.leased);
        let _ = writeln!(lines, "workers: {} free of {}", free.workers, total.workers);
        let _ = writeln!(lines, "cpu_cores: {} free of {}", free.cpu_millis.as_cores(), total.cpu_millis.as_cores());
        let _ = writeln!(lines, "memory_mb: {} free of {}", free.memory_mb, total.memory_mb);
        let _ = writeln!(lines, "leases: {}", capacity.live_allocations);
        let _ = writeln!(lines, "leases_expired: {}", capacity.expired_allocations);
        let _ = write!(lines, "{}", recovery.cluster.fleet_summary(at));
    }
    for UnusableSnapshot(path, fault) in &recovery.faults {
        let _ = writeln!(lines, "unusable_snapshot: {} ({fault})", path.display());
    }
    Ok(lines)
}
