//! A worker: listens on its port and reports its variables.

use crate::flags::Flags;
use crate::{CRASH_CODE, LONG};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::ExitCode;
use std::time::Duration;

/// The most bytes of a request head.
const HEAD_BYTES_MAX: usize = 8_192;

/// The time limit for a client to send its request.
const READ_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves `GET /crash`, which ends the process, and `GET` of everything else, until the process is ended.
pub(crate) fn run(flags: &Flags) -> ExitCode {
    if flags.never_ready {
        std::thread::sleep(LONG);
        return ExitCode::SUCCESS;
    }
    let port = std::env::var("CORTEX_PORT").ok().and_then(|port| port.parse::<u16>().ok());
    let Some(port) = port else {
        eprintln!("CORTEX_PORT is not set, or no port");
        return ExitCode::from(2);
    };
    let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("port {port} cannot be had: {error}");
            return ExitCode::FAILURE;
        }
    };
    eprintln!("listening on port {port}");
    for stream in listener.incoming() {
        let served = stream.and_then(|mut stream| answer(&mut stream));
        if let Err(error) = served {
            eprintln!("a request failed: {error}");
        }
    }
    ExitCode::SUCCESS
}

fn answer(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(READ_TIMEOUT))?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        let mut part = [0; 1_024];
        let count = stream.read(&mut part)?;
        if count == 0 {
            // A check whether the port is open sends nothing.
            return Ok(());
        }
        head.extend_from_slice(&part[..count]);
    }
    if head.starts_with(b"GET /crash ") {
        eprintln!("crashing on request");
        std::process::exit(i32::from(CRASH_CODE));
    }
    let body = variables().to_string();
    write!(
        stream,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// The variables that begin with `CORTEX_`, and the `pid`.
fn variables() -> Value {
    let mut reported: BTreeMap<String, Value> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .filter(|(name, _)| name.starts_with("CORTEX_"))
        .map(|(name, value)| (name, Value::from(value)))
        .collect();
    reported.insert("pid".to_owned(), Value::from(std::process::id()));
    json!(reported)
}
