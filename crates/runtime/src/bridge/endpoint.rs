//! The endpoint of one server: what its clients connect to. It outlives the children that serve it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::bridge::{
    http::auth::Authenticator,
    limits::{connection_permits::ConnectionPermits, memory_budget::MemoryBudget},
    mux::{
        connected_child::ChildInfo,
        link::LinkError,
        multiplexer::{ChildState, ChildUnavailable, Multiplexer},
        usage::Usage,
    },
};

use cortex_core::ids::{AllocationId, ServerName};

/// The settings of an endpoint.
#[derive(Clone, Debug)]
pub struct EndpointOptions {
    /// The server's name, for error texts.
    pub name: ServerName,
    /// The most client calls that the child works on concurrently.
    pub calls_in_flight_max: usize,
    /// How long a call waits for a child that is not ready.
    pub start_wait: Duration,
    /// The roots that the child gets, as `file://` URIs. If there are none, the bridge does not offer the roots
    /// capability.
    pub roots: Vec<String>,
}

/// The endpoint of one server.
pub struct Endpoint {
    start_wait: Duration,
    pub(super) authenticator: Arc<dyn Authenticator>,
    multiplexer: Mutex<Multiplexer>,
    /// The limit for the bytes of clients' messages.
    pub(super) memory_budget: Arc<MemoryBudget>,
    pub(super) connection_permits: Arc<ConnectionPermits>,
    /// Notified when the child becomes ready, is lost or will not start, and when a lease ends.
    changed: watch::Sender<()>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = formatter.debug_struct("Endpoint");
        debug
            .field("multiplexer", &self.multiplexer)
            .field("connections", &self.connection_permits)
            .finish_non_exhaustive()
    }
}

impl Endpoint {
    /// Returns an endpoint without a child.
    #[must_use]
    pub fn new(options: EndpointOptions, authenticator: Arc<dyn Authenticator>) -> Arc<Self> {
        let EndpointOptions { name, calls_in_flight_max, start_wait, roots } = options;
        let memory_budget = MemoryBudget::new();
        Arc::new(Self {
            start_wait,
            authenticator,
            multiplexer: Mutex::new(Multiplexer::new(name, calls_in_flight_max, roots, Arc::clone(&memory_budget))),
            memory_budget,
            connection_permits: ConnectionPermits::new(),
            changed: watch::Sender::new(()),
        })
    }

    /// Ends everything that an allocation has here: its sessions, streams and calls, with an error, and then its
    /// connections.
    pub fn end_allocation(&self, allocation: AllocationId) {
        self.multiplexer().end_allocation(allocation);
        self.connection_permits.close_lease(allocation);
        // Calls of the lease that wait for a child must stop waiting.
        self.changed.send_replace(());
    }

    /// Returns the usage of an allocation. For an allocation that has ended, the usage is returned once and then
    /// removed.
    #[must_use]
    pub fn usage(&self, allocation: AllocationId) -> Usage {
        self.multiplexer().usages.take(allocation)
    }

    /// Returns the usage of all clients together.
    #[must_use]
    pub fn total_usage(&self) -> Usage {
        self.multiplexer().usages.total()
    }

    /// Sets the state that clients see while no child is connected. Has no effect on a connected child.
    pub fn set_state(&self, state: ChildState) {
        self.multiplexer().set_state(state);
        self.changed.send_replace(());
    }

    /// Wakes the calls that wait for the child, so that they check again.
    pub(super) fn notify_waiters(&self) {
        self.changed.send_replace(());
    }

    pub(super) fn multiplexer(&self) -> MutexGuard<'_, Multiplexer> {
        self.multiplexer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn child_lost(self: &Arc<Self>, generation: u64, reason: &LinkError) {
        let mut multiplexer = self.multiplexer();
        // Without a runtime, no call can wait.
        if multiplexer.child_lost(generation, reason)
            && !multiplexer.has_failed()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (endpoint, until) = (Arc::downgrade(self), self.start_deadline());
            let timeout = runtime.spawn(async move {
                tokio::time::sleep_until(until).await;
                if let Some(endpoint) = endpoint.upgrade() {
                    endpoint.multiplexer().fail_waiting_calls();
                }
            });
            multiplexer.set_start_timeout(timeout.abort_handle());
        }
        drop(multiplexer);
        self.changed.send_replace(());
    }

    /// Returns the time until which a call that arrives now waits for a child.
    pub(super) fn start_deadline(&self) -> Instant {
        Instant::now() + self.start_wait
    }

    /// Waits until the child is ready, for a call of this allocation.
    ///
    /// # Errors
    /// The child is not ready by `until`, has failed, or the lease ends.
    pub(super) async fn wait_for_child(
        &self,
        until: Instant,
        allocation: Option<AllocationId>,
    ) -> Result<Arc<ChildInfo>, ChildUnavailable> {
        let check = || {
            let multiplexer = self.multiplexer();
            if multiplexer.usages.is_ended(allocation) {
                return Some(Err(ChildUnavailable::lease_ended()));
            }
            match multiplexer.child_info() {
                Some(info) => Some(Ok(Arc::clone(info))),
                None => multiplexer.has_failed().then(|| Err(multiplexer.unavailable())),
            }
        };
        if let Some(result) = check() {
            return result;
        }
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(result) = check() {
                return result;
            }
            if tokio::time::timeout_at(until, changed.changed()).await.is_err() {
                return Err(self.multiplexer().unavailable());
            }
        }
    }
}
