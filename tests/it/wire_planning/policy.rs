//! Scaling policies and what was scaled.

use super::{OPTIONS, WORKERS, plan};
use crate::support::durable::{ENDINGS, Ending, Home, Mode};
use crate::support::pattern::{TIME, check};
use crate::support::{server::Server, wait_for, wait_until};
use serde_json::{Value, json};

fn set(server: &mut Server, arguments: &Value) -> Value {
    server.answer("set_scaling_policy", arguments)
}

fn history(server: &mut Server) -> Value {
    server.answer("get_scaling_history", &json!({}))
}

#[test]
fn plans_follow_the_policy() {
    let mut server = Server::ready(&OPTIONS);
    let aims = |server: &mut Server| plan(server, &json!({"queue_depth": 60, "agents": 10}))["target_agents"].clone();
    check(
        &set(&mut server, &json!({"policy": "Aggressive"})),
        &json!({
            "status": "set",
            "policy": {"name": "aggressive", "scale_up_threshold": 20, "scale_down_threshold": 5,
                "agents_per_threshold": 15, "cooldown_ms": 10_000},
            "previous_policy": {"name": "balanced", "scale_up_threshold": 30, "scale_down_threshold": 10,
                "agents_per_threshold": 20, "cooldown_ms": 20_000, "wait_up_ms": 5_000, "wait_down_ms": 1_000,
                "utilization_up_percent": 80, "utilization_down_percent": 20, "utilization_target_percent": 70,
                "tolerance_percent": 10, "scale_in_window_seconds": 300},
        }),
    );
    assert_eq!(aims(&mut server), 12, "40 tasks over 20, one agent for 15");
    set(&mut server, &json!({"policy": "balanced"}));
    assert_eq!(aims(&mut server), 11, "30 tasks over 30, one agent for 20");
    set(&mut server, &json!({"policy": "conservative"}));
    assert_eq!(aims(&mut server), 11, "ten tasks over 50 are one agent at least");
    let custom = json!({"policy": "custom", "scale_up_threshold": 10, "agents_per_threshold": 10, "cooldown_ms": 0});
    check(
        &set(&mut server, &custom),
        &json!({"policy": {"name": "custom", "scale_up_threshold": 10, "scale_down_threshold": 10,
            "agents_per_threshold": 10, "cooldown_ms": 0, "wait_up_ms": 5_000}}),
    );
    assert_eq!(aims(&mut server), 15, "50 tasks over 10, one agent for 10");
    check(&plan(&mut server, &json!({})), &json!({"policy": "custom"}));
    check(&history(&mut server), &json!({"policy": {"name": "custom"}, "scalings": [], "count": 0, "total": 0}));
}

#[test]
fn scalings_are_recorded_with_their_reasons() {
    let mut server = Server::ready(&[OPTIONS.as_slice(), &["--plan-seconds", "1"]].concat());
    for job in 0..3 {
        server.grant(&json!({"job_id": format!("job-{job}"), "mcp_servers": [], "workers": 3}));
    }
    let history = wait_for("a scaling", || Some(history(&mut server)).filter(|history| history["count"] == 1));
    check(
        &history,
        &json!({"total": 1, "scalings": [{
            "scaled_at": TIME, "policy": "balanced", "from_workers": 10, "to_workers": 13, "from_agents": 0,
            "to_agents": 0,
        }]}),
    );
    let reason = history["scalings"][0]["reason"].as_str().expect("a text");
    assert!(reason.contains("90 % of the workers are leased, over 80 %"), "{reason}");
}

#[test]
fn a_backlog_is_planned_for_before_the_next_plan_is_due() {
    let mut server = Server::ready(&[OPTIONS.as_slice(), &["--plan-seconds", "3600"]].concat());
    for number in 0..40 {
        server.answer("submit_task", &json!({"task_id": format!("task-{number}")}));
    }
    let history = wait_for("a scaling", || Some(history(&mut server)).filter(|history| history["count"] == 1));
    check(&history["scalings"][0], &json!({"from_agents": 0, "from_workers": 10}));
    let asked_for = history["scalings"][0]["to_agents"].as_u64().expect("a number");
    assert!(asked_for >= 1, "{history}");
}

