//! A server that runs elsewhere: it is handed out as it is, and only its health is looked after.

use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::super::catalog::{Entry, Program};
use super::super::remote::Remote;
use super::{Misses, Timing};

pub(super) struct Elsewhere {
    remote: Remote,
}

impl Elsewhere {
    /// Looks whether it answers.
    pub(super) async fn start(entry: &Entry) -> Result<Self, String> {
        let Program::Remote { url, headers } = &entry.program else {
            return Err("it does not run elsewhere".to_owned());
        };
        let mut remote = Remote::new(url, headers);
        remote.check(entry.start_timeout).await.map_err(|why| format!("it {why}"))?;
        Ok(Self { remote })
    }

    /// Waits until it does not answer any more, and says why.
    pub(super) async fn lost(&mut self, timing: &Timing) -> String {
        let mut misses = Misses { count: 0, max: timing.misses_max };
        let mut ticks = interval_at(Instant::now() + timing.health, timing.health);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let checked = self.remote.check(timing.health).await.map_err(|why| format!("it {why}"));
            if let Some(why) = misses.note(checked) {
                return why;
            }
        }
    }

    /// Leaves it.
    pub(super) async fn end(self) {
        self.remote.close().await;
    }
}
