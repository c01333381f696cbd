//! Forecasts of demand, from a state with recorded demand.

use super::{OPTIONS, WORKERS, plan};
use crate::support::durable::{ENDINGS, Ending, Home, Mode};
use crate::support::pattern::{TIME, check};
use crate::support::{WAIT_MAX, server::Server, wait_for};
use cortex_core::demand::{DEMAND_BIN, DemandBin};
use cortex_core::event::{Event, Recorded};
use cortex_core::time::{Millis, Timestamp};
use cortex_journal::{Journal, JournalEntry, SqliteJournal, SqliteOptions, Synchronous};
use cortex_util::lock::{LOCK_WAIT_MAX, OwnerRecord};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

fn forecast(server: &mut Server) -> Value {
    server.answer("get_forecast", &json!({}))
}

fn series<'a>(forecast: &'a Value, name: &str) -> &'a Value {
    let series = forecast["series"].as_array().expect("a list");
    series.iter().find(|one| one["series"] == name).unwrap_or_else(|| panic!("no {name} in {forecast}"))
}

/// Writes this demand to a state, as if it had occurred in the last completed bins.
fn remember(state: &Path, bins: u64, demand: DemandBin) {
    let now = Timestamp::since_1970(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970"));
    let until = DemandBin::start_of(now);
    let entries = (1..=bins).rev().map(|ago| {
        let from = until.before(Millis(DEMAND_BIN.0 * ago));
        let bin = DemandBin { from, ..demand };
        JournalEntry {
            recorded: Recorded { at: bin.end().before(Millis(1)), event: Event::DemandCounted { bin } },
            job: None,
        }
    });
    let options = SqliteOptions {
        path: state.to_owned(),
        synchronous: Synchronous::Normal,
        keep_events: Duration::MAX,
        snapshot_events_min: 1_000_000,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let mut journal =
            SqliteJournal::open(options, &OwnerRecord::of_this_process(), LOCK_WAIT_MAX).expect("a state");
        let recovered = journal.load().await.expect("a good state");
        let mut cluster = recovered.cluster;
        let mut entries: Vec<JournalEntry> = entries.collect();
        entries.iter().for_each(|entry| cluster.apply(&entry.recorded));
        journal.append(&mut entries);
        journal.commit().await.expect("a journal that can be written to");
        journal.close(cluster, WAIT_MAX).await;
    });
}

#[test]
fn without_history_it_says_what_is_missing() {
    let mut server = Server::ready(&OPTIONS);
    let answer = forecast(&mut server);
    check(
        &answer,
        &json!({
            "bin_seconds": 300, "seen_until": null, "quantile": 0.9, "confidence_min": 0.7, "history_bins_min": 32
        }),
    );
    for name in ["requests", "task_submissions", "workers"] {
        check(
            series(&answer, name),
            &json!({
                "history_bins": 0, "is_trusted": false, "missing": "0 of 32 bins of 300 s were seen",
                "season_seconds": null
            }),
        );
    }
    let only = server.answer("get_forecast", &json!({"series": "Workers"}));
    assert_eq!(only["series"].as_array().map(Vec::len), Some(1));
    check(&only["series"][0], &json!({"series": "workers"}));
    let error = server.error("get_forecast", &json!({"series": "tokens"}));
    assert!(error.contains("series") && error.contains("requests, task_submissions or workers"), "{error}");
    let reasons = plan(&mut server, &json!({}))["reasons"].to_string();
    assert!(reasons.contains("no capacity plan for agents: 0 of 32 bins"), "{reasons}");
}

