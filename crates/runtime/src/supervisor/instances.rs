//! The instances of servers and the allocations that hold them. An instance is started for its first holder, and kept
//! for a while after its last.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::super::bridge::{Endpoint, EndpointOptions};
use super::super::catalog::CatalogEntry;
use super::super::leases::InstanceKey;
use super::super::ports::ServedPort;
use super::super::service::{Failure, FailureReason, Service, ServiceKind};
use super::Supervisor;
use cortex_core::allocation::ServerHold;
use cortex_core::ids::AllocationId;
use cortex_core::ports::Port;
use cortex_managed::ProcessState;

/// An instance of a server.
pub(super) struct ServerInstance {
    pub(super) server: Service,
    /// The entry that it was started with. The catalog may have another by now.
    pub(super) entry: Arc<CatalogEntry>,
    /// The endpoint for its clients; absent for a remote server.
    pub(super) endpoint: Option<Arc<Endpoint>>,
    pub(super) holders: BTreeSet<AllocationId>,
    /// When its last holder released it.
    pub(super) idle_since: Option<Instant>,
    /// The port that the engine granted for it.
    pub(super) port: Port,
    /// Absent while the endpoint is not served on the port.
    pub(super) serving: Option<Serving>,
}

/// The task that serves an endpoint, and its port. Dropping it ends the task and releases the port.
pub(super) struct Serving {
    _end: DropGuard,
    port: ServedPort,
}

impl Serving {
    /// Ends the task and returns the port, which stays claimed, so that no other process can take it in between.
    fn into_port(self) -> ServedPort {
        self.port
    }
}

impl ServerInstance {
    /// Returns why the endpoint is not served on the granted port, if it is not.
    pub(super) fn unserved(&self) -> Option<Arc<Failure>> {
        let is_unserved = self.serving.is_none() && self.endpoint.is_some();
        is_unserved.then(|| Arc::new(FailureReason::PortInUse(self.port).into()))
    }
}

impl Supervisor {
    /// Adds an allocation to the holders of an instance, and starts the instance if it does not run.
    pub(super) fn hold(
        &mut self,
        key: &InstanceKey,
        hold: &ServerHold,
        allocation: AllocationId,
    ) -> &mut ServerInstance {
        self.renew_entry(key, false);
        if !self.instances.contains_key(key) {
            let started = self.start_instance(key, hold.port);
            self.instances.insert(key.clone(), started);
        }
        self.serve(key, hold.port, None);
        let Some(instance) = self.instances.get_mut(key) else { unreachable!("it was just inserted") };
        instance.holders.insert(allocation);
        instance.idle_since = None;
        if matches!(instance.server.status().state, ProcessState::Failed | ProcessState::Restarting) {
            instance.server.start_again();
        }
        instance
    }

    /// Replaces an instance by one with the current entry of the catalog, if the entries differ and the instance has
    /// failed, has no holders, or is to be restarted.
    pub(super) fn renew_entry(&mut self, key: &InstanceKey, is_restart: bool) {
        let entry = self.current_catalog().and_then(|catalog| catalog.entries.get(&key.name).cloned());
        let Some(instance) = self.instances.get(key) else { return };
        let is_other = entry.is_some_and(|entry| entry != instance.entry);
        let is_free = instance.holders.is_empty() || instance.server.status().state == ProcessState::Failed;
        if !is_other || !is_free && !is_restart {
            return;
        }
        let (port, holders, idle_since) = (instance.port, instance.holders.clone(), instance.idle_since);
        let mut served_port = None;
        if let Some(old) = self.instances.remove(key) {
            served_port = old.serving.map(Serving::into_port);
            self.ending_instances.insert(key.clone(), old.server.end());
        }
        let started = self.start_instance(key, port);
        self.instances.insert(key.clone(), ServerInstance { holders, idle_since, ..started });
        self.serve(key, port, served_port);
    }

