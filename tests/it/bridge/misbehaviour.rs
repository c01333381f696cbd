//! Children that violate the protocol.

use serde_json::json;
use tokio::io::AsyncWriteExt;

use super::rig::Rig;

#[tokio::test]
async fn invalid_output_foreign_ids_and_second_answers_affect_no_client() {
    let (rig, mut child) = Rig::with_child().await;
    let client = rig.client().await;
    let mut http = client.call(1, "tools/call", json!({})).await;
    let asked = child.expect("tools/call").await;
    child.say("Server started on stdio!").await;
    child.output.write_all(b"\xFF\xFE not text\n").await.expect("a reader");
    child.say(r#"{"jsonrpc":"2.0","id":987654,"result":{}}"#).await;
    child.say(r#"{"jsonrpc":"2.0","id":"1","result":{}}"#).await;
    child.say(r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32700,"message":"?"}}"#).await;
    child.say("[]").await;
    child.say("").await;
    child.answer(&asked, json!({"first": true})).await;
    child.answer(&asked, json!({"second": true})).await;
    assert_eq!(http.response().await.json()["result"], json!({"first": true}));
    child.sync().await;
    let noted = child.invalid_output.lock().expect("no panic").clone();
    assert_eq!(noted.len(), 7, "{noted:#?}");
    assert_eq!(noted[0], "Server started on stdio!");
    assert!(noted[6].contains("matches no request") && noted[6].contains("second"), "{noted:#?}");
    let mut next = client.call(1, "tools/call", json!({})).await;
    let asked = child.expect("tools/call").await;
    child.answer(&asked, json!({"third": true})).await;
    assert_eq!(next.response().await.json()["result"], json!({"third": true}));
}

#[tokio::test]
async fn a_line_of_sixteen_mebibytes_is_forwarded_and_a_longer_one_is_an_error_of_its_call_alone() {
    let (rig, mut child) = Rig::with_child().await;
    let client = rig.client().await;
    let mut http = client.call(1, "tools/call", json!({})).await;
    let asked = child.expect("tools/call").await;
    let (before, after) = (format!("{{\"id\":{},\"result\":\"", asked["id"]), "\"}");
    let filler = "x".repeat((16 << 20) - before.len() - after.len());
    let line = format!("{before}{filler}{after}");
    let ((), response) = tokio::join!(child.say(&line), http.response());
    assert_eq!(response.json()["result"].as_str().map(str::len), Some(filler.len()));

    let mut other = client.call("other", "tools/call", json!({})).await;
    let asked_other = child.expect("tools/call").await;
    for is_first in [true, false] {
        let mut http = client.call(2, "tools/call", json!({})).await;
        let asked = child.expect("tools/call").await;
        let line = match is_first {
            true => format!(
                r#"{{"jsonrpc":"2.0","id":{},"result":{{"id":{},"x":"{filler}"}}}}"#,
                asked["id"], asked_other["id"]
            ),
            false => format!(
                r#"{{"result":{{"id":{},"x":"{filler}"}},"jsonrpc":"2.0","id":{}}}"#,
                asked_other["id"], asked["id"]
            ),
        };
        let ((), response) = tokio::join!(child.say(&line), http.response());
        let error = response.json()["error"].clone();
        assert_eq!(error["message"], "the response was longer than 16 MiB");
        assert_eq!((&error["code"], &error["data"]), (&json!(-32_000), &json!({"retryable": false})));
    }
    assert!(child.invalid_output.lock().expect("no panic").is_empty());
    for of_nobody in [
        format!(r#"{{"method":"sampling/createMessage","id":{},"params":"{filler}"}}"#, asked_other["id"]),
        format!(r#"{{"jsonrpc":"2.0","id":987654,"result":"{filler}"}}"#),
        format!("{filler}{filler}{filler}"),
    ] {
        child.say(&of_nobody).await;
    }
    child.answer(&asked_other, json!({"fine": true})).await;
    assert_eq!(other.response().await.json()["result"], json!({"fine": true}));
    let noted = child.invalid_output.lock().expect("no panic").clone();
    assert_eq!(noted.len(), 3, "{noted:#?}");
    assert!(noted[0].contains("longer than 16 MiB"), "{noted:#?}");
    assert_eq!(rig.endpoint.total_usage().errors, 2);
}

#[tokio::test]
async fn a_child_that_reads_nothing_does_not_make_the_bridge_grow() {
    let (rig, mut child) = Rig::with_child().await;
    let client = rig.client().await;
    let notice = json!({"jsonrpc": "2.0", "method": "made/up", "params": {"filler": "x".repeat(3 << 20)}});
    for _ in 0..8 {
        assert_eq!(client.ask(notice.clone()).await.head.status, 202);
    }
    child.noted("does not read its standard input").await;
    for _ in 0..2 {
        child.expect("made/up").await;
    }
}
