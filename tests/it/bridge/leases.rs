//! Tests the usage of an allocation, and what its end closes.

use cortex_core::ids::AllocationId;
use serde_json::json;

use super::child::Child;
use super::rig::{Rig, options};

#[tokio::test]
async fn the_end_of_an_allocation_ends_what_is_its_own_and_nothing_else() {
    let mut few = options();
    few.calls_in_flight_max = 2;
    let rig = Rig::with(few, false);
    let mut child = Child::connect(&rig.endpoint).await;
    let (ending, staying) = (rig.client_of(Some(1)).await, rig.client_of(Some(2)).await);
    let mut stream = ending.listen().await;
    let mut subscribing = ending.call(0, "resources/subscribe", json!({"uri": "file:///a"})).await;
    let asked = child.expect("resources/subscribe").await;
    child.answer(&asked, json!({})).await;
    subscribing.response().await;
    let mut at_work = ending.call(1, "tools/call", json!({})).await;
    let asked = child.expect("tools/call").await;
    let mut other = staying.call(1, "tools/call", json!({})).await;
    let asked_other = child.expect("tools/call").await;
    let mut waiting = ending.call(2, "tools/call", json!({})).await;
    rig.until_calls(3).await;
    rig.endpoint.end_allocation(AllocationId::from_bits(1));
    for http in [&mut at_work, &mut waiting] {
        let error = http.response().await.json()["error"].clone();
        assert!(error["message"].as_str().expect("text").contains("lease"), "{error}");
        assert_eq!(error["data"], json!({"retryable": false}));
    }
    assert_eq!(stream.next().await, None);
    assert_eq!(child.expect("notifications/cancelled").await["params"]["requestId"], asked["id"]);
    assert_eq!(child.expect("resources/unsubscribe").await["params"]["uri"], "file:///a");
    child.answer(&asked_other, json!({"fine": true})).await;
    assert_eq!(other.response().await.json()["result"], json!({"fine": true}));
    // An ended allocation is not admitted again, whatever the authenticator returns.
    assert_eq!(ending.call(3, "ping", json!({})).await.response().await.head.status, 401);
}

#[tokio::test]
async fn a_call_that_waits_for_a_child_ends_with_its_lease() {
    let mut patient = options();
    patient.start_wait = std::time::Duration::from_secs(3_600);
    let rig = Rig::with(patient, false);
    let child = Child::connect(&rig.endpoint).await;
    let client = rig.client_of(Some(1)).await;
    drop(child);
    let mut waits = client.call(1, "tools/call", json!({})).await;
    rig.endpoint.end_allocation(AllocationId::from_bits(1));
    let response = waits.response().await;
    // The call may not have been submitted before.
    if response.head.status != 401 {
        assert_eq!(response.json()["error"]["data"], json!({"retryable": false}), "{response:?}");
    }
}

#[tokio::test]
async fn calls_errors_bytes_and_time_are_counted_for_each() {
    let rig = Rig::with(options(), false);
    let mut child = Child::connect(&rig.endpoint).await;
    let (one, two) = (rig.client_of(Some(1)).await, rig.client_of(Some(2)).await);
    for (client, fine) in [(&one, true), (&one, false), (&two, true)] {
        let mut http = client.call(1, "tools/call", json!({"name": "t"})).await;
        let asked = child.expect("tools/call").await;
        // The duration of the call, which is counted.
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        if fine {
            child.answer(&asked, json!({"content": []})).await;
        } else {
            child.tell(json!({"jsonrpc": "2.0", "id": asked["id"], "error": {"code": 1, "message": "m"}})).await;
        }
        http.response().await;
    }
    let usage = |draw| rig.endpoint.usage(AllocationId::from_bits(draw));
    let (first, second, total) = (usage(1), usage(2), rig.endpoint.total_usage());
    assert_eq!((first.calls, first.errors, second.calls, second.errors), (2, 1, 1, 0));
    assert!(first.bytes_in > 100 && first.bytes_out > 80 && first.busy.as_millis() >= 4, "{first:?}");
    assert_eq!((total.calls, total.bytes_in), (3, first.bytes_in + second.bytes_in));
    rig.endpoint.end_allocation(AllocationId::from_bits(1));
    assert_eq!(usage(1).calls, 2);
    assert_eq!(usage(1).calls, 0, "given out once");
}
