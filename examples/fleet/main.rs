//! A fleet at work: a coordinator and twelve agents share a queue of 500 tasks and a token budget that runs short.
//!
//! Run it with `cargo run --example fleet`. Some agents are slow, some fail at times, one stalls and reports too late, and two
//! die midway. It ends when every task is completed or failed, and fails if the books do not balance.
#![expect(clippy::print_stdout, reason = "an example tells what it does")]

#[path = "../support/mod.rs"]
mod support;

mod agent;
mod books;
mod work;

use agent::{Agent, Fate, Profile, Tally};
use anyhow::{Context, ensure};
use rmcp::{Peer, RoleClient};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use support::call;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// What chance there is comes from here. Who takes which task still depends on who is faster.
const SEED: u64 = 20_261_122;

/// How many tasks there are in all.
const TASKS: u64 = 500;

/// How many of them are there from the start; the others come when a quarter of all is done, and are estimated by what those took.
const TASKS_AT_FIRST: u64 = 250;

/// How many tokens there are at first, and how many the coordinator adds when they run short.
const BUDGET_AT_FIRST: u64 = 200_000;
const BUDGET_ADDED: u64 = 150_000;

/// How many bottlenecks are told of at a time.
const BOTTLENECKS_TOLD: usize = 3;

/// How often the coordinator looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How long all of it may take before something must be wrong.
const TIME_MAX: Duration = Duration::from_secs(120);

/// When things happened, from the start on.
#[derive(Clone, Copy)]
struct Timeline(Instant);

impl Timeline {
    fn tell(self, who: &str, what: &str) {
        println!("{:6.2} s  {who:12} {what}", self.0.elapsed().as_secs_f64());
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    timeout(TIME_MAX, work_off()).await.context("the tasks were not done in time")?
}

async fn work_off() -> anyhow::Result<()> {
    let budget = BUDGET_AT_FIRST.to_string();
    // Short periods, so that a lost agent shows within seconds.
    let fleet =
        ["--toolsets", "all", "--heartbeat-seconds", "1", "--task-lease-seconds", "5", "--token-budget", &budget];
    let room = ["--total-workers", "12", "--total-cpu", "12"];
    let client = support::start(&[fleet.as_slice(), room.as_slice()].concat()).await?;
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
    timeline.tell("coordinator", "every task has ended, and every agent has left");
    ensure!(raised > 0, "the tokens never ran short");
    books::balance(server, &tallies, BUDGET_AT_FIRST + raised * BUDGET_ADDED).await?;

    client.cancel().await?;
    println!("\nThe books balance.");
    Ok(())
}

/// The twelve agents.
fn profiles() -> Vec<Profile> {
    let steady = |agent_id, agent_type, capabilities| Profile {
        agent_id,
        agent_type,
        capabilities,
        tasks_max: 2,
        pace: Duration::from_millis(100),
        failures_percent: 2,
        fate: Fate::Works,
    };
    let slow = Duration::from_millis(350);
    vec![
        steady("backend-1", "backend", &["rust", "review"]),
        steady("backend-2", "backend", &["rust"]),
        Profile { pace: slow, ..steady("backend-3", "backend", &["rust"]) },
        Profile { failures_percent: 35, ..steady("backend-4", "backend", &["rust"]) },
        Profile { fate: Fate::Dies { at_task: 14 }, ..steady("backend-5", "backend", &["rust", "review"]) },
        Profile { tasks_max: 5, ..steady("frontend-1", "frontend", &["css", "review"]) },
        steady("frontend-2", "frontend", &["css"]),
        Profile { pace: slow, failures_percent: 15, ..steady("frontend-3", "frontend", &["css"]) },
        Profile { tasks_max: 3, fate: Fate::Dies { at_task: 20 }, ..steady("frontend-4", "frontend", &["css"]) },
        steady("writer-1", "writer", &["review"]),
        Profile { failures_percent: 25, ..steady("writer-2", "writer", &[]) },
        Profile { fate: Fate::Stalls { at_task: 6 }, ..steady("writer-3", "writer", &[]) },
    ]
}

/// Submits the tasks, watches, and raises the budget when it runs short.
struct Coordinator<'a> {
    server: &'a Peer<RoleClient>,
    timeline: Timeline,
    submitted: u64,
    raised: u64,
    /// How many tasks had ended when tokens began to be saved, while they are.
    saving_since: Option<u64>,
    /// How each agent stood at the last look.
    agents: BTreeMap<String, String>,
    /// How many hundreds of tasks had ended then.
    hundreds: u64,
}

impl<'a> Coordinator<'a> {
    const fn new(server: &'a Peer<RoleClient>, timeline: Timeline) -> Self {
        let agents = BTreeMap::new();
        Self { server, timeline, submitted: 0, raised: 0, saving_since: None, agents, hundreds: 0 }
    }

    fn tell(&self, what: &str) {
        self.timeline.tell("coordinator", what);
    }

