//! A fleet: a coordinator and twelve agents share a queue of 500 tasks and a token budget that runs short.
//!
//! Run it with `cargo run --example fleet`. Some agents are slow, some fail occasionally, one stalls and reports too
//! late, and two crash. The example ends when every task has completed or failed. It exits with an error if the totals
//! of the tasks, the token budget and the agents do not agree.
#![expect(clippy::print_stdout, reason = "an example prints what it does")]

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod summary;
mod work;

use agent::{Agent, Behavior, Profile, Tally};
use anyhow::{Context, ensure};
use rmcp::{Peer, RoleClient};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use support::call;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// The seed of all random choices. Which agent claims which task still depends on timing.
const SEED: u64 = 20_261_122;

/// The total number of tasks.
const TASKS: u64 = 500;

/// The number of tasks that are submitted at the start. The others follow when a quarter of all tasks have ended, and
/// the server estimates their tokens from the ended ones.
const TASKS_AT_FIRST: u64 = 250;

/// The token budget at the start.
const BUDGET_AT_FIRST: u64 = 200_000;

/// The number of tokens that the coordinator adds when they run short.
const BUDGET_ADDED: u64 = 150_000;

/// The maximum number of bottlenecks that are printed at a time.
const BOTTLENECKS_MAX: usize = 3;

/// The interval at which the coordinator polls the server.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The time limit for the whole example.
const TIME_MAX: Duration = Duration::from_secs(120);

/// Prints events with the time since the start.
#[derive(Clone, Copy)]
struct Timeline(Instant);

impl Timeline {
    fn log(self, actor: &str, text: &str) {
        println!("{:6.2} s  {actor:12} {text}", self.0.elapsed().as_secs_f64());
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    timeout(TIME_MAX, run()).await.context("the tasks did not end in time")?
}

async fn run() -> anyhow::Result<()> {
    let budget = BUDGET_AT_FIRST.to_string();
    // The periods are short so that a lost agent is detected within seconds.
    let fleet =
        ["--toolsets", "all", "--heartbeat-seconds", "1", "--task-lease-seconds", "5", "--token-budget", &budget];
    let capacity = ["--total-workers", "12", "--total-cpu", "12"];
    let client = support::start(&[fleet.as_slice(), capacity.as_slice()].concat()).await?;
    let server = client.peer();
    let timeline = Timeline(Instant::now());

    let stop = CancellationToken::new();
    let mut agents = tokio::task::JoinSet::new();
    for (number, profile) in (0..).zip(profiles()) {
        let random = fastrand::Rng::with_seed(SEED + number);
        agents.spawn(Agent { profile, server: server.clone(), timeline, stop: stop.clone(), random }.run());
    }
    let raised = Coordinator::new(server, timeline).run().await?;
    stop.cancel();
    let mut tallies = Vec::new();
    while let Some(tally) = agents.join_next().await {
        tallies.push(tally??);
    }
    timeline.log("coordinator", "every task has ended, and every agent has left");
    ensure!(raised > 0, "the tokens never ran short");
    summary::check(server, &tallies, BUDGET_AT_FIRST + raised * BUDGET_ADDED).await?;

    client.cancel().await?;
    println!("\nThe totals of the tasks, the token budget and the agents agree.");
    Ok(())
}

/// Returns the twelve agents.
fn profiles() -> Vec<Profile> {
    let steady = |agent_id, agent_type, capabilities| Profile {
        agent_id,
        agent_type,
        capabilities,
        tasks_max: 2,
        pace: Duration::from_millis(100),
        failures_percent: 2,
        behavior: Behavior::Works,
    };
    let slow = Duration::from_millis(350);
    vec![
        steady("backend-1", "backend", &["rust", "review"]),
        steady("backend-2", "backend", &["rust"]),
        Profile { pace: slow, ..steady("backend-3", "backend", &["rust"]) },
        Profile { failures_percent: 35, ..steady("backend-4", "backend", &["rust"]) },
        Profile { behavior: Behavior::Crashes { at_task: 14 }, ..steady("backend-5", "backend", &["rust", "review"]) },
        Profile { tasks_max: 5, ..steady("frontend-1", "frontend", &["css", "review"]) },
        steady("frontend-2", "frontend", &["css"]),
        Profile { pace: slow, failures_percent: 15, ..steady("frontend-3", "frontend", &["css"]) },
        Profile {
            tasks_max: 3,
            behavior: Behavior::Crashes { at_task: 20 },
            ..steady("frontend-4", "frontend", &["css"])
        },
        steady("writer-1", "writer", &["review"]),
        Profile { failures_percent: 25, ..steady("writer-2", "writer", &[]) },
        Profile { behavior: Behavior::Stalls { at_task: 6 }, ..steady("writer-3", "writer", &[]) },
    ]
}

/// Submits the tasks, monitors the fleet, and raises the budget when it runs short.
struct Coordinator<'a> {
    server: &'a Peer<RoleClient>,
    timeline: Timeline,
    submitted: u64,
    raised: u64,
    /// The number of ended tasks when token conservation started; `None` while it is off.
    conserving_since: Option<u64>,
    /// The state of each agent at the last poll.
    agents: BTreeMap<String, String>,
    /// The number of ended tasks at the last poll, in hundreds.
    hundreds: u64,
}

impl<'a> Coordinator<'a> {
    const fn new(server: &'a Peer<RoleClient>, timeline: Timeline) -> Self {
        let agents = BTreeMap::new();
        Self { server, timeline, submitted: 0, raised: 0, conserving_since: None, agents, hundreds: 0 }
    }

    fn log(&self, text: &str) {
        self.timeline.log("coordinator", text);
    }

