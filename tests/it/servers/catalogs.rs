//! The catalog may change while the manager runs.

use super::rig::{Lease, Rig, entry, pid, try_call, write_catalog};
use crate::support::{wait_until_async, within};
use cortex_core::ids::ServerName;
use cortex_core::provisioning::Sharing;
use cortex_managed::{ProcessState, RuntimeError, RuntimeRequest};
use serde_json::{Value, json};
use std::io::ErrorKind;
use tokio::net::TcpStream;

#[tokio::test(flavor = "multi_thread")]
async fn new_entries_can_be_leased_and_old_ones_continue_while_they_are_held() {
    let rig = Rig::new(json!({"a": entry(&[], json!({})), "b": entry(&[], json!({}))})).await;
    let lease = rig.lease("one", &["a"]).await;
    let client = lease.client("a").await;
    let first = pid(&client).await;
    write_catalog(
        rig.folder.path(),
        &json!({"a": entry(&["--start-delay-ms", "1"], json!({})), "c": entry(&[], json!({}))}),
    );
    wait_until_async("the new entry can be had", async || rig.request("two", &["c"], 60, None).await.is_ok()).await;
    within(rig.request("three", &["b"], 60, None)).await.expect_err("it is not there any more");
    let known = within(rig.managed.request(RuntimeRequest::Servers)).await.expect("a host");
    let names: Vec<&str> = known.iter().map(|report| report.name.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
    let second = rig.lease("four", &["a"]).await;
    assert_eq!(pid(&second.client("a").await).await, first, "a running server keeps its entry");
    rig.release(&second).await;
    assert_eq!(pid(&client).await, first);
    rig.release(&lease).await;
    rig.until_state("a", ProcessState::Stopped).await;
    let third = rig.lease("five", &["a"]).await;
    assert_ne!(pid(&third.client("a").await).await, first);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_and_the_next_lease_use_the_new_entry() {
    let rig = Rig::new(json!({"a": entry(&[], json!({})), "b": entry(&[], json!({}))})).await;
    let held = rig.lease("one", &["a"]).await;
    let before = rig.lease("two", &["b"]).await;
    let old = pid(&before.client("b").await).await;
    rig.release(&before).await;
    let delay = ["--start-delay-ms", "1"];
    let changed = json!({"a": entry(&delay, json!({})), "b": entry(&delay, json!({})), "new": entry(&[], json!({}))});
    write_catalog(rig.folder.path(), &changed);
    wait_until_async("the catalog is read", async || rig.request("three", &["new"], 60, None).await.is_ok()).await;
    // It was kept for the next holder, but with the old entry.
    let after = rig.lease("four", &["b"]).await;
    let new = pid(&after.client("b").await).await;
    assert_ne!(new, old);
    let name = ServerName::new("a").expect("a name");
    within(rig.managed.request(|reply| RuntimeRequest::RestartServer(name, None, reply)))
        .await
        .expect("a host")
        .expect("it runs");
    let restarted = pid(&held.client("a").await).await;
    for pid in [new, restarted] {
        let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).expect("a process");
        assert!(command.contains("--start-delay-ms"), "{command}");
    }
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_corrected_is_used_when_it_is_asked_for() {
    let rig = Rig::new(json!({"a": entry(&["--crash-after", "1"], json!({}))})).await;
    let lease = rig.lease("one", &["a"]).await;
    let client = lease.client("a").await;
    wait_until_async("it has failed", async || {
        let _ = try_call(&client, "add", json!({"a": 1, "b": 2})).await;
        rig.report("a").await.state == ProcessState::Failed
    })
    .await;
    write_catalog(rig.folder.path(), &json!({"a": entry(&[], json!({})), "new": entry(&[], json!({}))}));
    wait_until_async("the catalog is read", async || rig.request("two", &["new"], 60, None).await.is_ok()).await;
    let name = ServerName::new("a").expect("a name");
    within(rig.managed.request(|reply| RuntimeRequest::RestartServer(name, None, reply)))
        .await
        .expect("a host")
        .expect("a server");
    rig.until_state("a", ProcessState::Running).await;
    let client = lease.client("a").await;
    for _ in 0..3 {
        super::rig::call(&client, "add", json!({"a": 1, "b": 2})).await;
    }
    rig.end().await;
}

/// Starts a remote server, and returns its URL.
async fn remote_server() -> (Rig, String) {
    let rig = Rig::with(json!({"there": entry(&[], json!({}))}), |options| options.requires_token = false).await;
    let port = rig.lease("job", &["there"]).await.port("there");
    (rig, format!("http://localhost:{port}/mcp"))
}

/// Returns a catalog of these servers after a number of remote ones, so that these have ports that no other test uses.
fn catalog_behind(url: &str, before: usize, servers: Value) -> Value {
    let Value::Object(servers) = servers else { panic!("no catalog: {servers}") };
    let remote_server = (0..before).map(|number| (format!("before-{number:02}"), json!({"url": url})));
    Value::Object(remote_server.chain(servers).collect())
}

/// Returns a lease of all servers of a catalog.
async fn lease_of_all(catalog: Value) -> (Rig, Lease) {
    let names: Vec<String> = catalog.as_object().expect("a catalog").keys().cloned().collect();
    let rig = Rig::new(catalog).await;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let lease = rig.lease("one", &names).await;
    (rig, lease)
}

/// Replaces the entry "x", and restarts the failed server, which uses the new entry.
async fn correct(rig: &Rig, lease: &Lease, corrected: Value) {
    rig.until_state("x", ProcessState::Failed).await;
    write_catalog(rig.folder.path(), &json!({"x": corrected, "new": entry(&[], json!({}))}));
    wait_until_async("the catalog is read", async || rig.request("two", &["new"], 60, None).await.is_ok()).await;
    restart(rig, lease).await.expect("a server");
    rig.until_state("x", ProcessState::Running).await;
}

async fn restart(rig: &Rig, lease: &Lease) -> Result<(), RuntimeError> {
    let restart =
        |reply| RuntimeRequest::RestartServer(ServerName::new("x").expect("a name"), Some(lease.allocation), reply);
    within(rig.managed.request(restart)).await.expect("a host")
}

async fn until_nothing_listens(port: u16) {
    wait_until_async("nothing listens at its port", async || {
        let connected = TcpStream::connect(("127.0.0.1", port)).await;
        connected.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_corrected_to_be_remote_leaves_no_port_behind() {
    let (there, url) = remote_server().await;
    let x = entry(&["--crash-after", "1"], json!({"idle_seconds": 0}));
    let (rig, lease) = lease_of_all(catalog_behind(&url, 61, json!({"x": x}))).await;
    let client = lease.client("x").await;
    wait_until_async("it has failed", async || {
        let _ = try_call(&client, "add", json!({"a": 1, "b": 2})).await;
        rig.report("x").await.state == ProcessState::Failed
    })
    .await;
    correct(&rig, &lease, json!({"url": url, "cortex": {"idle_seconds": 0}})).await;
    let report = rig.report("x").await;
    assert_eq!((report.is_remote, report.endpoint, report.port), (true, Some(url), None));
    // A client that still connects there is refused immediately.
    until_nothing_listens(lease.port("x")).await;
    rig.release(&lease).await;
    until_nothing_listens(lease.port("x")).await;
    there.end().await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_corrected_to_be_here_is_served_at_the_granted_port() {
    let (there, url) = remote_server().await;
    let (rig, lease) = lease_of_all(catalog_behind(&url, 71, json!({"x": {"url": url}}))).await;
    there.end().await;
    correct(&rig, &lease, entry(&[], json!({"idle_seconds": 0}))).await;
    let report = rig.report("x").await;
    assert_eq!((report.is_remote, report.port.map(|port| port.0)), (false, Some(lease.port("x"))));
    pid(&lease.client("x").await).await;
    rig.release(&lease).await;
    until_nothing_listens(lease.port("x")).await;
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_server_that_the_catalog_lacks_is_reported_until_it_is_restored() {
    let own = || entry(&[], json!({"sharing": "per_allocation"}));
    let (there, url) = remote_server().await;
    let servers = json!({"x": own(), "y-of-all": entry(&[], json!({})), "z-turned": own()});
    let (rig, lease) = lease_of_all(catalog_behind(&url, 81, servers)).await;
    let rig = rig.succeeded(&catalog_behind(&url, 81, json!({"z-turned": entry(&[], json!({}))}))).await;
    let why = "it was removed from the catalog: restore its entry and restart it, or release it";
    for (name, sharing) in [("x", Sharing::PerAllocation), ("y-of-all", Sharing::Shared)] {
        let report = rig.until_state(name, ProcessState::Failed).await;
        assert_eq!((report.sharing, report.reason.as_deref()), (sharing, Some(why)));
        assert_eq!((report.holders, report.last_lines), (vec![lease.allocation], vec![]));
    }
    let report = rig.until_state("z-turned", ProcessState::Running).await;
    assert_eq!(report.sharing, Sharing::PerAllocation, "a run stays whose it is");
    let refused = restart(&rig, &lease).await.expect_err("there is nothing to start").to_string();
    assert!(refused.ends_with(&format!("cannot be used: {why}")), "{refused}");
    correct(&rig, &lease, own()).await;
    assert_eq!(rig.report("x").await.sharing, Sharing::PerAllocation);
    rig.release(&lease).await;
    assert_eq!(rig.report("x").await.state, ProcessState::Stopped);
    assert_eq!(rig.reports("y-of-all").await, vec![], "nothing is left of it");
    there.end().await;
    rig.end().await;
}
