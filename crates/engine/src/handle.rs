//! The handle by which everybody else reaches the engine.

use super::message::{
    AgentListing, AgentPage, AgentTakenOn, CancelHandle, Change, Claim, EngineError, FleetMessage, Grant, Listing,
    Message, Page, PlannedMessage, Reading, RealMessage, Record, Released, Submitted, TaskAfter, TaskDetail,
    TaskListing, TaskPage,
};
use super::real::ClaimPort;
use cortex_core::command::Request;
use cortex_core::demand::DemandBin;
use cortex_core::fleet::agent::AgentRequest;
use cortex_core::fleet::command::{AgentLeft, FleetCommand, Report};
use cortex_core::fleet::task::TaskRequest;
use cortex_core::fleet::view::{AgentView, FleetFigures, FleetSummary, TaskView, UsageView};
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

/// How many ids of expired leases one answer names; all are counted.
pub(super) const EXPIRED_NAMED_MAX: usize = 10_000;

/// A way to the engine. Messages of one handle take effect in the order in which they are sent.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    messages: mpsc::Sender<Message>,
    changes: broadcast::Sender<Arc<Change>>,
    wake: Arc<Notify>,
}

/// What a sweep ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Expired {
    /// The leases, the longest overdue first; at most 10,000.
    pub named: Vec<AllocationId>,
    /// How many there were.
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

    async fn ask<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> Message) -> Result<T, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.messages.send(message(reply)).await.map_err(|_| EngineError::Stopped)?;
        // An engine that is there and gives no answer has dropped it with the batch that it could not commit.
        let lost = |_| if self.messages.is_closed() { EngineError::Stopped } else { EngineError::NotCommitted };
        answer.await.map_err(lost)
    }

    /// Asks for a lease. With the cancel_handle the request can be called off from anywhere, before and after it is decided on. Where
    /// something real is to stand behind it, the answer comes when it is there.
    ///
    /// # Errors
    /// [`EngineError::Refused`] if there is no room, [`EngineError::NotStarted`] if what is to stand behind it cannot be had, [`EngineError::Denied`] if the request id was used for another request,
    /// [`EngineError::Cancelled`] if it was called off by then.
    pub async fn request(&self, request: Request, cancel_handle: CancelHandle) -> Result<Grant, EngineError> {
        let request = Box::new(request);
        self.ask(|reply| Message::Request { request, cancel_handle, reply }).await?
    }

    /// Gives a lease back. Where something real stands behind it, the answer comes when it is gone.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if there is no such allocation.
    pub async fn release(&self, allocation: AllocationId) -> Result<Released, EngineError> {
        self.ask(|reply| Message::Release { allocation, reply }).await?
    }

    /// Says what really stands behind leases from now on, and, the first time, how a port is taken. Afterwards leases behind
    /// which something real stands become active with [`Self::activate`] and end with [`Self::finish_release`]: whoever says
    /// this hears from [`Self::changes`] which ones there are.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended.
    pub async fn stand_on(&self, provisioning: Provisioning, claim: Option<ClaimPort>) -> Result<(), EngineError> {
        let message = Message::Real(RealMessage::Stand { provisioning, claim });
        self.messages.send(message).await.map_err(|_| EngineError::Stopped)
    }

    /// Says that what stands behind a reservation is there: it can be used.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if it is no reservation any more: then what was started for it is to be ended.
    pub async fn activate(&self, allocation: AllocationId) -> Result<(), EngineError> {
        self.ask(|reply| Message::Real(RealMessage::Activate { allocation, reply })).await?
    }

    /// Says that what should stand behind a reservation cannot be had, and that nothing of it is left. The books keep the
    /// `error`; whoever waits for the grant is told all.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if it is no reservation any more.
    pub async fn fail_activation(
        &self,
        allocation: AllocationId,
        error: Arc<str>,
        told: Arc<str>,
    ) -> Result<(), EngineError> {
        self.ask(|reply| Message::Real(RealMessage::FailActivation { allocation, error, told, reply })).await?
    }

    /// Says that nothing is left of what stood behind a lease that is being taken back: it is over.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if it is not being taken back.
    pub async fn finish_release(&self, allocation: AllocationId) -> Result<(), EngineError> {
        self.ask(|reply| Message::Real(RealMessage::FinishRelease { allocation, reply })).await?
    }

    /// Calls a request off whose caller will not hear of its grant, without waiting: it is not granted any more, or what
    /// was granted is rolled back before anything that is sent from now on. A grant to an earlier request with the same
    /// request id stays.
    pub fn cancel(&self, cancel_handle: CancelHandle) {
        cancel_handle.cancel();
        let message = Message::Cancel { cancel_handle };
        if let Err(mpsc::error::TrySendError::Full(message)) = self.messages.try_send(message) {
            // A task of its own waits for room; the grant that it undoes is already behind it in the books.
            let messages = self.messages.clone();
            tokio::spawn(async move { drop(messages.send(message).await) });
        }
    }

    /// Lets a lease run anew from now.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if it is unknown, has ended or expired, or the token is not its own.
    pub async fn renew(
        &self,
        allocation: AllocationId,
        ttl_seconds: Option<TtlSeconds>,
        fencing_token: Option<FencingToken>,
    ) -> Result<AllocationView, EngineError> {
        self.ask(|reply| Message::Renew { allocation, ttl_seconds, fencing_token, reply }).await?
    }

    /// Records the expiry of every lease past its deadline, in batches between which others are served, and forgets
    /// records that are too old.
    ///
    /// # Errors
    /// [`EngineError`] if the engine has a fault or has ended.
    pub async fn sweep(&self) -> Result<Expired, EngineError> {
        let mut expired = Expired::default();
        loop {
            let (batch, more) = self.ask(|reply| Message::Sweep { reply }).await??;
            expired.count += batch.len() as u64;
            let room = EXPIRED_NAMED_MAX - expired.named.len();
            expired.named.extend(batch.into_iter().take(room));
            if !more {
                break;
            }
            // Without a pause the runtime would look at its input only every so many batches.
            tokio::task::yield_now().await;
        }
        self.messages.send(Message::TrimHistory).await.map_err(|_| EngineError::Stopped)?;
        Ok(expired)
    }

    /// The capacity.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn capacity(&self) -> Result<Reading<CapacityView>, EngineError> {
        self.ask(|reply| Message::Capacity { reply }).await
    }

    async fn ask_planned<T>(
        &self,
        message: impl FnOnce(oneshot::Sender<T>) -> PlannedMessage,
    ) -> Result<T, EngineError> {
        self.ask(|reply| Message::Planned(message(reply))).await
    }

    /// The capacity, and what is asked for. With `is_look`, the largest request that was refused counts anew from here, and what
    /// was counted comes into the books.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn demand(&self, is_look: bool) -> Result<Reading<Demand>, EngineError> {
        self.ask_planned(|reply| PlannedMessage::Demand { is_look, reply }).await
    }

    /// The bins of demand in the books that begin after this moment, oldest first.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn demand_bins(&self, after: Option<Timestamp>) -> Result<Reading<Vec<DemandBin>>, EngineError> {
        self.ask_planned(|reply| PlannedMessage::DemandBins { after, reply }).await
    }

    /// Gives the node as many worker slots as a scaling says, and notes it.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if more are leased; then nothing is noted.
    pub async fn scale(&self, scaling: Scaling) -> Result<(), EngineError> {
        let scaling = Box::new(scaling);
        self.ask_planned(|reply| PlannedMessage::Scale { scaling, reply }).await?
    }

    /// The last scalings, the newest first, at most so many, and how many there are on record.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn scalings(&self, limit: usize) -> Result<(Vec<PastScaling>, usize), EngineError> {
        self.ask_planned(|reply| PlannedMessage::Scalings { limit, reply }).await
    }

    /// The policy that the planner goes by.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn policy(&self) -> Result<Policy, EngineError> {
        self.ask_planned(|reply| PlannedMessage::Policy { reply }).await
    }

    /// Lets the planner go by a policy from now on, and gives the one before.
    ///
    /// # Errors
    /// [`EngineError`] if the engine has a fault or has ended.
    pub async fn set_policy(&self, policy: Policy) -> Result<Policy, EngineError> {
        self.ask_planned(|reply| PlannedMessage::SetPolicy { policy, reply }).await?
    }

    /// Waits until something calls for a plan before the next is due: a backlog, tokens that run out, an agent that was lost. A
    /// call that came while nobody waited is heard at once.
    pub async fn planner_called(&self) {
        self.wake.notified().await;
    }

    /// What is on record under this id.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn allocation(&self, allocation: AllocationId) -> Result<Option<Reading<Record>>, EngineError> {
        self.ask(|reply| Message::Allocation { allocation, reply }).await
    }

    /// A page of the list of allocations and refusals.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn list(&self, listing: Listing) -> Result<Page, EngineError> {
        let listing = Box::new(listing);
        self.ask(|reply| Message::List { listing, reply }).await
    }

    /// The changes from now on, in order. A listener that lags too far behind is told so and misses some.
    #[must_use]
    pub fn changes(&self) -> broadcast::Receiver<Arc<Change>> {
        self.changes.subscribe()
    }

    async fn ask_fleet<T>(&self, message: impl FnOnce(oneshot::Sender<T>) -> FleetMessage) -> Result<T, EngineError> {
        self.ask(|reply| Message::Fleet(message(reply))).await
    }

    /// Takes an agent on. A repeat is answered with the agent as it stands.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if there is no room, a quota is reached, or the id is taken.
    pub async fn register_agent(&self, request: AgentRequest) -> Result<AgentTakenOn, EngineError> {
        let request = Box::new(request);
        self.ask_fleet(|reply| FleetMessage::Register { request, reply }).await?
    }

    /// Notes that an agent is alive, and gives how it stands.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if it is unknown.
    pub async fn beat(&self, agent: AgentId) -> Result<AgentView, EngineError> {
        self.ask_fleet(|reply| FleetMessage::Beat { agent, reply }).await?
    }

    /// Lets an agent go. The tasks it holds go back to the queue.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if it is unknown.
    pub async fn unregister_agent(&self, agent: AgentId) -> Result<Reading<AgentLeft>, EngineError> {
        self.ask_fleet(|reply| FleetMessage::Unregister { agent, reply }).await?
    }

    /// Lets an agent be given nothing more, nor register anew, or ends that. Says how many tasks it holds, if it is registered.
    /// A new start, and a batch that fails, forget it: whoever says it says it again.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn drain_agent(&self, agent: AgentId, is_draining: bool) -> Result<Option<usize>, EngineError> {
        self.ask_fleet(|reply| FleetMessage::Drain { agent, is_draining, reply }).await
    }

    /// A page of the list of agents.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn agents(&self, listing: AgentListing) -> Result<AgentPage, EngineError> {
        let listing = Box::new(listing);
        self.ask_fleet(|reply| FleetMessage::Agents { listing, reply }).await
    }

    /// Takes a task into the queue. With the cancel_handle a task that has no id of its submitter's can be called off.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if the queue is full, the deadline has passed, or the id was used for another task;
    /// [`EngineError::Cancelled`] if it was called off by then.
    pub async fn submit_task(
        &self,
        request: TaskRequest,
        cancel_handle: CancelHandle,
    ) -> Result<Submitted, EngineError> {
        let request = Box::new(request);
        self.ask_fleet(|reply| FleetMessage::Submit { request, cancel_handle, reply }).await?
    }

    /// Gives an agent the best task for it, and with it others of its batch; if there is none, waits so long for one.
    /// With the cancel_handle the claim can be called off, before and after.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if the agent is unknown, [`EngineError::Cancelled`] if it was called off by then.
    pub async fn claim_task(
        &self,
        agent: AgentId,
        wait: Duration,
        cancel_handle: CancelHandle,
    ) -> Result<Claim, EngineError> {
        self.ask_fleet(|reply| FleetMessage::Claim { agent, wait, cancel_handle, reply }).await?
    }

    /// Chooses an agent for a task and gives it to that one, and with it others of its batch.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if the task is unknown or not waiting, there are no tokens for it, or no agent can take it.
    pub async fn assign_task(&self, task: TaskId) -> Result<(AgentId, Vec<TaskView>), EngineError> {
        self.ask_fleet(|reply| FleetMessage::Assign { task, reply }).await?
    }

    /// Takes an agent's report on a task that it holds.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if the task is unknown, or the agent does not hold it under this token.
    pub async fn complete_task(
        &self,
        task: TaskId,
        agent: AgentId,
        fencing_token: FencingToken,
        report: Report,
    ) -> Result<TaskAfter, EngineError> {
        let report = Box::new(report);
        self.ask_fleet(|reply| FleetMessage::Complete { task, agent, fencing_token, report, reply }).await?
    }

    /// Takes a task back.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if it is unknown.
    pub async fn cancel_task(&self, task: TaskId) -> Result<TaskAfter, EngineError> {
        self.ask_fleet(|reply| FleetMessage::Cancel { task, reply }).await?
    }

    /// Changes how urgent a task is.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if it is unknown or has ended, or the deadline has passed.
    pub async fn update_task(
        &self,
        task: TaskId,
        priority: Option<Priority>,
        deadline: Option<Timestamp>,
    ) -> Result<TaskAfter, EngineError> {
        self.ask_fleet(|reply| FleetMessage::Update { task, priority, deadline, reply }).await?
    }

    /// A task, open or on record.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn task(&self, task: TaskId) -> Result<Option<TaskDetail>, EngineError> {
        self.ask_fleet(|reply| FleetMessage::Task { task, reply }).await
    }

    /// A page of the list of tasks.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn tasks(&self, listing: TaskListing) -> Result<TaskPage, EngineError> {
        let listing = Box::new(listing);
        self.ask_fleet(|reply| FleetMessage::Tasks { listing, reply }).await
    }

    /// What is used of quotas, tokens and the queue.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn usage(&self) -> Result<UsageView, EngineError> {
        self.ask_fleet(|reply| FleetMessage::Usage { reply }).await
    }

    /// What a look for bottlenecks goes by.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn fleet_figures(&self) -> Result<FleetFigures, EngineError> {
        self.ask_fleet(|reply| FleetMessage::Figures { reply }).await
    }

    /// The fleet in figures.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] if the engine has ended, [`EngineError::NotCommitted`] if a batch failed meanwhile.
    pub async fn fleet_summary(&self) -> Result<FleetSummary, EngineError> {
        self.ask_fleet(|reply| FleetMessage::Summary { reply }).await
    }

    /// Sets the budget of tokens of a job, or of all tasks together; [`FleetCommand::SetTokenBudget`] says what absent means.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if more is used already, or too many jobs have a budget.
    pub async fn set_token_budget(
        &self,
        job: Option<JobId>,
        tokens: Option<u64>,
        window: Option<Millis>,
    ) -> Result<UsageView, EngineError> {
        let command = FleetCommand::SetTokenBudget { job, tokens, window };
        self.ask_fleet(|reply| FleetMessage::Set { command, reply }).await?
    }

    /// Sets how many agents there may be at once, of a type or in all; none takes the quota away.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if too many types have a quota.
    pub async fn set_agent_quota(
        &self,
        agent_type: Option<AgentType>,
        agents: Option<u64>,
    ) -> Result<UsageView, EngineError> {
        let command = FleetCommand::SetAgentQuota { agent_type, agents };
        self.ask_fleet(|reply| FleetMessage::Set { command, reply }).await?
    }
}
