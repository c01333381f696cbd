//! One endpoint: a place for clients that outlives the children behind it.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use crate::bridge::{
    http::gate::Gate,
    limits::{account::Account, places::Places},
    mux::{
        child::About,
        exchange::{ChildState, Down, Exchange},
        usage::Usage,
    },
};

use cortex_core::ids::{AllocationId, ServerName};

/// How an endpoint is to behave.
#[derive(Clone, Debug)]
pub struct EndpointOptions {
    /// The name that errors say.
    pub name: ServerName,
    /// The most calls of clients that the child is given at once.
    pub calls_in_flight_max: usize,
    /// How long a call waits for a child that is not up.
    pub start_wait: Duration,
    /// What the child is told when it asks for roots, as `file://` URIs. None: it is told that there are none to be had.
    pub roots: Vec<String>,
}

/// Serves the clients of one server.
pub struct Endpoint {
    start_wait: Duration,
    pub(super) gate: Arc<dyn Gate>,
    exchange: Mutex<Exchange>,
    /// What is held of clients' messages.
    pub(super) account: Arc<Account>,
    pub(super) places: Arc<Places>,
    /// Told whenever the child comes, goes, or will not come, and when a lease ends.
    changed: watch::Sender<()>,
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Endpoint");
        shown.field("exchange", &self.exchange).field("connections", &self.places).finish_non_exhaustive()
    }
}

impl Endpoint {
    /// An endpoint without a child.
    #[must_use]
    pub fn new(options: EndpointOptions, gate: Arc<dyn Gate>) -> Arc<Self> {
        let EndpointOptions { name, calls_in_flight_max, start_wait, roots } = options;
        let account = Account::new();
        Arc::new(Self {
            start_wait,
            gate,
            exchange: Mutex::new(Exchange::new(name, calls_in_flight_max, roots, Arc::clone(&account))),
            account,
            places: Places::new(),
            changed: watch::Sender::new(()),
        })
    }

    /// Ends what an allocation has here: its sessions, its streams and its calls, with an error, and then its connections.
    pub fn end_allocation(&self, allocation: AllocationId) {
        self.exchange().end_allocation(allocation);
        self.places.end(allocation);
        // Those that wait for a child need wait no longer.
        self.changed.send_replace(());
    }

    /// What an allocation did here. Once it has ended, this is given out once more and then forgotten.
    #[must_use]
    pub fn usage(&self, allocation: AllocationId) -> Usage {
        self.exchange().usages.take(allocation)
    }

    /// What all clients did here together.
    #[must_use]
    pub fn total_usage(&self) -> Usage {
        self.exchange().usages.total()
    }

    /// Says what becomes of a server that does not run. One that is connected is not concerned.
    pub fn set_state(&self, state: ChildState) {
        self.exchange().set_state(state);
        self.changed.send_replace(());
    }

    /// Wakes the calls that wait for the child.
    pub(super) fn note_change(&self) {
        self.changed.send_replace(());
    }

    pub(super) fn exchange(&self) -> MutexGuard<'_, Exchange> {
        self.exchange.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn lose(self: &Arc<Self>, generation: u64, why: &str) {
        let mut exchange = self.exchange();
        // Where nothing runs any more there is nobody to wait either.
        if exchange.lose(generation, why)
            && !exchange.has_failed()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let (endpoint, until) = (Arc::downgrade(self), self.patience());
            let patience = runtime.spawn(async move {
                tokio::time::sleep_until(until).await;
                if let Some(endpoint) = endpoint.upgrade() {
                    endpoint.exchange().give_up();
                }
            });
            exchange.wait_for_child(patience.abort_handle());
        }
        drop(exchange);
        self.changed.send_replace(());
    }

    /// Until when a call that comes now waits for a child.
    pub(super) fn patience(&self) -> Instant {
        Instant::now() + self.start_wait
    }

    /// Waits until the child is up, for a call of this allocation.
    ///
    /// # Errors
    /// It is not by then, or will not be; or the lease ends.
    pub(super) async fn up(&self, until: Instant, allocation: Option<AllocationId>) -> Result<Arc<About>, Down> {
        let look = || {
            let exchange = self.exchange();
            if exchange.usages.is_ended(allocation) {
                return Some(Err(Down::lease_ended()));
            }
            match exchange.about() {
                Some(about) => Some(Ok(Arc::clone(about))),
                None => exchange.has_failed().then(|| Err(exchange.down())),
            }
        };
        if let Some(found) = look() {
            return found;
        }
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(found) = look() {
                return found;
            }
            if tokio::time::timeout_at(until, changed.changed()).await.is_err() {
                return Err(self.exchange().down());
            }
        }
    }
}
