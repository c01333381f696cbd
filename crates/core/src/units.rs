//! Amounts with their units, and the three resources that leases are measured in.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::ops::{AddAssign, SubAssign};

/// CPU in thousandths of a core, so that sums are exact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CpuMillis(u64);

impl CpuMillis {
    #[must_use]
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Returns the amount in thousandths of a core.
    #[must_use]
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Returns the amount in cores; exact to the third decimal below 2^53 thousandths.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "settings are bounded far below 2^53 thousandths")]
    pub const fn as_cores(self) -> f64 {
        self.0 as f64 / 1000.0
    }
}

impl fmt::Display for CpuMillis {
    /// Writes cores with at least one decimal, as on the wire: `4.0`, `0.25`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_cores())
    }
}

/// Memory in MB of 2^20 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MemoryMb(pub u64);

impl fmt::Display for MemoryMb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The CPU and memory of one worker slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WorkerSize {
    pub cpu_millis: CpuMillis,
    pub memory_mb: MemoryMb,
}

/// An amount of each resource: a capacity, a sum of leases, or what one lease takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Resources {
    pub cpu_millis: CpuMillis,
    pub memory_mb: MemoryMb,
    /// The number of worker slots.
    pub workers: u64,
}

impl Resources {
    /// Returns what `workers` workers of `size` take. Saturates at the largest number, which no capacity reaches.
    #[must_use]
    pub const fn of_workers(workers: u64, size: WorkerSize) -> Self {
        Self {
            cpu_millis: CpuMillis(size.cpu_millis.0.saturating_mul(workers)),
            memory_mb: MemoryMb(size.memory_mb.0.saturating_mul(workers)),
            workers,
        }
    }

    /// Returns how many workers of `size` fit.
    #[must_use]
    pub fn worker_capacity(&self, size: WorkerSize) -> u64 {
        // A worker that needs nothing of a resource is not limited by it.
        let by_cpu = self.cpu_millis.0.checked_div(size.cpu_millis.0).unwrap_or(u64::MAX);
        let by_memory = self.memory_mb.0.checked_div(size.memory_mb.0).unwrap_or(u64::MAX);
        self.workers.min(by_cpu).min(by_memory)
    }

    /// Returns what is left of `self` without `other`; zero where nothing is left.
    #[must_use]
    pub const fn saturating_sub(self, other: Self) -> Self {
        Self {
            cpu_millis: CpuMillis(self.cpu_millis.0.saturating_sub(other.cpu_millis.0)),
            memory_mb: MemoryMb(self.memory_mb.0.saturating_sub(other.memory_mb.0)),
            workers: self.workers.saturating_sub(other.workers),
        }
    }

    /// Returns whether `needed` fits in `self` in every resource.
    #[must_use]
    pub const fn covers(&self, needed: &Self) -> bool {
        self.cpu_millis.0 >= needed.cpu_millis.0
            && self.memory_mb.0 >= needed.memory_mb.0
            && self.workers >= needed.workers
    }
}

impl AddAssign for Resources {
    fn add_assign(&mut self, other: Self) {
        self.cpu_millis.0 += other.cpu_millis.0;
        self.memory_mb.0 += other.memory_mb.0;
        self.workers += other.workers;
    }
}

impl SubAssign for Resources {
    fn sub_assign(&mut self, other: Self) {
        self.cpu_millis.0 -= other.cpu_millis.0;
        self.memory_mb.0 -= other.memory_mb.0;
        self.workers -= other.workers;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scarcest_resource_bounds_the_workers() {
        let fits = |workers, cpu_millis, memory_mb, worker_cpu, worker_memory| {
            let resources =
                Resources { cpu_millis: CpuMillis::from_millis(cpu_millis), memory_mb: MemoryMb(memory_mb), workers };
            let (cpu_millis, memory_mb) = (CpuMillis::from_millis(worker_cpu), MemoryMb(worker_memory));
            resources.worker_capacity(WorkerSize { cpu_millis, memory_mb })
        };
        assert_eq!(fits(5, 9_000, 9_000, 1_000, 1_000), 5);
        assert_eq!(fits(5, 3_999, 9_000, 1_000, 1_000), 3);
        assert_eq!(fits(5, 9_000, 2_000, 1_000, 1_000), 2);
        assert_eq!(fits(5, 0, 0, 0, 0), 5);
        assert_eq!(fits(5, 0, 9_000, 1, 0), 0);
    }

    #[test]
    fn cores_read_as_on_the_wire() {
        let shown = |millis| CpuMillis::from_millis(millis).to_string();
        assert_eq!(shown(4000), "4.0");
        assert_eq!(shown(250), "0.25");
        assert_eq!(shown(0), "0.0");
        assert_eq!(shown(16_001), "16.001");
    }

    #[test]
    fn an_absurd_number_of_workers_saturates() {
        let size = WorkerSize { cpu_millis: CpuMillis(1000), memory_mb: MemoryMb(u64::MAX) };
        let other = Resources::of_workers(u64::from(u32::MAX), size);
        assert_eq!(other.memory_mb, MemoryMb(u64::MAX));
        assert_eq!(other.cpu_millis, CpuMillis(4_294_967_295_000));
    }
}