    /// Runs until every task has ended. Returns how often the budget was raised.
    async fn run(mut self) -> anyhow::Result<u64> {
        self.submit(TASKS_AT_FIRST).await?;
        loop {
            let usage = call(self.server, "get_resource_usage", json!({})).await?;
            let ended = self.count("completed").await? + self.count("failed").await?;
            self.check_tokens(&usage, ended).await?;
            self.check_agents().await?;
            if self.hundreds < ended / 100 {
                self.hundreds = ended / 100;
                let (waiting, running) = (&usage["queue"]["pending_tasks"], &usage["queue"]["running_tasks"]);
                self.log(&format!("{ended} tasks have ended, {waiting} wait, {running} run"));
            }
            if self.submitted < TASKS && ended >= TASKS / 4 {
                self.submit(TASKS).await?;
            }
            if ended == TASKS {
                return Ok(self.raised);
            }
            sleep(POLL_INTERVAL).await;
        }
    }

    /// Submits tasks until this many are submitted in total.
    async fn submit(&mut self, until: u64) -> anyhow::Result<()> {
        let (mut estimated, mut task) = (0, Value::Null);
        for number in self.submitted..until {
            task = work::task(number);
            let submitted = call(self.server, "submit_task", task.clone()).await?;
            ensure!(submitted["status"] == "submitted", "task {number} is {submitted}");
            estimated += figure(&submitted, "estimated_tokens");
        }
        // A repeated submission, for example after a lost answer, does not queue the task twice.
        let repeated = call(self.server, "submit_task", task).await?;
        ensure!(repeated["status"] == "already_submitted", "the repeated submission is {repeated}");
        let count = until - self.submitted;
        self.submitted = until;
        self.log(&format!("{count} tasks submitted, with an estimate of {estimated} tokens"));
        Ok(())
    }

    /// Reports when tokens run short, and raises the budget once the remaining tokens are too few for any deferred
    /// task.
    async fn check_tokens(&mut self, usage: &Value, ended: u64) -> anyhow::Result<()> {
        let (tokens, conservation) = (&usage["tokens"], &usage["conservation"]);
        let (total, overrun) = (figure(tokens, "total_budget"), figure(tokens, "overrun"));
        let used = figure(tokens, "consumed") + figure(tokens, "reserved");
        ensure!(used <= total + overrun, "more tokens are used than the budget has: {tokens}");
        if conservation["is_on"] != true {
            self.conserving_since = None;
            return Ok(());
        }
        let (active, deferred) = (figure(conservation, "active_tasks"), figure(conservation, "deferred_tasks"));
        if self.conserving_since.is_none() {
            self.conserving_since = Some(ended);
            self.log(&format!(
                "budget short: {used} of {total} tokens used, {deferred} tasks deferred, {active} continue"
            ));
        }
        if active > 0 || deferred == 0 {
            return Ok(());
        }
        let ended_since = ended - self.conserving_since.unwrap_or(ended);
        let remaining = figure(conservation, "remaining_tokens");
        self.log(&format!(
            "{ended_since} more ended; {remaining} remaining tokens are too few for any of {deferred} deferred tasks"
        ));
        let bottlenecks = call(self.server, "detect_bottlenecks", json!({})).await?;
        // The most severe bottlenecks come first.
        for bottleneck in bottlenecks["bottlenecks"].as_array().into_iter().flatten().take(BOTTLENECKS_MAX) {
            let part = |key: &str| bottleneck[key].as_str().unwrap_or_default();
            let affected =
                bottleneck["affected"][0].as_str().map(|affected| format!(" {affected}")).unwrap_or_default();
            let text = format!("{} {}{affected}: {}", part("severity"), part("bottleneck_type"), part("description"));
            self.timeline.log("", &text);
        }
        let budget = json!({"budget_tokens": total + BUDGET_ADDED});
        let set = call(self.server, "set_token_budget", budget).await?;
        self.raised += 1;
        let deferred = figure(&set["conservation"], "deferred_tasks");
        self.log(&format!("budget raised to {}, {deferred} tasks deferred", set["tokens"]["total_budget"]));
        Ok(())
    }

    /// Reports which agents registered, missed their heartbeats or were lost.
    async fn check_agents(&mut self) -> anyhow::Result<()> {
        let list = call(self.server, "list_agents", json!({})).await?;
        let mut seen = BTreeMap::new();
        for agent in list["agents"].as_array().into_iter().flatten() {
            let (id, state) =
                (agent["agent_id"].as_str().unwrap_or_default(), agent["state"].as_str().unwrap_or_default());
            let before = self.agents.get(id).map(String::as_str);
            if state == "unresponsive" && before != Some(state) {
                self.log(&format!("{id} misses its heartbeats; it holds {} tasks", agent["load"]["current_tasks"]));
            }
            seen.insert(id.to_owned(), state.to_owned());
        }
        if self.agents.is_empty() && !seen.is_empty() {
            self.log(&format!("{} agents registered", seen.len()));
        }
        for id in self.agents.keys().filter(|id| !seen.contains_key(*id)) {
            self.log(&format!("agent lost: {id}; its tasks are back in the queue"));
        }
        self.agents = seen;
        Ok(())
    }

    /// Returns the number of tasks in a state.
    async fn count(&self, state: &str) -> anyhow::Result<u64> {
        let list = call(self.server, "list_tasks", json!({"state": state, "limit": 1})).await?;
        Ok(figure(&list, "total"))
    }
}

/// Returns the integer at a key, or 0.
fn figure(answer: &Value, key: &str) -> u64 {
    answer[key].as_u64().unwrap_or_default()
}
