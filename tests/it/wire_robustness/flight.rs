//! Requests in flight: two with the same id, and requests that are cancelled before their answer.

use serde_json::{Value, json};

use crate::support::{
    pattern::check,
    server::{Server, TRANSPORTS, call, cancel, command, modern, request},
};

/// Returns a request for one worker.
fn one_worker() -> Value {
    json!({"job_id": "a", "mcp_servers": ["s"], "workers": 1})
}

/// A request that stays in flight until it is cancelled.
fn listen(id: u64) -> String {
    request(
        id,
        "subscriptions/listen",
        &modern(json!({"notifications": {"resourceSubscriptions": ["cluster://capacity"]}})),
    )
}

/// Returns whether a message is a notification that the capacity has changed.
fn is_notice(message: &Value) -> bool {
    message["method"] == "notifications/resources/updated" && message["params"]["uri"] == "cluster://capacity"
}

#[test]
fn the_second_of_two_requests_with_one_id_is_refused() {
    for transport in TRANSPORTS {
        let mut server = Server::start_on(transport, command(&[]));
        server.write_line(listen(5));
        server.find("the acknowledgement", |message| message["method"] == "notifications/subscriptions/acknowledged");
        let second = json!({"name": "request_resources", "arguments": one_worker()});
        server.write_line(request(5, "tools/call", &modern(second.clone())));
        let refusal = server.next().expect("a refusal");
        check(&refusal, &json!({"error": {"code": -32600}}));
        assert!(refusal["error"]["message"].as_str().is_some_and(|text| text.contains('5')), "{refusal}");
        // The first request is still in flight, and the second one had no effect.
        server.write_line(request(6, "tools/call", &modern(second)));
        check(&server.reply(6), &json!({"result": {"structuredContent": {"fencing_token": 1}}}));
        server.find("a notice", is_notice);
    }
}

#[test]
fn no_reply_is_lost_when_ids_come_twice_at_once() {
    for transport in TRANSPORTS {
        let mut server = Server::ready_on(transport, &[]);
        let line = call(500, "request_resources", &one_worker()) + "\n";
        server.write(line.repeat(8));
        let mut granted = 0;
        for _ in 0..8 {
            let reply = server.next().expect("a reply to each");
            match reply.get("error") {
                Some(error) => assert_eq!(error["code"], -32600, "{reply}"),
                None => granted += 1,
            }
        }
        assert!(granted > 0);
        check(&server.capacity(), &json!({"allocated_workers": granted}));
    }
}

#[test]
fn an_id_may_be_used_again_once_it_is_answered() {
    let mut server = Server::ready(&[]);
    for _ in 0..10 {
        server.write_line(call(500, "request_resources", &one_worker()));
        check(&server.next().expect("a reply"), &json!({"id": 500, "result": {"isError": false}}));
    }
}

#[test]
fn a_cancelled_listen_ends_and_makes_room_for_others() {
    for transport in TRANSPORTS {
        let mut server = Server::start_on(transport, command(&[]));
        for id in 0..500 {
            server.write_line(listen(id));
            server
                .find("the acknowledgement", |message| message["method"] == "notifications/subscriptions/acknowledged");
            server.write_line(cancel(id));
        }
        // MCP does not allow a client to reuse an id. A client that does still gets an answer.
        server.write_line(listen(499));
        let answer = server.next().expect("an answer");
        assert!(answer["error"]["code"] == -32600 || answer["method"] == "notifications/subscriptions/acknowledged");
        server.close_input();
        server.check_end();
    }
}

#[test]
fn the_grant_of_a_cancelled_request_is_rolled_back() {
    for transport in TRANSPORTS {
        let mut server = Server::ready_on(transport, &[]);
        let empty = server.capacity();
        for round in 0..50 {
            let id = server.new_id();
            // Both are in one write, so that the server can read the cancellation before it answers.
            server.write_line([call(id, "request_resources", &one_worker()), cancel(id)].join("\n"));
            assert_eq!(server.capacity(), empty, "round {round}");
        }
        server.close_input();
        assert_eq!(server.rest(), Vec::<Value>::new(), "a cancelled request gets no reply");
    }
}

