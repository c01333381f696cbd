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
    answer::Answer,
    call::Call,
    calls::Calls,
    child::{About, Child, Garbage},
    mailbox::{End, Mailbox},
    session::{SessionId, Sessions},
    usage::{Usage, Usages},
    version::Era,
};
use crate::bridge::limits::account::Account;
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
pub(crate) struct Exchange {
    name: ServerName,
    roots: Vec<String>,
    state: ChildState,
    children: u64,
    pub(crate) child: Option<Child>,
    /// Gives up calls that wait when there was no child for too long. While there is one, or nothing waits any more, none.
    patience: Option<AbortHandle>,
    pub(crate) calls: Calls,
    pub(crate) sessions: Sessions,
    pub(crate) usages: Usages,
    account: Arc<Account>,
}

/// Why there is no child.
#[derive(Debug)]
pub(crate) struct Down {
    /// In words.
    why: String,
    /// Whether the same request may have better luck later.
    retryable: bool,
}

/// What those hear whose allocation has ended.
pub(crate) const LEASE_ENDED: &str = "the lease of this allocation has ended";

impl Down {
    /// There may be a child, but not for this caller.
    pub(crate) fn lease_ended() -> Self {
        Self { why: LEASE_ENDED.to_owned(), retryable: false }
    }

    pub(crate) fn answer(&self, id: &str) -> Answer {
        Answer::unavailable(id, &self.why, self.retryable)
    }
}

impl Exchange {
    pub(crate) fn new(name: ServerName, in_flight_max: usize, roots: Vec<String>, account: Arc<Account>) -> Self {
        Self {
            name,
            roots,
            state: ChildState::Starting,
            children: 0,
            child: None,
            patience: None,
            calls: Calls::new(in_flight_max),
            sessions: Sessions::default(),
            usages: Usages::default(),
            account,
        }
    }

    pub(crate) fn roots(&self) -> &[String] {
        &self.roots
    }

    pub(crate) fn set_state(&mut self, state: ChildState) {
        self.state = state;
        if self.has_failed() {
            self.give_up();
        }
    }

    /// Has calls that wait be given up by this, unless a child is there before.
    pub(crate) fn wait_for_child(&mut self, patience: AbortHandle) {
        self.wait_no_more();
        self.patience = Some(patience);
    }

    fn wait_no_more(&mut self) {
        if let Some(patience) = self.patience.take() {
            patience.abort();
        }
    }

    /// Answers the calls that wait for a child: there will be none in time.
    pub(crate) fn give_up(&mut self) {
        if self.about().is_some() {
            return;
        }
        self.wait_no_more();
        for call in self.calls.waiting.take(|_| true) {
            let answer = self.down().answer(&call.client_id);
            self.settle(call, End::Answer(answer));
        }
    }

    /// The child, if it is up.
    pub(crate) fn about(&self) -> Option<&Arc<About>> {
        self.child.as_ref()?.about.as_ref()
    }

    /// Whether waiting for the child is of no use.
    pub(crate) fn has_failed(&self) -> bool {
        self.child.is_none() && matches!(self.state, ChildState::Failed { .. })
    }

    /// Why there is no child.
    pub(crate) fn down(&self) -> Down {
        let name = &self.name;
        let why = match &self.state {
            ChildState::Starting => format!("MCP server {name} is still starting: try again later"),
            ChildState::Restarting { why, since } => format!(
                "MCP server {name} was lost {} s ago ({why}) and is being started again: try again later",
                since.elapsed().as_secs()
            ),
            ChildState::Failed { why } => {
                format!("MCP server {name} does not run ({why}): restart it when that is mended")
            }
        };
        Down { why, retryable: !self.has_failed() }
    }

    /// Makes room for a new child: the number of the one before, if that is still there, has to be lost first.
    pub(crate) fn begin(&mut self, garbage: Garbage) -> u64 {
        self.children += 1;
        // What became of the one before is told of it alone.
        self.state = ChildState::Starting;
        self.child = Some(Child::new(self.children, garbage));
        self.children
    }

    /// The child, if it is still the one meant.
    pub(crate) fn child(&mut self, generation: u64) -> Option<&mut Child> {
        self.child.as_mut().filter(|child| child.generation == generation)
    }

