//! The commands that read or stop a state, with and without a running process: `events`, `verify`, `status`
//! and `stop`.

use crate::support::WAIT_MAX;
use crate::support::durable::{Ended, Ending, Home, MODES, Mode, allocation, kill, run, workers};
use crate::support::server::Server;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;

/// The jobs that each test leases for, in this order.
const JOBS: [&str; 2] = ["painting", "printing"];

/// Leases, renews and releases resources for each job; one lease remains.
fn lease(server: &mut Server) {
    for (job, count) in JOBS.into_iter().zip(2..) {
        let mut request = workers(job, count);
        request["mcp_servers"] = json!(["filesystem"]);
        let id = server.grant(&request);
        server.answer("renew_allocation", &allocation(&id));
        if job == JOBS[0] {
            server.answer("release_resources", &allocation(&id));
        }
    }
}

/// Registers an agent with its own worker and one with a worker of an allocation. Tasks come to each end but a failure;
/// one runs, one waits, and one waits for tokens.
fn keep_busy(server: &mut Server) {
    let id = server.grant(&workers("hosting", 1));
    server.answer("set_token_budget", &json!({"budget_tokens": 20_000, "window_seconds": 86_400}));
    server.answer("register_agent", &json!({"agent_id": "own", "agent_type": "backend", "max_concurrent": 1}));
    server.answer("register_agent", &json!({"agent_id": "hosted", "agent_type": "frontend", "allocation_id": id}));
    for (task, tokens) in [("done", 500), ("held", 4_000), ("next", 3_000), ("large", 19_000), ("off", 100)] {
        let task = json!({
            "task_id": task, "agent_type": "backend", "estimated_tokens": tokens, "payload": {"for": task}
        });
        server.answer("submit_task", &task);
    }
    let claim = server.answer("claim_task", &json!({"agent_id": "own"}));
    let report = json!({
        "agent_id": "own", "task_id": "done", "fencing_token": claim["tasks"][0]["fencing_token"], "result": "success",
        "tokens_used": 410, "output": {"lines": 7}
    });
    server.answer("complete_task", &report);
    server.answer("cancel_task", &json!({"task_id": "off"}));
    server.answer("claim_task", &json!({"agent_id": "own"}));
}

/// The expected line about tasks.
const TASKS: &str = "1 queued, 1 deferred, 1 running; 1 completed, 0 failed, 1 cancelled on record";

/// The expected line about tokens, up to the time of the refill.
const TOKENS: &str = "410 used and 4000 reserved of 20000, refill at ";

/// The types of the events, in order.
fn types(events: &[Value]) -> Vec<&str> {
    events.iter().map(|event| event["event"]["type"].as_str().expect("a type")).collect()
}

/// Returns the allocation of an event.
fn subject(event: &Value) -> Option<&str> {
    let event = &event["event"];
    event["allocation"].as_str().or_else(|| event["reservation"]["allocation"].as_str())
}

/// Checks that every line is an event as it was written, and that no event is missing.
fn check_events(events: &[Value]) {
    let first = events.first().expect("events")["sequence"].as_u64().expect("a number");
    for (event, sequence) in events.iter().zip(first..) {
        assert_eq!(event["sequence"], sequence, "numbered without a gap: {event}");
        // The second version added agents, tasks and tokens, the third demand and scaling.
        let kind = event["event"]["type"].as_str().expect("a type");
        let is_of = |prefixes: &[&str]| prefixes.iter().any(|of| kind.starts_with(of));
        let version = match kind {
            _ if is_of(&["demand_", "scaling_"]) => 3,
            _ if is_of(&["agent_", "attempt_", "fleet_", "task_", "token_"]) => 2,
            _ => 1,
        };
        assert_eq!(event["version"], version, "{event}");
        assert!(crate::support::pattern::is_time(event["at"].as_str().expect("a time")), "{event}");
        let keys: BTreeSet<&str> = event.as_object().expect("an object").keys().map(String::as_str).collect();
        // An event may have more keys, but not fewer.
        assert!(keys.is_superset(&BTreeSet::from(["sequence", "version", "at", "event"])), "{event}");
    }
    let found = types(events);
    for kind in ["capacity_set", "reserved", "activated", "renewed", "releasing", "released"] {
        assert!(found.contains(&kind), "{kind} is not among {found:?}");
    }
}

