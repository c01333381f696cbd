//! Progress notices of a call that waits, so that its client does not time out.

use rmcp::model::{ProgressNotificationParam, ProgressToken};
use rmcp::{Peer, RoleServer};
use std::time::Duration;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

/// The time between two notices of one call. Clients time out after about a minute without one.
const NOTICE_EVERY: Duration = Duration::from_secs(5);

/// A caller's request for progress notices.
pub(super) struct Progress {
    peer: Peer<RoleServer>,
    token: ProgressToken,
}

impl Progress {
    pub(super) const fn new(peer: Peer<RoleServer>, token: ProgressToken) -> Self {
        Self { peer, token }
    }

    /// Awaits `work`, which takes up to `total` if that is known, and sends the caller the time waited so far every
    /// [`NOTICE_EVERY`].
    ///
    /// A notice that has begun is sent before `work` is polled again, so that none follows the result.
    pub(super) async fn while_waiting<T>(
        self,
        message: &str,
        total: Option<Duration>,
        work: impl Future<Output = T>,
    ) -> T {
        let begin = Instant::now();
        let mut notices = interval_at(begin + NOTICE_EVERY, NOTICE_EVERY);
        notices.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                done = &mut work => return done,
                _ = notices.tick() => {}
            }
            let mut notice =
                ProgressNotificationParam::new(self.token.clone(), begin.elapsed().as_secs_f64()).with_message(message);
            notice.total = total.as_ref().map(Duration::as_secs_f64);
            if self.peer.notify_progress(notice).await.is_err() {
                // The client is gone; the end of the connection ends the work.
                return work.await;
            }
        }
    }
}
