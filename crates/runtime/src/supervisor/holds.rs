//! The runs of servers, each with those who hold it: started for the first, kept for a while after the last.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::bridge::{Endpoint, EndpointOptions};
use super::super::catalog::Entry;
use super::super::leases::Run;
use super::super::ports::Served;
use super::super::service::{Kind, Service};
use super::Supervisor;
use cortex_core::allocation::ServerHold;
use cortex_core::ids::AllocationId;
use cortex_core::ports::Port;
use cortex_managed::ProcessState;

/// A run of a server with its holders.
pub(super) struct Held {
    pub(super) server: Service,
    pub(super) entry: Arc<Entry>,
    /// Where its clients come in; a server that runs elsewhere has none here.
    pub(super) endpoint: Option<Arc<Endpoint>>,
    pub(super) holders: BTreeSet<AllocationId>,
    /// Since when nobody holds it.
    pub(super) idle_since: Option<Instant>,
    /// The port that the books have for it.
    pub(super) port: Port,
    /// Its serving at the port, while it is served there.
    pub(super) serving: Option<Serving>,
}

/// The serving of a run. When this is dropped it ends, and its port is let go.
pub(super) struct Serving {
    _end: DropGuard,
    place: Served,
}

impl Serving {
    /// Ends it, and gives its port to whoever is served there next: it stays taken, so that nobody else can come between.
    fn hand_over(self) -> Served {
        self.place
    }
}

impl Held {
    /// Why clients cannot come in where the books say that they do, if so.
    pub(super) fn unserved(&self) -> Option<String> {
        let is_unserved = self.serving.is_none() && self.endpoint.is_some();
        is_unserved.then(|| {
            format!("something else on this machine holds its port {}: end that, or release it and ask anew", self.port)
        })
    }
}

impl Supervisor {
    /// Has an allocation hold a run, which is started if need be.
    pub(super) fn hold(&mut self, run: &Run, hold: &ServerHold, allocation: AllocationId) -> &mut Held {
        self.renew_entry(run, false);
        if !self.runs.contains_key(run) {
            let started = self.start(run, hold.port);
            self.runs.insert(run.clone(), started);
        }
        self.serve(run, hold.port, None);
        let Some(held) = self.runs.get_mut(run) else { unreachable!("it was just put there") };
        held.holders.insert(allocation);
        held.idle_since = None;
        if matches!(held.server.status().state, ProcessState::Failed | ProcessState::Restarting) {
            held.server.run_again();
        }
        held
    }

    /// Has a run go by what the catalog says of it now, if it cannot be started, or nobody holds it, or it is asked to start again.
    pub(super) fn renew_entry(&mut self, run: &Run, is_restart: bool) {
        let entry = self.known().and_then(|catalog| catalog.entries.get(&run.name).cloned());
        let Some(held) = self.runs.get(run) else { return };
        let is_other = entry.is_some_and(|entry| entry != held.entry);
        let is_free = held.holders.is_empty() || held.server.status().state == ProcessState::Failed;
        if !is_other || !is_free && !is_restart {
            return;
        }
        let (port, holders, idle_since) = (held.port, held.holders.clone(), held.idle_since);
        let mut place = None;
        if let Some(old) = self.runs.remove(run) {
            place = old.serving.map(Serving::hand_over);
            self.leaving.insert(run.clone(), old.server.end());
        }
        let started = self.start(run, port);
        self.runs.insert(run.clone(), Held { holders, idle_since, ..started });
        self.serve(run, port, place);
    }

