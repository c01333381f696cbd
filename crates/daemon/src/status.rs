//! The status of a daemon, as sent on the socket and as printed.
//!
//! Programs of other versions read it: a field that was added within a version of the protocol may be absent, and
//! readers ignore fields that they do not know.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::{
    managed_processes::{ManagedProcesses, counted},
    state_label,
};
use cortex_core::fleet::view::FleetSummary;
use cortex_core::units::CpuMillis;
use cortex_core::view::CapacityView;
use cortex_loops::LoopReport;

/// The status of the daemon at a moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Status {
    /// A unique id of the daemon process.
    pub(super) instance: String,
    pub(super) pid: u32,
    pub(super) version: String,
    pub(super) state: Option<PathBuf>,
    pub(super) uptime_seconds: u64,
    pub(super) sessions: u64,
    /// `None` while the engine waits for the disk.
    pub(super) books: Option<StateSummary>,
    /// The managed processes; `None` if none are configured, or the daemon does not report them.
    #[serde(default)]
    pub(super) running: Option<ManagedProcesses>,
    /// The file of the daemon's log; `None` if the daemon logs to its own standard error.
    pub(super) log: Option<PathBuf>,
    pub(super) loops: Vec<LoopReport>,
}

/// The capacity, each as total and free; the leases; and the fleet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct StateSummary {
    workers: (u64, u64),
    cpu_millis: (u64, u64),
    memory_mb: (u64, u64),
    leases: u64,
    /// The number of leases past their deadline.
    leases_expired: u64,
    /// `None` from a daemon that does not report it.
    #[serde(default)]
    fleet: Option<FleetSummary>,
}

impl StateSummary {
    pub(super) fn of(view: &CapacityView, fleet: FleetSummary) -> Self {
        let (total, leased) = (&view.total, &view.leased);
        let of = |total: u64, leased: u64| (total, total.saturating_sub(leased));
        Self {
            workers: of(total.workers, leased.workers),
            cpu_millis: of(total.cpu_millis.as_millis(), leased.cpu_millis.as_millis()),
            memory_mb: of(total.memory_mb.0, leased.memory_mb.0),
            leases: view.live_allocations,
            leases_expired: view.expired_allocations,
            fleet: Some(fleet),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "instance: {}", self.instance)?;
        writeln!(formatter, "pid: {}", self.pid)?;
        writeln!(formatter, "version: {}", self.version)?;
        writeln!(formatter, "state: {}", state_label(self.state.as_deref()))?;
        writeln!(formatter, "uptime: {}", format_duration(Duration::from_secs(self.uptime_seconds)))?;
        writeln!(formatter, "sessions: {}", self.sessions)?;
        match &self.books {
            Some(summary) => summary.fmt(formatter)?,
            None => writeln!(formatter, "books: unavailable: the state cannot be written, see the log")?,
        }
        self.running.iter().try_for_each(|running| running.fmt(formatter))?;
        for LoopReport { name, period_seconds, runs, last } in &self.loops {
            match last {
                Some(last) => writeln!(
                    formatter,
                    "{name}: every {period_seconds} s, {}, last at {}: {}",
                    counted(*runs, "run"),
                    last.at,
                    last.outcome
                )?,
                None => writeln!(formatter, "{name}: every {period_seconds} s, not run yet")?,
            }
        }
        match &self.log {
            Some(log) => writeln!(formatter, "log: {}", log.display()),
            None => writeln!(formatter, "log: standard error of process {}", self.pid),
        }
    }
}

impl fmt::Display for StateSummary {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workers, cpu_millis, memory_mb, leases, leases_expired, fleet } = self;
        let cores = |millis| CpuMillis::from_millis(millis).as_cores();
        writeln!(formatter, "workers: {} free of {}", workers.1, workers.0)?;
        writeln!(formatter, "cpu_cores: {} free of {}", cores(cpu_millis.1), cores(cpu_millis.0))?;
        writeln!(formatter, "memory_mb: {} free of {}", memory_mb.1, memory_mb.0)?;
        writeln!(formatter, "leases: {leases}")?;
        writeln!(formatter, "leases_expired: {leases_expired}")?;
        fleet.iter().try_for_each(|fleet| fleet.fmt(formatter))
    }
}

