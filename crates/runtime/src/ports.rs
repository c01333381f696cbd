//! The ports of servers on this machine: claimed before they are granted, and kept until no server uses them.
//!
//! The engine claims a port while it decides, so that no grant names one that another process uses. The supervisor
//! serves on it after the grant is committed. A port that was claimed for a grant that was not made is released after a
//! while. A served port belongs to its [`ServedPort`] and is released when that is dropped, so that none can leak.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::catalog::Catalog;
use cortex_core::ports::Port;
use cortex_engine::ClaimPort;

/// How long a port stays claimed without being served. This is longer than it takes to commit a decision and serve.
const UNSERVED_MAX: Duration = Duration::from_secs(60);

/// The ports that are in use. Clones share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports(Arc<Mutex<BTreeMap<Port, PortUse>>>);

#[derive(Debug)]
enum PortUse {
    /// Claimed for a grant, and not served yet.
    Claimed { listeners: Vec<TcpListener>, at: Instant },
    /// Owned by a [`ServedPort`].
    Served,
}

/// A port on which an endpoint serves. Dropping it releases the port.
#[derive(Debug)]
pub(super) struct ServedPort {
    ports: Ports,
    port: Port,
    listeners: Vec<TcpListener>,
}

impl Ports {
    /// Claims a port, unless it is claimed or served already. Returns false if another process uses it.
    pub(super) fn claim(&self, port: Port) -> bool {
        let mut used = self.lock();
        if let Some(known) = used.get_mut(&port) {
            if let PortUse::Claimed { at, .. } = known {
                *at = Instant::now();
            }
            return true;
        }
        match bind(port) {
            Ok(listeners) => {
                used.insert(port, PortUse::Claimed { listeners, at: Instant::now() });
                true
            }
            Err(error) => !is_in_use(&error),
        }
    }

    /// Returns the function by which the engine claims ports. Remote servers and servers without a catalog need none.
    /// The port of a worker is only checked, since the worker binds it itself.
    pub(super) fn claimer(&self, catalog: Option<Arc<Catalog>>) -> ClaimPort {
        let ports = self.clone();
        Box::new(move |port, name| match name {
            Some(name) => match &catalog {
                Some(catalog) if !catalog.is_remote(name) => ports.claim(port),
                _ => true,
            },
            None => is_free(port),
        })
    }

    /// Takes over a port to serve on it. It need not be claimed.
    ///
    /// # Errors
    /// Another process uses the port, it is served already, or it cannot be bound.
    pub(super) fn serve(&self, port: Port) -> io::Result<ServedPort> {
        let mut used = self.lock();
        let listeners = match used.remove(&port) {
            Some(PortUse::Claimed { listeners, .. }) => listeners,
            Some(PortUse::Served) => {
                used.insert(port, PortUse::Served);
                return Err(io::ErrorKind::AddrInUse.into());
            }
            None => bind(port)?,
        };
        used.insert(port, PortUse::Served);
        Ok(ServedPort { ports: self.clone(), port, listeners })
    }

    /// Releases ports that were claimed long ago and are not served.
    pub(super) fn release_unserved(&self) {
        self.lock().retain(|_, port| match port {
            PortUse::Claimed { at, .. } => at.elapsed() < UNSERVED_MAX,
            PortUse::Served => true,
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Port, PortUse>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ServedPort {
    /// Returns clones of the sockets that listen on the port.
    pub(super) fn listeners(&self) -> io::Result<Vec<TcpListener>> {
        self.listeners.iter().map(TcpListener::try_clone).collect()
    }
}

impl Drop for ServedPort {
    fn drop(&mut self) {
        let mut used = self.ports.lock();
        // Closed under the lock, so that the next claim does not find the port in use.
        self.listeners.clear();
        used.remove(&self.port);
    }
}

/// Returns whether no process listens on a port, so that a worker can.
fn is_free(port: Port) -> bool {
    bind(port).map_or_else(|error| !is_in_use(&error), |_| true)
}

/// Returns whether an error means that another process uses the port, rather than that no socket can be opened now.
fn is_in_use(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

/// Listens on a port over IPv4 and IPv6. A client may resolve `localhost` to either, and must not reach a foreign
/// process.
fn bind(port: Port) -> io::Result<Vec<TcpListener>> {
    let mut listeners = vec![TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port.0)))?];
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, port.0))) {
        Ok(listener) => listeners.push(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        // A system without IPv6.
        Err(_) => {}
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a port that is unused at this moment.
    fn free_port() -> Port {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        Port(listener.local_addr().expect("an address").port())
    }

    #[test]
    fn a_port_is_claimed_once_and_served_after_that() {
        let (ports, port) = (Ports::default(), free_port());
        assert!(ports.claim(port) && ports.claim(port), "it stays claimed");
        assert!(!is_free(port) && !Ports::default().claim(port), "no other process can claim it");
        let served = ports.serve(port).expect("it is claimed");
        assert!(!served.listeners().expect("sockets").is_empty());
        assert!(ports.claim(port) && ports.serve(port).is_err(), "it is served only once");
        ports.release_unserved();
        assert!(!is_free(port));
        drop(served);
        assert!(is_free(port) && ports.claim(port), "it can be claimed again");
    }

    #[test]
    fn a_port_that_another_process_uses_cannot_be_claimed() {
        let port = free_port();
        for address in
            [SocketAddr::from((Ipv4Addr::LOCALHOST, port.0)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.0))]
        {
            let _foreign = TcpListener::bind(address).expect("a free port");
            assert!(!Ports::default().claim(port), "{address}");
            assert!(Ports::default().serve(port).is_err(), "{address}");
        }
    }
}
