//! Refused sessions and connections, and their errors.

use std::{
    fs,
    io::{BufRead, BufReader, Read, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::Path,
    sync::mpsc::{Receiver, channel},
    thread,
};

use serde_json::{Value, json};

use crate::daemon::home::Home;
use crate::support::{server::Server, wait_until};

#[test]
fn a_directory_that_others_could_enter_is_refused() {
    let home = Home::new();
    let directory = home.path("cortex-resource-manager");
    fs::create_dir(&directory).expect("a directory");
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o755)).expect("a change of mode");
    for arguments in [&["--daemon", "always"][..], &["daemon"], &["status"], &["stop"]] {
        let text = home.refusal(arguments);
        assert!(text.contains("mode 0755") && text.contains("chmod 700"), "{text}");
    }
    fs::set_permissions(&directory, fs::Permissions::from_mode(0o700)).expect("a change of mode");
}

#[test]
fn other_totals_are_refused_and_other_settings_are_reported() {
    let home = Home::new();
    let mut first = home.session(&["--total-workers", "5"]);
    let text = home.refusal(&["--daemon", "always", "--total-workers", "6"]);
    assert!(text.contains("total_workers is 6, but 5 in the daemon for the in-memory state"), "{text}");
    assert!(text.contains("omit total_workers") && text.contains("cortex-resource-manager stop"), "{text}");
    let mut same = home.session(&["--total-workers", "5", "--sweep-seconds", "9"]);
    wait_until("a warning", || same.log().contains("sweep_seconds is 9, but 300 in the daemon"));
    let mut silent = home.session(&[]);
    for session in [&mut first, &mut same, &mut silent] {
        assert_eq!(session.capacity()["total_workers"], 5);
    }
}

/// Answers each connection to the socket of the in-memory state with this line, and then reads until it closes.
fn pretend(home: &Home, answer: &str) {
    home.printed(&["status"]);
    pretend_at(&home.file("sock"), answer);
}

/// Does the same at a path. Each answered connection is reported.
pub(crate) fn pretend_at(path: &Path, answer: &str) -> Receiver<()> {
    let listener = UnixListener::bind(path).expect("a socket");
    let (answered, receiver) = channel();
    let answer = format!("{answer}\n");
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a connection");
            let mut line = String::new();
            let mut reader = BufReader::new(stream.try_clone().expect("a second descriptor"));
            reader.read_line(&mut line).expect("a hello");
            assert!(line.contains("\"protocol\":1"), "{line}");
            stream.write_all(answer.as_bytes()).expect("a listener");
            // The receiver may be dropped.
            let _ = answered.send(());
            let _ = reader.read_to_end(&mut Vec::new());
        }
    });
    receiver
}

#[test]
fn a_daemon_of_another_protocol_is_named_with_what_to_do() {
    let home = Home::new();
    pretend(&home, r#"{"protocol":9,"version":"9.8.7","pid":1,"refused":"whatever","status":{"new":1}}"#);
    for arguments in [&["--daemon", "always"][..], &["status"]] {
        let text = home.refusal(arguments);
        for part in ["(version 9.8.7) uses protocol 9", "protocol 1", "cortex-resource-manager stop"] {
            assert!(text.contains(part), "{text}");
        }
    }
    fs::remove_file(home.file("sock")).expect("the socket");
}

#[test]
fn a_daemon_of_another_version_is_used_with_a_warning() {
    let home = Home::new();
    pretend(&home, r#"{"protocol":1,"version":"9.8.7","pid":1,"instance":"x"}"#);
    let mut session: Server = home.start(&[]);
    wait_until("a warning", || session.log().contains("the daemon is version 9.8.7 and this program 0.1.0"));
    session.close_input();
    session.check_end();
    fs::remove_file(home.file("sock")).expect("the socket");
}

#[test]
fn a_server_that_is_no_daemon_is_named() {
    let home = Home::new();
    pretend(&home, "HTTP/1.1 200 OK");
    let text = home.refusal(&["--daemon", "always"]);
    assert!(text.contains("invalid response from the daemon") && text.contains("memory.sock"), "{text}");
    fs::remove_file(home.file("sock")).expect("the socket");
}

#[test]
fn invalid_input_over_the_socket_affects_no_session() {
    let home = Home::new();
    let mut session = home.session(&[]);
    let connect = || UnixStream::connect(home.file("sock")).expect("the daemon's socket");
    let hello =
        |session: Value| json!({"protocol": 1, "version": "0", "ask": "session", "session": session}).to_string();
    let own = |bytes: i64| {
        json!({"toolsets": ["allocation"], "default_ttl_seconds": 1, "max_ttl_seconds": 1, "max_calls_in_flight": 1,
               "max_line_bytes": bytes})
    };
    let mut other_toolset = own(1);
    other_toolset["toolsets"] = json!(["new"]);
    let mut many_calls = own(1);
    many_calls["max_calls_in_flight"] = json!(65_537);
    let refused = [json!(null), json!({}), own(0), own(-1), own(16_777_217), many_calls, other_toolset].map(hello);
    for line in refused {
        let mut stream = connect();
        writeln!(stream, "{line}").expect("a listener");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer and the end");
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        assert!(answer["refused"].is_string(), "{line}: {answer}");
    }
    let closed: [Vec<u8>; 5] = [
        b"\xFF\n".to_vec(),
        b"{\"protocol\":1}\n".to_vec(),
        [vec![b'x'; 200_000], b"\n".to_vec()].concat(),
        format!("{}\n{{}}\n", hello(own(1))).into_bytes(),
        // No input: the connection is closed after five seconds.
        Vec::new(),
    ];
    for bytes in closed {
        let mut stream = connect();
        // The connection may be closed before everything is written.
        let _ = stream.write_all(&bytes);
        let mut text = Vec::new();
        // A reset ends the connection as well.
        let _ = stream.read_to_end(&mut text);
        assert_eq!(text, b"", "{:?}", String::from_utf8_lossy(&bytes[..bytes.len().min(100)]));
    }
    assert_eq!(session.capacity()["total_workers"], 10);
    assert_eq!(home.status("sessions").as_deref(), Some("1"));
}