/// Formats a duration in its two largest units.
fn format_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min {} s", seconds / 60, seconds % 60),
        3_600..86_400 => format!("{} h {} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_core::time::Timestamp;
    use serde_json::json;

    #[test]
    fn a_status_reads_as_lines_of_names_and_values() {
        let loop_seen = |last| LoopReport { name: "sweep".to_owned(), period_seconds: 300, runs: 0, last };
        let fleet = FleetSummary {
            agents: 4,
            taking_workers: 3,
            unresponsive: Some(1),
            queued: 9,
            deferred: 8,
            running: 7,
            completed: 6,
            failed: 5,
            cancelled: 4,
            tokens_total: 20_000,
            tokens_settled: 410,
            tokens_reserved: 500,
            refills_at: Some(Timestamp::from_millis(60_000)),
        };
        let status = Status {
            instance: "abc".to_owned(),
            pid: 7,
            version: "1.2.3".to_owned(),
            state: None,
            uptime_seconds: 3_720,
            sessions: 2,
            books: Some(StateSummary {
                workers: (10, 4),
                cpu_millis: (16_000, 15_500),
                memory_mb: (100, 1),
                leases: 2,
                leases_expired: 1,
                fleet: Some(fleet),
            }),
            running: Some(ManagedProcesses::default()),
            log: Some("/run/x.log".into()),
            loops: vec![loop_seen(None)],
        };
        let text = status.to_string();
        for line in [
            "state: the in-memory state",
            "uptime: 1 h 2 min",
            "workers: 4 free of 10",
            "cpu_cores: 15.5 free of 16",
            "leases_expired: 1",
            "agents: 4 registered, 3 taking a worker each, 1 unresponsive",
            "tasks: 9 queued, 8 deferred, 7 running; 6 completed, 5 failed, 4 cancelled on record",
            "tokens: 410 used and 500 reserved of 20000, refill at 1970-01-01T00:01:00.000Z",
            "run: 0 servers, 0 workers",
            "sweep: every 300 s, not run yet",
            "log: /run/x.log",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
        assert!(text.lines().all(|line| line.contains(": ")), "{text}");
        let waiting = Status { books: None, ..status.clone() }.to_string();
        assert!(waiting.contains("\nbooks: unavailable") && waiting.contains("\npid: 7\n"), "{waiting}");
        let read: Status = serde_json::from_str(&serde_json::to_string(&status).expect("JSON")).expect("a status");
        assert_eq!(read, status);
        let unheard = FleetSummary { unresponsive: None, refills_at: None, ..fleet }.to_string();
        assert!(unheard.starts_with("agents: 4 registered, 3 taking a worker each\n"), "{unheard}");
        assert!(unheard.ends_with("\ntokens: 410 used and 500 reserved of 20000\n"), "{unheard}");
        assert_eq!(format_duration(Duration::from_secs(90_000)), "1 d 1 h");
    }

    #[test]
    fn what_another_version_adds_or_leaves_out_of_a_status_does_not_matter() {
        let summary = json!({
            "workers": [10, 4], "cpu_millis": [16_000, 15_500], "memory_mb": [100, 1], "leases": 2, "leases_expired": 1
        });
        let mut sent = json!({
            "instance": "abc", "pid": 7, "version": "1.2.3", "state": null, "uptime_seconds": 1, "sessions": 2,
            "books": summary, "log": null, "loops": []
        });
        let before = Status::deserialize(&sent).expect("the status of a daemon without the fleet");
        let text = before.to_string();
        assert!(text.contains("\nleases_expired: 1\nlog: "), "{text}");
        sent["more"] = json!(1);
        sent["books"]["more"] = json!(1);
        assert_eq!(Status::deserialize(&sent).expect("a status with more"), before);
    }
}