#[test]
fn what_many_cancelled_requests_got_is_all_rolled_back() {
    for transport in TRANSPORTS {
        // Half of the requests are cancelled in one burst, which the server reads in pieces of any size.
        let totals = ["--total-workers", "1000", "--total-cpu", "1000", "--total-memory", "10000000"];
        let mut server = Server::ready_on(transport, &totals);
        let ids: Vec<_> = (0..1000).map(|_| server.new_id()).collect();
        let lines = ids.iter().map(|id| {
            let request = call(*id, "request_resources", &one_worker());
            if id % 2 == 0 { format!("{request}\n{}\n", cancel(*id)) } else { request + "\n" }
        });
        server.write(lines.collect::<String>());
        let capacity = server.capacity();
        server.close_input();
        let answered = server.rest();
        // A request that was answered before its cancellation keeps its grant, since its client knows of it.
        let granted =
            answered.iter().filter(|reply| reply["result"]["structuredContent"]["status"] == "active").count();
        assert_eq!(granted, answered.len());
        assert!((500..1000).contains(&granted), "{granted}");
        check(&capacity, &json!({"allocated_workers": granted, "active_allocations": granted}));
        let answered_odd = answered.iter().filter(|reply| reply["id"].as_u64().is_some_and(|id| id % 2 == 1)).count();
        assert_eq!(answered_odd, 500, "those that were not cancelled are all answered");
    }
}

#[test]
fn a_request_that_is_answered_already_cannot_be_cancelled() {
    let mut server = Server::ready(&[]);
    let id = server.new_id();
    server.write_line(call(id, "request_resources", &one_worker()));
    server.reply(id);
    server.write_line(cancel(id));
    check(&server.capacity(), &json!({"allocated_workers": 1, "active_allocations": 1}));
}

#[test]
fn only_the_grant_is_rolled_back_and_not_what_a_cancelled_release_freed() {
    let mut server = Server::ready(&[]);
    let held = server.grant(&one_worker());
    let id = server.new_id();
    server.write_line([call(id, "release_resources", &json!({"allocation_id": held})), cancel(id)].join("\n"));
    // The release either took place or it did not: all answers agree.
    let holds = server.allocation(&held)["state"] == "active";
    check(&server.capacity(), &json!({"allocated_workers": u32::from(holds), "active_allocations": u32::from(holds)}));
}

#[test]
fn a_repeat_keeps_the_lease_when_the_first_call_is_cancelled() {
    let arguments = json!({"job_id": "a", "mcp_servers": [], "workers": 2, "request_id": "key"});
    for transport in TRANSPORTS {
        for cancels_last in [false, true] {
            let mut server = Server::ready_on(transport, &[]);
            let (first, second) = (server.new_id(), server.new_id());
            let ask = |id| call(id, "request_resources", &arguments);
            let lines = if cancels_last {
                [ask(first), ask(second), cancel(first)]
            } else {
                [ask(first), cancel(first), ask(second)]
            };
            server.write_line(lines.join("\n"));
            let granted = server.reply(second)["result"]["structuredContent"].clone();
            assert_eq!(granted["status"], "active", "{granted}");
            let id = granted["allocation_id"].as_str().expect("an id").to_owned();
            assert_eq!(server.allocation(&id)["state"], "active");
            assert_eq!(server.capacity()["allocated_workers"], 2);
        }
    }
}

#[test]
fn a_cancelled_call_does_not_use_its_key_up() {
    let mut server = Server::ready(&[]);
    let arguments = json!({"job_id": "a", "mcp_servers": [], "workers": 10, "request_id": "key"});
    let id = server.new_id();
    server.write_line([call(id, "request_resources", &arguments), cancel(id)].join("\n"));
    let granted = server.answer("request_resources", &arguments);
    assert_eq!(granted["status"], "active", "{granted}");
    assert_eq!(server.capacity()["allocated_workers"], 10);
}