#[test]
fn policy_and_history_survive_a_restart() {
    for ending in ENDINGS {
        let home = Home::new();
        let mut server = home.server(Mode::Never, &[WORKERS, &["--plan-seconds", "1"]].concat());
        set(&mut server, &json!({"policy": "custom", "utilization_up_percent": 75}));
        server.grant(&json!({"job_id": "job", "mcp_servers": [], "workers": 9, "ttl_seconds": 3_600}));
        let before = wait_for("a scaling", || Some(history(&mut server)).filter(|history| history["count"] == 1));
        home.end(server, ending);
        let mut server = home.server(Mode::Never, &[WORKERS, &["--plan-seconds", "3600"]].concat());
        assert_eq!(history(&mut server), before, "{ending:?}");
        check(&plan(&mut server, &json!({})), &json!({"policy": "custom"}));
    }
}

#[test]
fn a_range_beside_the_number_of_the_state_is_moved_to() {
    for (total, range, within) in [("40", ["--max-workers", "20"], 20), ("6", ["--min-workers", "8"], 8)] {
        let home = Home::new();
        let server =
            home.server(Mode::Never, &["--total-workers", total, "--total-cpu", "64", "--total-memory", "131072"]);
        home.end(server, Ending::InOrder);
        let mut server = home.server(Mode::Never, &[range.as_slice(), &["--plan-seconds", "1"]].concat());
        wait_until("the number of workers", || {
            let planned = plan(&mut server, &json!({}));
            assert_eq!(planned["failed_steps"], json!([]), "{planned}");
            planned["current_workers"] == within
        });
    }
}

#[test]
fn arguments_are_named() {
    let mut server = Server::ready(&OPTIONS);
    let mut check_refused = |arguments: Value, said: &[&str]| {
        let error = server.error("set_scaling_policy", &arguments);
        for part in said {
            assert!(error.contains(part), "{arguments}: {error}");
        }
    };
    check_refused(json!({}), &["policy", "aggressive, balanced, conservative or custom"]);
    check_refused(json!({"policy": "bold"}), &["policy", "bold", "aggressive, balanced, conservative or custom"]);
    check_refused(json!({"policy": "balanced", "cooldown_ms": 1}), &["give custom as policy"]);
    let custom = |key: &str, value: Value| json!({"policy": "custom", key: value});
    check_refused(custom("agents_per_threshold", json!(0)), &["agents_per_threshold", "1 to 1000000000"]);
    check_refused(custom("utilization_target_percent", json!(0)), &["utilization_target_percent", "1 to 100"]);
    check_refused(custom("utilization_up_percent", json!(101)), &["utilization_up_percent", "1 to 100"]);
    check_refused(custom("tolerance_percent", json!("few")), &["tolerance_percent", "0 to 100"]);
    check_refused(custom("scale_in_window_seconds", json!(86_401)), &["scale_in_window_seconds", "0 to 86400"]);
    check_refused(
        custom("scale_down_threshold", json!(31)),
        &["scale_down_threshold is 31, above scale_up_threshold, which is 30", "of at most 30"],
    );
    check_refused(custom("wait_down_ms", json!(5_001)), &["wait_down_ms is 5001, above wait_up_ms, which is 5000"]);
    check_refused(custom("utilization_target_percent", json!(81)), &["utilization_target_percent is 81"]);
    check_refused(custom("utilization_down_percent", json!(71)), &["utilization_down_percent is 71"]);
    check_refused(custom("threshold", json!(1)), &["threshold"]);
    for limit in [json!(0), json!(257), json!("all")] {
        let error = server.error("get_scaling_history", &json!({"limit": limit}));
        assert!(error.contains("limit") && error.contains("1 to 256"), "{error}");
    }
    check(&history(&mut server), &json!({"policy": {"name": "balanced"}}));
}
