//! What is asked of a service while it lives, and waiting for what came of it.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

use super::{Service, Status};
use cortex_managed::ProcessState;

impl Service {
    /// Has it run again, if it has failed or is about to be started again.
    pub(in super::super) fn run_again(&self) {
        self.restarts.send_modify(|_| {});
    }

    /// Has it end and start at once. The number is for [`wait_until_restarted`]: a start serves all who asked before it began.
    pub(in super::super) fn restart(&self) -> u64 {
        let mut number = 0;
        self.restarts.send_modify(|asked| {
            *asked += 1;
            number = *asked;
        });
        number
    }
}

/// Waits until it runs.
///
/// # Errors
/// A start after the first `starts` ones failed, or it does not run within its time.
pub(in super::super) async fn wait_until_running(
    mut status: watch::Receiver<Status>,
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
        Ok(Err(_)) => Err("it was ended before it answered".to_owned()),
        Err(_) => outcome(&status.borrow(), within),
    }
}

/// Waits until the restart of this number, or one that was asked for after it, came to something.
///
/// # Errors
/// The start failed, whether or not it is tried again by itself; or it came to nothing within its time.
pub(in super::super) async fn wait_until_restarted(
    mut status: watch::Receiver<Status>,
    number: u64,
    within: Duration,
) -> Result<(), String> {
    let over = status.wait_for(|status| status.restarts_served.is_some_and(|served| served >= number));
    match timeout(within, over).await.map(|over| over.map(|status| status.clone())) {
        Ok(Ok(status)) => outcome(&status, within),
        Ok(Err(_)) => Err("it was ended before it answered".to_owned()),
        Err(_) => Err(format!("it did not run again within {} s, and is still waited for", within.as_secs())),
    }
}

fn outcome(status: &Status, within: Duration) -> Result<(), String> {
    match (&status.state, &status.reason) {
        (ProcessState::Running, _) => Ok(()),
        (ProcessState::Stopping | ProcessState::Stopped, _) => Err("it was ended meanwhile".to_owned()),
        (_, Some(reason)) => Err(reason.clone()),
        (state, None) => Err(format!("it is still {} after {} s", state.as_str(), within.as_secs())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_restart_that_the_next_one_ended_is_waited_for_no_less() {
        let (show, status) = watch::channel(Status::default());
        let within = Duration::from_secs(10);
        let mut restarted = Box::pin(wait_until_restarted(status.clone(), 1, within));
        assert!(futures_util::poll!(restarted.as_mut()).is_pending(), "the first start is no restart");
        show.send_modify(|status| {
            (status.state, status.restarts_served) = (ProcessState::Restarting, None);
        });
        assert!(futures_util::poll!(restarted.as_mut()).is_pending(), "another was asked for");
        show.send_modify(|status| {
            (status.state, status.reason, status.restarts_served) = (ProcessState::Running, None, Some(2));
        });
        assert_eq!(restarted.await, Ok(()));
        let late = wait_until_restarted(status.clone(), 3, within).await;
        assert_eq!(late, Err("it did not run again within 10 s, and is still waited for".to_owned()));
        show.send_modify(|status| {
            (status.state, status.reason, status.restarts_served) =
                (ProcessState::Restarting, Some("it exited with code 3".to_owned()), Some(3));
        });
        let failed = wait_until_restarted(status, 3, within).await;
        assert_eq!(failed, Err("it exited with code 3".to_owned()));
    }
}
