//! Clients that do not read their output, neither replies nor log lines.

use std::{
    io::{Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
    process::Stdio,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use serde_json::json;

use crate::support::{
    server::{Server, TRANSPORTS, Transport, call, cancel, command, modern, request},
    wait_until,
};

/// The number of calls of a client that never reads. Their replies far exceed the capacity of pipes and requests in
/// flight.
const FLOOD_CALLS: u64 = 20_000;

/// The memory limit of the process for these calls. Without a limit the replies alone would take 30 MB, and each
/// waiting call much more.
const FLOOD_MEMORY_KIB_MAX: u64 = 40 * 1024;

/// The number of consecutive checks without progress after which the server counts as not reading.
const LOOKS_WITHOUT_PROGRESS: u32 = 30;

/// An output of the server that is not read until the gate opens.
struct Gated<R> {
    gate: Option<Receiver<()>>,
    output: R,
}

impl<R: Read> Read for Gated<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if let Some(gate) = self.gate.take() {
            // An error means that the sender is dropped, which opens the gate as well.
            let _ = gate.recv();
        }
        self.output.read(buffer)
    }
}

/// Starts a server whose output is not read until the sender is dropped.
pub(crate) fn unread(transport: Transport) -> (Server, Sender<()>) {
    let (open, gate) = channel();
    let gate = Some(gate);
    let mut command = command(&["--log-level", "off"]);
    let server = match transport {
        Transport::Pipes => {
            let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary");
            let input = child.stdin.take().expect("a pipe");
            let output = child.stdout.take().expect("a pipe");
            Server::new(child, Box::new(input), Gated { gate, output })
        }
        Transport::SocketPair => {
            let (ours, theirs) = UnixStream::pair().expect("a socket pair");
            let output = OwnedFd::from(theirs.try_clone().expect("a second descriptor"));
            let child = command.stdin(OwnedFd::from(theirs)).stdout(output).spawn().expect("the binary");
            drop(command);
            let input = ours.try_clone().expect("a second descriptor");
            Server::new(child, Box::new(input), Gated { gate, output: ours })
        }
    };
    (server, open)
}

/// A client that sends all its calls, and then keeps the input of the server open.
pub(crate) struct Flood {
    written: Arc<AtomicU64>,
    /// Keeps the input open until it is dropped.
    _open: Sender<()>,
}

/// Sends calls endlessly in a thread, and waits until the server stops reading them.
pub(crate) fn flood(server: &mut Server) -> Flood {
    let mut input = server.take_input();
    let (open, end) = channel();
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    thread::spawn(move || {
        for id in 0..FLOOD_CALLS {
            let params = modern(json!({"name": "get_capacity"}));
            // An error means that the server has ended, as some tests intend.
            if input.write_all((request(id, "tools/call", &params) + "\n").as_bytes()).is_err() {
                return;
            }
            count.store(id + 1, Ordering::Relaxed);
        }
        // An error is the expected end.
        let _ = end.recv();
    });
    let (mut last, mut looks) = (0, 0);
    wait_until("the server to stop reading", || {
        let now = written.load(Ordering::Relaxed);
        looks = if now == last { looks + 1 } else { 0 };
        last = now;
        now == FLOOD_CALLS || now > 0 && looks >= LOOKS_WITHOUT_PROGRESS
    });
    Flood { written, _open: open }
}

#[test]
fn a_client_that_never_reads_is_not_read_from_and_nothing_is_lost() {
    for transport in TRANSPORTS {
        let (mut server, open) = unread(transport);
        let flood = flood(&mut server);
        assert!(flood.written.load(Ordering::Relaxed) < FLOOD_CALLS, "the server takes everything, on {transport:?}");
        drop(open);
        let mut answered = vec![false; usize::try_from(FLOOD_CALLS).expect("a small number")];
        for _ in 0..FLOOD_CALLS {
            let reply = server.next().expect("a reply");
            assert!(reply["result"]["structuredContent"].is_object(), "{reply}");
            let id = reply["id"].as_u64().and_then(|id| usize::try_from(id).ok()).expect("an id");
            assert!(!std::mem::replace(&mut answered[id], true), "{id} is answered twice");
        }
        check_memory(&server);
    }
}

/// Checks that the peak memory of the server is limited.
fn check_memory(server: &Server) {
    if cfg!(target_os = "linux") {
        let status = std::fs::read_to_string(format!("/proc/{}/status", server.process_id())).expect("a status");
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
        let kib: u64 = peak.trim().trim_end_matches(" kB").parse().expect("a number");
        assert!(kib <= FLOOD_MEMORY_KIB_MAX, "{kib} KiB");
    }
}

#[test]
fn a_client_that_cancels_all_it_sends_takes_no_memory() {
    for transport in TRANSPORTS {
        let mut server = Server::ready_on(transport, &["--log-level", "warn"]);
        let arguments = json!({"job_id": "a", "mcp_servers": [], "workers": 1});
        for _ in 0..40 {
            let ids: Vec<u64> = (0..500).map(|_| server.new_id()).collect();
            let lines =
                ids.iter().map(|id| format!("{}\n{}\n", call(*id, "request_resources", &arguments), cancel(*id)));
            server.write(lines.collect::<String>());
        }
        let held = server.capacity()["allocated_workers"].clone();
        // If a read ends between a call and its cancellation, the call may be answered before the cancellation arrives.
        let answered = server.count_kept(|reply| reply["result"]["structuredContent"]["status"] == "active");
        assert_eq!(held, answered, "the leases are those that were answered");
        check_memory(&server);
    }
}

#[test]
fn a_parent_that_never_reads_the_log_stops_nothing() {
    let mut command = command(&["--log-level", "trace"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("the binary");
    let input = child.stdin.take().expect("a pipe");
    let output = child.stdout.take().expect("a pipe");
    // Stays open without being read until the process has ended.
    let log = child.stderr.take().expect("a pipe");
    let mut server = Server::new(child, Box::new(input), output);
    server.greet("2025-11-25");
    let arguments = json!({"job_id": "a".repeat(200), "mcp_servers": ["s"]});
    let ids: Vec<_> = (0..2000).map(|_| server.new_id()).collect();
    server.write(ids.iter().map(|id| call(*id, "request_resources", &arguments) + "\n").collect::<String>());
    for id in ids {
        assert_eq!(server.reply(id)["result"]["structuredContent"]["status"], "active");
    }
    server.close_input();
    server.check_end();
    drop(log);
}

#[test]
fn a_client_that_closes_its_end_ends_the_server() {
    // The client has closed both ends, as after a crash.
    for transport in TRANSPORTS {
        let mut server = Server::ready_on(transport, &[]);
        server.close_input();
        server.check_end();
    }
    // Only the output of the server is closed, so its remaining output is lost.
    let mut child =
        command(&["--log-level", "off"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary");
    let input = child.stdin.take().expect("a pipe");
    drop(child.stdout.take());
    let mut server = Server::new(child, Box::new(input), std::io::empty());
    server.write_line(request(1, "server/discover", &modern(json!({}))));
    server.check_end();
}
