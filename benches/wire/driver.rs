//! Drives a server with a number of calls in flight and measures the time.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const RUNS: usize = 5;
const CALLS: usize = 20_000;
/// The number of durable calls in a run. Each waits for the disk.
const DURABLE_CALLS: usize = 1_000;
/// The share of calls that are not measured, as warm-up: one in this number.
const WARM_UP_SHARE: usize = 20;

#[derive(Clone, Copy, PartialEq)]
enum Channel {
    Pipe,
    Socket,
}

struct Server {
    program: String,
    arguments: Vec<String>,
    /// The runtime directory for the socket of the daemon, if the server may use one.
    runtime_directory: Option<PathBuf>,
    tool: &'static str,
    given: &'static str,
}

struct Connection {
    child: Child,
    writer: Box<dyn Write>,
    reader: BufReader<Box<dyn Read>>,
    line: String,
    started: Duration,
}

/// The measurements of one run.
struct Run {
    calls_per_second: f64,
    median_micros: f64,
}

impl Connection {
    fn open(server: &Server, channel: Channel) -> Self {
        let begin = Instant::now();
        let mut command = Command::new(&server.program);
        command.args(&server.arguments).stderr(Stdio::null());
        if let Some(directory) = &server.runtime_directory {
            command.env("XDG_RUNTIME_DIR", directory);
        }
        let (child, writer, reader): (Child, Box<dyn Write>, Box<dyn Read>) = match channel {
            Channel::Pipe => {
                let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("a server");
                let (writer, reader) = (child.stdin.take().expect("a pipe"), child.stdout.take().expect("a pipe"));
                (child, Box::new(writer), Box::new(reader))
            }
            Channel::Socket => {
                let (writer, input) = UnixStream::pair().expect("a socket pair");
                let (reader, output) = UnixStream::pair().expect("a socket pair");
                command.stdin(OwnedFd::from(input)).stdout(OwnedFd::from(output));
                let child = command.spawn().expect("a server");
                (child, Box::new(writer), Box::new(reader))
            }
        };
        // The command keeps the server's ends of the sockets open until it is dropped.
        drop(command);
        let mut connection = Self {
            child,
            writer,
            reader: BufReader::with_capacity(1 << 20, reader),
            line: String::new(),
            started: begin.elapsed(),
        };
        let client =
            r#"{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"bench","version":"0"}}"#;
        connection.send(&format!("{{\"jsonrpc\":\"2.0\",\"id\":0,\"method\":\"initialize\",\"params\":{client}}}\n"));
        connection.receive();
        connection.started = begin.elapsed();
        connection.send("{\"jsonrpc\":\"2.0\",\"method\":\"notifications/initialized\"}\n");
        connection
    }

    fn send(&mut self, text: &str) {
        self.writer.write_all(text.as_bytes()).expect("a server that reads");
    }

    /// Returns the id of the next response, which must be a success.
    fn receive(&mut self) -> usize {
        self.line.clear();
        self.reader.read_line(&mut self.line).expect("a server that answers");
        assert!(self.line.contains("\"result\"") && !self.line.contains("\"isError\":true"), "{}", self.line);
        let (_, rest) = self.line.split_once("\"id\":").expect("an id");
        rest.split(|c: char| !c.is_ascii_digit()).next().and_then(|id| id.parse().ok()).expect("a number")
    }

    fn resident_mib(&self) -> Option<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).ok()?;
        let line = status.lines().find(|line| line.starts_with("VmRSS"))?;
        line.split_whitespace().nth(1)?.parse::<f64>().ok().map(|kib| kib / 1024.0)
    }

    fn close(mut self) {
        drop(self.writer);
        let _ = self.child.wait();
    }
}

fn run(server: &Server, channel: Channel, depth: usize, calls: usize) -> Run {
    let mut connection = Connection::open(server, channel);
    let call = |id: usize| {
        format!(
            concat!(
                r#"{{"jsonrpc":"2.0","id":{},"method":"tools/call","params":{{"name":"{}","arguments":{}}}}}"#,
                "\n"
            ),
            id, server.tool, server.given
        )
    };
    let warm_up_calls = calls / WARM_UP_SHARE;
    let total = warm_up_calls + calls;
    let mut sent = vec![Instant::now(); total + 1];
    let mut took: Vec<Duration> = Vec::with_capacity(calls);
    let (mut next, mut done) = (1, 0);
    let mut begin = Instant::now();
    while done < total {
        let mut lines = String::new();
        let now = Instant::now();
        while next - 1 - done < depth && next <= total {
            lines += &call(next);
            sent[next] = now;
            next += 1;
        }
        connection.send(&lines);
        // Reads all responses that have arrived before it sends more calls, as a concurrent client does.
        loop {
            let id = connection.receive();
            done += 1;
            if done > warm_up_calls {
                took.push(sent[id].elapsed());
            } else if done == warm_up_calls {
                begin = Instant::now();
            }
            if !connection.reader.buffer().contains(&b'\n') {
                break;
            }
        }
    }
    let seconds = begin.elapsed().as_secs_f64();
    connection.close();
    took.sort();
    Run { calls_per_second: calls as f64 / seconds, median_micros: took[took.len() / 2].as_secs_f64() * 1e6 }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn row(what: &str, aim: &str, measured: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "| {what} | {aim} | {measured} |");
}

