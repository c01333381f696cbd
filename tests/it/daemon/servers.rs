//! Managed servers of a daemon: its sessions share them. They outlive the sessions, but not the daemon.

use std::{fs, os::unix::fs::PermissionsExt, process::Stdio};

use serde_json::{Value, json};

use crate::daemon::home::{Home, is_running, wait_until_gone};
use crate::support::{http, misbehaving::misbehaving_server, server::Server, wait_for};

/// Returns a catalog with a shared server and a server with one process per allocation.
fn catalog(home: &Home) -> String {
    let path = home.path("catalog.json");
    let server = |cortex| json!({"command": misbehaving_server(), "cortex": cortex});
    let servers = json!({"mcpServers": {
        "shared": server(json!({})),
        "own": server(json!({"sharing": "per_allocation"})),
    }});
    fs::write(&path, servers.to_string()).expect("a file");
    path.to_str().expect("text").to_owned()
}

fn request(job: &str) -> Value {
    json!({"job_id": job, "mcp_servers": ["shared", "own"], "request_id": job})
}

fn lease(session: &mut Server, job: &str) -> Value {
    session.answer("request_resources", &request(job))
}

/// Calls a tool of an endpoint with the token of a lease, and returns the status and the body of the response.
fn call(grant: &Value, server: &str, tool: &str) -> Option<(u16, String)> {
    let config = &grant["mcp_config"]["mcpServers"][server];
    let url = config["url"].as_str().unwrap_or_else(|| panic!("{config} has no url"));
    let headers = [
        ("authorization", config["headers"]["Authorization"].as_str().expect("a header")),
        ("mcp-protocol-version", "2026-07-28"),
        ("mcp-method", "tools/call"),
        ("mcp-name", tool),
    ];
    let meta = json!({
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientInfo": {"name": "test", "version": "1"},
        "io.modelcontextprotocol/clientCapabilities": {},
    });
    let params = json!({"name": tool, "arguments": {}, "_meta": meta});
    http::post(url, &headers, &json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}))
}

/// Returns the process that answers at a leased endpoint.
fn pid(grant: &Value, server: &str) -> Option<u64> {
    let (status, body) = call(grant, server, "state")?;
    let answer: Value = serde_json::from_str(&body).ok().filter(|_| status == 200)?;
    let text = answer["result"]["content"][0]["text"].as_str()?;
    serde_json::from_str::<Value>(text).ok()?["pid"].as_u64()
}

#[test]
fn sessions_share_a_server_and_none_of_them_ends_it() {
    let home = Home::new();
    let catalog = catalog(&home);
    let arguments = ["--catalog", catalog.as_str()];
    let (mut one, mut other) = (home.session(&arguments), home.session(&arguments));
    let (first, second) = (lease(&mut one, "one"), lease(&mut other, "other"));
    assert_eq!(first["mcp_servers"][0]["endpoint"], second["mcp_servers"][0]["endpoint"]);
    let shared = pid(&first, "shared").expect("an answer");
    assert_eq!(pid(&second, "shared"), Some(shared));
    let own = pid(&first, "own").expect("an answer");
    assert_ne!(pid(&second, "own"), Some(own));
    let status = home.printed(&["status"]);
    let port = |grant: &Value, server: usize| {
        grant["mcp_servers"][server]["endpoint"].as_str().expect("a place")[17..].to_owned()
    };
    let own_run = |grant: &Value| {
        let allocation = grant["allocation_id"].as_str().expect("an id");
        format!("server own of {allocation}: running, 1 holder, port {}, 0 restarts", port(grant, 1))
    };
    for line in [
        "run: 3 servers, 0 workers".to_owned(),
        format!("server shared: running, 2 holders, port {}, 0 restarts", port(&first, 0)),
        own_run(&first),
        own_run(&second),
    ] {
        assert!(status.lines().any(|shown| shown == line), "{line} is not in\n{status}");
    }
    // The lease of the first session continues without its session.
    one.close_input();
    one.check_end();
    assert_eq!((pid(&first, "shared"), pid(&first, "own")), (Some(shared), Some(own)));
    let released = other.answer("release_resources", &json!({"allocation_id": first["allocation_id"]}));
    assert_eq!(released["status"], "released");
    assert_eq!(call(&first, "shared", "state").expect("an answer").0, 401);
    assert!(!is_running(own), "a release is answered when nothing of its own is left");
    assert_eq!(pid(&second, "shared"), Some(shared));
    home.printed(&["stop"]);
    wait_until_gone(shared);
    other.close_input();
}

