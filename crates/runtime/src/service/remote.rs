//! A remote server: clients get its URL, and the manager only checks its health.

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::super::catalog::{CatalogEntry, Program};
use super::super::remote::HealthProbe;
use super::{FailureReason, MissedChecks, Timing};

pub(super) struct RemoteServer {
    probe: HealthProbe,
}

impl RemoteServer {
    /// Checks that it answers.
    pub(super) async fn start(entry: &CatalogEntry) -> Result<Self, FailureReason> {
        let Program::Remote { url, headers } = &entry.program else {
            return Err(FailureReason::OtherKind);
        };
        let mut probe = HealthProbe::new(url, headers);
        probe.check(entry.start_timeout).await?;
        Ok(Self { probe })
    }

    /// Waits until it no longer answers, and returns why.
    pub(super) async fn failed(&mut self, timing: &Timing) -> FailureReason {
        let mut misses = MissedChecks { count: 0, max: timing.misses_max };
        let mut ticks = interval_at(Instant::now() + timing.health, timing.health);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Some(reason) = misses.add(self.probe.check(timing.health).await) {
                return reason;
            }
        }
    }

    /// Ends the session of the health checks.
    pub(super) async fn end(self) {
        self.probe.close().await;
    }
}
