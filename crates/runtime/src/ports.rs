//! The ports of servers on this machine: taken before they are handed out, and kept until nobody is served there.
//!
//! The engine takes a port while it decides, so that no grant names one that something else holds; the supervisor serves
//! there once the grant is made. A port that was taken for a grant that never came to be is let go after a while, and one
//! that is served is whoever's who has its [`Served`]: it goes with that, so that none can be left behind.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::catalog::Catalog;
use cortex_core::ports::Port;
use cortex_engine::ClaimPort;

/// How long a port stays taken without being served: longer than a decision takes to be committed and heard of.
const UNSERVED_MAX: Duration = Duration::from_secs(60);

/// The ports that are taken. All that have one share them.
#[derive(Clone, Debug, Default)]
pub(super) struct Ports(Arc<Mutex<BTreeMap<Port, Taken>>>);

#[derive(Debug)]
enum Taken {
    /// For a grant that is not served yet.
    Kept { listeners: Vec<TcpListener>, at: Instant },
    /// By whoever has its [`Served`].
    Served,
}

/// A port at which somebody is served. It is let go when this is dropped.
#[derive(Debug)]
pub(super) struct Served {
    ports: Ports,
    port: Port,
    listeners: Vec<TcpListener>,
}

impl Ports {
    /// Takes a port, unless it is taken already, and says whether it is ours.
    pub(super) fn claim(&self, port: Port) -> bool {
        let mut taken = self.lock();
        if let Some(known) = taken.get_mut(&port) {
            if let Taken::Kept { at, .. } = known {
                *at = Instant::now();
            }
            return true;
        }
        match bind(port) {
            Ok(listeners) => {
                taken.insert(port, Taken::Kept { listeners, at: Instant::now() });
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

    /// Takes the port for one who serves there now.
    ///
    /// # Errors
    /// Something else holds the port, somebody is served there already, or the system's.
    pub(super) fn serve(&self, port: Port) -> io::Result<Served> {
        let mut taken = self.lock();
        let listeners = match taken.remove(&port) {
            Some(Taken::Kept { listeners, .. }) => listeners,
            Some(Taken::Served) => {
                taken.insert(port, Taken::Served);
                return Err(io::ErrorKind::AddrInUse.into());
            }
            None => bind(port)?,
        };
        taken.insert(port, Taken::Served);
        Ok(Served { ports: self.clone(), port, listeners })
    }

    /// Lets go of ports that were taken for nothing.
    pub(super) fn let_unserved_go(&self) {
        self.lock().retain(|_, taken| match taken {
            Taken::Kept { at, .. } => at.elapsed() < UNSERVED_MAX,
            Taken::Served => true,
        });
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Port, Taken>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Served {
    /// Sockets that listen at the port.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn listeners(&self) -> io::Result<Vec<TcpListener>> {
        self.listeners.iter().map(TcpListener::try_clone).collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let mut taken = self.ports.lock();
        // Whoever takes the port next is not to find it in use.
        self.listeners.clear();
        taken.remove(&self.port);
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
        let served = ports.serve(port).expect("it is ours");
        assert!(!served.listeners().expect("sockets").is_empty());
        assert!(ports.claim(port) && ports.serve(port).is_err(), "nobody else is served there");
        ports.let_unserved_go();
        assert!(!is_free(port));
        drop(served);
        assert!(is_free(port) && ports.claim(port), "it can be had again");
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
