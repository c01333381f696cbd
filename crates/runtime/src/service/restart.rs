//! Restart requests to a service, and waits for its starts and restarts.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::{Service, ServiceStatus};
use cortex_managed::ProcessState;

impl Service {
    /// Starts the service immediately if it has failed or waits for a restart. Does nothing if it runs.
    pub(in super::super) fn start_again(&self) {
        self.restarts.send_modify(|_| {});
    }

    /// Requests a restart without backoff, and returns its number for [`wait_until_restarted`]. One start serves all
    /// requests that were made before it began.
    pub(in super::super) fn restart(&self) -> u64 {
        let mut number = 0;
        self.restarts.send_modify(|requested| {
            *requested += 1;
            number = *requested;
        });
        number
    }
}

/// Waits until the service runs.
///
/// # Errors
/// A start after the first `starts` ones failed, or the service does not run within the time. The error is the reason.
pub(in super::super) async fn wait_until_running(
    mut status: watch::Receiver<ServiceStatus>,
    starts: u64,
    within: Duration,
) -> Result<(), String> {
    let ready = status.wait_for(|status| match status.state {
        ProcessState::Running => true,
        ProcessState::Failed => status.starts > starts,
        _ => false,
    });
    match timeout(within, ready).await.map(|ready| ready.map(|status| status.clone())) {
        Ok(Ok(status)) => outcome(&status, within),
        Ok(Err(_)) => Err("it was ended before it was ready".to_owned()),
        Err(_) => outcome(&status.borrow(), within),
    }
}

/// Waits until the restart with this number, or a later one, has completed.
///
/// # Errors
/// The start failed, even if it is tried again; or the restart did not complete within the time. The error is the
/// reason.
pub(in super::super) async fn wait_until_restarted(
    mut status: watch::Receiver<ServiceStatus>,
    number: u64,
    within: Duration,
) -> Result<(), String> {
    let completed = status.wait_for(|status| status.restarts_served.is_some_and(|served| served >= number));
    match timeout(within, completed).await.map(|completed| completed.map(|status| status.clone())) {
        Ok(Ok(status)) => outcome(&status, within),
        Ok(Err(_)) => Err("it was ended before it was ready".to_owned()),
        Err(_) => Err(format!("it did not run again within {} s; the restart continues", within.as_secs())),
    }
}

fn outcome(status: &ServiceStatus, within: Duration) -> Result<(), String> {
    match (&status.state, &status.reason) {
        (ProcessState::Running, _) => Ok(()),
        (ProcessState::Stopping | ProcessState::Stopped, _) => Err("it was ended in the meantime".to_owned()),
        (_, Some(reason)) => Err(reason.clone()),
        (state, None) => Err(format!("it is still {} after {} s", state.as_str(), within.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_restart_that_a_later_one_ended_waits_for_the_later_one() {
        let (publisher, status) = watch::channel(ServiceStatus::default());
        let within = Duration::from_secs(10);
        let mut restarted = Box::pin(wait_until_restarted(status.clone(), 1, within));
        assert!(futures_util::poll!(restarted.as_mut()).is_pending(), "the first start is no restart");
        publisher.send_modify(|status| {
            (status.state, status.restarts_served) = (ProcessState::Restarting, None);
        });
        assert!(futures_util::poll!(restarted.as_mut()).is_pending(), "another was requested");
        publisher.send_modify(|status| {
            (status.state, status.reason, status.restarts_served) = (ProcessState::Running, None, Some(2));
        });
        assert_eq!(restarted.await, Ok(()));
        let late = wait_until_restarted(status.clone(), 3, within).await;
        assert_eq!(late, Err("it did not run again within 10 s; the restart continues".to_owned()));
        publisher.send_modify(|status| {
            (status.state, status.reason, status.restarts_served) =
                (ProcessState::Restarting, Some("it exited with code 3".to_owned()), Some(3));
        });
        let failed = wait_until_restarted(status, 3, within).await;
        assert_eq!(failed, Err("it exited with code 3".to_owned()));
    }
}