/// Checks the filters against the whole list.
fn check_filters(home: &Home, events: &[Value]) {
    for job in JOBS {
        let of_job = |event: &&Value| event["event"]["reservation"]["job"] == job;
        let ids: BTreeSet<&str> = events.iter().filter(of_job).filter_map(subject).collect();
        let wanted: Vec<&Value> =
            events.iter().filter(|event| subject(event).is_some_and(|id| ids.contains(id))).collect();
        assert!(wanted.len() >= 3, "{job} was leased for and renewed: {wanted:?}");
        assert_eq!(home.events(&["--job", job]).iter().collect::<Vec<_>>(), wanted, "--job {job}");
    }
    assert_eq!(home.events(&["--job", "nobody"]), Vec::<Value>::new());

    let middle = events[events.len() / 2]["at"].as_str().expect("a time");
    let since = |event: &&Value| event["at"].as_str() >= Some(middle);
    let wanted: Vec<&Value> = events.iter().filter(since).collect();
    assert_eq!(home.events(&["--since", middle]).iter().collect::<Vec<_>>(), wanted, "--since {middle}");
    let shifted = chrono::DateTime::parse_from_rfc3339(middle).expect("a time");
    let shifted = shifted.with_timezone(&chrono::FixedOffset::east_opt(7200).expect("an offset")).to_rfc3339();
    assert_eq!(home.events(&["--since", &shifted]).len(), wanted.len(), "the same moment elsewhere");
    assert_eq!(home.events(&["--since", "2999-01-01T00:00:00Z"]), Vec::<Value>::new());
    let both = home.events(&["--job", JOBS[1], "--since", middle]);
    assert!(both.iter().all(|event| wanted.contains(&event)), "{both:?}");
}

#[test]
fn events_are_printed_whole_and_by_job_and_time() {
    for mode in MODES {
        let home = Home::new();
        let mut server = home.server(mode, &[]);
        lease(&mut server);
        let while_running = home.events(&[]);
        check_events(&while_running);
        check_filters(&home, &while_running);
        home.end(server, Ending::InOrder);
        let afterwards = home.events(&[]);
        assert_eq!(afterwards[..while_running.len()], while_running, "an end takes nothing back");
        check_filters(&home, &afterwards);
        // The variable names the state as the flag does.
        let mut command = home.command(&["events"]);
        command.env("CORTEX_STATE", home.state());
        let ended = run(command);
        assert_eq!((ended.code, ended.output.lines().count()), (Some(0), afterwards.len()), "{ended:#?}");
    }
}

#[test]
fn wrong_uses_are_reported() {
    let home = Home::new();
    let server = home.server(Mode::Never, &[]);
    home.end(server, Ending::InOrder);
    for options in [
        &["--since", "yesterday"][..],
        &["--job", ""],
        &["--sinse", "2026-01-01T00:00:00Z"],
        &["--total-workers", "3"],
        &["everything"],
    ] {
        let Ended { code, output, log } = home.ask("events", options);
        assert_eq!((code, output.as_str()), (Some(2), ""), "{options:?}: {log}");
        assert_eq!(log.lines().count(), 1, "{options:?}: {log}");
    }
    for command in ["events", "verify"] {
        let ended = run(home.command(&[command]));
        assert!(ended.code.is_some_and(|code| code != 0), "{command} of what?: {ended:#?}");
        assert!(ended.log.contains("--state"), "{command}: {ended:#?}");
    }
}

/// The output of `events --follow`, line by line.
struct Follower {
    child: Child,
    lines: Receiver<Value>,
}