    /// Lets calls through to a child that said what it is. False if it is not there any more.
    pub(crate) fn open(&mut self, generation: u64, about: About) -> bool {
        let Some(child) = self.child(generation) else {
            return false;
        };
        child.about = Some(Arc::new(about));
        self.wait_no_more();
        self.sync_interests();
        self.pump();
        true
    }

    /// Takes a call in. It is sent at once if its turn is now.
    ///
    /// # Errors
    /// The answer says why it was not taken in.
    pub(crate) fn submit(&mut self, call: Box<Call>) -> Result<(), Answer> {
        let id = &call.client_id;
        if self.usages.is_ended(call.allocation) {
            return Err(Answer::unavailable(id, LEASE_ENDED, false));
        }
        let is_up = self.about().is_some();
        if !is_up && self.patience.is_none() {
            return Err(self.down().answer(id));
        }
        if let Some(session) = call.session {
            match self.sessions.by_id.get_mut(&session) {
                Some(session) => session.calls += 1,
                None => return Err(Answer::unavailable(id, "the session has ended", false)),
            }
        }
        // Those of others that wait may not be sent now, or they would have been.
        if is_up && !self.calls.waiting.has_any_of(call.allocation) && self.may_send(call.allocation) {
            self.send(call);
            return Ok(());
        }
        self.calls.waiting.push(call).map_err(|call| {
            self.leave(call.session);
            let why = self.calls.waiting.crowded(call.allocation);
            let message = format!("MCP server {} is busy: {why}", self.name);
            Answer::unavailable(&call.client_id, &message, true)
        })
    }

    fn may_send(&self, allocation: Option<AllocationId>) -> bool {
        self.child.as_ref().is_some_and(Child::has_room) && self.calls.may_send(allocation)
    }

