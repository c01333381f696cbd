//! Books of a fleet that are asked one thing after another; after each, what must hold is checked.

use cortex_core::allocation::Metadata;
use cortex_core::command::{Command, Decision, Denied, Outcome};
use cortex_core::event::{Event, Recorded};
use cortex_core::fleet::agent::{AgentRequest, Capabilities};
use cortex_core::fleet::command::{FleetCommand, FleetOutcome, Report, ReportedResult};
use cortex_core::fleet::task::{Selector, TaskRequest, TokensExpected};
use cortex_core::fleet::view::TaskView;
use cortex_core::ids::{AgentId, AgentType, BatchKey, FencingToken, JobId, NodeId, TaskId};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, Timestamp, TtlSeconds};
use cortex_core::units::{CpuMillis, MemoryMb, Resources, WorkerSize};
use cortex_core::{Cluster, check};

/// What a worker takes.
pub(crate) const SIZE: WorkerSize = WorkerSize { cpu_millis: CpuMillis::from_millis(1_000), memory_mb: MemoryMb(1) };

/// The books, and what time it is.
pub(crate) struct Books {
    pub(crate) cluster: Cluster,
    pub(crate) now: Timestamp,
}

impl Books {
    /// Books of a node with so many workers.
    pub(crate) fn new(workers: u64) -> Self {
        let mut books = Self { cluster: Cluster::default(), now: Timestamp::from_millis(1_767_225_600_000) };
        let capacity =
            Resources { cpu_millis: CpuMillis::from_millis(1_000 * workers), memory_mb: MemoryMb(workers), workers };
        let set = Command::SetCapacity { node: NodeId::local(), capacity };
        books.carry_out(&set).expect("a capacity can be set");
        books
    }

    /// Carries a command out, with its events in their written form.
    pub(crate) fn carry_out(&mut self, command: &Command) -> Result<Outcome, Denied> {
        self.cluster.observe(self.now);
        let Decision { events, outcome } = self.cluster.decide(self.now, command)?;
        for event in events {
            self.apply(event);
        }
        assert_eq!(check::violations(&self.cluster), [""; 0], "after {command:?}");
        Ok(outcome)
    }

    /// Applies an event, whether or not it follows from anything.
    pub(crate) fn apply(&mut self, event: Event) {
        let line = serde_json::to_string(&Recorded { at: self.now, event }).expect("an event has a text");
        self.cluster.apply(&serde_json::from_str(&line).expect("an event that can be read"));
    }

    pub(crate) fn ask(&mut self, command: FleetCommand) -> Result<FleetOutcome, Denied> {
        match self.carry_out(&Command::Fleet(command))? {
            Outcome::Fleet(outcome) => Ok(outcome),
            other => panic!("{other:?} is no answer of the fleet"),
        }
    }

    /// Lets time go on, with nobody silent.
    pub(crate) fn wait(&mut self, ms: u64) {
        self.now = self.now.after(Millis(ms));
        self.cluster.presume_alive(self.now);
    }

    pub(crate) fn register(&mut self, name: &str, tasks_max: u32) -> Result<FleetOutcome, Denied> {
        let request = Box::new(agent(name, "backend", tasks_max));
        self.ask(FleetCommand::Register { request, worker_size: SIZE })
    }

    pub(crate) fn submit(&mut self, request: TaskRequest) -> TaskId {
        let request = Box::new(request);
        match self.ask(FleetCommand::Submit { request, draw: 0 }) {
            Ok(FleetOutcome::Submitted { task, .. }) => task,
            other => panic!("a task was not taken: {other:?}"),
        }
    }

    /// What an agent is given.
    pub(crate) fn claim(&mut self, name: &str) -> Vec<TaskId> {
        match self.ask(FleetCommand::Claim { agent: agent_id(name) }) {
            Ok(FleetOutcome::Leased { tasks, .. }) => tasks,
            Ok(FleetOutcome::Nothing(_)) => Vec::new(),
            other => panic!("a claim was refused: {other:?}"),
        }
    }

    /// Lets whoever holds a task report on it.
    pub(crate) fn complete(&mut self, task: &TaskId, report: Report) -> FleetOutcome {
        let (agent, fencing_token) = self.hold(task).expect("a task that is held");
        let complete = FleetCommand::Complete { task: task.clone(), agent, fencing_token, report: Box::new(report) };
        self.ask(complete).expect("a report that is taken")
    }

    pub(crate) fn set_budget(&mut self, tokens: u64) {
        let set = FleetCommand::SetTokenBudget { job: None, tokens: Some(tokens), window: None };
        self.ask(set).expect("a budget that can be set");
    }

    pub(crate) fn task(&self, task: &TaskId) -> TaskView {
        self.cluster.task(self.now, task).expect("a task on record")
    }

    /// Who holds a task, and under which token.
    pub(crate) fn hold(&self, task: &TaskId) -> Option<(AgentId, FencingToken)> {
        let view = self.cluster.task(self.now, task)?;
        view.task.lease().map(|lease| (lease.agent.clone(), lease.fencing_token))
    }
}

pub(crate) fn agent_id(name: &str) -> AgentId {
    AgentId::new(name).expect("a name")
}

pub(crate) fn job_id(name: &str) -> JobId {
    JobId::new(name).expect("a name")
}

pub(crate) fn agent_type(name: &str) -> AgentType {
    AgentType::new(name).expect("a name")
}

pub(crate) fn batch_key(name: &str) -> BatchKey {
    BatchKey::new(name).expect("a name")
}

/// An agent that can do nothing in particular.
pub(crate) fn agent(name: &str, of_type: &str, tasks_max: u32) -> AgentRequest {
    AgentRequest {
        agent: agent_id(name),
        agent_type: agent_type(of_type),
        capabilities: Capabilities::default(),
        tasks_max,
        allocation: None,
        metadata: Metadata::empty(),
    }
}

/// A task for anybody, that takes so many tokens.
pub(crate) fn task(priority: Priority, tokens: u64) -> TaskRequest {
    TaskRequest {
        task: None,
        job: None,
        selector: Selector::default(),
        priority,
        tokens: TokensExpected { given: Some(tokens), ..TokensExpected::default() },
        deadline: None,
        batch: None,
        payload: None,
        attempts_max: 3,
        lease_seconds: TtlSeconds::new(600).expect("at least 1"),
    }
}

/// A report with nothing particular in it.
pub(crate) fn report(result: ReportedResult, tokens_used: Option<u64>, duration_ms: u64) -> Report {
    Report { result, tokens_used, duration: Some(Millis(duration_ms)), output: None, error: None }
}
