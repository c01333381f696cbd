//! The books of one endpoint: its child, the calls and who waits for what. All that happens goes through here.
//!
//! Invariants: every call that was taken in is settled once, by an answer, an error or a silence that its caller asked
//! for; and a child that was replaced or lost changes nothing any more.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::task::AbortHandle;

use super::{
    call::Call,
    calls::Calls,
    connected_child::{ChildInfo, ConnectedChild, InvalidOutputHandler},
    mailbox::{Completion, Mailbox},
    protocol::ProtocolMode,
    rpc_response::RpcResponse,
    session::{SessionId, Sessions},
    usage::{Usage, UsageTable},
};
use crate::bridge::limits::memory_budget::MemoryBudget;
use cortex_core::ids::{AllocationId, ServerName};

/// What has become of a server that does not run.
#[derive(Clone, Debug)]
pub enum ChildState {
    /// It starts, or is about to.
    Starting,
    /// It was lost, and will be started again.
    Restarting {
        /// Why it was lost.
        why: String,
        /// When.
        since: Instant,
    },
    /// It is not started again before somebody asks.
    Failed {
        /// What went wrong.
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
    /// Gives up calls that wait when there was no child for too long. While there is one, or nothing waits any more, none.
    start_timeout: Option<AbortHandle>,
    pub(crate) calls: Calls,
    pub(crate) sessions: Sessions,
    pub(crate) usages: UsageTable,
    memory_budget: Arc<MemoryBudget>,
}

/// Why there is no child.
#[derive(Debug)]
pub(crate) struct ChildUnavailable {
    /// In words.
    reason: String,
    /// Whether the same request may have better luck later.
    retryable: bool,
}

/// What those hear whose allocation has ended.
pub(crate) const LEASE_ENDED: &str = "the lease of this allocation has ended";

impl ChildUnavailable {
    /// There may be a child, but not for this caller.
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

    /// Has calls that wait be given up by this, unless a child is there before.
    pub(crate) fn set_start_timeout(&mut self, start_timeout: AbortHandle) {
        self.cancel_start_timeout();
        self.start_timeout = Some(start_timeout);
    }

    fn cancel_start_timeout(&mut self) {
        if let Some(start_timeout) = self.start_timeout.take() {
            start_timeout.abort();
        }
    }

    /// Answers the calls that wait for a child: there will be none in time.
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

    /// The child, if it is up.
    pub(crate) fn child_info(&self) -> Option<&Arc<ChildInfo>> {
        self.child.as_ref()?.info.as_ref()
    }

    /// Whether waiting for the child is of no use.
    pub(crate) fn has_failed(&self) -> bool {
        self.child.is_none() && matches!(self.state, ChildState::Failed { .. })
    }

    /// Why there is no child.
    pub(crate) fn unavailable(&self) -> ChildUnavailable {
        let name = &self.name;
        let reason = match &self.state {
            ChildState::Starting => format!("MCP server {name} is still starting: try again later"),
            ChildState::Restarting { why, since } => format!(
                "MCP server {name} was lost {} s ago ({why}) and is being started again: try again later",
                since.elapsed().as_secs()
            ),
            ChildState::Failed { why } => {
                format!("MCP server {name} does not run ({why}): restart it when that is mended")
            }
        };
        ChildUnavailable { reason, retryable: !self.has_failed() }
    }

    /// Makes room for a new child: the number of the one before, if that is still there, has to be lost first.
    pub(crate) fn register_child(&mut self, on_invalid_output: InvalidOutputHandler) -> u64 {
        self.generations += 1;
        // What became of the one before is told of it alone.
        self.state = ChildState::Starting;
        self.child = Some(ConnectedChild::new(self.generations, on_invalid_output));
        self.generations
    }

    /// The child, if it is still the one meant.
    pub(crate) fn child(&mut self, generation: u64) -> Option<&mut ConnectedChild> {
        self.child.as_mut().filter(|child| child.generation == generation)
    }

    /// Lets calls through to a child that said what it is. False if it is not there any more.
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

    /// Takes a call in. It is sent at once if its turn is now.
    ///
    /// # Errors
    /// The answer says why it was not taken in.
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
        // Those of others that wait may not be sent now, or they would have been.
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
        self.calls.sent(call);
    }

    /// Sends what waits, as far as there is room for it.
    pub(crate) fn send_waiting(&mut self) {
        while self.child_info().is_some()
            && self.child.as_ref().is_some_and(ConnectedChild::can_accept_calls)
            && let Some(call) = self.calls.next()
        {
            self.send(call);
        }
    }

    /// The child has answered a call. What nobody has room for is answered with an error.
    pub(crate) fn answer_call(&mut self, call: Call, response: RpcResponse) {
        let response = response.reserved_in(&self.memory_budget.for_lease(call.allocation), &call.client_id);
        self.settle(call, Completion::Response(response));
        self.send_waiting();
    }

