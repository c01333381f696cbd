//! Detects that the daemon is idle: no session, no lease on an allocation or a task before its deadline, and no managed
//! process. Queued tasks keep the daemon only if its state is in memory, since they would be lost with it.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep},
};

use cortex_engine::{EngineError, EngineHandle, EngineState};

/// The interval between two checks is a quarter of the idle time, within these bounds.
const CHECK_INTERVAL_MIN: Duration = Duration::from_millis(250);
const CHECK_INTERVAL_MAX: Duration = Duration::from_secs(15);

/// Resolves once the daemon was idle for `wait`, or the engine has ended. Queued tasks count as use unless the state
/// `is_durable`. Leases that have expired are recorded as such before, as the next sweep would do.
pub(super) async fn wait_until_idle(
    mut sessions: watch::Receiver<usize>,
    engine: EngineHandle,
    processes: Option<watch::Receiver<usize>>,
    wait: Duration,
    is_durable: bool,
) {
    let interval = (wait / 4).clamp(CHECK_INTERVAL_MIN, CHECK_INTERVAL_MAX);
    let mut needed_at = Instant::now();
    loop {
        sleep(interval).await;
        // A session that began and ended since the last check counts too.
        let is_needed = sessions.has_changed().unwrap_or(false)
            || *sessions.borrow() > 0
            || processes.as_ref().is_some_and(|processes| *processes.borrow() > 0)
            || match is_in_use(&engine, is_durable).await {
                Ok(is_in_use) => is_in_use,
                Err(EngineError::Stopped) => return,
                // A failed batch does not show whether the daemon is in use.
                Err(_) => true,
            };
        sessions.mark_unchanged();
        if is_needed {
            needed_at = Instant::now();
        } else if needed_at.elapsed() >= wait {
            if let Err(error) = engine.sweep().await {
                tracing::warn!(%error, "expired leases were not recorded: the next start records them");
            }
            // A session that began during the sweep keeps the daemon.
            if !sessions.has_changed().unwrap_or(false) {
                return;
            }
        }
    }
}

async fn is_in_use(engine: &EngineHandle, is_durable: bool) -> Result<bool, EngineError> {
    let read = |state: &EngineState<'_>, now| (state.cluster.capacity(now), state.usage(now).queue);
    let (capacity, queue) = engine.read(read).await?;
    let is_leased = capacity.live_allocations > capacity.expired_allocations;
    Ok(is_leased || queue.running > 0 || !is_durable && queue.all.tasks > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cortex_config::Configuration;
    use cortex_core::allocation::Metadata;
    use cortex_core::command::{Command, DistinctServers, Request};
    use cortex_core::fleet::agent::{AgentRequest, Capabilities};
    use cortex_core::fleet::command::FleetCommand;
    use cortex_core::fleet::task::{Selector, TaskRequest, TokenHints};
    use cortex_core::ids::{AgentId, AgentType, JobId, ServerName, TaskId};
    use cortex_core::priority::Priority;
    use cortex_core::time::TtlSeconds;
    use cortex_engine::{CancelHandle, SWEEP_LEASES_MAX};
    use cortex_serving::Manager;
    use cortex_util::lock::OwnerRecord;

    #[tokio::test(start_paused = true)]
    async fn a_session_keeps_the_daemon_and_its_end_starts_the_wait_anew() {
        let (configuration, owner) = (Configuration::default(), OwnerRecord::of_this_process());
        let opened = Manager::open(&configuration, &owner, Duration::ZERO, Duration::ZERO).await;
        let (manager, _ended) = opened.expect("a state in memory");
        let (count, sessions) = watch::channel(1);
        let wait = Duration::from_secs(100);
        let start = Instant::now();
        let leave = async {
            sleep(Duration::from_secs(1_000)).await;
            count.send_replace(0);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = leave => {}
            () = wait_until_idle(sessions, manager.engine().clone(), None, wait, true) => {}
        }
        let took = start.elapsed().as_secs();
        assert!((1_085..=1_130).contains(&took), "{took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_an_agent_holds_keeps_the_daemon_and_one_that_waits_does_not() {
        let (configuration, owner) = (Configuration::default(), OwnerRecord::of_this_process());
        let opened = Manager::open(&configuration, &owner, Duration::ZERO, Duration::ZERO).await;
        let (manager, _ended) = opened.expect("a state in memory");
        let engine = manager.engine().clone();
        let agent = AgentId::new("agent").expect("a name");
        let registration = AgentRequest {
            agent: agent.clone(),
            agent_type: AgentType::new("general").expect("a name"),
            capabilities: Capabilities::default(),
            tasks_max: 1,
            allocation: None,
            metadata: Metadata::empty(),
        };
        engine.register_agent(registration).await.expect("room");
        let task = |name: &str| TaskRequest {
            task: Some(TaskId::new(name).expect("a name")),
            job: None,
            selector: Selector::default(),
            priority: Priority::Normal,
            tokens: TokenHints::default(),
            deadline: None,
            batch: None,
            payload: None,
            attempts_max: 1,
            lease_seconds: TtlSeconds::new(3_600).expect("a time to live"),
        };
        engine.submit_task(task("held"), CancelHandle::default()).await.expect("room");
        engine.claim_task(agent, Duration::ZERO, CancelHandle::default()).await.expect("a task");
        engine.submit_task(task("waiting"), CancelHandle::default()).await.expect("room");
        let (_count, sessions) = watch::channel(0);
        let start = Instant::now();
        let end = async {
            sleep(Duration::from_secs(1_000)).await;
            let cancel = Command::Fleet(FleetCommand::Cancel { task: TaskId::new("held").expect("a name") });
            engine.execute(cancel, |_, _, _| ()).await.expect("a task");
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = end => {}
            () = wait_until_idle(sessions, engine.clone(), None, Duration::from_secs(100), true) => {}
        }
        let took = start.elapsed().as_secs();
        assert!((1_085..=1_130).contains(&took), "{took} s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_that_begins_during_the_last_sweep_keeps_the_daemon() {
        const LEASES: u64 = 3 * SWEEP_LEASES_MAX as u64;
        let (configuration, owner) = (Configuration::default(), OwnerRecord::of_this_process());
        let opened = Manager::open(&configuration, &owner, Duration::ZERO, Duration::ZERO).await;
        let (manager, _ended) = opened.expect("a state in memory");
        let engine = manager.engine().clone();
        for job in 0..LEASES {
            let request = Request {
                job: JobId::new(&job.to_string()).expect("a name"),
                servers: DistinctServers::new([ServerName::new("filesystem").expect("a name")]),
                workers: 0,
                priority: Priority::Normal,
                ttl_seconds: TtlSeconds::new(1).expect("a time to live"),
                request_id: None,
                metadata: Metadata::empty(),
            };
            engine.request(request, CancelHandle::default()).await.expect("room");
        }
        // The engine uses the system clock, which tokio's paused time neither stops nor advances.
        let expired = async || {
            engine.read(|state, now| state.cluster.capacity(now).expired_allocations).await.expect("an engine")
        };
        while expired().await < LEASES {
            std::thread::sleep(Duration::from_millis(10));
        }
        let (count, sessions) = watch::channel(0);
        let mut changes = engine.changes();
        let start = Instant::now();
        let come = async {
            changes.recv().await.expect("the first of the sweep");
            count.send_replace(1);
            sleep(Duration::from_secs(1_000)).await;
            count.send_replace(0);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            () = come => {}
            () = wait_until_idle(sessions, engine, None, Duration::from_secs(100), true) => {}
        }
        assert!(start.elapsed() >= Duration::from_secs(1_100), "{:?}", start.elapsed());
    }
}
