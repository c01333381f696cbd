//! Restart requests to a service, and waits for its starts and restarts.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::{Failure, FailureReason, Service, ServiceStatus};
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
/// A start after the first `starts` ones failed, or the service does not run within the time.
pub(in super::super) async fn wait_until_running(
    mut status: watch::Receiver<ServiceStatus>,
    starts: u64,
    within: Duration,
) -> Result<(), Arc<Failure>> {
    let ready = status.wait_for(|status| match status.state {
        ProcessState::Running => true,
        ProcessState::Failed => status.starts > starts,
        _ => false,
    });
    match timeout(within, ready).await.map(|ready| ready.map(|status| status.clone())) {
        Ok(Ok(status)) => outcome(&status, within),
        Ok(Err(_)) => Err(failed(FailureReason::Stopped)),
        Err(_) => outcome(&status.borrow(), within),
    }
}

/// Waits until the restart with this number, or a later one, has completed.
///
/// # Errors
/// The start failed, even if it is tried again; or the restart did not complete within the time.
pub(in super::super) async fn wait_until_restarted(
    mut status: watch::Receiver<ServiceStatus>,
    number: u64,
    within: Duration,
) -> Result<(), Arc<Failure>> {
    let completed = status.wait_for(|status| status.restarts_served.is_some_and(|served| served >= number));
    match timeout(within, completed).await.map(|completed| completed.map(|status| status.clone())) {
        Ok(Ok(status)) => outcome(&status, within),
        Ok(Err(_)) => Err(failed(FailureReason::Stopped)),
        Err(_) => Err(failed(FailureReason::RestartContinues(within))),
    }
}

fn outcome(status: &ServiceStatus, within: Duration) -> Result<(), Arc<Failure>> {
    match (status.state, &status.reason) {
        (ProcessState::Running, _) => Ok(()),
        (ProcessState::Stopping | ProcessState::Stopped, _) => Err(failed(FailureReason::Stopped)),
        (_, Some(failure)) => Err(Arc::clone(failure)),
        (state, None) => Err(failed(FailureReason::StillNotRunning { state, within })),
    }
}

fn failed(reason: FailureReason) -> Arc<Failure> {
    Arc::new(reason.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::child::ExitReason;

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
        restarted.await.expect("it runs");
        let late = wait_until_restarted(status.clone(), 3, within).await.expect_err("it was not restarted");
        assert_eq!(late.to_string(), "it did not run again within 10 s; the restart continues");
        publisher.send_modify(|status| {
            (status.state, status.reason, status.restarts_served) =
                (ProcessState::Restarting, Some(failed(FailureReason::Ended(ExitReason::Exited(3)))), Some(3));
        });
        let failure = wait_until_restarted(status, 3, within).await.expect_err("it failed");
        assert_eq!(failure.to_string(), "it exited with code 3");
    }
}
