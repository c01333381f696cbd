//! Pipelined calls: they take effect in the order of their sending.

use serde_json::{Value, json};

use crate::support::server::{Server, TRANSPORTS, call};

/// The number of calls with an effect, each followed by two that read it.
const ROUNDS: usize = 700;

/// The number of initial leases that are released meanwhile.
const HELD: usize = 100;

#[test]
fn two_thousand_calls_take_effect_in_the_order_sent() {
    for transport in TRANSPORTS {
        let totals = ["--total-workers", "5000", "--total-cpu", "5000", "--total-memory", "100000000"];
        let mut server = Server::ready_on(transport, &totals);
        let request = json!({"job_id": "a", "mcp_servers": [], "workers": 1});
        let mut held: Vec<_> = (0..HELD).map(|_| server.grant(&request)).collect();
        let mut live = HELD;
        let (mut lines, mut expected) = (String::new(), Vec::new());
        let mut add = |server: &mut Server, tool: &str, arguments: &Value, expect: (&'static str, Value)| {
            let id = server.new_id();
            lines += &call(id, tool, arguments);
            lines.push('\n');
            expected.push((id, expect));
        };
        for round in 0..ROUNDS {
            match held.pop() {
                Some(id) if round % 2 == 0 => {
                    live -= 1;
                    let by_id = json!({"allocation_id": id});
                    add(&mut server, "release_resources", &by_id, ("status", json!("released")));
                }
                spare => {
                    held.extend(spare);
                    live += 1;
                    add(&mut server, "request_resources", &request, ("status", json!("active")));
                }
            }
            add(&mut server, "get_capacity", &json!({}), ("allocated_workers", json!(live)));
            let filter = json!({"state": "active", "limit": 1});
            add(&mut server, "list_allocations", &filter, ("total", json!(live)));
        }
        assert!(expected.len() >= 2000);
        server.write(lines);
        for (number, (id, (key, value))) in expected.into_iter().enumerate() {
            let reply = server.reply(id);
            assert_eq!(reply["result"]["structuredContent"][key], value, "call {number} on {transport:?}: {reply}");
        }
    }
}
