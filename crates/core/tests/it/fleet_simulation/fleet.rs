//! The fleet written in the most naive way, to compare the real one with: a list of agents and a list of tasks, and
//! everything else worked out anew from them at each question. The leases are those of their own reference. It shares the
//! types of commands and answers with the core, and none of its reasoning.

mod agents;
mod budgets;
mod leases;
mod questions;
mod tasks;
mod time;
mod worth;

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

/// A task on record.
#[derive(Clone, Debug)]
struct Entry {
    task: Task,
    /// Its place among the ends, once it has ended.
    end: Option<u64>,
}

/// What an attempt took that went well.
#[derive(Clone, Debug)]
struct Sample {
    agent_type: Option<AgentType>,
    complexity: Complexity,
    /// As the agent told them, if it did.
    tokens: Option<u64>,
    duration: Millis,
}

/// The books of the reference.
#[derive(Clone, Debug)]
pub(crate) struct Fleet {
    pub(crate) ledger: Ledger,
    settings: FleetSettings,
    /// In the order in which they registered.
    agents: Vec<Agent>,
    /// Open and on record, in the order in which they came.
    tasks: Vec<Entry>,
    submitted: u64,
    /// The moment of the last look.
    observed: Timestamp,
    ends: u64,
    budget: Budget,
    window: Millis,
    window_started_at: Timestamp,
    /// When something was first settled since the last refill.
    settled_at: Option<Timestamp>,
    job_budgets: Vec<JobBudget>,
    quota: Option<u64>,
    type_quotas: Vec<(AgentType, u64)>,
    /// In the order in which they were reported.
    samples: Vec<Sample>,
    /// The tokens of each attempt that was reported.
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
            observed: Timestamp::MIN,
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

    /// Takes a look at what a moment makes of things.
    pub(crate) fn observe(&mut self, now: Timestamp) {
        self.observed = now;
        self.ledger.observe(now);
    }

    /// Carries a command out. With `whole` false, a grant stays pending and a release stays unfinished. Where the machine
    /// has a choice, `decided` says how it chose: the events that the command led to there.
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
        self.let_go_of_agents_without_allocation(now);
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
            FleetCommand::Submit { request, draw } => self.submit(now, request, *draw, decided),
            FleetCommand::Claim { agent } => self.claim(now, agent),
            FleetCommand::Assign { task, draw: _ } => self.assign(now, task, decided),
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
            FleetCommand::PassTime { steps_max } => Ok(self.pass_time(now, *steps_max)),
        }
    }

    /// Forgets the tasks that ended first while there are more than may be kept, or they take more bytes than they may.
    fn trim(&mut self) {
        loop {
            let ended: Vec<&Entry> = self.tasks.iter().filter(|entry| entry.end.is_some()).collect();
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
