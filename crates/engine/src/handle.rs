//! The handle through which clients, loops and the provisioner call the engine.

use super::message::{
    AgentListing, AgentPage, CancelHandle, Change, Claim, EngineError, FleetMessage, Grant, Listing, Message, Page,
    PlannerMessage, ProvisioningMessage, Reading, Record, RegisteredAgent, Released, Submitted, TaskAfter, TaskDetail,
    TaskListing, TaskPage,
};
use super::provisioning_waits::ClaimPort;
use cortex_core::command::Request;
use cortex_core::demand::DemandBin;
use cortex_core::fleet::agent::AgentRequest;
use cortex_core::fleet::command::{FleetCommand, RemovedAgent, TaskReport};
use cortex_core::fleet::task::TaskRequest;
use cortex_core::fleet::view::{AgentView, FleetMetrics, FleetSummary, TaskView, UsageView};
use cortex_core::ids::{AgentId, AgentType, AllocationId, FencingToken, JobId, TaskId};
use cortex_core::policy::Policy;
use cortex_core::priority::Priority;
use cortex_core::provisioning::Provisioning;
use cortex_core::scaling_state::{PastScaling, Scaling};
use cortex_core::time::{Millis, Timestamp, TtlSeconds};
use cortex_core::view::{AllocationView, CapacityView, Demand};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, broadcast, mpsc, oneshot};

/// The largest number of expired leases that one sweep lists by id. All are counted.
pub(super) const EXPIRED_NAMED_MAX: usize = 10_000;

/// A cloneable handle to the engine. Messages of one handle take effect in the order in which they are sent.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    messages: mpsc::Sender<Message>,
    changes: broadcast::Sender<Arc<Change>>,
    wake: Arc<Notify>,
}

/// The leases that a sweep ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// The longest overdue first; at most 10,000.
    pub named: Vec<AllocationId>,
    /// The number of leases that expired, including those that are not named.
    pub count: u64,
}

impl EngineHandle {
    pub(super) const fn new(
        messages: mpsc::Sender<Message>,
        changes: broadcast::Sender<Arc<Change>>,
        wake: Arc<Notify>,
    ) -> Self {
        Self { messages, changes, wake }
    }