#[test]
fn a_killed_daemon_leaves_no_process_and_the_next_continues() {
    let home = Home::new();
    let (catalog, state) = (catalog(&home), home.path("state.db"));
    let state = state.to_str().expect("text").to_owned();
    let arguments = ["--catalog", catalog.as_str(), "--state", state.as_str()];
    let mut session = home.session(&arguments);
    let grant = lease(&mut session, "one");
    let before = ["shared", "own"].map(|server| pid(&grant, server).expect("an answer"));
    for name in ["key", "children"] {
        let mode = fs::metadata(format!("{state}.{name}")).expect("a file").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    for _ in 0..2 {
        let lines = home.printed(&["status", "--state", &state]);
        let daemon = lines.lines().find_map(|line| line.strip_prefix("pid: ")?.parse().ok()).expect("a daemon");
        crate::daemon::home::signal("KILL", daemon);
        wait_until_gone(daemon);
        before.into_iter().for_each(wait_until_gone);
        // The session connects to the next daemon, which restarts the leased servers at the same endpoints.
        let again = lease(&mut session, "one");
        assert_eq!(again["allocation_id"], grant["allocation_id"], "the request is known");
        assert_eq!(again["access_token"], grant["access_token"], "and so is its token");
        // The servers may still be starting.
        let places = |grant: &Value| [0, 1].map(|server| grant["mcp_servers"][server]["endpoint"].clone());
        assert_eq!(places(&again), places(&grant));
        let after = ["shared", "own"].map(|server| wait_for("it answers", || pid(&grant, server)));
        assert!(before.iter().all(|pid| !after.contains(pid)));
    }
    let released = session.answer("release_resources", &json!({"allocation_id": grant["allocation_id"]}));
    assert_eq!(released["status"], "released");
    session.close_input();
    session.check_end();
    home.printed(&["stop", "--state", &state]);
    assert!(!fs::exists(format!("{state}.children")).expect("a folder"), "it ended in order");
    assert!(home.printed(&["verify", "--state", &state]).contains("sound"));
}

/// Returns the number of threads of a process.
fn threads(pid: u64) -> usize {
    fs::read_dir(format!("/proc/{pid}/task")).map_or(0, |tasks| tasks.count())
}

#[test]
fn a_flood_of_calls_takes_a_few_threads() {
    const ASKED: usize = 200;
    const MORE_MAX: usize = 8;
    let home = Home::new();
    let catalog = catalog(&home);
    let mut session = home.session(&["--catalog", &catalog, "--toolsets", "all"]);
    lease(&mut session, "one");
    let daemon = home.pid();
    let before = threads(daemon);
    let call = json!({"name": "get_mcp_server", "arguments": {"name": "shared"}});
    let asked: Vec<u64> = (0..ASKED).map(|_| session.send("tools/call", &call)).collect();
    for id in asked {
        let reply = session.reply(id);
        assert_eq!(reply["result"]["isError"], false, "{reply}");
        let now = threads(daemon);
        assert!(now <= before + MORE_MAX, "{before} threads before, {now} now");
    }
    session.close_input();
    home.printed(&["stop"]);
}

#[test]
fn leases_of_managed_servers_are_refused_without_their_catalog() {
    let home = Home::new();
    let (catalog, state) = (catalog(&home), home.path("state.db"));
    let state = state.to_str().expect("text").to_owned();
    let (with, without) = (["--catalog", &catalog, "--state", &state], ["--state", &state]);
    let mut session = home.session(&with);
    let grant = lease(&mut session, "one");
    let port = grant["mcp_servers"][0]["endpoint"].clone();
    session.close_input();
    session.check_end();
    home.printed(&["stop", "--state", &state]);
    for owner in [&["daemon"][..], &["--daemon", "never"]] {
        let refusal = home.refusal(&[owner, &without].concat());
        let way_out = format!("start with --catalog {catalog}, or remove {state}.real");
        assert!(refusal.contains("hold MCP servers") && refusal.contains(&way_out), "{refusal}");
    }
    let mut alone = home.command(&without).stdin(Stdio::piped()).stderr(Stdio::null()).spawn().expect("the binary");
    let status = wait_for("it gives up", || alone.try_wait().expect("a child"));
    assert_eq!(status.code(), Some(3), "no other session started a daemon");
    // A session with the catalog continues, and then one without it can join.
    let mut session = home.session(&with);
    let mut other = home.session(&without);
    let again = lease(&mut session, "one");
    assert_eq!(again["mcp_servers"][0]["endpoint"], port);
    wait_for("it answers", || pid(&again, "own"));
    // After a crash, the next daemon runs them, whichever session starts it.
    for _ in 0..3 {
        let lines = home.printed(&["status", "--state", &state]);
        let daemon = lines.lines().find_map(|line| line.strip_prefix("pid: ")?.parse().ok()).expect("a daemon");
        crate::daemon::home::signal("KILL", daemon);
        wait_until_gone(daemon);
        // A call that the session sends before it notices the loss gets an error that asks for a retry.
        let call = json!({"name": "request_resources", "arguments": request("one")});
        let answer = wait_for("the next daemon", || other.ask("tools/call", &call).get("result").cloned());
        assert_eq!(answer["structuredContent"]["allocation_id"], grant["allocation_id"]);
        wait_for("it answers", || pid(&again, "own"));
    }
    let released = other.answer("release_resources", &json!({"allocation_id": grant["allocation_id"]}));
    assert_eq!(released["status"], "released");
    for session in [&mut session, &mut other] {
        session.close_input();
        session.check_end();
    }
    home.printed(&["stop", "--state", &state]);
    assert!(!fs::exists(format!("{state}.real")).expect("a folder"), "no lease needs it");
    let mut unmanaged = home.session(&without);
    assert_eq!(lease(&mut unmanaged, "two")["access_token"], Value::Null);
    unmanaged.close_input();
    unmanaged.check_end();
    home.printed(&["stop", "--state", &state]);
}

#[test]
fn leases_of_managed_servers_can_be_abandoned() {
    let home = Home::new();
    let (catalog, state) = (catalog(&home), home.path("state.db"));
    let state = state.to_str().expect("text").to_owned();
    let mut session = home.session(&["--catalog", &catalog, "--state", &state]);
    let grant = lease(&mut session, "one");
    session.close_input();
    session.check_end();
    home.printed(&["stop", "--state", &state]);
    let record = format!("{state}.real");
    for damaged in ["", "{{{", r#"{"catalog": 5}"#] {
        fs::write(&record, damaged).expect("a file");
        let refusal = home.refusal(&["daemon", "--state", &state]);
        assert!(refusal.contains("cannot be read") && refusal.contains("--catalog"), "{refusal}");
        assert_eq!(fs::read_to_string(&record).expect("a file"), damaged);
    }
    fs::remove_file(&record).expect("a file");
    let mut session = home.session(&["--state", &state]);
    let kept = session.answer("get_allocation", &json!({"allocation_id": grant["allocation_id"]}));
    assert_eq!(kept["state"], "active");
    session.close_input();
    session.check_end();
    home.printed(&["stop", "--state", &state]);
}

#[test]
fn an_unusable_catalog_is_reported_at_the_start() {
    let home = Home::new();
    let catalog = home.path("catalog.json");
    let path = catalog.to_str().expect("text");
    let check = |text: &str, complaints: &[&str]| {
        fs::write(&catalog, text).expect("a file");
        for daemon in ["always", "never"] {
            let error = home.refusal(&["--catalog", path, "--daemon", daemon]);
            assert!(complaints.iter().all(|complaint| error.contains(complaint)), "{error}");
        }
    };
    check("{", &["catalog.json"]);
    check(r#"{"mcpServers": {"a": {}}}"#, &["mcpServers.a", "command"]);
    check(r#"{"mcpServers": {"a": {"command": "${NO_SUCH_VARIABLE_HERE}"}}}"#, &["NO_SUCH_VARIABLE_HERE"]);
    check(r#"{"mcpServers": {"a": {"command": "x", "cortex": {"sharin": "shared"}}}}"#, &["sharin", "sharing"]);
}
