//! An agent: it claims tasks, says that it lives while it works on them, and reports how they went.

use crate::support::call;
use crate::{Timeline, figure};
use rmcp::{Peer, RoleClient};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::time::{Instant, interval, sleep_until};
use tokio_util::sync::CancellationToken;

/// What kind of agent it is.
pub(crate) struct Profile {
    pub(crate) agent_id: &'static str,
    pub(crate) agent_type: &'static str,
    pub(crate) capabilities: &'static [&'static str],
    pub(crate) tasks_max: u64,
    /// How long it takes for a thousand tokens.
    pub(crate) pace: Duration,
    pub(crate) failures_percent: u64,
    pub(crate) fate: Fate,
}

/// What becomes of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fate {
    Works,
    /// It ends without a word when it has been given so many tasks.
    Dies {
        at_task: u64,
    },
    /// It goes on with this one when its lease has run out, without a look at what it still holds.
    Stalls {
        at_task: u64,
    },
}

/// What an agent did, by its own account.
#[derive(Default)]
pub(crate) struct Tally {
    pub(crate) completed: u64,
    pub(crate) claimed: u64,
    /// How many tasks came together with another one.
    pub(crate) claimed_together: u64,
    /// The tokens of its reports that were taken.
    pub(crate) tokens: u64,
    /// How many reports were refused.
    pub(crate) refused: u64,
    pub(crate) has_died: bool,
}

pub(crate) struct Agent {
    pub(crate) profile: Profile,
    pub(crate) server: Peer<RoleClient>,
    pub(crate) timeline: Timeline,
    /// Ends the agent when it has nothing in its hands.
    pub(crate) stop: CancellationToken,
    pub(crate) random: fastrand::Rng,
}

impl Agent {
    /// Works until it is stopped, or its fate comes.
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
                if self.profile.fate == (Fate::Dies { at_task: tally.claimed }) {
                    self.tell(&format!("dies, with {} in its hands", task["task_id"]));
                    tally.has_died = true;
                    return Ok(tally);
                }
                self.work(task, beat_every, &mut tally).await?;
            }
        }
        call(&self.server, "unregister_agent", json!({"agent_id": agent_id})).await?;
        Ok(tally)
    }

    /// Works on a task and reports it.
    async fn work(&mut self, task: &Value, beat_every: Duration, tally: &mut Tally) -> anyhow::Result<()> {
        let agent_id = self.profile.agent_id;
        let tokens = figure(task, "estimated_tokens") * self.random.u64(60..=115) / 100;
        let is_stalling = self.profile.fate == (Fate::Stalls { at_task: tally.claimed });
        if is_stalling {
            self.tell(&format!("stalls on {}", task["task_id"]));
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
                // It was taken back: whoever has it now does it.
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
                self.tell(&format!("reports too late: {error}"));
            }
        }
        Ok(())
    }

    fn tell(&self, what: &str) {
        self.timeline.tell(self.profile.agent_id, what);
    }
}
