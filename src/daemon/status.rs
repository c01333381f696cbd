//! How the daemon stands, as it tells on the socket and as people read it.

use std::{fmt, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use super::subject;
use crate::core::{CapacityView, CpuMillis};
use crate::loops::LoopSeen;

/// How the daemon stands at a moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Status {
    /// The run of the daemon.
    pub(super) instance: String,
    pub(super) pid: u32,
    pub(super) version: String,
    pub(super) state: Option<PathBuf>,
    pub(super) uptime_seconds: u64,
    pub(super) sessions: u64,
    /// Nothing while the engine waits for the disk.
    pub(super) books: Option<Books>,
    /// The file of the daemon's log; nothing if it goes to a standard error of somebody else's choice.
    pub(super) log: Option<PathBuf>,
    pub(super) loops: Vec<LoopSeen>,
}

/// What there is and what of it is free, each as total and free; and what is leased.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Books {
    workers: (u64, u64),
    cpu_millis: (u64, u64),
    memory_mb: (u64, u64),
    leases: u64,
    /// How many of them are past their deadline.
    leases_expired: u64,
}

impl Books {
    pub(super) fn of(view: &CapacityView) -> Self {
        let (total, leased) = (&view.total, &view.leased);
        let of = |total: u64, leased: u64| (total, total.saturating_sub(leased));
        Self {
            workers: of(total.workers, leased.workers),
            cpu_millis: of(total.cpu_millis.as_millis(), leased.cpu_millis.as_millis()),
            memory_mb: of(total.memory_mb.0, leased.memory_mb.0),
            leases: view.live_allocations,
            leases_expired: view.expired_allocations,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(formatter, "instance: {}", self.instance)?;
        writeln!(formatter, "pid: {}", self.pid)?;
        writeln!(formatter, "version: {}", self.version)?;
        writeln!(formatter, "state: {}", subject(self.state.as_deref()))?;
        writeln!(formatter, "uptime: {}", span(Duration::from_secs(self.uptime_seconds)))?;
        writeln!(formatter, "sessions: {}", self.sessions)?;
        match &self.books {
            Some(books) => books.fmt(formatter)?,
            None => writeln!(formatter, "books: not to be had now: the state cannot be written, see the log")?,
        }
        for LoopSeen { name, period_seconds, runs, last } in &self.loops {
            let times = if *runs == 1 { "once".to_owned() } else { format!("{runs} times") };
            match last {
                Some(last) => writeln!(
                    formatter,
                    "{name}: every {period_seconds} s, run {times}, at {}: {}",
                    last.at, last.outcome
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

impl fmt::Display for Books {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { workers, cpu_millis, memory_mb, leases, leases_expired } = self;
        let cores = |millis| CpuMillis::from_millis(millis).as_cores();
        writeln!(formatter, "workers: {} free of {}", workers.1, workers.0)?;
        writeln!(formatter, "cpu_cores: {} free of {}", cores(cpu_millis.1), cores(cpu_millis.0))?;
        writeln!(formatter, "memory_mb: {} free of {}", memory_mb.1, memory_mb.0)?;
        writeln!(formatter, "leases: {leases}")?;
        writeln!(formatter, "leases_expired: {leases_expired}")
    }
}

/// A span of time in the units that matter.
fn span(span: Duration) -> String {
    let seconds = span.as_secs();
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

    #[test]
    fn a_status_reads_as_lines_of_names_and_values() {
        let loop_seen = |last| LoopSeen { name: "sweep".to_owned(), period_seconds: 300, runs: 0, last };
        let status = Status {
            instance: "abc".to_owned(),
            pid: 7,
            version: "1.2.3".to_owned(),
            state: None,
            uptime_seconds: 3_720,
            sessions: 2,
            books: Some(Books {
                workers: (10, 4),
                cpu_millis: (16_000, 15_500),
                memory_mb: (100, 1),
                leases: 2,
                leases_expired: 1,
            }),
            log: Some("/run/x.log".into()),
            loops: vec![loop_seen(None)],
        };
        let text = status.to_string();
        for line in [
            "state: the shared memory",
            "uptime: 1 h 2 min",
            "workers: 4 free of 10",
            "cpu_cores: 15.5 free of 16",
            "leases_expired: 1",
            "sweep: every 300 s, not run yet",
            "log: /run/x.log",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} is not in\n{text}");
        }
        assert!(text.lines().all(|line| line.contains(": ")), "{text}");
        let waiting = Status { books: None, ..status.clone() }.to_string();
        assert!(waiting.contains("\nbooks: not to be had now") && waiting.contains("\npid: 7\n"), "{waiting}");
        let read: Status = serde_json::from_str(&serde_json::to_string(&status).expect("JSON")).expect("a status");
        assert_eq!(read, status);
        assert_eq!(span(Duration::from_secs(90_000)), "1 d 1 h");
    }
}