    /// A call has come to its end.
    pub(crate) fn settle(&mut self, call: Call, end: Completion) {
        self.end_call(call.session);
        let mut usage =
            Usage { busy: call.sent_at.map(|at| at.elapsed()).unwrap_or(Duration::ZERO), ..Usage::default() };
        if let Completion::Response(response) = &end {
            usage.calls = 1;
            usage.errors = u64::from(response.error_code.is_some());
            usage.bytes_out = response.text.len() as u64;
            if response.error_code.is_some()
                && let (Some(session), Some(uri)) = (call.session, &call.subscribes)
            {
                self.subscription_refused(session, uri);
            }
        }
        self.usages.add(call.allocation, &usage);
        if let Some(mailbox) = call.mailbox {
            mailbox.finish(end);
        }
    }

    fn end_call(&mut self, session: Option<SessionId>) {
        if let Some(session) = session.and_then(|session| self.sessions.by_id.get_mut(&session)) {
            session.calls = session.calls.saturating_sub(1);
            session.used_at = Instant::now();
        }
    }

    /// The child is gone: what it had is answered with an error, what it did not have yet waits for the next, in its order. Whether
    /// it was up until now, so that somebody has to see to it that nothing waits for ever.
    pub(crate) fn child_lost(&mut self, generation: u64, reason: &str) -> bool {
        if self.child(generation).is_none() {
            return false;
        }
        let Some(child) = self.child.take() else {
            return false;
        };
        if !matches!(self.state, ChildState::Failed { .. }) {
            self.state = ChildState::Restarting { why: reason.to_owned(), since: Instant::now() };
        }
        // Its writer ends when it finds that it has no child any more.
        child.writer_wakeup.notify_one();
        for mailbox in child.own_requests.into_values() {
            mailbox.finish(Completion::NoResponse);
        }
        let message = format!("MCP server {} was lost while it worked on this ({reason}): try again", self.name);
        for call in self.calls.take_in_flight(|_| true) {
            let response = RpcResponse::unavailable(&call.client_id, &message, true);
            self.settle(call, Completion::Response(response));
        }
        if self.has_failed() {
            self.fail_waiting_calls();
        }
        child.info.is_some()
    }

    /// Ends calls early: the child is told, and their callers get what `end` makes.
    pub(crate) fn cancel(&mut self, reason: &str, chosen: impl Fn(&Call) -> bool, end: impl Fn(&Call) -> Completion) {
        for call in self.calls.wait_queue.take(&chosen) {
            let end = end(&call);
            self.settle(call, end);
        }
        for call in self.calls.take_in_flight(&chosen) {
            self.calls.abandon(call.number);
            let reason = serde_json::Value::from(reason);
            self.notify_child(
                "notifications/cancelled",
                &format!(r#"{{"requestId":{},"reason":{reason}}}"#, call.number),
            );
            let end = end(&call);
            self.settle(call, end);
        }
        self.send_waiting();
    }

    /// Sends the child a notice of the bridge's own.
    pub(crate) fn notify_child(&mut self, method: &str, params: &str) {
        if let Some(child) = &mut self.child {
            child.write(format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#).as_bytes());
        }
    }

    /// Sends the child a request whose answer does not matter, and gives its number.
    pub(crate) fn send_unawaited(&mut self, method: &str, params: &str) -> u64 {
        let number = self.calls.number();
        let text = request_text(number, method, params);
        if let Some(child) = &mut self.child
            && child.write(text.as_bytes())
        {
            self.calls.abandon(number);
        }
        number
    }

    /// Asks the child something; the answer comes to the mailbox. None if it cannot be asked.
    pub(crate) fn send_own(&mut self, generation: u64, method: &str, params: &str) -> Option<(u64, Arc<Mailbox>)> {
        let number = self.calls.number();
        let text = request_text(number, method, params);
        let child = self.child(generation)?;
        let mailbox = Arc::new(Mailbox::default());
        if child.write(text.as_bytes()) {
            child.own_requests.insert(number, Arc::clone(&mailbox));
        }
        Some((number, mailbox))
    }

    /// Ends a session, and with it its calls.
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
        self.end_matching(|of| of == Some(allocation), LEASE_ENDED);
    }

    /// Ends the sessions, listeners and calls of the allocations that are chosen.
    pub(crate) fn end_matching(&mut self, chosen: impl Fn(Option<AllocationId>) -> bool, reason: &str) {
        self.cancel(
            reason,
            |call| chosen(call.allocation),
            |call| Completion::Response(RpcResponse::unavailable(&call.client_id, reason, false)),
        );
        for (_, session) in self.sessions.by_id.extract_if(.., |_, session| chosen(session.allocation)) {
            if let Some(stream) = session.stream {
                stream.finish(Completion::NoResponse);
            }
        }
        for (_, listener) in self.sessions.listeners.extract_if(.., |_, listener| chosen(listener.allocation)) {
            let id = &listener.id;
            let result =
                format!(r#"{{"resultType":"complete","_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}"#);
            listener.mailbox.finish(Completion::Response(RpcResponse::result(id, &result)));
        }
        self.sync_subscriptions();
    }

    /// How the child speaks, if it is up.
    pub(crate) fn child_mode(&self) -> Option<ProtocolMode> {
        self.child_info().map(|info| info.mode)
    }
}

fn request_text(number: u64, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{number},"method":"{method}","params":{params}}}"#)
}