/// Measures both servers alternately and prints the table.
pub(crate) fn table() {
    let ours = Server {
        program: env!("CARGO_BIN_EXE_cortex-resource-manager").to_owned(),
        arguments: Vec::new(),
        runtime_directory: None,
        tool: "get_capacity",
        given: "{}",
    };
    let itself = std::env::current_exe().expect("a path").to_string_lossy().into_owned();
    let empty = |channel| Server {
        program: itself.clone(),
        arguments: vec![
            "--empty-server".to_owned(),
            if channel == Channel::Socket { "socket".to_owned() } else { "pipe".to_owned() },
        ],
        runtime_directory: None,
        tool: "one",
        given: "{\"count\":1}",
    };

    row("what", "figure to reach", &format!("measured (median of {RUNS})"));
    row("---", "---", "---");
    for (channel, name) in [(Channel::Pipe, "a pipe"), (Channel::Socket, "a socket pair")] {
        let nothing = empty(channel);
        for depth in [64, 1] {
            let runs: Vec<(Run, Run)> =
                (0..RUNS).map(|_| (run(&ours, channel, depth, CALLS), run(&nothing, channel, depth, CALLS))).collect();
            let of = |pick: fn(&Run) -> f64| {
                let (a, b) = runs.iter().map(|(ours, empty)| (pick(ours), pick(empty))).unzip();
                (median(a), median(b))
            };
            if depth == 1 {
                let (mine, theirs) = of(|run| run.median_micros);
                let measured = format!("{mine:.1} µs against {theirs:.1} µs: {:.2}x", mine / theirs);
                row(&format!("one call at a time over {name}"), "≤ 1.25x of the empty tool's median", &measured);
            } else {
                let (mine, theirs) = of(|run| run.calls_per_second);
                let measured = format!("{mine:.0} calls/s against {theirs:.0}: {:.2}", mine / theirs);
                row(&format!("calls with 64 in flight over {name}"), "≥ 0.8 of the empty server's", &measured);
            }
        }
    }
    let starts: Vec<(f64, f64)> = (0..RUNS * 3)
        .map(|_| {
            let connection = Connection::open(&ours, Channel::Pipe);
            let figures = (connection.started.as_secs_f64() * 1e3, connection.resident_mib().unwrap_or(f64::NAN));
            connection.close();
            figures
        })
        .collect();
    let (started, resident) = starts.into_iter().unzip();
    row("start to first answer", "≤ 50 ms", &format!("{:.1} ms", median(started)));
    row("resident when idle", "≤ 15 MiB", &format!("{:.1} MiB", median(resident)));
    for durability in ["full", "normal"] {
        daemon_row(durability);
    }
}

/// Measures a durable call alternately through the daemon and without one, each with a separate state.
fn daemon_row(durability: &str) {
    // In the target folder, since the temporary folder of the system may be in memory. A socket path must be short.
    let states = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
    let sockets = tempfile::tempdir().expect("a folder");
    let on = |mode: &str| {
        let state = states.path().join(mode).to_string_lossy().into_owned();
        let options = ["--state", &state, "--daemon", mode, "--durability", durability, "--log-level", "error"];
        Server {
            program: env!("CARGO_BIN_EXE_cortex-resource-manager").to_owned(),
            arguments: options.map(str::to_owned).into(),
            runtime_directory: Some(sockets.path().to_owned()),
            tool: "request_resources",
            given: "{\"job_id\":\"a\",\"mcp_servers\":[\"filesystem\"]}",
        }
    };
    let (shared, alone) = (on("auto"), on("never"));
    let measure = |server| run(server, Channel::Pipe, 1, DURABLE_CALLS).median_micros;
    let (shared_micros, alone_micros) = (0..RUNS).map(|_| (measure(&shared), measure(&alone))).unzip();
    let (shared_micros, alone_micros) = (median(shared_micros), median(alone_micros));
    let ratio = shared_micros / alone_micros;
    let measured = format!("{shared_micros:.0} µs against {alone_micros:.0} µs: {ratio:.2}x");
    let what = format!("one request at a time through the daemon, `{durability}`, beside a process alone");
    row(&what, "≤ 1.2x of the median", &measured);
    let stopped = Command::new(&shared.program)
        .args(["stop", "--state", &shared.arguments[1]])
        .env("XDG_RUNTIME_DIR", sockets.path())
        .stdout(Stdio::null())
        .status();
    assert!(stopped.is_ok_and(|status| status.success()), "the daemon does not end");
}
