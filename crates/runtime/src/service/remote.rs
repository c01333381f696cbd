//! A remote server: clients get its URL, and the manager only checks its health.

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::super::catalog::{CatalogEntry, Program};
use super::super::remote::HealthProbe;
use super::{MissedChecks, Timing};

pub(super) struct RemoteServer {
    probe: HealthProbe,
}

impl RemoteServer {
    /// Checks that it answers.
    pub(super) async fn start(entry: &CatalogEntry) -> Result<Self, String> {
        let Program::Remote { url, headers } = &entry.program else {
            return Err("it is not a remote server".to_owned());
        };
        let mut probe = HealthProbe::new(url, headers);
        probe.check(entry.start_timeout).await.map_err(|why| format!("it {why}"))?;
        Ok(Self { probe })
    }

    /// Waits until it no longer answers, and returns why.
    pub(super) async fn failed(&mut self, timing: &Timing) -> String {
        let mut misses = MissedChecks { count: 0, max: timing.misses_max };
        let mut ticks = interval_at(Instant::now() + timing.health, timing.health);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let checked = self.probe.check(timing.health).await.map_err(|why| format!("it {why}"));
            if let Some(why) = misses.add(checked) {
                return why;
            }
        }
    }

    /// Ends the session of the health checks.
    pub(super) async fn end(self) {
        self.probe.close().await;
    }
}
