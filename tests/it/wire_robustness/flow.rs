//! Clients that do not read what they are sent, be it replies or log lines.

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
    wait_for,
};

/// Calls of a client that never reads: their replies are many times what pipes and requests in flight can hold.
const FLOOD_CALLS: u64 = 20_000;

/// What the process may at most have needed for that. Without a bound the replies alone would take 30 MB, and each waiting call
/// much more.
const FLOOD_MEMORY_KIB_MAX: u64 = 40 * 1024;

/// So many looks in a row without progress mean that the server has stopped reading.
const LOOKS_WITHOUT_PROGRESS: u32 = 30;

/// An output of the server that is not read until the gate opens.
struct Gated<R> {
    gate: Option<Receiver<()>>,
    output: R,
}

impl<R: Read> Read for Gated<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if let Some(gate) = self.gate.take() {
            // An error means that the gate is gone, which opens it as well.
            let _ = gate.recv();
        }
        self.output.read(buffer)
    }
}

/// A server whose output is not read until the sender is dropped.
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

/// A client that goes on sending calls until all are sent, and then keeps the server's input open.
pub(crate) struct Flood {
    written: Arc<AtomicU64>,
    /// The input is open as long as this is.
    _open: Sender<()>,
}

/// Has a thread send calls without end in sight, and waits until the server does not take any more.
pub(crate) fn flood(server: &mut Server) -> Flood {
    let mut input = server.take_input();
    let (open, end) = channel();
    let written = Arc::new(AtomicU64::new(0));
    let count = Arc::clone(&written);
    thread::spawn(move || {
        for id in 0..FLOOD_CALLS {
            let params = modern(json!({"name": "get_capacity"}));
            // An error means that the server has ended, as some tests want it to.
            if input.write_all((request(id, "tools/call", &params) + "\n").as_bytes()).is_err() {
                return;
            }
            count.store(id + 1, Ordering::Relaxed);
        }
        // An error is the end that is waited for.
        let _ = end.recv();
    });
    let (mut last, mut looks) = (0, 0);
    wait_for("the server to stop reading", || {
        let now = written.load(Ordering::Relaxed);
        looks = if now == last { looks + 1 } else { 0 };
        last = now;
        (now == FLOOD_CALLS || now > 0 && looks >= LOOKS_WITHOUT_PROGRESS).then_some(())
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

/// The most memory that the server has taken so far is bounded.
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
        // Where what is read at once ends between a call and its cancellation, the call may be answered before that comes.
        let answered = server.count_kept(|reply| reply["result"]["structuredContent"]["status"] == "active");
        assert_eq!(held, answered, "what is held is what was answered");
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
    // Held open and never read until the process has ended.
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
    // The client's end of both is gone, as after a crash of it.
    for transport in TRANSPORTS {
        let mut server = Server::ready_on(transport, &[]);
        server.close_input();
        server.check_end();
    }
    // Only the server's output is gone: what it still has to say has nowhere to go.
    let mut child =
        command(&["--log-level", "off"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the binary");
    let input = child.stdin.take().expect("a pipe");
    drop(child.stdout.take());
    let mut server = Server::new(child, Box::new(input), std::io::empty());
    server.write_line(request(1, "server/discover", &modern(json!({}))));
    server.check_end();
}
