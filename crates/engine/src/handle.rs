//! The handle through which clients, loops and the provisioner call the engine.

use super::batch::Change;
use super::cancel::CancelHandle;
use super::error::EngineError;
use super::message::{
    Answer, Assignment, Claim, FleetMessage, Grant, Message, ProvisioningMessage, ReadOutcome, RegisteredAgent,
    Released, Reply, Submitted,
};
use super::provisioning_waits::ClaimPort;
use super::state::EngineState;
use cortex_core::command::{Command, Outcome, Request};
use cortex_core::fleet::agent::AgentRequest;
use cortex_core::fleet::task::TaskRequest;
use cortex_core::fleet::view::AgentView;
use cortex_core::ids::{AgentId, AllocationId, TaskId};
use cortex_core::provisioning::Provisioning;
use cortex_core::time::Timestamp;
use cortex_core::view::Demand;
use std::panic::{AssertUnwindSafe, catch_unwind};
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

    /// Reads the state. The value reaches the caller after the commit of everything that it shows.
    ///
    /// The engine serves no other call while `read` runs: make it return what was found, and convert that elsewhere.
    ///
    /// # Errors
    /// [`EngineError::Fault`] if `read` panicked, [`EngineError::Stopped`] if the engine has stopped,
    /// [`EngineError::NotCommitted`] if the batch of the call failed.
    pub async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&EngineState<'_>, Timestamp) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        self.send(|reply| {
            Message::Read(Box::new(move |state, now| {
                let value = catch_unwind(AssertUnwindSafe(|| read(state, now)));
                answer(reply, value.map_err(|_| EngineError::Fault))
            }))
        })
        .await?
    }

    /// Executes a command, and then reads the state with the outcome of the command, before any other command.
    ///
    /// A report on a task counts as a heartbeat of its agent. The commands that the methods below send have effects
    /// beside the state: call these methods instead.
    ///
    /// # Errors
    /// [`EngineError::Denied`] if the cluster denies the command; otherwise as [`Self::read`].
    pub async fn execute<T: Send + 'static>(
        &self,
        command: Command,
        read: impl FnOnce(Outcome, &EngineState<'_>, Timestamp) -> T + Send + 'static,
    ) -> Result<T, EngineError> {
        let command = Box::new(command);
        self.send(|reply| {
            let read: ReadOutcome = Box::new(move |outcome, state, now| {
                // The command has taken effect, so that a panic leaves its caller without the outcome.
                let read = |outcome| {
                    catch_unwind(AssertUnwindSafe(|| read(outcome, state, now))).map_err(|_| EngineError::NotCommitted)
                };
                answer(reply, outcome.and_then(read))
            });
            Message::Execute { command, read }
        })
        .await?
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

    /// Records the expiry of every lease past its deadline, in batches between which other messages are served, and
    /// trims records that are too old.
    ///
    /// # Errors
    /// Returns [`EngineError`] if the engine has a fault or has stopped.
    pub async fn sweep(&self) -> Result<Expired, EngineError> {
        let mut expired = Expired::default();
        loop {
            let batch = self.send(|reply| Message::Sweep { reply }).await??;
            expired.count += batch.expired.len() as u64;
            let available = EXPIRED_NAMED_MAX - expired.named.len();
            expired.named.extend(batch.expired.into_iter().take(available));
            if !batch.more {
                return Ok(expired);
            }
            // Lets the runtime poll its input between two batches.
            tokio::task::yield_now().await;
        }
    }

    /// Reads the capacity and the demand, resets the largest refused request, and records the demand counted so far in
    /// the cluster. Returns the time of the sample with it. The planner calls this once per plan.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub async fn sample_demand(&self) -> Result<(Timestamp, Demand), EngineError> {
        self.send(|reply| Message::SampleDemand { reply }).await
    }

    /// Waits until a replan trigger is raised: a backlog, a nearly used token budget, or a lost agent. Returns
    /// immediately if one was raised while nobody waited.
    pub async fn wait_for_replan(&self) {
        self.wake.notified().await;
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
    pub async fn assign_task(&self, task: TaskId) -> Result<Assignment, EngineError> {
        self.send_fleet(|reply| FleetMessage::Assign { task, reply }).await?
    }
}

/// Makes the answer that sends a reply.
fn answer<T: Send + 'static>(reply: Reply<T>, value: T) -> Answer {
    // The send fails only if the caller has gone.
    Box::new(move || drop(reply.send(value)))
}
