//! The end of the process: after the end of its input or a signal it exits within a second, with code 0 and all due
//! replies written.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read, Write},
    process::{Command, Stdio},
};

use serde_json::{Value, json};

use super::flow::{flood, unread};
use crate::support::{
    END_LIMIT,
    pattern::check,
    server::{Server, TRANSPORTS, call, command, modern, request},
    wait_within,
};

/// The signals with which a parent or a terminal ends a process.
const SIGNALS: [&str; 2] = ["TERM", "INT"];

/// A request that stays in flight.
fn listen(id: u64) -> String {
    request(
        id,
        "subscriptions/listen",
        &modern(json!({"notifications": {"resourceSubscriptions": ["cluster://capacity"]}})),
    )
}

/// Starts a server with a request in flight that stays unanswered.
fn listening(transport: crate::support::server::Transport) -> Server {
    let mut server = Server::start_on(transport, command(&[]));
    server.write_line(listen(5));
    server.find("the acknowledgement", |message| message["method"] == "notifications/subscriptions/acknowledged");
    server
}

#[test]
fn the_end_of_input_ends_it_at_any_time() {
    for transport in TRANSPORTS {
        let mut silent = Server::start_on(transport, command(&[]));
        silent.close_input();
        silent.check_end();
        let mut ready = Server::ready_on(transport, &[]);
        ready.close_input();
        ready.check_end();
        let mut listening = listening(transport);
        listening.close_input();
        listening.check_end();
    }
}

#[test]
fn calls_before_the_end_of_input_are_all_answered() {
    for transport in TRANSPORTS {
        let mut server = Server::ready_on(transport, &[]);
        let arguments = json!({"job_id": "a", "mcp_servers": ["s"]});
        let ids: Vec<_> = (0..500).map(|_| server.new_id()).collect();
        server.write(ids.iter().map(|id| call(*id, "request_resources", &arguments) + "\n").collect::<String>());
        server.close_input();
        server.check_end();
        let replies = server.rest();
        assert_eq!(replies.len(), ids.len());
        assert!(replies.iter().all(|reply| reply["result"]["structuredContent"]["status"] == "active"));
    }
}

#[test]
fn a_last_line_without_its_newline_is_a_line() {
    for transport in TRANSPORTS {
        let mut server = Server::ready_on(transport, &[]);
        server.write(request(77, "ping", &json!({})));
        server.close_input();
        check(&server.reply(77), &json!({"result": {}}));
        server.check_end();
        let mut server = Server::ready_on(transport, &[]);
        server.write("{\"jsonrpc\"");
        server.close_input();
        check(&server.next().expect("a reply"), &json!({"id": null, "error": {"code": -32700}}));
        server.check_end();
    }
}

#[test]
fn a_signal_ends_it_while_the_input_stays_open() {
    for transport in TRANSPORTS {
        for signal in SIGNALS {
            let mut ready = Server::ready_on(transport, &[]);
            ready.signal(signal);
            ready.check_end();
            let mut listening = listening(transport);
            listening.signal(signal);
            listening.check_end();
            // This is before the handshake. The answer shows that the process handles signals.
            let mut new = Server::start_on(transport, command(&[]));
            new.write_line("no JSON");
            new.next().expect("a reply");
            new.signal(signal);
            new.check_end();
        }
    }
}

#[test]
fn a_client_that_never_reads_cannot_hold_up_the_end() {
    for transport in TRANSPORTS {
        for signal in SIGNALS {
            let (mut server, open) = unread(transport);
            let _flood = flood(&mut server);
            server.signal(signal);
            server.check_end();
            drop(open);
        }
        // The second signal ends it immediately, with any code.
        let (mut server, open) = unread(transport);
        let _flood = flood(&mut server);
        server.signal("TERM");
        server.signal("TERM");
        server.end();
        drop(open);
    }
}

#[test]
fn what_is_written_before_the_end_is_still_only_messages() {
    for transport in TRANSPORTS {
        let (mut server, open) = unread(transport);
        let _flood = flood(&mut server);
        server.signal("TERM");
        drop(open);
        server.check_end();
        // Each complete line was checked to be a message.
        let replies = server.rest();
        assert!(replies.iter().all(|reply| reply["result"]["structuredContent"].is_object()), "{replies:?}");
    }
}

#[test]
fn files_as_input_and_output() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (folder.path().join("input"), folder.path().join("output"));
    let calls = (1..=300).map(|id| request(id, "tools/call", &modern(json!({"name": "get_capacity"}))));
    fs::write(&input, calls.collect::<Vec<_>>().join("\n")).expect("a file");
    let child = command(&["--log-level", "off"])
        .stdin(File::open(&input).expect("the file"))
        .stdout(File::create(&output).expect("a file"))
        .spawn()
        .expect("the binary");
    let mut server = Server::new(child, Box::new(std::io::sink()), std::io::empty());
    server.check_end();
    let written = fs::read_to_string(&output).expect("the file");
    let replies: Vec<Value> = written.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect();
    assert_eq!(replies.len(), 300);
    assert!(written.ends_with('\n'));
    assert!(replies.iter().all(|reply| reply["result"]["structuredContent"].is_object()));
}

#[test]
fn no_input_at_all() {
    let mut child = command(&["--log-level", "off"]).stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
    let child = child.as_mut().expect("the binary");
    let status = wait_within(END_LIMIT, || child.try_wait().expect("a child to wait for"));
    // The pipe is read only now, so that a server that waits for its reader would hang.
    let mut written = Vec::new();
    child.stdout.take().expect("a pipe").read_to_end(&mut written).expect("a pipe to read");
    assert_eq!(status.and_then(|status| status.code()), Some(0));
    assert_eq!(written, b"");
}

#[test]
fn a_terminal_as_input() {
    for signal in SIGNALS {
        let (mut server, mut terminal) = on_terminal();
        terminal.write_all(b"no JSON\n").expect("a terminal");
        check(&server.next().expect("a reply"), &json!({"error": {"code": -32700}}));
        terminal.write_all((request(77, "server/discover", &modern(json!({}))) + "\n").as_bytes()).expect("a terminal");
        assert!(server.reply(77)["result"].is_object());
        // The terminal stays open without any input.
        server.signal(signal);
        server.check_end();
        drop(terminal);
    }
    let (mut server, mut terminal) = on_terminal();
    // Control-D ends the input of a terminal.
    terminal.write_all(b"\x04").expect("a terminal");
    server.check_end();
}

/// Starts a server with a terminal as its standard input, and returns the other end of that terminal.
fn on_terminal() -> (Server, File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
    grantpt(&terminal).and_then(|()| unlockpt(&terminal)).expect("a pseudo-terminal of our own");
    let name = ptsname(&terminal, Vec::new()).expect("its name").into_string().expect("a plain name");
    let theirs = OpenOptions::new().read(true).write(true).open(name).expect("its other end");
    let mut command: Command = command(&["--log-level", "off"]);
    let mut child = command.stdin(theirs).stdout(Stdio::piped()).spawn().expect("the binary");
    drop(command);
    let output = child.stdout.take().expect("a pipe");
    (Server::new(child, Box::new(std::io::sink()), output), File::from(terminal))
}