impl Follower {
    fn new(home: &Home, options: &[&str]) -> Self {
        let mut command = home.command(&["events", "--follow"]);
        command.arg("--state").arg(home.state()).args(options);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().expect("the binary");
        let (sender, lines) = channel();
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(serde_json::from_str(&line).expect("a line that is JSON")).is_err() {
                    return;
                }
            }
        });
        Self { child, lines }
    }

    /// Returns the lines up to the first that matches.
    fn until(&self, what: &str, wanted: impl Fn(&Value) -> bool) -> Vec<Value> {
        let mut seen = Vec::new();
        loop {
            let line =
                self.lines.recv_timeout(WAIT_MAX).unwrap_or_else(|error| panic!("{what}: {error} after {seen:?}"));
            seen.push(line);
            if seen.last().is_some_and(&wanted) {
                return seen;
            }
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        // Both fail only if the process has already ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn is_reserved_for(job: &str) -> impl Fn(&Value) -> bool {
    move |line| line["event"]["reservation"]["job"] == job
}

#[test]
fn a_follower_sees_what_a_running_owner_writes() {
    for mode in MODES {
        let home = Home::new();
        let mut server = home.server(mode, &[]);
        lease(&mut server);
        let all = Follower::new(&home, &[]);
        let of_job = Follower::new(&home, &["--job", "later"]);
        let mut seen = all.until("what was there before", is_reserved_for(JOBS[1]));
        let id = server.grant(&workers("later", 1));
        seen.extend(all.until("a grant", is_reserved_for("later")));
        server.answer("release_resources", &allocation(&id));
        seen.extend(all.until("a release", |line| line["event"]["type"] == "released" && subject(line) == Some(&id)));
        check_events(&seen);
        let lines = of_job.until("a release", |line| line["event"]["type"] == "released");
        assert_eq!(types(&lines), ["reserved", "activated", "releasing", "released"], "{lines:?}");
        assert!(lines.iter().all(|line| subject(line) == Some(&id)), "{lines:?}");

        if mode == Mode::Auto {
            // Another owner continues where the killed one stopped, and the follower continues too.
            let daemon = home.daemon(None, &[server.process_id()]);
            kill(daemon);
            home.daemon(Some(daemon), &[server.process_id()]);
            server.grant(&workers("later", 1));
            seen.extend(all.until("a grant of the next daemon", is_reserved_for("later")));
            check_events(&seen);
        }
        drop((all, of_job));
        home.end(server, Ending::InOrder);
    }
}

#[test]
fn a_reader_that_closes_its_end_causes_no_error() {
    let home = Home::new();
    let mut server = home.server(Mode::Never, &[]);
    for _ in 0..300 {
        lease(&mut server);
        let left = last_active(&mut server);
        server.answer("release_resources", &left);
    }
    home.end(server, Ending::InOrder);
    let mut command: Command = home.command(&["events", "--state"]);
    let mut child = command
        .arg(home.state())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary");
    let mut first = String::new();
    BufReader::with_capacity(64, child.stdout.take().expect("a pipe")).read_line(&mut first).expect("a line");
    let ended = child.wait_with_output().expect("the end");
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
    assert_eq!(String::from_utf8_lossy(&ended.stderr), "");
}

/// Returns the arguments that identify the remaining lease.
fn last_active(server: &mut Server) -> Value {
    let list = server.answer("list_allocations", &json!({"state": "active"}));
    allocation(list["allocations"][0]["allocation_id"].as_str().expect("an id"))
}

#[test]
fn a_state_is_verified_while_it_runs_and_while_nothing_does() {
    for mode in MODES {
        let home = Home::new();
        let mut server = home.server(mode, &[]);
        lease(&mut server);
        for _ in 0..2 {
            let seen = home.printed("verify", &[]);
            let count = home.events(&[]).len();
            assert!(seen.contains(&count.to_string()), "{count} events are there: {seen}");
        }
        // Reading the state does not affect its owner.
        server.grant(&workers("afterwards", 1));
        home.end(server, Ending::InOrder);
        let before = fs::read(home.state()).expect("a file");
        home.printed("verify", &[]);
        home.printed("status", &[]);
        home.events(&[]);
        assert!(fs::read(home.state()).expect("a file") == before, "a look changes nothing");
        assert!(home.processes().is_empty(), "a look starts nothing");
    }
}

#[test]
fn readers_do_not_disturb_a_session() {
    let home = Home::new();
    let mut server = home.server(Mode::Auto, &[]);
    thread::scope(|scope| {
        let looks = scope.spawn(|| {
            for _ in 0..5 {
                home.printed("verify", &[]);
                home.printed("status", &[]);
                check_contiguous(&home.events(&[]));
            }
        });
        while !looks.is_finished() {
            let id = server.grant(&workers("busy", 10));
            server.answer("release_resources", &allocation(&id));
        }
        looks.join().expect("looks that succeed");
    });
    home.end(server, Ending::InOrder);
}

fn check_contiguous(events: &[Value]) {
    for pair in events.windows(2) {
        assert_eq!(pair[1]["sequence"].as_u64(), pair[0]["sequence"].as_u64().map(|number| number + 1), "{pair:?}");
    }
}

/// Returns the value of a name in `status`.
fn value<'a>(status: &'a str, name: &str) -> &'a str {
    let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    line.unwrap_or_else(|| panic!("{name} is not in {status}"))
}

