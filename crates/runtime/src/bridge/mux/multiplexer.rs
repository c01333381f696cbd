//! The state of one endpoint: its child, its calls, and the clients that wait for responses. Every change goes through
//! [`Multiplexer`].
//!
//! Invariants: every call that was submitted is settled exactly once, by a response or, if its client cancelled it,
//! without one; and a child that was replaced or lost changes nothing.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::AbortHandle;

use super::{
    call::Call,
    calls::Calls,
    connected_child::{ChildInfo, ConnectedChild, InvalidOutputHandler},
    link::LinkError,
    mailbox::{Completion, Mailbox},
    protocol::ProtocolMode,
    rpc_response::RpcResponse,
    session::{SessionId, Sessions},
    usage::{Usage, UsageTable},
};
use crate::bridge::limits::memory_budget::MemoryBudget;
use cortex_core::ids::{AllocationId, ServerName};

/// The state of a server that has no connected child.
#[derive(Clone, Debug)]
pub enum ChildState {
    /// It is starting, or about to.
    Starting,
    /// It was lost and will be restarted.
    Restarting {
        /// The reason for the loss.
        why: String,
        /// When it was lost.
        since: Instant,
    },
    /// It is not restarted until a client requests it.
    Failed {
        /// The reason for the failure.
        why: String,
    },
}

#[derive(Debug)]
pub(crate) struct Multiplexer {
    name: ServerName,
    roots: Vec<String>,
    state: ChildState,
    generations: u64,
    pub(crate) child: Option<ConnectedChild>,
    /// Fails the waiting calls if no child is ready in time. `None` while a child is connected, or if no call may wait.
    start_timeout: Option<AbortHandle>,
    pub(crate) calls: Calls,
    pub(crate) sessions: Sessions,
    pub(crate) usages: UsageTable,
    memory_budget: Arc<MemoryBudget>,
}

/// Why there is no child for a call.
#[derive(Debug)]
pub(crate) struct ChildUnavailable {
    /// The error text for the client.
    reason: String,
    /// Whether the same request may succeed later.
    retryable: bool,
}

/// The error text for clients whose lease has ended.
pub(crate) const LEASE_ENDED: &str = "the lease of this allocation has ended";

impl ChildUnavailable {
    /// The caller's lease has ended, whether or not there is a child.
    pub(crate) fn lease_ended() -> Self {
        Self { reason: LEASE_ENDED.to_owned(), retryable: false }
    }

    pub(crate) fn response(&self, id: &str) -> RpcResponse {
        RpcResponse::unavailable(id, &self.reason, self.retryable)
    }
}

impl Multiplexer {
    pub(crate) fn new(
        name: ServerName,
        in_flight_max: usize,
        roots: Vec<String>,
        memory_budget: Arc<MemoryBudget>,
    ) -> Self {
        Self {
            name,
            roots,
            state: ChildState::Starting,
            generations: 0,
            child: None,
            start_timeout: None,
            calls: Calls::new(in_flight_max),
            sessions: Sessions::default(),
            usages: UsageTable::default(),
            memory_budget,
        }
    }

    pub(crate) fn roots(&self) -> &[String] {
        &self.roots
    }

    pub(crate) fn set_state(&mut self, state: ChildState) {
        self.state = state;
        if self.has_failed() {
            self.fail_waiting_calls();
        }
    }

    /// Sets the task that fails the waiting calls, unless a child is ready before.
    pub(crate) fn set_start_timeout(&mut self, start_timeout: AbortHandle) {
        self.cancel_start_timeout();
        self.start_timeout = Some(start_timeout);
    }

    fn cancel_start_timeout(&mut self) {
        if let Some(start_timeout) = self.start_timeout.take() {
            start_timeout.abort();
        }
    }

    /// Fails the calls that wait for a child, unless one is ready.
    pub(crate) fn fail_waiting_calls(&mut self) {
        if self.child_info().is_some() {
            return;
        }
        self.cancel_start_timeout();
        for call in self.calls.wait_queue.take(|_| true) {
            let response = self.unavailable().response(&call.client_id);
            self.settle(call, Completion::Response(response));
        }
    }

    /// Returns what the child reported of itself, if it is ready.
    pub(crate) fn child_info(&self) -> Option<&Arc<ChildInfo>> {
        self.child.as_ref()?.info.as_ref()
    }

    /// Returns whether there is no child and none will be started.
    pub(crate) fn has_failed(&self) -> bool {
        self.child.is_none() && matches!(self.state, ChildState::Failed { .. })
    }

    /// Returns why there is no child, for a client.
    pub(crate) fn unavailable(&self) -> ChildUnavailable {
        let name = &self.name;
        let reason = match &self.state {
            ChildState::Starting => format!("MCP server {name} is still starting: try again later"),
            ChildState::Restarting { why, since } => format!(
                "MCP server {name} was lost {} s ago ({why}) and is being restarted: try again later",
                since.elapsed().as_secs()
            ),
            ChildState::Failed { why } => {
                format!("MCP server {name} is not running ({why}): fix the cause, then restart it")
            }
        };
        ChildUnavailable { reason, retryable: !self.has_failed() }
    }