    /// Until every task has ended. Says how often the budget was raised.
    async fn run(mut self) -> anyhow::Result<u64> {
        self.submit(TASKS_AT_FIRST).await?;
        loop {
            let usage = call(self.server, "get_resource_usage", json!({})).await?;
            let ended = self.count("completed").await? + self.count("failed").await?;
            self.watch_tokens(&usage, ended).await?;
            self.watch_agents().await?;
            if self.hundreds < ended / 100 {
                self.hundreds = ended / 100;
                let (waiting, running) = (&usage["queue"]["pending_tasks"], &usage["queue"]["running_tasks"]);
                self.tell(&format!("{ended} tasks have ended, {waiting} wait, {running} run"));
            }
            if self.submitted < TASKS && ended >= TASKS / 4 {
                self.submit(TASKS).await?;
            }
            if ended == TASKS {
                return Ok(self.raised);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Submits tasks until there are so many.
    async fn submit(&mut self, until: u64) -> anyhow::Result<()> {
        let (mut estimated, mut task) = (0, Value::Null);
        for number in self.submitted..until {
            task = work::task(number);
            let submitted = call(self.server, "submit_task", task.clone()).await?;
            ensure!(submitted["status"] == "submitted", "task {number} is {submitted}");
            estimated += figure(&submitted, "estimated_tokens");
        }
        // A repeat, such as after a lost answer, queues nothing twice.
        let again = call(self.server, "submit_task", task).await?;
        ensure!(again["status"] == "already_submitted", "the repeat is {again}");
        let count = until - self.submitted;
        self.submitted = until;
        self.tell(&format!("{count} tasks submitted, which should take {estimated} tokens"));
        Ok(())
    }

    /// Tells when tokens run short, and gets more once none of those that are left help any task that waits.
    async fn watch_tokens(&mut self, usage: &Value, ended: u64) -> anyhow::Result<()> {
        let (tokens, conservation) = (&usage["tokens"], &usage["conservation"]);
        let (total, overrun) = (figure(tokens, "total_budget"), figure(tokens, "overrun"));
        let taken = figure(tokens, "consumed") + figure(tokens, "reserved");
        ensure!(taken <= total + overrun, "more is taken than there is: {tokens}");
        if conservation["is_on"] != true {
            self.saving_since = None;
            return Ok(());
        }
        let (active, deferred) = (figure(conservation, "active_tasks"), figure(conservation, "deferred_tasks"));
        if self.saving_since.is_none() {
            self.saving_since = Some(ended);
            self.tell(&format!(
                "budget short: {taken} of {total} tokens taken, {deferred} tasks deferred, {active} go on"
            ));
        }
        if active > 0 || deferred == 0 {
            return Ok(());
        }
        let saved = ended - self.saving_since.unwrap_or(ended);
        let remaining = figure(conservation, "remaining_tokens");
        self.tell(&format!(
            "{saved} more ended meanwhile; {remaining} tokens are left, too few for any of {deferred} deferred"
        ));
        let bottlenecks = call(self.server, "detect_bottlenecks", json!({})).await?;
        // The most severe come first.
        for bottleneck in bottlenecks["bottlenecks"].as_array().into_iter().flatten().take(BOTTLENECKS_TOLD) {
            let part = |key: &str| bottleneck[key].as_str().unwrap_or_default();
            let whom = bottleneck["affected"][0].as_str().map(|whom| format!(" {whom}")).unwrap_or_default();
            let what = format!("{} {}{whom}: {}", part("severity"), part("bottleneck_type"), part("description"));
            self.timeline.tell("", &what);
        }
        let budget = json!({"budget_tokens": total + BUDGET_ADDED});
        let set = call(self.server, "set_token_budget", budget).await?;
        self.raised += 1;
        let deferred = figure(&set["conservation"], "deferred_tasks");
        self.tell(&format!("budget raised to {}, {deferred} tasks deferred", set["tokens"]["total_budget"]));
        Ok(())
    }

    /// Tells which agents came, fell silent and were lost.
    async fn watch_agents(&mut self) -> anyhow::Result<()> {
        let list = call(self.server, "list_agents", json!({})).await?;
        let mut seen = BTreeMap::new();
        for agent in list["agents"].as_array().into_iter().flatten() {
            let (id, state) =
                (agent["agent_id"].as_str().unwrap_or_default(), agent["state"].as_str().unwrap_or_default());
            let before = self.agents.get(id).map(String::as_str);
            if state == "unresponsive" && before != Some(state) {
                self.tell(&format!(
                    "{id} misses its heartbeats; tasks in its hands: {}",
                    agent["load"]["current_tasks"]
                ));
            }
            seen.insert(id.to_owned(), state.to_owned());
        }
        if self.agents.is_empty() && !seen.is_empty() {
            self.tell(&format!("{} agents registered", seen.len()));
        }
        for id in self.agents.keys().filter(|id| !seen.contains_key(*id)) {
            self.tell(&format!("agent lost: {id}; its tasks are back in the queue"));
        }
        self.agents = seen;
        Ok(())
    }

    /// How many tasks are in this state.
    async fn count(&self, state: &str) -> anyhow::Result<u64> {
        let list = call(self.server, "list_tasks", json!({"state": state, "limit": 1})).await?;
        Ok(figure(&list, "total"))
    }
}

/// The whole number at a key, or 0.
fn figure(answer: &Value, key: &str) -> u64 {
    answer[key].as_u64().unwrap_or_default()
}
