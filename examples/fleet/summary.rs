//! The summary at the end, and the check that the totals of the tasks, the token budget and the agents agree.

use crate::support::call;
use crate::{TASKS, Tally, figure};
use anyhow::ensure;
use rmcp::{Peer, RoleClient};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// The totals over all tasks, as the server returns them.
#[derive(Default)]
struct Totals {
    tasks: BTreeMap<String, u64>,
    attempts: BTreeMap<String, u64>,
    tokens: u64,
    deadlines: u64,
    deadlines_met: u64,
}

/// Prints the totals and compares them with each other and with the counts of the agents.
///
/// # Errors
/// The totals differ.
pub(crate) async fn check(server: &Peer<RoleClient>, tallies: &[Tally], budget: u64) -> anyhow::Result<()> {
    let mut totals = Totals::default();
    for id in ids(server).await? {
        totals.add(&call(server, "get_task", json!({"task_id": id})).await?)?;
    }
    let of = |counts: &BTreeMap<String, u64>, key: &str| counts.get(key).copied().unwrap_or_default();
    let (all, attempts): (u64, u64) = (totals.tasks.values().sum(), totals.attempts.values().sum());
    let completed = of(&totals.tasks, "completed");
    println!("\nSummary");
    println!("   tasks      {}: {all}", list(&totals.tasks));
    println!("   attempts   {}: {attempts}", list(&totals.attempts));
    println!("   deadlines  {} of {} met", totals.deadlines_met, totals.deadlines);
    ensure!(all == TASKS, "the server has {all} tasks, but {TASKS} were submitted");
    ensure!(completed + of(&totals.tasks, "failed") == TASKS, "some tasks have not ended: {:?}", totals.tasks);
    ensure!(
        of(&totals.attempts, "success") == completed,
        "{completed} tasks completed, but the attempts are {:?}",
        totals.attempts
    );

    let tally = |part: fn(&Tally) -> u64| tallies.iter().map(part).sum::<u64>();
    let usage = call(server, "get_resource_usage", json!({})).await?;
    let tokens = &usage["tokens"];
    let (settled, reserved) = (figure(tokens, "consumed"), figure(tokens, "reserved"));
    let (remaining, overrun) = (figure(tokens, "remaining"), figure(tokens, "overrun"));
    println!(
        "   tokens     {budget}: {settled} settled, {reserved} reserved, {remaining} remaining; {overrun} overrun"
    );
    println!("              the attempts used {}, the agents reported {}", totals.tokens, tally(|tally| tally.tokens));
    ensure!(tokens["total_budget"] == budget, "the budget is {tokens}, but {budget} was set");
    ensure!(reserved == 0, "{reserved} tokens are reserved, but no task runs");
    ensure!(settled == totals.tokens, "{settled} tokens are settled, but the attempts used {}", totals.tokens);
    ensure!(
        settled == tally(|tally| tally.tokens),
        "{settled} tokens are settled, but the agents reported another sum"
    );
    ensure!(settled <= budget + overrun, "{settled} tokens are settled of {budget}, with an overrun of {overrun}");
    ensure!(budget.saturating_sub(settled) == remaining, "{remaining} tokens remain of {budget} after {settled}");

    let crashed = tally(|tally| u64::from(tally.has_crashed));
    let (claimed, together) = (tally(|tally| tally.claimed), tally(|tally| tally.claimed_together));
    println!(
        "   agents     {} worked, {crashed} of them crashed; {} remain",
        tallies.len(),
        usage["agents"]["active_agents"]
    );
    println!("              they claimed {claimed} tasks, {together} of them in a batch with others");
    println!("              late reports refused: {}", tally(|tally| tally.refused));
    ensure!(
        crashed == 2 && usage["agents"]["active_agents"] == 0,
        "{crashed} agents crashed, and the usage is {usage}"
    );
    ensure!(
        tally(|tally| tally.completed) == completed,
        "{completed} tasks completed, but the agents reported another number"
    );
    ensure!(claimed <= attempts, "{claimed} tasks were claimed in {attempts} attempts");
    ensure!(
        of(&totals.attempts, "agent_lost") >= crashed,
        "the tasks of crashed agents did not return to the queue: {:?}",
        totals.attempts
    );
    Ok(())
}

impl Totals {
    fn add(&mut self, task: &Value) -> anyhow::Result<()> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        *self.tasks.entry(text(&task["state"])).or_default() += 1;
        let mut successes = 0;
        for attempt in task["attempts"].as_array().into_iter().flatten() {
            successes += u64::from(attempt["outcome"] == "success");
            *self.attempts.entry(text(&attempt["outcome"])).or_default() += 1;
            self.tokens += figure(attempt, "tokens_used");
        }
        ensure!(successes <= 1, "the task completed twice: {task}");
        if let Some(deadline) = task["deadline"].as_str() {
            self.deadlines += 1;
            // All timestamps have the same format, so text order is time order.
            let is_met = task["state"] == "completed" && text(&task["timestamps"]["ended_at"]).as_str() <= deadline;
            self.deadlines_met += u64::from(is_met);
        }
        Ok(())
    }
}

/// Returns the ids of all tasks, one page at a time.
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

/// Formats the number of each kind.
fn list(counts: &BTreeMap<String, u64>) -> String {
    counts.iter().map(|(key, count)| format!("{count} {key}")).collect::<Vec<_>>().join(", ")
}