#[test]
fn the_status_describes_a_running_daemon() {
    let home = Home::new();
    let mut server = home.server(Mode::Auto, &[]);
    let other = home.server(Mode::Auto, &[]);
    lease(&mut server);
    let daemon = home.daemon(None, &[server.process_id(), other.process_id()]);
    let status = home.printed("status", &[]);
    assert!(status.lines().all(|line| line.contains(": ") || line.ends_with(':')), "name: value: {status}");
    assert!(!value(&status, "instance").is_empty(), "{status}");
    assert_eq!(value(&status, "pid"), daemon.to_string(), "{status}");
    assert!(value(&status, "state").contains(&home.state().display().to_string()), "{status}");
    assert!(value(&status, "sessions").starts_with('2'), "{status}");
    assert!(value(&status, "leases").starts_with('1'), "{status}");
    for (name, free, total) in [("workers", "7", "10"), ("cpu_cores", "13", "16"), ("memory_mb", "26624", "32768")] {
        let numbers: Vec<&str> = value(&status, name).split(' ').filter(|word| word.parse::<u64>().is_ok()).collect();
        assert_eq!(numbers, [free, total], "{name} in {status}");
    }
    for name in ["uptime", "version", "sweep", "planner"] {
        assert!(!value(&status, name).is_empty(), "{name} is not in {status}");
    }
    // A status request is not a session.
    assert!(value(&home.printed("status", &[]), "sessions").starts_with('2'));
    drop(other);
    crate::support::wait_until("the end of a session", || {
        value(&home.printed("status", &[]), "sessions").starts_with('1')
    });
    home.end(server, Ending::InOrder);
}

#[test]
fn the_status_without_a_daemon_describes_the_state() {
    let home = Home::new();
    let mut server = home.server(Mode::Never, &[]);
    lease(&mut server);
    let id = server.process_id().to_string();
    let status = home.printed("status", &[]);
    assert!(status.contains(&id), "the process that serves itself is named: {status}");
    home.end(server, Ending::InOrder);
    let status = home.printed("status", &[]);
    assert!(status.to_lowercase().contains("no daemon"), "{status}");
    assert!(status.contains(&home.state().display().to_string()), "{status}");
    assert!(value(&status, "leases").starts_with('1'), "{status}");
    assert!(home.processes().is_empty(), "a look starts nothing");
}

