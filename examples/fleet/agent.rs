//! An agent: it claims tasks, sends heartbeats while it works on them, and reports the results.

use crate::support::call;
use crate::{Timeline, figure};
use rmcp::{Peer, RoleClient};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, interval, sleep_until};
use tokio_util::sync::CancellationToken;

/// The properties of an agent.
pub(crate) struct Profile {
    pub(crate) agent_id: &'static str,
    pub(crate) agent_type: &'static str,
    pub(crate) capabilities: &'static [&'static str],
    pub(crate) tasks_max: u64,
    /// The time per thousand tokens.
    pub(crate) pace: Duration,
    pub(crate) failures_percent: u64,
    pub(crate) behavior: Behavior,
}

/// The planned behavior of an agent.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behavior {
    /// Works until it is stopped.
    Works,
    /// Crashes when it receives this task, counted from 1.
    Crashes { at_task: u64 },
    /// Stops working on this task until its lease has expired, and then reports it anyway.
    Stalls { at_task: u64 },
}

/// The work of an agent, as counted by the agent.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) completed: u64,
    pub(crate) claimed: u64,
    /// The number of tasks that were claimed in a batch with others.
    pub(crate) claimed_together: u64,
    /// The number of tokens in accepted reports.
    pub(crate) tokens: u64,
    /// The number of refused reports.
    pub(crate) refused: u64,
    pub(crate) has_crashed: bool,
}

pub(crate) struct Agent {
    pub(crate) profile: Profile,
    pub(crate) server: Peer<RoleClient>,
    pub(crate) timeline: Timeline,
    /// Stops the agent once it holds no task.
    pub(crate) stop: CancellationToken,
    pub(crate) random: fastrand::Rng,
}

impl Agent {
    /// Works until the agent is stopped or crashes.
    pub(crate) async fn run(mut self) -> anyhow::Result<Tally> {
        let mut tally = Tally::default();
        let Profile { agent_id, agent_type, capabilities, tasks_max, .. } = self.profile;
        let registration = json!({"agent_id": agent_id, "agent_type": agent_type, "capabilities": capabilities,
            "max_concurrent": tasks_max});
        let registered = call(&self.server, "register_agent", registration).await?;
        let beat_every = Duration::from_secs(figure(&registered, "heartbeat_seconds"));
        while !self.stop.is_cancelled() {
            let claim = call(&self.server, "claim_task", json!({"agent_id": agent_id, "wait_seconds": 1})).await?;
            let tasks = claim["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
            tally.claimed_together += if tasks.len() > 1 { tasks.len() as u64 } else { 0 };
            for task in tasks {
                tally.claimed += 1;
                if self.profile.behavior == (Behavior::Crashes { at_task: tally.claimed }) {
                    self.log(&format!("crashes while it holds {}", task["task_id"]));
                    tally.has_crashed = true;
                    return Ok(tally);
                }
                self.work(task, beat_every, &mut tally).await?;
            }
        }
        call(&self.server, "unregister_agent", json!({"agent_id": agent_id})).await?;
        Ok(tally)
    }

    /// Works on a task and reports the result.
    async fn work(&mut self, task: &Value, beat_every: Duration, tally: &mut Tally) -> anyhow::Result<()> {
        let agent_id = self.profile.agent_id;
        let tokens = figure(task, "estimated_tokens") * self.random.u64(60..=115) / 100;
        let is_stalling = self.profile.behavior == (Behavior::Stalls { at_task: tally.claimed });
        if is_stalling {
            self.log(&format!("stalls on {}", task["task_id"]));
        }
        let done_at = Instant::now() + self.profile.pace.mul_f64(tokens as f64 / 1_000.0);
        let mut beats = interval(beat_every);
        loop {
            let is_done = tokio::select! {
                () = sleep_until(done_at), if !is_stalling => true,
                _ = beats.tick() => false,
            };
            if is_done {
                break;
            }
            let beat = call(&self.server, "heartbeat_agent", json!({"agent_id": agent_id})).await?;
            let mut held = beat["tasks"].as_array().into_iter().flatten();
            if !held.any(|held| held["fencing_token"] == task["fencing_token"]) {
                if is_stalling {
                    break;
                }
                // The task was reclaimed, and another agent does it.
                return Ok(());
            }
        }
        let mut report = json!({"task_id": task["task_id"], "agent_id": agent_id,
            "fencing_token": task["fencing_token"], "tokens_used": tokens, "result": "success", "output": "done"});
        if task["payload"]["is_hopeless"] == true || self.random.u64(0..100) < self.profile.failures_percent {
            let result = if self.random.u64(0..4) == 0 { "timeout" } else { "failure" };
            report["result"] = Value::from(result);
            report["error"] = Value::from("the tests are red");
        }
        match call(&self.server, "complete_task", report).await {
            Ok(answer) => {
                tally.tokens += tokens;
                tally.completed += u64::from(answer["status"] == "completed");
            }
            Err(error) => {
                tally.refused += 1;
                self.log(&format!("reports too late: {error}"));
            }
        }
        Ok(())
    }

    fn log(&self, text: &str) {
        self.timeline.log(self.profile.agent_id, text);
    }
}
