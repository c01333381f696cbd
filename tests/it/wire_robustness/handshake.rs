//! Messages before the first request, and messages in the place of the handshake.

use serde_json::json;

use crate::support::{
    pattern::check,
    server::{Server, TRANSPORTS, cancel, command, modern},
};

/// Lines without an answer.
const UNANSWERED: [&str; 6] = [
    r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/no/such"}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1}}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
    r#"{"jsonrpc":"2.0","id":"a","error":{"code":1,"message":"no"}}"#,
];

#[test]
fn a_notification_or_a_response_is_dropped_at_any_time() {
    for transport in TRANSPORTS {
        for line in UNANSWERED {
            let mut server = Server::start_on(transport, command(&[]));
            server.write_line(line);
            assert_eq!(server.greet("2025-11-25")["protocolVersion"], "2025-11-25", "{line}");
            server.write_line(line);
            check(&server.ask("ping", &json!({})), &json!({"result": {}}));
            let mut server = Server::start_on(transport, command(&[]));
            server.write_line(line);
            let reply = server.ask("tools/call", &modern(json!({"name": "get_capacity"})));
            assert!(reply["result"]["structuredContent"].is_object(), "{line}: {reply}");
            server.close_input();
            assert_eq!(server.rest(), Vec::<serde_json::Value>::new(), "{line}");
            server.check_end();
        }
    }
}

#[test]
fn a_request_before_the_handshake_is_refused_and_the_handshake_still_works() {
    for transport in TRANSPORTS {
        let mut server = Server::start_on(transport, command(&[]));
        let reply = server.ask("tools/call", &json!({"name": "get_capacity"}));
        assert!(reply["error"]["code"].is_i64(), "{reply}");
        server.greet("2025-11-25");
        server.learn_schemas();
        server.capacity();
    }
}

#[test]
fn a_wrong_handshake_is_refused_and_a_right_one_works_after_it() {
    for transport in TRANSPORTS {
        let mut server = Server::start_on(transport, command(&[]));
        for params in [json!({}), json!({"protocolVersion": 5}), json!([])] {
            let reply = server.ask("initialize", &params);
            assert!(reply["error"]["code"].is_i64(), "{reply}");
        }
        server.greet("2025-11-25");
        server.learn_schemas();
        server.capacity();
        // Another request in between is not a reason to end, whatever its answer.
        server.greet("2025-11-25");
        server.capacity();
    }
}

#[test]
fn an_answer_to_no_request_and_a_cancelling_of_no_request_are_dropped() {
    let mut server = Server::ready(&[]);
    for id in 1000..1100 {
        server.write_line(cancel(id));
        server.write_line(json!({"jsonrpc": "2.0", "id": id, "result": {}}).to_string());
    }
    // Later requests with these ids are not cancelled.
    for id in 1000..1100 {
        server.write_line(crate::support::server::request(id, "ping", &json!({})));
        check(&server.next().expect("a reply"), &json!({"id": id, "result": {}}));
    }
}