#[test]
fn the_status_of_a_state_includes_its_fleet() {
    for mode in MODES {
        let home = Home::new();
        let mut server = home.server(mode, &[]);
        keep_busy(&mut server);
        let check = |command: &str, agents: &str| {
            let said = home.printed(command, &[]);
            assert_eq!((value(&said, "agents"), value(&said, "tasks")), (agents, TASKS), "{said}");
            let refill = value(&said, "tokens").strip_prefix(TOKENS).unwrap_or_else(|| panic!("{said}"));
            assert!(crate::support::pattern::is_time(refill), "{said}");
            said
        };
        // Only the daemon knows the heartbeats of agents.
        let heard = if mode == Mode::Auto { ", 0 unresponsive" } else { "" };
        let status = check("status", &format!("2 registered, 1 taking a worker each{heard}"));
        assert_eq!(value(&status, "workers"), "8 free of 10", "{status}");
        check("verify", "2 registered, 1 taking a worker each");
        home.end(server, Ending::InOrder);
        let status = check("status", "2 registered, 1 taking a worker each");
        assert_eq!(value(&status, "workers"), "8 free of 10", "{status}");
        check("verify", "2 registered, 1 taking a worker each");
    }
}

#[test]
fn a_state_without_a_fleet_says_so() {
    let home = Home::new();
    let server = home.server(Mode::Never, &[]);
    home.end(server, Ending::InOrder);
    for command in ["status", "verify"] {
        let said = home.printed(command, &[]);
        assert_eq!(value(&said, "agents"), "0 registered, 0 taking a worker each", "{said}");
        assert!(value(&said, "tasks").starts_with("0 queued, 0 deferred, 0 running; "), "{said}");
        assert_eq!(value(&said, "tokens"), "0 used and 0 reserved of 200000", "{said}");
    }
}

#[test]
fn the_events_of_the_fleet_have_what_was_handed_over() {
    let home = Home::new();
    let mut server = home.server(Mode::Never, &[]);
    keep_busy(&mut server);
    home.end(server, Ending::InOrder);
    let events = home.events(&[]);
    let found = types(&events);
    for kind in
        ["agent_registered", "attempt_ended", "task_cancelled", "task_leased", "task_submitted", "token_budget_set"]
    {
        assert!(found.contains(&kind), "{kind} is not among {found:?}");
    }
    let of = |kind: &str| &events.iter().find(|event| event["event"]["type"] == kind).expect("an event")["event"];
    let submitted = &of("task_submitted")["task"]["request"];
    assert_eq!((&submitted["payload"], &submitted["attempts_max"]), (&json!(r#"{"for":"done"}"#), &json!(3)));
    assert_eq!(of("attempt_ended")["end"]["output"], r#"{"lines":7}"#);
    assert_eq!(of("agent_registered")["registration"]["request"]["tasks_max"], 1);
}

#[test]
fn stopping_what_does_not_run_says_so() {
    let home = Home::new();
    let mut server = home.server(Mode::Auto, &[]);
    let id = server.grant(&workers("kept", 3));
    server.close_input();
    server.check_end();
    home.stop();
    let said = home.printed("stop", &[]);
    assert!(!said.trim().is_empty(), "it says that nothing runs");
    let mut server = home.server(Mode::Auto, &[]);
    assert_eq!(server.allocation(&id)["state"], "active", "leases stay in the state");
    home.end(server, Ending::InOrder);
}

#[test]
fn stopping_soon_after_a_crash_leaves_nothing_running() {
    let home = Home::new();
    let sessions: Vec<Server> = (0..4).map(|_| home.server(Mode::Auto, &[])).collect();
    let ids: Vec<u32> = sessions.iter().map(Server::process_id).collect();
    let mut daemon = home.daemon(None, &ids);
    for _ in 0..3 {
        // Each session connects to another daemon, and each may start it.
        kill(daemon);
        daemon = home.daemon(Some(daemon), &ids);
    }
    for mut session in sessions {
        session.close_input();
        session.check_end();
    }
    home.stop();
}