    /// Registers a new child and returns its generation. The caller must have ended the previous child with
    /// [`Self::child_lost`].
    pub(crate) fn register_child(&mut self, on_invalid_output: InvalidOutputHandler) -> u64 {
        self.generations += 1;
        // The reason for the loss of the previous child does not apply to this one.
        self.state = ChildState::Starting;
        self.child = Some(ConnectedChild::new(self.generations, on_invalid_output));
        self.generations
    }

    /// Returns the child if it is still the one of this generation.
    pub(crate) fn child(&mut self, generation: u64) -> Option<&mut ConnectedChild> {
        self.child.as_mut().filter(|child| child.generation == generation)
    }

    /// Starts sending calls to a child after its handshake. Returns false if it is not the current child any more.
    pub(crate) fn child_ready(&mut self, generation: u64, info: ChildInfo) -> bool {
        let Some(child) = self.child(generation) else {
            return false;
        };
        child.info = Some(Arc::new(info));
        self.cancel_start_timeout();
        self.sync_subscriptions();
        self.send_waiting();
        true
    }

    /// Submits a call. It is sent immediately if the allocation's fair share and the child's buffer allow it, and waits
    /// otherwise.
    ///
    /// # Errors
    /// Returns the response to a call that was rejected.
    pub(crate) fn submit(&mut self, call: Box<Call>) -> Result<(), RpcResponse> {
        let id = &call.client_id;
        if self.usages.is_ended(call.allocation) {
            return Err(RpcResponse::unavailable(id, LEASE_ENDED, false));
        }
        let is_up = self.child_info().is_some();
        if !is_up && self.start_timeout.is_none() {
            return Err(self.unavailable().response(id));
        }
        if let Some(session) = call.session {
            match self.sessions.by_id.get_mut(&session) {
                Some(session) => session.calls += 1,
                None => return Err(RpcResponse::unavailable(id, "the session has ended", false)),
            }
        }
        // Waiting calls of other allocations may not be sent now, or they would have been.
        if is_up && !self.calls.wait_queue.has_any_of(call.allocation) && self.may_send(call.allocation) {
            self.send(call);
            return Ok(());
        }
        self.calls.wait_queue.push(call).map_err(|call| {
            self.end_call(call.session);
            let reason = self.calls.wait_queue.limit_message(call.allocation);
            let message = format!("MCP server {} is busy: {reason}", self.name);
            RpcResponse::unavailable(&call.client_id, &message, true)
        })
    }

    fn may_send(&self, allocation: Option<AllocationId>) -> bool {
        self.child.as_ref().is_some_and(ConnectedChild::can_accept_calls) && self.calls.may_send(allocation)
    }

    fn send(&mut self, mut call: Box<Call>) {
        let Some(child) = &mut self.child else {
            return;
        };
        child.push_call(&call.text);
        if let Some(uri) = &call.subscribes {
            child.subscribed.insert(Arc::clone(uri));
        }
        let usage = Usage { bytes_in: call.text.len() as u64, ..Usage::default() };
        self.usages.add(call.allocation, &usage);
        call.text = Vec::new();
        call.sent_at = Some(Instant::now());
        self.calls.insert_in_flight(call);
    }

    /// Sends waiting calls while the limits allow it.
    pub(crate) fn send_waiting(&mut self) {
        while self.child_info().is_some()
            && self.child.as_ref().is_some_and(ConnectedChild::can_accept_calls)
            && let Some(call) = self.calls.next()
        {
            self.send(call);
        }
    }

    /// Settles a call with the child's response, or with an error if the response exceeds the lease's memory budget.
    pub(crate) fn answer_call(&mut self, call: Call, response: RpcResponse) {
        let response = response.reserve_in(&self.memory_budget.for_lease(call.allocation), &call.client_id);
        self.settle(call, Completion::Response(response));
        self.send_waiting();
    }

    /// Settles a call that has left the table: updates its session and usage, and completes its mailbox.
    pub(crate) fn settle(&mut self, call: Call, completion: Completion) {
        self.end_call(call.session);
        let mut usage =
            Usage { busy: call.sent_at.map(|at| at.elapsed()).unwrap_or(Duration::ZERO), ..Usage::default() };
        if let Completion::Response(response) = &completion {
            usage.calls = 1;
            usage.errors = u64::from(response.error_code.is_some());
            usage.bytes_out = response.text.len() as u64;
            if response.error_code.is_some()
                && let (Some(session), Some(uri)) = (call.session, &call.subscribes)
            {
                self.remove_rejected_subscription(session, uri);
            }
        }
        self.usages.add(call.allocation, &usage);
        if let Some(mailbox) = call.mailbox {
            mailbox.finish(completion);
        }
    }

    fn end_call(&mut self, session: Option<SessionId>) {
        if let Some(session) = session.and_then(|session| self.sessions.by_id.get_mut(&session)) {
            session.calls = session.calls.saturating_sub(1);
            session.used_at = Instant::now();
        }
    }

