//! The books at the end, and whether they balance.

use crate::support::call;
use crate::{TASKS, Tally, figure};
use anyhow::ensure;
use rmcp::{Peer, RoleClient};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// What all tasks say together, one read back after the other.
#[derive(Default)]
struct Sums {
    tasks: BTreeMap<String, u64>,
    attempts: BTreeMap<String, u64>,
    tokens: u64,
    deadlines: u64,
    deadlines_met: u64,
}

/// Prints the books and holds them against each other, and against what the agents say.
///
/// # Errors
/// If they do not balance.
pub(crate) async fn balance(server: &Peer<RoleClient>, tallies: &[Tally], budget: u64) -> anyhow::Result<()> {
    let mut sums = Sums::default();
    for id in ids(server).await? {
        sums.add(&call(server, "get_task", json!({"task_id": id})).await?)?;
    }
    let of = |sums: &BTreeMap<String, u64>, key: &str| sums.get(key).copied().unwrap_or_default();
    let (all, attempts): (u64, u64) = (sums.tasks.values().sum(), sums.attempts.values().sum());
    let completed = of(&sums.tasks, "completed");
    println!("\nThe books");
    println!("   tasks      {}: {all}", list(&sums.tasks));
    println!("   attempts   {}: {attempts}", list(&sums.attempts));
    println!("   deadlines  {} of {} met", sums.deadlines_met, sums.deadlines);
    ensure!(all == TASKS, "there are {all} tasks, and {TASKS} were submitted");
    ensure!(completed + of(&sums.tasks, "failed") == TASKS, "some tasks have not ended: {:?}", sums.tasks);
    ensure!(of(&sums.attempts, "success") == completed, "{completed} completed, and {:?}", sums.attempts);

    let tally = |part: fn(&Tally) -> u64| tallies.iter().map(part).sum::<u64>();
    let usage = call(server, "get_resource_usage", json!({})).await?;
    let tokens = &usage["tokens"];
    let (settled, reserved) = (figure(tokens, "consumed"), figure(tokens, "reserved"));
    let (remaining, overrun) = (figure(tokens, "remaining"), figure(tokens, "overrun"));
    println!(
        "   tokens     {budget} in all: {settled} settled, {reserved} reserved, {remaining} remaining; {overrun} overrun"
    );
    println!("              the attempts took {}, the agents reported {}", sums.tokens, tally(|tally| tally.tokens));
    ensure!(tokens["total_budget"] == budget, "the budget is {tokens}, and {budget} was set");
    ensure!(reserved == 0, "{reserved} tokens are reserved, and nothing runs");
    ensure!(settled == sums.tokens, "{settled} tokens are settled, and the attempts took {}", sums.tokens);
    ensure!(settled == tally(|tally| tally.tokens), "{settled} tokens are settled, and the agents told another sum");
    ensure!(settled <= budget + overrun, "{settled} tokens are settled of {budget}, with an overrun of {overrun}");
    ensure!(budget.saturating_sub(settled) == remaining, "{remaining} tokens remain of {budget} after {settled}");

    let died = tally(|tally| u64::from(tally.has_died));
    let (claimed, together) = (tally(|tally| tally.claimed), tally(|tally| tally.claimed_together));
    println!("   agents     {} worked, {died} of them died; {} left", tallies.len(), usage["agents"]["active_agents"]);
    println!("              they took {claimed} tasks, {together} of them together with others of a batch");
    println!("              late reports refused: {}", tally(|tally| tally.refused));
    ensure!(died == 2 && usage["agents"]["active_agents"] == 0, "{died} agents died, and there are {usage}");
    ensure!(tally(|tally| tally.completed) == completed, "{completed} completed, and the agents told another number");
    ensure!(claimed <= attempts, "{claimed} tasks were taken in {attempts} attempts");
    ensure!(of(&sums.attempts, "agent_lost") >= died, "the tasks of the dead did not come back: {:?}", sums.attempts);
    Ok(())
}

impl Sums {
    fn add(&mut self, task: &Value) -> anyhow::Result<()> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        *self.tasks.entry(text(&task["state"])).or_default() += 1;
        let mut successes = 0;
        for attempt in task["attempts"].as_array().into_iter().flatten() {
            successes += u64::from(attempt["outcome"] == "success");
            *self.attempts.entry(text(&attempt["outcome"])).or_default() += 1;
            self.tokens += figure(attempt, "tokens_used");
        }
        ensure!(successes <= 1, "completed twice: {task}");
        if let Some(deadline) = task["deadline"].as_str() {
            self.deadlines += 1;
            // Times are written alike, so that their order as text is their order in time.
            let is_met = task["state"] == "completed" && text(&task["timestamps"]["ended_at"]).as_str() <= deadline;
            self.deadlines_met += u64::from(is_met);
        }
        Ok(())
    }
}

/// The ids of all tasks, a page at a time.
async fn ids(server: &Peer<RoleClient>) -> anyhow::Result<Vec<Value>> {
    let (mut ids, mut cursor) = (Vec::new(), Value::Null);
    loop {
        let page = call(server, "list_tasks", json!({"cursor": cursor})).await?;
        ids.extend(page["tasks"].as_array().into_iter().flatten().map(|task| task["task_id"].clone()));
        match page.get("next_cursor") {
            Some(next) => cursor = next.clone(),
            None => return Ok(ids),
        }
    }
}

fn list(sums: &BTreeMap<String, u64>) -> String {
    sums.iter().map(|(key, sum)| format!("{sum} {key}")).collect::<Vec<_>>().join(", ")
}