#[test]
fn a_state_that_has_seen_demand_forecasts_it_and_plans_for_it() {
    let home = Home::new();
    // The first start creates the state.
    let server = home.server(Mode::Never, WORKERS);
    home.end(server, Ending::InOrder);
    remember(
        home.state(),
        60,
        DemandBin {
            requests: 10,
            task_submissions: 100,
            workers_max: 30,
            ..DemandBin::empty(Timestamp::from_millis(0))
        },
    );
    let mut server = home.server(Mode::Never, WORKERS);
    let answer = wait_for("the planner to learn", || {
        Some(forecast(&mut server)).filter(|answer| !answer["seen_until"].is_null())
    });
    check(&answer, &json!({"seen_until": TIME}));
    let tasks = series(&answer, "task_submissions");
    check(tasks, &json!({"history_bins": 60, "is_trusted": true, "missing": null}));
    let nearest = &tasks["horizons"][0];
    check(nearest, &json!({"ahead_seconds": 300, "scored_bins": 28, "coverage": 1.0}));
    let wanted = nearest["wanted"].as_f64().expect("a number");
    assert!((wanted - 100.0).abs() < 1e-6, "{nearest}");
    let weights: f64 =
        nearest["forecasters"].as_array().expect("a list").iter().filter_map(|one| one["weight"].as_f64()).sum();
    assert!((weights - 1.0).abs() < 1e-9, "{nearest}");

    let resource = server.ask("resources/read", &json!({"uri": "cluster://forecast"}));
    let text = resource["result"]["contents"][0]["text"].as_str().expect("a text");
    assert_eq!(serde_json::from_str::<Value>(text).expect("JSON"), answer);

    // Thirty workers were needed concurrently, so the plan has that many, however idle the present is.
    let planned = plan(&mut server, &json!({}));
    check(
        &planned,
        &json!({"action": "scale_up", "current_workers": 10, "wanted_workers": 30, "target_workers": 16,
            "capacity_plan": {"workers": {"required_workers": 30, "is_trusted": true}, "agents": null}}),
    );
    let reasons = planned["reasons"].to_string();
    assert!(reasons.contains("the demand forecast requires 30 workers"), "{reasons}");
    assert!(reasons.contains("CPU and memory suffice for 16 workers"), "{reasons}");
    assert!(reasons.contains("no capacity plan for agents: no task has succeeded yet"), "{reasons}");

    // Task durations are known once a task has completed.
    server.answer("register_agent", &json!({"agent_id": "a"}));
    server.answer("submit_task", &json!({"task_id": "t"}));
    let claimed = server.answer("claim_task", &json!({"agent_id": "a"}));
    let token = claimed["tasks"][0]["fencing_token"].clone();
    server.answer(
        "complete_task",
        &json!({"task_id": "t", "agent_id": "a", "fencing_token": token, "result": "success", "duration_ms": 60_000}),
    );
    let planned = plan(&mut server, &json!({}));
    let agents = &planned["capacity_plan"]["agents"];
    check(agents, &json!({"avg_task_duration_ms": 60_000, "is_trusted": true, "required_agents": 10}));
    check(&planned, &json!({"current_agents": 1, "wanted_agents": 10, "target_agents": 5}));
}

#[test]
fn demand_survives_every_kind_of_end() {
    for ending in ENDINGS {
        let home = Home::new();
        let mut server = home.server(Mode::Never, &[WORKERS, &["--plan-seconds", "1"]].concat());
        server.grant(&json!({"job_id": "job", "mcp_servers": [], "workers": 4}));
        server.answer("request_resources", &json!({"job_id": "large", "mcp_servers": [], "workers": 50}));
        server.answer("submit_task", &json!({"task_id": "t"}));
        let counted = wait_for("the count", || {
            let counted: Vec<Value> = home
                .events(&[])
                .into_iter()
                .filter(|event| event["event"]["type"] == "demand_counted")
                .map(|event| event["event"]["bin"].clone())
                .collect();
            let sum = |key: &str| counted.iter().filter_map(|bin| bin[key].as_u64()).sum::<u64>();
            (sum("task_submissions") == 1).then_some(counted)
        });
        let sum = |key: &str| counted.iter().filter_map(|bin| bin[key].as_u64()).sum::<u64>();
        assert_eq!((sum("requests"), sum("refused")), (2, 1), "{counted:?}");
        assert_eq!(counted.iter().filter_map(|bin| bin["workers_max"].as_u64()).max(), Some(54), "{counted:?}");
        home.end(server, ending);
        drop(home.server(Mode::Never, WORKERS));
        home.printed("verify", &[]);
    }
}