    fn send(&mut self, mut call: Box<Call>) {
        let Some(child) = &mut self.child else {
            return;
        };
        child.push(&call.text);
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
    pub(crate) fn pump(&mut self) {
        while self.about().is_some()
            && self.child.as_ref().is_some_and(Child::has_room)
            && let Some(call) = self.calls.next()
        {
            self.send(call);
        }
    }

    /// The child has answered a call. What nobody has room for is answered with an error.
    pub(crate) fn answer(&mut self, call: Call, answer: Answer) {
        let answer = answer.held(&self.account.holder(call.allocation), &call.client_id);
        self.settle(call, End::Answer(answer));
        self.pump();
    }

    /// A call has come to its end.
    pub(crate) fn settle(&mut self, call: Call, end: End) {
        self.leave(call.session);
        let mut usage =
            Usage { busy: call.sent_at.map(|at| at.elapsed()).unwrap_or(Duration::ZERO), ..Usage::default() };
        if let End::Answer(answer) = &end {
            usage.calls = 1;
            usage.errors = u64::from(answer.error_code.is_some());
            usage.bytes_out = answer.text.len() as u64;
            if answer.error_code.is_some()
                && let (Some(session), Some(uri)) = (call.session, &call.subscribes)
            {
                self.not_subscribed(session, uri);
            }
        }
        self.usages.add(call.allocation, &usage);
        if let Some(mailbox) = call.mailbox {
            mailbox.finish(end);
        }
    }

    fn leave(&mut self, session: Option<SessionId>) {
        if let Some(session) = session.and_then(|session| self.sessions.by_id.get_mut(&session)) {
            session.calls = session.calls.saturating_sub(1);
            session.used_at = Instant::now();
        }
    }

    /// The child is gone: what it had is answered with an error, what it did not have yet waits for the next, in its order. Whether
    /// it was up until now, so that somebody has to see to it that nothing waits for ever.
    pub(crate) fn lose(&mut self, generation: u64, why: &str) -> bool {
        if self.child(generation).is_none() {
            return false;
        }
        let Some(child) = self.child.take() else {
            return false;
        };
        if !matches!(self.state, ChildState::Failed { .. }) {
            self.state = ChildState::Restarting { why: why.to_owned(), since: Instant::now() };
        }
        // Its writer ends when it finds that it has no child any more.
        child.writer.notify_one();
        for mailbox in child.own.into_values() {
            mailbox.finish(End::Silence);
        }
        let message = format!("MCP server {} was lost while it worked on this ({why}): try again", self.name);
        for call in self.calls.take_in_flight(|_| true) {
            let answer = Answer::unavailable(&call.client_id, &message, true);
            self.settle(call, End::Answer(answer));
        }
        if self.has_failed() {
            self.give_up();
        }
        child.about.is_some()
    }

    /// Ends calls early: the child is told, and their callers get what `end` makes.
    pub(crate) fn cancel(&mut self, reason: &str, chosen: impl Fn(&Call) -> bool, end: impl Fn(&Call) -> End) {
        for call in self.calls.waiting.take(&chosen) {
            let end = end(&call);
            self.settle(call, end);
        }
        for call in self.calls.take_in_flight(&chosen) {
            self.calls.forget(call.number);
            let reason = serde_json::Value::from(reason);
            self.tell("notifications/cancelled", &format!(r#"{{"requestId":{},"reason":{reason}}}"#, call.number));
            let end = end(&call);
            self.settle(call, end);
        }
        self.pump();
    }

    /// Sends the child a notice of the bridge's own.
    pub(crate) fn tell(&mut self, method: &str, params: &str) {
        if let Some(child) = &mut self.child {
            child.write(format!(r#"{{"jsonrpc":"2.0","method":"{method}","params":{params}}}"#).as_bytes());
        }
    }

    /// Sends the child a request whose answer does not matter, and gives its number.
    pub(crate) fn request(&mut self, method: &str, params: &str) -> u64 {
        let number = self.calls.number();
        let text = request_text(number, method, params);
        if let Some(child) = &mut self.child
            && child.write(text.as_bytes())
        {
            self.calls.forget(number);
        }
        number
    }

    /// Asks the child something; the answer comes to the mailbox. None if it cannot be asked.
    pub(crate) fn ask(&mut self, generation: u64, method: &str, params: &str) -> Option<(u64, Arc<Mailbox>)> {
        let number = self.calls.number();
        let text = request_text(number, method, params);
        let child = self.child(generation)?;
        let mailbox = Arc::new(Mailbox::default());
        if child.write(text.as_bytes()) {
            child.own.insert(number, Arc::clone(&mailbox));
        }
        Some((number, mailbox))
    }

    /// Ends a session, and with it its calls.
    pub(crate) fn end_session(&mut self, id: SessionId) -> bool {
        let Some(session) = self.sessions.by_id.remove(&id) else {
            return false;
        };
        if let Some(stream) = session.stream {
            stream.finish(End::Silence);
        }
        self.cancel(
            "the session has ended",
            |call| call.session == Some(id),
            |call| End::Answer(Answer::unavailable(&call.client_id, "the session has ended", false)),
        );
        self.sync_interests();
        true
    }

    pub(crate) fn end_allocation(&mut self, allocation: AllocationId) {
        self.usages.end(allocation);
        self.end_matching(|of| of == Some(allocation), LEASE_ENDED);
    }

    /// Ends the sessions, listeners and calls of the allocations that are chosen.
    pub(crate) fn end_matching(&mut self, chosen: impl Fn(Option<AllocationId>) -> bool, why: &str) {
        self.cancel(
            why,
            |call| chosen(call.allocation),
            |call| End::Answer(Answer::unavailable(&call.client_id, why, false)),
        );
        for (_, session) in self.sessions.by_id.extract_if(.., |_, session| chosen(session.allocation)) {
            if let Some(stream) = session.stream {
                stream.finish(End::Silence);
            }
        }
        for (_, listener) in self.sessions.listeners.extract_if(.., |_, listener| chosen(listener.allocation)) {
            let id = &listener.id;
            let result =
                format!(r#"{{"resultType":"complete","_meta":{{"io.modelcontextprotocol/subscriptionId":{id}}}}}"#);
            listener.mailbox.finish(End::Answer(Answer::result(id, &result)));
        }
        self.sync_interests();
    }

    /// How the child speaks, if it is up.
    pub(crate) fn child_era(&self) -> Option<Era> {
        self.about().map(|about| about.era)
    }
}

fn request_text(number: u64, method: &str, params: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{number},"method":"{method}","params":{params}}}"#)
}