    fn start_instance(&mut self, key: &InstanceKey, port: Port) -> ServerInstance {
        let entry = self.current_catalog().and_then(|catalog| catalog.entries.get(&key.name).cloned());
        // The entry may have been removed from the catalog after the server was leased.
        let entry = entry.unwrap_or_else(|| Arc::new(CatalogEntry::removed(key.sharing())));
        let endpoint = (!entry.is_remote()).then(|| {
            let options = EndpointOptions {
                name: key.name.clone(),
                calls_in_flight_max: entry.calls_in_flight_max,
                start_wait: entry.start_timeout,
                roots: entry.roots.clone(),
            };
            Endpoint::new(options, self.leases.gate(key.clone()))
        });
        let kind = match &endpoint {
            Some(endpoint) => ServiceKind::Server(Arc::clone(&entry), Arc::clone(endpoint), key.owner),
            None => ServiceKind::Remote(Arc::clone(&entry)),
        };
        let after = self.ending_instances.remove(key);
        let server = Service::start(key.to_string(), kind, self.services.clone(), after);
        ServerInstance { server, entry, endpoint, holders: BTreeSet::new(), idle_since: None, port, serving: None }
    }

    /// Serves an instance on a port instead of any other instance there. `served_port` is the port, if the caller has
    /// it already. A remote server needs none, and the port is released.
    fn serve(&mut self, key: &InstanceKey, port: Port, mut served_port: Option<ServedPort>) {
        // An instance without holders may still be served on a port that the engine has granted to this one.
        for (other, instance) in &mut self.instances {
            if other != key && instance.port == port {
                served_port = instance.serving.take().map(Serving::into_port).or(served_port);
            }
        }
        let Some(instance) = self.instances.get_mut(key) else { return };
        if instance.port != port {
            instance.serving = None;
            instance.port = port;
        }
        let Some(endpoint) = instance.endpoint.as_ref().filter(|_| instance.serving.is_none()) else { return };
        let served_port = served_port.map_or_else(|| self.ports.serve(port), Ok);
        match served_port.and_then(|port| Ok((port.listeners()?, port))) {
            Ok((listeners, port)) => {
                let end = CancellationToken::new();
                tokio::spawn(Arc::clone(endpoint).serve(listeners, end.clone()));
                instance.serving = Some(Serving { _end: end.drop_guard(), port });
            }
            Err(error) => {
                tracing::warn!(server = %key, %port, %error, "server is not served: another process uses its port");
            }
        }
    }

    /// Ends an instance. The returned task ends when none of its processes is left.
    pub(super) fn remove(&mut self, key: &InstanceKey) -> Option<JoinHandle<()>> {
        self.instances.remove(key).map(|instance| instance.server.end())
    }

    /// Ends the instances without holders that a next holder would not use: the idle time of their entry has passed,
    /// the catalog has another entry, or they have failed.
    pub(super) fn end_idle(&mut self) {
        let catalog = self.current_catalog();
        let is_unused = |(key, instance): &(&InstanceKey, &ServerInstance)| {
            let entry = catalog.as_ref().and_then(|catalog| catalog.entries.get(&key.name));
            let is_kept = |since: Instant| {
                entry == Some(&instance.entry)
                    && since.elapsed() < instance.entry.idle
                    && instance.server.status().state != ProcessState::Failed
            };
            instance.idle_since.is_some_and(|since| !is_kept(since))
        };
        let unused: Vec<InstanceKey> = self.instances.iter().filter(is_unused).map(|(key, _)| key.clone()).collect();
        for key in unused {
            tracing::info!(server = %key, "idle server ended");
            if let Some(end) = self.remove(&key) {
                self.ending_instances.insert(key, end);
            }
        }
    }

    /// Ends idle instances, ends the sessions of expired leases, and retries to serve instances whose port was in use.
    pub(super) fn reconcile_instances(&mut self) {
        self.ports.release_unserved();
        self.ending_instances.retain(|_, end| !end.is_finished());
        for (allocation, keys) in self.leases.expired() {
            for key in keys {
                let endpoint = self.instances.get(&key).and_then(|instance| instance.endpoint.as_ref());
                endpoint.into_iter().for_each(|endpoint| endpoint.end_allocation(allocation));
            }
        }
        self.end_idle();
        let unserved: Vec<(InstanceKey, Port)> = self
            .instances
            .iter()
            .filter(|(_, instance)| instance.unserved().is_some() && !instance.holders.is_empty())
            .map(|(key, instance)| (key.clone(), instance.port))
            .collect();
        for (key, port) in unserved {
            self.serve(&key, port, None);
        }
    }
}
