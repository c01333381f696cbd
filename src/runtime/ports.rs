//! The ports of servers on this machine: taken before they are handed out, and kept until nobody is served there.
//!
//! The engine takes a port while it decides, so that no grant names one that something else holds; the supervisor serves
//! there once the grant is made. A port that was taken for a grant that never came to be is let go after a while.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::catalog::Catalog;
use crate::core::Port;
use crate::engine::ClaimPort;

/// How long a port stays taken without being served: longer than a decision takes to be committed and heard of.
const UNSERVED_MAX: Duration = Duration::from_secs(60);

/// The ports that are taken. All that have one share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports(Arc<Mutex<BTreeMap<Port, Taken>>>);

#[derive(Debug)]
struct Taken {
    listeners: Vec<TcpListener>,
    at: Instant,
    is_served: bool,
}

impl Ports {
    /// Takes a port, unless it is taken already, and says whether it is ours.
    pub(super) fn claim(&self, port: Port) -> bool {
        let mut taken = self.lock();
        if let Some(known) = taken.get_mut(&port) {
            known.at = Instant::now();
            return true;
        }
        match bind(port) {
            Ok(listeners) => {
                taken.insert(port, Taken { listeners, at: Instant::now(), is_served: false });
                true
            }
            Err(error) => !is_taken(&error),
        }
    }

    /// Takes ports for the engine. A server that runs elsewhere, or only in the books, needs none; a worker takes its own by itself.
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

    /// Sockets that listen at the port, for one who serves there now.
    ///
    /// # Errors
    /// Something else holds the port, or the system's.
    pub(super) fn serve(&self, port: Port) -> io::Result<Vec<TcpListener>> {
        let mut taken = self.lock();
        if let Some(known) = taken.get_mut(&port) {
            known.is_served = true;
            return known.listeners.iter().map(TcpListener::try_clone).collect();
        }
        let listeners = bind(port)?;
        let serving = listeners.iter().map(TcpListener::try_clone).collect();
        taken.insert(port, Taken { listeners, at: Instant::now(), is_served: true });
        serving
    }

    /// Lets a port go that nobody is served at any more.
    pub(super) fn let_go(&self, port: Port) {
        self.lock().remove(&port);
    }

    /// Lets go of ports that were taken for nothing.
    pub(super) fn let_unserved_go(&self) {
        self.lock().retain(|_, taken| taken.is_served || taken.at.elapsed() < UNSERVED_MAX);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Port, Taken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether nobody listens at a port, so that a worker can.
fn is_free(port: Port) -> bool {
    bind(port).map_or_else(|error| !is_taken(&error), |_| true)
}

/// Whether an error says that something else holds the port, rather than that nothing can be opened now.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

/// Listens at a port for both families of addresses: a client that is told `localhost` may try either first, and must not
/// reach a stranger by it.
fn bind(port: Port) -> io::Result<Vec<TcpListener>> {
    let mut listeners = vec![TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port.0)))?];
    match TcpListener::bind(SocketAddr::from((Ipv6Addr::LOCALHOST, port.0))) {
        Ok(listener) => listeners.push(listener),
        Err(error) if error.kind() == io::ErrorKind::AddrInUse => return Err(error),
        // A system without the family.
        Err(_) => {}
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A port that nobody holds at this moment.
    fn free_port() -> Port {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        Port(listener.local_addr().expect("an address").port())
    }

    #[test]
    fn a_port_is_taken_once_and_served_by_whoever_comes() {
        let (ports, port) = (Ports::default(), free_port());
        assert!(ports.claim(port) && ports.claim(port), "it stays ours");
        assert!(!is_free(port) && !Ports::default().claim(port), "and nobody else's");
        assert!(!ports.serve(port).expect("it is ours").is_empty());
        ports.let_unserved_go();
        assert!(!is_free(port));
        ports.let_go(port);
        assert!(is_free(port));
    }

    #[test]
    fn what_something_else_holds_cannot_be_taken() {
        let port = free_port();
        for address in
            [SocketAddr::from((Ipv4Addr::LOCALHOST, port.0)), SocketAddr::from((Ipv4Addr::UNSPECIFIED, port.0))]
        {
            let _stranger = TcpListener::bind(address).expect("a free port");
            assert!(!Ports::default().claim(port), "{address}");
            assert!(Ports::default().serve(port).is_err(), "{address}");
        }
    }
}