    fn start(&mut self, run: &Run, port: Port) -> Held {
        let entry = self.known().and_then(|catalog| catalog.entries.get(&run.name).cloned());
        // It was held when the catalog had it.
        let entry = entry.unwrap_or_else(|| Arc::new(Entry::missing(run.sharing())));
        let endpoint = (!entry.is_remote()).then(|| {
            let options = EndpointOptions {
                name: run.name.clone(),
                calls_in_flight_max: entry.calls_in_flight_max,
                start_wait: entry.start_timeout,
                roots: entry.roots.clone(),
            };
            Endpoint::new(options, self.leases.gate(run.clone()))
        });
        let kind = match &endpoint {
            Some(endpoint) => Kind::Server(Arc::clone(&entry), Arc::clone(endpoint), run.owner),
            None => Kind::Remote(Arc::clone(&entry)),
        };
        let with = (Arc::clone(&self.spawner), self.timing);
        let server = Service::start(run.to_string(), kind, with, self.leaving.remove(run));
        Held { server, entry, endpoint, holders: BTreeSet::new(), idle_since: None, port, serving: None }
    }

    /// Serves a run at a port, and nothing else there. `place` is the port, if it is handed over; a run that is not served here
    /// needs none, and it is let go.
    fn serve(&mut self, run: &Run, port: Port, mut place: Option<Served>) {
        // What nobody holds any more may still be served where the books have another now.
        for (other, held) in &mut self.runs {
            if other != run && held.port == port {
                place = held.serving.take().map(Serving::hand_over).or(place);
            }
        }
        let Some(held) = self.runs.get_mut(run) else { return };
        if held.port != port {
            held.serving = None;
            held.port = port;
        }
        let Some(endpoint) = held.endpoint.as_ref().filter(|_| held.serving.is_none()) else { return };
        let place = place.map_or_else(|| self.ports.serve(port), Ok);
        match place.and_then(|place| Ok((place.listeners()?, place))) {
            Ok((listeners, place)) => {
                let end = CancellationToken::new();
                tokio::spawn(Arc::clone(endpoint).serve(listeners, end.clone()));
                held.serving = Some(Serving { _end: end.drop_guard(), place });
            }
            Err(error) => {
                tracing::warn!(server = %run, %port, %error, "it cannot be served: something else holds its port");
            }
        }
    }

    /// Ends a run.
    pub(super) fn remove(&mut self, run: &Run) -> Option<JoinHandle<()>> {
        self.runs.remove(run).map(|held| held.server.end())
    }

    /// Ends what nobody holds and what is of no use to whoever comes next: it was kept for long enough, the catalog has another
    /// by now, or it has failed, so that there is nothing to keep warm.
    pub(super) fn end_idle(&mut self) {
        let catalog = self.known();
        let is_over = |(run, held): &(&Run, &Held)| {
            let is_current = catalog.as_ref().and_then(|catalog| catalog.entries.get(&run.name)) == Some(&held.entry);
            let is_of_use = |since: Instant| {
                is_current && since.elapsed() < held.entry.idle && held.server.status().state != ProcessState::Failed
            };
            held.idle_since.is_some_and(|since| !is_of_use(since))
        };
        let over: Vec<Run> = self.runs.iter().filter(is_over).map(|(run, _)| run.clone()).collect();
        for run in over {
            tracing::info!(server = %run, "nobody holds it any more");
            if let Some(end) = self.remove(&run) {
                self.leaving.insert(run, end);
            }
        }
    }

    /// Looks over what nobody holds, what could not be served, and leases that have run out.
    pub(super) fn look_over(&mut self) {
        self.ports.let_unserved_go();
        self.leaving.retain(|_, end| !end.is_finished());
        for (allocation, runs) in self.leases.run_out() {
            for run in runs {
                let endpoint = self.runs.get(&run).and_then(|held| held.endpoint.as_ref());
                endpoint.into_iter().for_each(|endpoint| endpoint.end_allocation(allocation));
            }
        }
        self.end_idle();
        let unserved: Vec<(Run, Port)> = self
            .runs
            .iter()
            .filter(|(_, held)| held.unserved().is_some() && !held.holders.is_empty())
            .map(|(run, held)| (run.clone(), held.port))
            .collect();
        for (run, port) in unserved {
            self.serve(&run, port, None);
        }
    }
}