    /// Removes a child that was lost. Calls in flight get an error, and waiting calls stay in their order for the next
    /// child. Returns whether the child was ready, so that the caller must set a timeout for the waiting calls.
    pub(crate) fn child_lost(&mut self, generation: u64, reason: &LinkError) -> bool {
        if self.child(generation).is_none() {
            return false;
        }
        let Some(child) = self.child.take() else {
            return false;
        };
        if !matches!(self.state, ChildState::Failed { .. }) {
            self.state = ChildState::Restarting { why: reason.to_string(), since: Instant::now() };
        }
        // The writer task stops when it finds that its child is not the current one.
        child.writer_wakeup.notify_one();
        for mailbox in child.own_requests.into_values() {
            mailbox.finish(Completion::NoResponse);
        }
        let message = format!("MCP server {} was lost during this request ({reason}): try again", self.name);
        for call in self.calls.take_in_flight(|_| true) {
            let response = RpcResponse::unavailable(&call.client_id, &message, true);
            self.settle(call, Completion::Response(response));
        }
        if self.has_failed() {
            self.fail_waiting_calls();
        }
        child.info.is_some()
    }

    /// Cancels the calls that match: the child gets a notification, and each caller gets what `completion_of` returns.
    pub(crate) fn cancel(
        &mut self,
        reason: &str,
        matches: impl Fn(&Call) -> bool,
        completion_of: impl Fn(&Call) -> Completion,
    ) {
        for call in self.calls.wait_queue.take(&matches) {
            let completion = completion_of(&call);
            self.settle(call, completion);
        }
        for call in self.calls.take_in_flight(&matches) {
            self.calls.abandon(call.number);
            let reason = serde_json::Value::from(reason);
            self.notify_child(
                "notifications/cancelled",
                &format!(r#"{{"requestId":{},"reason":{reason}}}"#, call.number),
            );
            let completion = completion_of(&call);
            self.settle(call, completion);
        }
        self.send_waiting();
    }

    /// Sends a notification of the bridge itself to the child.
    pub(crate) fn notify_child(&mut self, method: &str, params: &str) {
        if let Some(child) = &mut self.child {
            child.write(format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#).as_bytes());
        }
    }

    /// Sends a request whose response is dropped. Returns its number.
    pub(crate) fn send_unawaited_request(&mut self, method: &str, params: &str) -> u64 {
        let number = self.calls.next_number();
        let text = request_text(number, method, params);
        if let Some(child) = &mut self.child
            && child.write(text.as_bytes())
        {
            self.calls.abandon(number);
        }
        number
    }

    /// Sends a request of the bridge itself. Returns its number and the mailbox for the response, or `None` if the
    /// child is not the current one.
    pub(crate) fn send_own_request(
        &mut self,
        generation: u64,
        method: &str,
        params: &str,
    ) -> Option<(u64, Arc<Mailbox>)> {
        let number = self.calls.next_number();
        let text = request_text(number, method, params);
        let child = self.child(generation)?;
        let mailbox = Arc::new(Mailbox::default());
        if child.write(text.as_bytes()) {
            child.own_requests.insert(number, Arc::clone(&mailbox));
        }
        Some((number, mailbox))
    }

    /// Ends a session and its calls. Returns whether it existed.
    pub(crate) fn end_session(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.by_id.remove(&id) else {
            return false;
        };
        if let Some(stream) = session.stream {
            stream.finish(Completion::NoResponse);
        }
        self.cancel(
            "the session has ended",
            |call| call.session == Some(id),
            |call| Completion::Response(RpcResponse::unavailable(&call.client_id, "the session has ended", false)),
        );
        self.sync_subscriptions();
        true
    }

    pub(crate) fn end_allocation(&mut self, allocation: AllocationId) {
        self.usages.end(allocation);
        self.end_matching(|owner| owner == Some(allocation), LEASE_ENDED);
    }

    /// Ends the sessions, listeners and calls of the allocations that match.
    pub(crate) fn end_matching(&mut self, matches: impl Fn(Option<AllocationId>) -> bool, reason: &str) {
        self.cancel(
            reason,
            |call| matches(call.allocation),
            |call| Completion::Response(RpcResponse::unavailable(&call.client_id, reason, false)),
        );
        for (_, session) in self.sessions.by_id.extract_if(.., |_, session| matches(session.allocation)) {
            if let Some(stream) = session.stream {
                stream.finish(Completion::NoResponse);
            }
        }
        for (_, listener) in self.sessions.listeners.extract_if(.., |_, listener| matches(listener.allocation)) {
            let id = &listener.id;
            let result =
                format!(r#"{{"resultType":"complete","_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}"#);
            listener.mailbox.finish(Completion::Response(RpcResponse::result(id, &result)));
        }
        self.sync_subscriptions();
    }

    /// Returns the protocol mode of the child, if it is ready.
    pub(crate) fn child_mode(&self) -> Option<ProtocolMode> {
        self.child_info().map(|info| info.mode)
    }
}

fn request_text(number: u64, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{number},"method":"{method}","params":{params}}}"#)
}
