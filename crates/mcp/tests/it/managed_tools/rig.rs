//! A server on an engine whose servers and workers count as managed.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use cortex_config::Toolset;
use cortex_core::allocation::State;
use cortex_core::ids::{AllocationId, ServerName};
use cortex_core::provisioning::{Provisioning, Sharing};
use cortex_core::time::{Millis, TtlSeconds};
use cortex_core::units::{CpuMillis, MemoryMb, Resources};
use cortex_core::view::Filter;
use cortex_engine::clock::EngineClock;
use cortex_engine::{Engine, EngineHandle, EngineOptions, EngineState, Record, RecordPosition};
use cortex_journal::NullJournal;
use cortex_managed::{AccessKey, RuntimeHandle};
use cortex_mcp::transport::{LineTransport, WireLimits};
use cortex_mcp::{PlannerFeed, Server, ServerOptions};
use cortex_planning::{Bounds, Planner};
use cortex_test_support::wait::WAIT_MAX;
use rmcp::ServiceExt;
use tokio::sync::watch;

use super::client::Client;
use super::stub::{self, Reports};

/// The unread bytes that each direction holds.
const PIPE_BYTES: usize = 1_048_576;

pub(crate) struct Rig {
    pub(crate) engine: EngineHandle,
    pub(crate) managed: RuntimeHandle,
    pub(crate) reports: Arc<Mutex<Reports>>,
    shown: PlannerFeed,
    _show: Box<dyn Send>,
}

impl Rig {
    /// Creates one whose endpoints require tokens.
    pub(crate) async fn new() -> Self {
        Self::with_key(Some(AccessKey::random().expect("random numbers"))).await
    }

    pub(crate) async fn with_key(key: Option<AccessKey>) -> Self {
        let (engine, handle) =
            Engine::start(engine_options(), NullJournal, EngineClock::system()).await.expect("an engine");
        tokio::spawn(engine.run());
        handle.set_provisioning(provisioning(), Some(Box::new(|_, _| true))).await.expect("an engine");
        let (managed, requests) = RuntimeHandle::new(key);
        let reports = Arc::new(Mutex::new(Reports::default()));
        tokio::spawn(stub::answer(requests, Arc::clone(&reports)));
        let (show_plan, plan) = watch::channel(None);
        let (show_forecast, forecast) = watch::channel(None);
        let (show_bottlenecks, bottlenecks) = watch::channel(None);
        let planner = Arc::new(Mutex::new(Planner::new(Bounds { workers_min: 10, workers_max: 10 })));
        let shown = PlannerFeed { plan, forecast, bottlenecks, planner };
        let show = Box::new((show_plan, show_forecast, show_bottlenecks));
        Self { engine: handle, managed, reports, shown, _show: show }
    }

    /// A client with every tool.
    pub(crate) async fn client(&self) -> Client {
        self.connect(Some(self.managed.clone()), Toolset::ALL.iter().map(|(_, toolset)| *toolset).collect()).await
    }

    pub(crate) async fn connect(&self, managed: Option<RuntimeHandle>, toolsets: BTreeSet<Toolset>) -> Client {
        let (writer, input) = tokio::io::duplex(PIPE_BYTES);
        let (output, reader) = tokio::io::duplex(PIPE_BYTES);
        let (transport, connection) = LineTransport::new(input, output, WireLimits::default());
        let options = ServerOptions {
            toolsets,
            default_ttl: TtlSeconds::new(3_600).expect("some time"),
            ttl_seconds_max: 604_800,
            heartbeat_seconds: 10,
            task_lease: TtlSeconds::new(300).expect("some time"),
            claims_waiting_max: 128,
        };
        let server = Server::new(self.engine.clone(), self.shown.clone(), managed, &options, connection.closing());
        tokio::spawn(async move {
            let running = server.serve(transport).await.expect("a handshake");
            connection.established();
            running.waiting().await
        });
        Client::greet(writer, reader).await
    }

    pub(crate) fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().expect("no panic")
    }

    /// Waits for the only allocation in this state.
    pub(crate) async fn only(&self, state: State) -> AllocationId {
        // By the system clock, as that of the runtime may be paused.
        let begin = Instant::now();
        while begin.elapsed() < WAIT_MAX {
            if let [one] = self.all(state).await[..] {
                return one;
            }
            tokio::task::yield_now().await;
        }
        panic!("no allocation, or more than one, is {state}");
    }

    /// All allocations in a state.
    pub(crate) async fn all(&self, state: State) -> Vec<AllocationId> {
        let filter = Filter { state: Some(state), job: None };
        let read = move |state: &EngineState<'_>, now| state.records(now, &filter, RecordPosition::default(), 100);
        let page = self.engine.read(read).await.expect("an engine");
        let id = |record: &Record| match record {
            Record::Allocation(view) => view.allocation.reservation.allocation,
            Record::Refusal(refusal) => refusal.allocation,
        };
        page.entries.iter().map(id).collect()
    }
}

fn provisioning() -> Provisioning {
    let server = |name, sharing| (ServerName::new(name).expect("a name"), sharing);
    Provisioning {
        catalog: Some(
            [
                server("filesystem", Sharing::Shared),
                server("memory", Sharing::PerAllocation),
                server("search", Sharing::Shared),
            ]
            .into(),
        ),
        manages_workers: true,
        start_max: Millis::from_seconds(20),
        ..Provisioning::default()
    }
}

fn engine_options() -> EngineOptions {
    let capacity = Resources { cpu_millis: CpuMillis::from_millis(16_000), memory_mb: MemoryMb(32_768), workers: 10 };
    EngineOptions { history_age: Millis(u64::MAX), ..EngineOptions::fixed(capacity) }
}