    async fn send<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(message(reply)).await.map_err(|_| EngineError::Stopped)?;
        // A running engine drops a reply only with a batch that it could not commit.
        let lost = |_| if self.messages.is_closed() { EngineError::Stopped } else { EngineError::NotCommitted };
        answer.await.map_err(lost)
    }

    /// Requests a lease. The cancel handle cancels the request before and after it is decided. With provisioning, the
    /// reply arrives after the servers and workers have started.
    ///
    /// # Errors
    /// [`EngineError::Refused`] if there is not enough capacity, [`EngineError::NotStarted`] if a server or worker does
    /// not start, [`EngineError::Denied`] if the request id was used for another request, [`EngineError::Cancelled`] if
    /// the request was cancelled before.
    pub async fn request(&self, request: Request, cancel_handle: CancelHandle) -> Result<Grant, EngineError> {
        let request = Box::new(request);
        self.send(|reply| Message::Request { request, cancel_handle, reply }).await?
    }

    /// Releases a lease. With provisioning, the reply arrives after its servers and workers have stopped.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if the allocation does not exist.
    pub async fn release(&self, allocation: AllocationId) -> Result<Released, EngineError> {
        self.send(|reply| Message::Release { allocation, reply }).await?
    }

    /// Sets the servers and workers that are provisioned for leases from now on, and, if given, the callback that
    /// claims ports. From then on a lease with such a server or worker becomes active with [`Self::activate`] and ends
    /// with [`Self::finish_release`]; the caller, the provisioner, learns of the leases from [`Self::changes`].
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has stopped.
    pub async fn set_provisioning(
        &self,
        provisioning: Provisioning,
        claim: Option<ClaimPort>,
    ) -> Result<(), EngineError> {
        let message = Message::Provisioning(ProvisioningMessage::Set { provisioning, claim });
        self.messages.send(message).await.map_err(|_| EngineError::Stopped)
    }

    /// Reports that the servers and workers of a pending allocation have started, which activates it.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if the allocation is no longer pending: the provisioner then stops what it started.
    pub async fn activate(&self, allocation: AllocationId) -> Result<(), EngineError> {
        self.send(|reply| Message::Provisioning(ProvisioningMessage::Activate { allocation, reply })).await?
    }

    /// Reports that the servers and workers of a pending allocation could not be started and that none of them is left
    /// running. `error` is recorded with the allocation; the callers that wait for it receive `caller_error`.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if the allocation is no longer pending.
    pub async fn fail_activation(
        &self,
        allocation: AllocationId,
        error: Arc<str>,
        caller_error: Arc<str>,
    ) -> Result<(), EngineError> {
        self.send(|reply| {
            Message::Provisioning(ProvisioningMessage::FailActivation { allocation, error, caller_error, reply })
        })
        .await?
    }

    /// Reports that the servers and workers of a releasing allocation have stopped, which ends it.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if the allocation is not releasing.
    pub async fn finish_release(&self, allocation: AllocationId) -> Result<(), EngineError> {
        self.send(|reply| Message::Provisioning(ProvisioningMessage::FinishRelease { allocation, reply })).await?
    }

    /// Cancels a request whose caller no longer waits, without blocking. The request is not granted any more, or its
    /// grant is revoked before any message sent after this call. A grant to an earlier request with the same request id
    /// stays.
    pub fn cancel(&self, cancel_handle: CancelHandle) {
        cancel_handle.cancel();
        let message = Message::Cancel { cancel_handle };
        if let Err(mpsc::error::TrySendError::Full(message)) = self.messages.try_send(message) {
            // The queue is full, so a spawned task sends the message once there is space. The cancel handle is marked
            // already, which stops a request that is not decided yet.
            let messages = self.messages.clone();
            tokio::spawn(async move { drop(messages.send(message).await) });
        }
    }

    /// Renews a lease: its time to live starts again now.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if the lease is unknown, ended or expired, or the fencing token is stale.
    pub async fn renew(
        &self,
        allocation: AllocationId,
        ttl_seconds: Option<TtlSeconds>,
        fencing_token: Option<FencingToken>,
    ) -> Result<AllocationView, EngineError> {
        self.send(|reply| Message::Renew { allocation, ttl_seconds, fencing_token, reply }).await?
    }

    /// Records the expiry of every lease past its deadline, in batches between which other messages are served, and
    /// trims records that are too old.
    ///
    /// # Errors
    /// Returns [`EngineError`] if the engine has a fault or has stopped.
    pub async fn sweep(&self) -> Result<Expired, EngineError> {
        let mut expired = Expired::default();
        loop {
            let (batch, more) = self.send(|reply| Message::Sweep { reply }).await??;
            expired.count += batch.len() as u64;
            let available = EXPIRED_NAMED_MAX - expired.named.len();
            expired.named.extend(batch.into_iter().take(available));
            if !more {
                break;
            }
            // Lets the runtime poll its input between two batches.
            tokio::task::yield_now().await;
        }
        self.messages.send(Message::TrimHistory).await.map_err(|_| EngineError::Stopped)?;
        Ok(expired)
    }

    /// # Errors
    /// [`EngineError::Stopped`] if the engine has stopped, [`EngineError::NotCommitted`] if the batch of the call
    /// failed.
    pub async fn capacity(&self) -> Result<Reading<CapacityView>, EngineError> {
        self.send(|reply| Message::Capacity { reply }).await
    }

    async fn send_planner<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> PlannerMessage,
    ) -> Result<T, EngineError> {
        self.send(|reply| Message::Planner(message(reply))).await
    }

    /// The capacity and the demand. With `is_sample`, the largest refused request is reset and the demand counted so
    /// far is recorded in the cluster.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has stopped, [`EngineError::NotCommitted`] if the batch of the call
    /// failed.
    pub async fn demand(&self, is_sample: bool) -> Result<Reading<Demand>, EngineError> {
        self.send_planner(|reply| PlannerMessage::Demand { is_sample, reply }).await
    }

    /// The recorded bins of demand that begin after this time, oldest first.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has stopped, [`EngineError::NotCommitted`] if the batch of the call
    /// failed.
    pub async fn demand_bins(&self, after: Option<Timestamp>) -> Result<Reading<Vec<DemandBin>>, EngineError> {
        self.send_planner(|reply| PlannerMessage::DemandBins { after, reply }).await
    }

    /// Sets the worker slots of the node to the target of a scaling, and records the scaling.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if more slots are leased; then nothing is recorded.
    pub async fn scale(&self, scaling: Scaling) -> Result<(), EngineError> {
        let scaling = Box::new(scaling);
        self.send_planner(|reply| PlannerMessage::Scale { scaling, reply }).await?
    }

    /// The latest scalings, newest first, at most `limit`, and the number on record.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has stopped, [`EngineError::NotCommitted`] if the batch of the call
    /// failed.
    pub async fn scalings(&self, limit: usize) -> Result<(Vec<PastScaling>, usize), EngineError> {
        self.send_planner(|reply| PlannerMessage::Scalings { limit, reply }).await
    }

    /// The scaling policy in use.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has stopped, [`EngineError::NotCommitted`] if the batch of the call
    /// failed.
    pub async fn policy(&self) -> Result<Policy, EngineError> {
        self.send_planner(|reply| PlannerMessage::Policy { reply }).await
    }

    /// Sets the scaling policy and returns the previous one.
    ///
    /// # Errors
    /// Returns [`EngineError`] if the engine has a fault or has stopped.
    pub async fn set_policy(&self, policy: Policy) -> Result<Policy, EngineError> {
        self.send_planner(|reply| PlannerMessage::SetPolicy { policy, reply }).await?
    }

    /// Waits until a replan trigger is raised: a backlog, a nearly used token budget, or a lost agent. Returns
    /// immediately if one was raised while nobody waited.
    pub async fn wait_for_replan(&self) {
        self.wake.notified().await;
    }

    /// The allocation or the refusal on record under this id.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has stopped, [`EngineError::NotCommitted`] if the batch of the call
    /// failed.
    pub async fn allocation(&self, allocation: AllocationId) -> Result<Option<Reading<Record>>, EngineError> {
        self.send(|reply| Message::Allocation { allocation, reply }).await
    }

    /// # Errors
    /// [`EngineError::Stopped`] if the engine has stopped, [`EngineError::NotCommitted`] if the batch of the call
    /// failed.
    pub async fn list(&self, listing: Listing) -> Result<Page, EngineError> {
        let listing = Box::new(listing);
        self.send(|reply| Message::List { listing, reply }).await
    }

    /// Subscribes to the changes from now on, in order. A receiver that lags by more than 256 changes loses the oldest
    /// and gets `RecvError::Lagged`.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Arc<Change>> {
        self.changes.subscribe()
    }

    async fn send_fleet<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> FleetMessage) -> Result<T, EngineError> {
        self.send(|reply| Message::Fleet(message(reply))).await
    }

    /// Registers an agent. A repeated registration returns the agent that is already registered.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if there is not enough capacity, a quota is reached, or another agent has the id.
    pub async fn register_agent(&self, request: AgentRequest) -> Result<RegisteredAgent, EngineError> {
        let request = Box::new(request);
        self.send_fleet(|reply| FleetMessage::Register { request, reply }).await?
    }

    /// Records a heartbeat of an agent and returns the agent.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if the agent is unknown.
    pub async fn heartbeat(&self, agent: AgentId) -> Result<AgentView, EngineError> {
        self.send_fleet(|reply| FleetMessage::Heartbeat { agent, reply }).await?
    }

    /// Unregisters an agent. The tasks leased to it return to the queue.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if the agent is unknown.
    pub async fn unregister_agent(&self, agent: AgentId) -> Result<Reading<RemovedAgent>, EngineError> {
        self.send_fleet(|reply| FleetMessage::Unregister { agent, reply }).await?
    }

    /// Starts or ends the draining of an agent, which is leased no more tasks and cannot register again. Returns the
    /// number of tasks leased to it, or `None` if it is not registered. Draining is not persisted: a restart and a
    /// failed batch forget it, so the caller repeats it.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has stopped, [`EngineError::NotCommitted`] if the batch of the call
    /// failed.
    pub async fn drain_agent(&self, agent: AgentId, is_draining: bool) -> Result<Option<usize>, EngineError> {
        self.send_fleet(|reply| FleetMessage::Drain { agent, is_draining, reply }).await
    }

    /// # Errors
    /// [`EngineError::Stopped`] if the engine has stopped, [`EngineError::NotCommitted`] if the batch of the call
    /// failed.
    pub async fn agents(&self, listing: AgentListing) -> Result<AgentPage, EngineError> {
        let listing = Box::new(listing);
        self.send_fleet(|reply| FleetMessage::Agents { listing, reply }).await
    }

    /// Adds a task to the queue. Cancelling removes the task only if its submitter gave it no id.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if the queue is full, the deadline has passed, or the id was used for another task;
    /// [`EngineError::Cancelled`] if the call was cancelled before.
    pub async fn submit_task(
        &self,
        request: TaskRequest,
        cancel_handle: CancelHandle,
    ) -> Result<Submitted, EngineError> {
        let request = Box::new(request);
        self.send_fleet(|reply| FleetMessage::Submit { request, cancel_handle, reply }).await?
    }

    /// Leases the best task to an agent, and others of its batch with it. If there is no task, waits up to `wait` for
    /// one. The cancel handle cancels the claim, also after it was answered.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if the agent is unknown, [`EngineError::Cancelled`] if the claim was cancelled before.
    pub async fn claim_task(
        &self,
        agent: AgentId,
        wait: Duration,
        cancel_handle: CancelHandle,
    ) -> Result<Claim, EngineError> {
        self.send_fleet(|reply| FleetMessage::Claim { agent, wait, cancel_handle, reply }).await?
    }

    /// Chooses an agent for a task and leases the task to it, and others of its batch with it.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if the task is unknown or not waiting, the token budget is used up, or no agent can take
    /// it.
    pub async fn assign_task(&self, task: TaskId) -> Result<(AgentId, Vec<TaskView>), EngineError> {
        self.send_fleet(|reply| FleetMessage::Assign { task, reply }).await?
    }

    /// Records an agent's report on a task that is leased to it.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if the task is unknown, or not leased to the agent under this fencing token.
    pub async fn complete_task(
        &self,
        task: TaskId,
        agent: AgentId,
        fencing_token: FencingToken,
        report: TaskReport,
    ) -> Result<TaskAfter, EngineError> {
        let report = Box::new(report);
        self.send_fleet(|reply| FleetMessage::Complete { task, agent, fencing_token, report, reply }).await?
    }

    /// # Errors
    /// [`EngineError::Denied`] if the task is unknown.
    pub async fn cancel_task(&self, task: TaskId) -> Result<TaskAfter, EngineError> {
        self.send_fleet(|reply| FleetMessage::Cancel { task, reply }).await?
    }

    /// Changes the priority and the deadline of a task.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if the task is unknown or has ended, or the deadline has passed.
    pub async fn update_task(
        &self,
        task: TaskId,
        priority: Option<Priority>,
        deadline: Option<Timestamp>,
    ) -> Result<TaskAfter, EngineError> {
        self.send_fleet(|reply| FleetMessage::Update { task, priority, deadline, reply }).await?
    }

    /// A task, waiting, running or ended.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has stopped, [`EngineError::NotCommitted`] if the batch of the call
    /// failed.
    pub async fn task(&self, task: TaskId) -> Result<Option<TaskDetail>, EngineError> {
        self.send_fleet(|reply| FleetMessage::Task { task, reply }).await
    }

    /// # Errors
    /// [`EngineError::Stopped`] if the engine has stopped, [`EngineError::NotCommitted`] if the batch of the call
    /// failed.
    pub async fn tasks(&self, listing: TaskListing) -> Result<TaskPage, EngineError> {
        let listing = Box::new(listing);
        self.send_fleet(|reply| FleetMessage::Tasks { listing, reply }).await
    }

    /// The use of quotas, tokens and the queue.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has stopped, [`EngineError::NotCommitted`] if the batch of the call
    /// failed.
    pub async fn usage(&self) -> Result<UsageView, EngineError> {
        self.send_fleet(|reply| FleetMessage::Usage { reply }).await
    }

    /// The figures that bottlenecks are detected from.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has stopped, [`EngineError::NotCommitted`] if the batch of the call
    /// failed.
    pub async fn fleet_figures(&self) -> Result<FleetMetrics, EngineError> {
        self.send_fleet(|reply| FleetMessage::Figures { reply }).await
    }

    /// Counts of the agents, tasks and tokens.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has stopped, [`EngineError::NotCommitted`] if the batch of the call
    /// failed.
    pub async fn fleet_summary(&self) -> Result<FleetSummary, EngineError> {
        self.send_fleet(|reply| FleetMessage::Summary { reply }).await
    }

    /// Sets the token budget of a job, or of all tasks together. See [`FleetCommand::SetTokenBudget`] for `None`.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if more tokens are used already, or too many jobs have a budget.
    pub async fn set_token_budget(
        &self,
        job: Option<JobId>,
        tokens: Option<u64>,
        window: Option<Millis>,
    ) -> Result<UsageView, EngineError> {
        let command = FleetCommand::SetTokenBudget { job, tokens, window };
        self.send_fleet(|reply| FleetMessage::Set { command, reply }).await?
    }

    /// Sets the largest number of agents of a type, or of all agents; `None` removes the quota.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if too many types have a quota.
    pub async fn set_agent_quota(
        &self,
        agent_type: Option<AgentType>,
        agents: Option<u64>,
    ) -> Result<UsageView, EngineError> {
        let command = FleetCommand::SetAgentQuota { agent_type, agents };
        self.send_fleet(|reply| FleetMessage::Set { command, reply }).await?
    }
}
