//! The plans of the planner, its policies and the demand forecasts of the real binary.

mod forecast;
mod policy;

use crate::support::{pattern::check, server::Server, wait_for};
use serde_json::{Value, json};

const OPTIONS: [&str; 6] = ["--toolsets", "all", "--min-workers", "2", "--max-workers", "40"];

/// The same for a process that serves a state, which has all tools by default.
const WORKERS: &[&str] = &["--min-workers", "2", "--max-workers", "40"];

fn plan(server: &mut Server, what_if: &Value) -> Value {
    server.answer("get_plan", what_if)
}

/// Returns the plan of the last sample.
fn shown(server: &mut Server) -> Value {
    let reply = server.ask("resources/read", &json!({"uri": "cluster://plan"}));
    let text = reply["result"]["contents"][0]["text"].as_str().unwrap_or_else(|| panic!("no plan: {reply}"));
    serde_json::from_str(text).expect("a text that is JSON")
}

/// Returns the values that do not depend on the time of reading.
fn timeless(mut plan: Value) -> Value {
    let fields = plan.as_object_mut().expect("an object");
    for key in ["planned_at", "window_seconds", "forecast", "granted_requests", "refused_requests"] {
        fields.remove(key).expect("a key of a plan");
    }
    let reasons = fields["reasons"].as_array_mut().expect("a list");
    reasons.retain(|reason| !reason.as_str().expect("a text").contains("the request rate"));
    plan
}

#[test]
fn a_plan_for_other_figures_changes_nothing() {
    let mut server = Server::ready(&OPTIONS);
    server.answer("register_agent", &json!({"agent_id": "a", "max_concurrent": 4}));
    let calm = plan(&mut server, &json!({}));
    check(
        &calm,
        &json!({
            "policy": "balanced", "current_agents": 1, "target_agents": 1, "pending_tasks": 0, "current_workers": 10
        }),
    );
    check(
        &plan(&mut server, &json!({"queue_depth": 91})),
        &json!({"pending_tasks": 91, "current_agents": 1, "target_agents": 4, "agent_utilization": 0.0}),
    );
    check(
        &plan(&mut server, &json!({"queue_depth": 91, "agents": 20})),
        &json!({"current_agents": 20, "target_agents": 23}),
    );
    check(
        &plan(&mut server, &json!({"agents": 20})),
        &json!({"current_agents": 20, "wanted_agents": 1, "target_agents": 10}),
    );
    check(
        &plan(&mut server, &json!({"rate_per_minute": 59})),
        &json!({"granted_requests": 59, "window_seconds": 60.0, "forecast": {"current_rate_per_minute": 59.0}}),
    );
    assert_eq!(timeless(plan(&mut server, &json!({}))), timeless(calm));
    check(&server.capacity(), &json!({"total_workers": 10}));
}

#[test]
fn the_planner_executes_the_plan_that_it_shows() {
    let mut server = Server::ready(&[OPTIONS.as_slice(), &["--plan-seconds", "1"]].concat());
    for job in 0..3 {
        server.grant(&json!({"job_id": format!("job-{job}"), "mcp_servers": [], "workers": 3}));
    }
    let shown_plan = plan(&mut server, &json!({}));
    check(&shown_plan, &json!({"action": "scale_up", "current_workers": 10, "target_workers": 13, "utilization": 0.9}));
    let done =
        wait_for("the planner to add workers", || Some(shown(&mut server)).filter(|plan| plan["action"] == "scale_up"));
    assert_eq!(timeless(done), timeless(shown_plan));
    check(&server.capacity(), &json!({"total_workers": 13}));
}

#[test]
fn arguments_are_named() {
    let mut server = Server::ready(&OPTIONS);
    for key in ["queue_depth", "rate_per_minute", "agents"] {
        for wrong in [json!(-1), json!("many"), json!(1.5), json!(1_000_000_001_u64), json!([])] {
            let error = server.error("get_plan", &json!({key: wrong}));
            assert!(error.contains(key) && error.contains("0 to 1000000000"), "{error}");
        }
    }
    assert!(server.error("get_plan", &json!({"queue": 1})).contains("queue"), "an unknown argument");
}
