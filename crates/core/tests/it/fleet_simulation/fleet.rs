//! A naive reference model of the fleet: a list of agents and a list of tasks, from which everything else is computed
//! on each query. Leases are those of the lease model. The model shares the types of commands and outcomes with the
//! core, but no code.

mod agents;
mod budgets;
mod efficiency;
mod leases;
mod queries;
mod tasks;
mod time;

use agents::Agent;
use budgets::{Budget, JobBudget};
use cortex_core::command::{Command, Denied, Outcome};
use cortex_core::event::Event;
use cortex_core::fleet::command::{FleetCommand, FleetOutcome};
use cortex_core::fleet::settings::FleetSettings;
use cortex_core::fleet::task::{Complexity, Task};
use cortex_core::ids::AgentType;
use cortex_core::time::{Millis, Timestamp};
use cortex_test_support::model::Model as Ledger;

#[derive(Clone, Debug)]
struct TaskEntry {
    task: Task,
    /// Its position in the order in which tasks ended, once it has ended.
    end: Option<u64>,
}

/// A successful attempt.
#[derive(Clone, Debug)]
struct Sample {
    agent_type: Option<AgentType>,
    complexity: Complexity,
    /// The tokens, if the agent reported them.
    tokens: Option<u64>,
    duration: Millis,
}

/// The state of the model.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    pub(crate) ledger: Ledger,
    settings: FleetSettings,
    /// In the order of registration.
    agents: Vec<Agent>,
    /// Open and ended tasks, in the order of submission.
    tasks: Vec<TaskEntry>,
    submitted: u64,
    /// The time of the last `observe`.
    observed_at: Timestamp,
    ends: u64,
    budget: Budget,
    window: Millis,
    window_started_at: Timestamp,
    /// When tokens were first settled since the last refill.
    settled_at: Option<Timestamp>,
    job_budgets: Vec<JobBudget>,
    quota: Option<u64>,
    type_quotas: Vec<(AgentType, u64)>,
    /// In the order of the reports.
    samples: Vec<Sample>,
    /// The tokens of each reported attempt.
    reported_tokens: Vec<u64>,
}

impl Fleet {
    pub(crate) fn new() -> Self {
        Self {
            ledger: Ledger::default(),
            settings: FleetSettings::default(),
            agents: Vec::new(),
            tasks: Vec::new(),
            submitted: 0,
            observed_at: Timestamp::MIN,
            ends: 0,
            budget: Budget::of(0),
            window: Millis(0),
            window_started_at: Timestamp::from_millis(0),
            settled_at: None,
            job_budgets: Vec::new(),
            quota: None,
            type_quotas: Vec::new(),
            samples: Vec::new(),
            reported_tokens: Vec::new(),
        }
    }

    /// Sets the time for which effective priorities are computed.
    pub(crate) fn observe(&mut self, now: Timestamp) {
        self.observed_at = now;
        self.ledger.observe(now);
    }

    /// Executes a command. With `whole` false, a grant stays pending and a release stays incomplete. Where several
    /// decisions are correct, `decided` holds the events that the core decided on.
    pub(crate) fn command(
        &mut self,
        now: Timestamp,
        command: &Command,
        whole: bool,
        decided: &[Event],
    ) -> Result<Outcome, Denied> {
        let outcome = match command {
            Command::Fleet(command) => self.fleet_command(now, command, decided).map(Outcome::Fleet),
            Command::TrimHistory { older_than } => {
                let limit = now.before(*older_than);
                self.tasks.retain(|entry| entry.task.end().is_none_or(|end| end.at >= limit));
                self.ledger.command(now, command, whole)
            }
            _ => self.ledger.command(now, command, whole),
        };
        self.remove_agents_without_allocation(now);
        self.trim();
        outcome
    }

    fn fleet_command(
        &mut self,
        now: Timestamp,
        command: &FleetCommand,
        decided: &[Event],
    ) -> Result<FleetOutcome, Denied> {
        match command {
            FleetCommand::SetSettings(settings) => {
                self.settings = *settings;
                Ok(FleetOutcome::Done)
            }
            FleetCommand::Register { request, worker_size } => self.register(now, request, *worker_size),
            FleetCommand::Unregister { agent } => self.unregister(now, agent),
            FleetCommand::Submit { request, random } => self.submit(now, request, *random, decided),
            FleetCommand::Claim { agent } => self.claim(now, agent),
            FleetCommand::Assign { task, random: _ } => self.assign(now, task, decided),
            FleetCommand::Return { task, fencing_token } => self.return_task(task, *fencing_token),
            FleetCommand::Complete { task, agent, fencing_token, report } => {
                self.complete(now, task, agent, *fencing_token, report)
            }
            FleetCommand::Cancel { task } => self.cancel(now, task),
            FleetCommand::Update { task, priority, deadline } => self.update(now, task, *priority, *deadline, decided),
            FleetCommand::SetTokenBudget { job: None, tokens, window } => self.set_budget(now, *tokens, *window),
            FleetCommand::SetTokenBudget { job: Some(job), tokens, window: _ } => {
                self.set_job_budget(now, job, *tokens)
            }
            FleetCommand::SetAgentQuota { agent_type, agents } => {
                self.set_quota(agent_type.as_ref(), *agents);
                Ok(FleetOutcome::Done)
            }
            FleetCommand::AdvanceTime { steps_max } => Ok(self.advance_time(now, *steps_max)),
        }
    }

    /// Removes the oldest records while their number or bytes exceed the limits.
    fn trim(&mut self) {
        loop {
            let ended: Vec<&TaskEntry> = self.tasks.iter().filter(|entry| entry.end.is_some()).collect();
            let bytes: u64 = ended.iter().map(|entry| tasks::bytes(&entry.task)).sum();
            let are_too_many = ended.len() > 1 && ended.len() as u64 > self.ledger.limits().history_records_max;
            if !are_too_many && bytes <= self.settings.ended_task_bytes_max {
                return;
            }
            let oldest = ended.iter().filter_map(|entry| entry.end).min();
            self.tasks.retain(|entry| entry.end.is_none() || entry.end != oldest);
        }
    }
}
