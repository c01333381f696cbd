//! A fleet that executes commands one after another and checks the invariants after each.

use cortex_core::allocation::Metadata;
use cortex_core::command::{Command, Decision, Denied, Outcome};
use cortex_core::event::{Event, Recorded};
use cortex_core::fleet::agent::{AgentRequest, Capabilities};
use cortex_core::fleet::command::{FleetCommand, FleetOutcome, ReportedResult, TaskReport};
use cortex_core::fleet::task::{Selector, TaskRequest, TokenHints};
use cortex_core::fleet::view::TaskView;
use cortex_core::ids::{AgentId, AgentType, BatchKey, FencingToken, JobId, NodeId, TaskId};
use cortex_core::priority::Priority;
use cortex_core::time::{Millis, Timestamp, TtlSeconds};
use cortex_core::units::{CpuMillis, MemoryMb, Resources, WorkerSize};
use cortex_core::{Cluster, check};

pub(crate) const SIZE: WorkerSize = WorkerSize { cpu_millis: CpuMillis::from_millis(1_000), memory_mb: MemoryMb(1) };

/// A cluster and the current time.
pub(crate) struct FleetState {
    pub(crate) cluster: Cluster,
    pub(crate) now: Timestamp,
}

impl FleetState {
    /// Creates a cluster of one node with this number of workers.
    pub(crate) fn new(workers: u64) -> Self {
        let mut state = Self { cluster: Cluster::default(), now: Timestamp::from_millis(1_767_225_600_000) };
        let capacity =
            Resources { cpu_millis: CpuMillis::from_millis(1_000 * workers), memory_mb: MemoryMb(workers), workers };
        let set = Command::SetCapacity { node: NodeId::local(), capacity };
        state.execute(&set).expect("a capacity can be set");
        state
    }

    /// Executes a command. Its events are applied after a round trip through JSON.
    pub(crate) fn execute(&mut self, command: &Command) -> Result<Outcome, Denied> {
        self.cluster.observe(self.now);
        let Decision { events, outcome } = self.cluster.decide(self.now, command)?;
        for event in events {
            self.apply(event);
        }
        assert_eq!(check::violations(&self.cluster), [""; 0], "after {command:?}");
        Ok(outcome)
    }

    /// Applies an event, whether or not it follows from the state.
    pub(crate) fn apply(&mut self, event: Event) {
        let line = serde_json::to_string(&Recorded { at: self.now, event }).expect("an event has a text");
        self.cluster.apply(&serde_json::from_str(&line).expect("an event that can be read"));
    }

    pub(crate) fn ask(&mut self, command: FleetCommand) -> Result<FleetOutcome, Denied> {
        match self.execute(&Command::Fleet(command))? {
            Outcome::Fleet(outcome) => Ok(outcome),
            other => panic!("{other:?} is not an outcome of the fleet"),
        }
    }

    /// Advances the time, with a heartbeat of every agent.
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
        match self.ask(FleetCommand::Submit { request, random: 0 }) {
            Ok(FleetOutcome::Submitted { task, .. }) => task,
            other => panic!("a task was not accepted: {other:?}"),
        }
    }

    /// Returns the tasks that the agent was leased.
    pub(crate) fn claim(&mut self, name: &str) -> Vec<TaskId> {
        match self.ask(FleetCommand::Claim { agent: agent_id(name) }) {
            Ok(FleetOutcome::Leased { tasks, .. }) => tasks,
            Ok(FleetOutcome::NoTask(_)) => Vec::new(),
            other => panic!("a claim was refused: {other:?}"),
        }
    }

    /// Reports on a task in the name of its holder.
    pub(crate) fn complete(&mut self, task: &TaskId, report: TaskReport) -> FleetOutcome {
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

    /// Returns the holder of a task, and the token of its lease.
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

/// An agent without capabilities.
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

/// A task that any agent may take, with this estimate.
pub(crate) fn task(priority: Priority, tokens: u64) -> TaskRequest {
    TaskRequest {
        task: None,
        job: None,
        selector: Selector::default(),
        priority,
        tokens: TokenHints { given: Some(tokens), ..TokenHints::default() },
        deadline: None,
        batch: None,
        payload: None,
        attempts_max: 3,
        lease_seconds: TtlSeconds::new(600).expect("at least 1"),
    }
}

/// A report without output and error.
pub(crate) fn report(result: ReportedResult, tokens_used: Option<u64>, duration_ms: u64) -> TaskReport {
    TaskReport { result, tokens_used, duration: Some(Millis(duration_ms)), output: None, error: None }
}
