//! The tasks of the fleet.

use crate::SEED;
use chrono::{SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

/// One task in this many always fails.
const ALWAYS_FAILS_EVERY: u64 = 60;

/// One task in this many has a deadline.
const DEADLINE_EVERY: u64 = 12;

/// One task in this many belongs to a batch.
const BATCHED_EVERY: u64 = 10;

/// The number of tasks in a batch.
const BATCH_TASKS: u64 = 5;

/// Returns the task with this number. Only its deadline differs between runs.
pub(crate) fn task(number: u64) -> Value {
    let mut random = fastrand::Rng::with_seed(SEED ^ (number << 8));
    let agent_type = ["backend", "backend", "backend", "frontend", "frontend", "writer"][random.usize(0..6)];
    let priority = ["CRITICAL", "HIGH", "HIGH", "MEDIUM", "MEDIUM", "MEDIUM", "LOW", "LOW"][random.usize(0..8)];
    let complexity = ["simple", "simple", "medium", "medium", "complex"][random.usize(0..5)];
    let is_hopeless = number % ALWAYS_FAILS_EVERY == 7;
    let mut task = json!({
        "task_id": format!("task-{number:03}"), "job_id": format!("{agent_type}-work"), "agent_type": agent_type,
        "priority": priority, "complexity": complexity, "payload": {"number": number, "is_hopeless": is_hopeless},
        "max_attempts": if is_hopeless { 2 } else { 6 },
    });
    if number % 9 == 4 {
        // An agent of any type with the capability `review` can claim the task.
        task["agent_type"] = Value::Null;
        task["capabilities"] = json!(["review"]);
    }
    if number % BATCHED_EVERY == 3 {
        task["agent_type"] = Value::from("frontend");
        task["batch_key"] = Value::from(format!("page-{}", number / BATCHED_EVERY / BATCH_TASKS));
    }
    if number % DEADLINE_EVERY == 5 {
        let deadline = Utc::now() + TimeDelta::seconds(random.i64(2..10));
        task["deadline"] = Value::from(deadline.to_rfc3339_opts(SecondsFormat::Millis, true));
    }
    task
}
