//! The catalog may change while the manager runs.

use super::rig::{Rig, entry, pid, until, within, write_catalog};
use cortex_resource_manager::managed::{Ask, ProcessState};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn new_entries_can_be_had_and_old_ones_go_on_while_they_are_held() {
    let rig = Rig::new(json!({"a": entry(&[], json!({})), "b": entry(&[], json!({}))})).await;
    let lease = rig.lease("one", &["a"]).await;
    let client = lease.client("a").await;
    let first = pid(&client).await;
    write_catalog(
        rig.folder.path(),
        &json!({"a": entry(&["--start-delay-ms", "1"], json!({})), "c": entry(&[], json!({}))}),
    );
    until("the new entry can be had", || async { rig.request("two", &["c"], 60, None).await.is_ok() }).await;
    within(rig.request("three", &["b"], 60, None)).await.expect_err("it is not there any more");
    let known = within(rig.managed.ask(Ask::Servers)).await.expect("a host");
    let names: Vec<&str> = known.iter().map(|report| report.name.as_str()).collect();
    assert_eq!(names, ["a", "c"]);
    let second = rig.lease("four", &["a"]).await;
    assert_eq!(pid(&second.client("a").await).await, first, "what runs goes on as it is");
    rig.release(&second).await;
    assert_eq!(pid(&client).await, first);
    rig.release(&lease).await;
    rig.until_state("a", ProcessState::Stopped).await;
    let third = rig.lease("five", &["a"]).await;
    assert_ne!(pid(&third.client("a").await).await, first);
    rig.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_is_mended_is_used_when_it_is_asked_for() {
    let rig = Rig::new(json!({"a": entry(&["--crash-after", "1"], json!({}))})).await;
    let lease = rig.lease("one", &["a"]).await;
    let client = lease.client("a").await;
    until("it has failed", || async {
        let _ = super::rig::try_call(&client, "add", json!({"a": 1, "b": 2})).await;
        rig.report("a").await.state == ProcessState::Failed
    })
    .await;
    write_catalog(rig.folder.path(), &json!({"a": entry(&[], json!({})), "new": entry(&[], json!({}))}));
    until("the catalog is read", || async { rig.request("two", &["new"], 60, None).await.is_ok() }).await;
    let name = cortex_resource_manager::core::ServerName::new("a").expect("a name");
    within(rig.managed.ask(|reply| Ask::RestartServer(name, None, reply))).await.expect("a host").expect("a server");
    rig.until_state("a", ProcessState::Running).await;
    let client = lease.client("a").await;
    for _ in 0..3 {
        super::rig::call(&client, "add", json!({"a": 1, "b": 2})).await;
    }
    rig.end().await;
}
