//! What the reading side, the writing side and the application share of one connection.
//!
//! Invariants: an id is in flight at most once; the calls and the listens in flight never exceed
//! their limits; an id that was cancelled is not delivered again while it is remembered.

use std::{
    collections::HashMap,
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Waker},
};

use rmcp::model::{ErrorData, GetExtensions, JsonRpcMessage, RequestId, ServerJsonRpcMessage};
use serde::Serialize;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    WireLimits,
    call::{Call, CallState},
    cancelled::CancelledIds,
    message::IncomingRequest,
    outbox::{Outbox, broken_pipe},
    text::shortened,
};

/// The shared state itself.
pub(super) struct Connection {
    state: Mutex<ConnectionState>,
    limits: WireLimits,
    closing: CancellationToken,
    ended: CancellationToken,
    flushed: Notify,
}

struct ConnectionState {
    in_flight: HashMap<RequestId, InFlight>,
    calls: usize,
    listens: usize,
    cancelled: CancelledIds,
    established: bool,
    stopped: bool,
    /// The task that reads, if it sleeps.
    reader: Option<Waker>,
    /// Whether that task sleeps for want of room, and not only of input.
    wants_capacity: bool,
    outbox: Outbox,
}

struct InFlight {
    call_state: Arc<CallState>,
    is_listen: bool,
}

/// Whether the next line may be looked at.
pub(super) enum ReadGate {
    Open,
    /// The client does not read its replies. The reader is woken when it has read some.
    Full,
    /// Nothing more is to be read.
    Over,
}

/// What becomes of a request that was read.
pub(super) enum Admission {
    /// It is in flight now, and bears its [`Call`].
    Delivered,
    /// It was refused, and the refusal is in the outbox.
    Refused,
    /// It waits for room. The reader is woken when there is some.
    Waits,
}

impl Connection {
    pub(super) fn new(limits: WireLimits) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(ConnectionState {
                in_flight: HashMap::new(),
                calls: 0,
                listens: 0,
                cancelled: CancelledIds::default(),
                established: false,
                stopped: false,
                reader: None,
                wants_capacity: false,
                outbox: Outbox::default(),
            }),
            limits,
            closing: CancellationToken::new(),
            ended: CancellationToken::new(),
            flushed: Notify::new(),
        })
    }

    /// Whether to go on reading. The task of `context` is woken when that changes.
    pub(super) fn gate(&self, context: &Context<'_>) -> ReadGate {
        let mut state = self.lock();
        if state.stopped || state.outbox.is_broken() {
            return ReadGate::Over;
        }
        let full = state.outbox.is_over_high_water();
        state.sleep(context, full);
        if full { ReadGate::Full } else { ReadGate::Open }
    }

    /// Takes `request` in flight, refuses it, or keeps it waiting.
    pub(super) fn admit(self: &Arc<Self>, request: &mut IncomingRequest, context: &Context<'_>) -> Admission {
        let mut state = self.lock();
        let id = &request.message.id;
        if state.in_flight.contains_key(id) {
            // The refusal bears no id: the client would take it for the answer to the first.
            let text = format!(
                "id {} is that of a request still in flight: give each request an id of its own",
                shortened(&id.to_string())
            );
            state.refuse(None, &ErrorData::invalid_request(text, None));
        } else if state.cancelled.contains(id) {
            let text = format!(
                "id {} is that of a cancelled request: give each request an id of its own",
                shortened(&id.to_string())
            );
            state.refuse(Some(id), &ErrorData::invalid_request(text, None));
        } else if request.is_listen && state.listens >= self.limits.listens_max {
            let text = format!(
                "{} subscriptions/listen requests are open, the most for one connection: \
                 cancel one first, or name more resources in one",
                self.limits.listens_max
            );
            state.refuse(Some(id), &ErrorData::invalid_request(text, None));
        } else if !request.is_listen && state.calls >= self.limits.calls_in_flight_max {
            state.sleep(context, true);
            return Admission::Waits;
        } else {
            self.deliver(&mut state, request);
            return Admission::Delivered;
        }
        let writer = state.outbox.take_writer();
        drop(state);
        wake(writer);
        Admission::Refused
    }

    fn deliver(self: &Arc<Self>, state: &mut ConnectionState, request: &mut IncomingRequest) {
        let is_listen = request.is_listen;
        let id = request.message.id.clone();
        let call_state = CallState::open();
        let call = Call::new(id.clone(), is_listen, call_state.clone(), Arc::downgrade(self));
        request.message.request.extensions_mut().insert(call);
        state.in_flight.insert(id, InFlight { call_state, is_listen });
        *state.count(is_listen) += 1;
    }

    /// Answers a line that is not delivered. Nothing is done if the client no longer listens.
    pub(super) fn refuse(&self, id: Option<&RequestId>, error: &ErrorData) {
        let writer = {
            let mut state = self.lock();
            state.refuse(id, error);
            state.outbox.take_writer()
        };
        wake(writer);
    }

    /// Settles the call `id` as cancelled, if it is in flight, and takes back what it did. Its place
    /// in flight is free once its handler is done too.
    pub(super) fn cancel(&self, id: &RequestId) {
        let InFlight { call_state, is_listen } = {
            let mut state = self.lock();
            let Some(call) = state.in_flight.remove(id) else {
                return;
            };
            state.cancelled.remember(id.clone());
            call
        };
        if call_state.cancel() {
            self.release_slot(is_listen);
        }
    }

    /// Gives the place of a cancelled call to another.
    pub(super) fn release_slot(&self, is_listen: bool) {
        let reader = {
            let mut state = self.lock();
            *state.count(is_listen) -= 1;
            state.take_reader_for_capacity()
        };
        wake(reader);
    }

    /// Settles a call whose handler died without a reply.
    pub(super) fn fail(&self, id: &RequestId, call_state: &Arc<CallState>) {
        let (writer, reader) = {
            let mut state = self.lock();
            if !state.in_flight.get(id).is_some_and(|call| Arc::ptr_eq(&call.call_state, call_state)) {
                return;
            }
            state.take_from_flight(id);
            let error = ErrorData::internal_error(
                "internal error: the server failed while it handled this request; \
                 its log says more",
                None,
            );
            state.refuse(Some(id), &error);
            (state.outbox.take_writer(), state.take_reader_for_capacity())
        };
        call_state.answer();
        wake(writer);
        wake(reader);
    }

    /// Puts a message of rmcp's into the outbox. A reply is done with that; anything else comes
    /// with a receiver that resolves once it is written, which slows down those who send without
    /// being asked to the pace of the client.
    pub(super) fn put(&self, message: &ServerJsonRpcMessage) -> io::Result<Option<oneshot::Receiver<()>>> {
        let reply_to = match message {
            JsonRpcMessage::Response(response) => Some(&response.id),
            JsonRpcMessage::Error(error) => error.id.as_ref(),
            JsonRpcMessage::Request(_) | JsonRpcMessage::Notification(_) => None,
        };
        let mut answered = None;
        let (result, writer, reader) = {
            let mut state = self.lock();
            if let Some(id) = reply_to {
                answered = state.take_from_flight(id);
                if answered.is_none() {
                    // The call was settled otherwise: a second reply would only confuse.
                    tracing::debug!(%id, "a reply to no call in flight is not sent");
                    return Ok(None);
                }
            }
            let result = match (state.outbox.append(message), reply_to) {
                (Ok(()), Some(_)) => Ok(None),
                (Ok(()), None) => Ok(Some(state.outbox.written())),
                (Err(error), Some(id)) if !state.outbox.is_broken() => {
                    let text = format!("internal error: the reply cannot be written: {error}");
                    state.refuse(Some(id), &ErrorData::internal_error(text, None));
                    Ok(None)
                }
                (Err(error), _) => Err(error),
            };
            let writer = state.outbox.take_writer();
            (result, writer, state.take_reader_for_capacity())
        };
        if let Some(call_state) = answered {
            call_state.answer();
        }
        wake(writer);
        wake(reader);
        result
    }

    pub(super) fn establish(&self) {
        self.lock().established = true;
    }

    pub(super) fn is_established(&self) -> bool {
        self.lock().established
    }

    pub(super) fn stop(&self) {
        self.closing.cancel();
        let reader = {
            let mut state = self.lock();
            state.stopped = true;
            state.reader.take()
        };
        wake(reader);
    }

    pub(super) fn closing(&self) -> &CancellationToken {
        &self.closing
    }

    pub(super) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    pub(super) fn calls_in_flight(&self) -> usize {
        self.lock().calls
    }

    pub(super) fn listens_in_flight(&self) -> usize {
        self.lock().listens
    }

    pub(super) fn announce_closing(&self) {
        self.closing.cancel();
    }

    pub(super) fn announce_ended(&self) {
        self.closing.cancel();
        self.ended.cancel();
    }

    pub(super) fn announce_broken(&self) {
        self.closing.cancel();
        self.flushed.notify_waiters();
        let reader = self.lock().reader.take();
        wake(reader);
    }

    /// Wakes the reader if it waits for room in the outbox and there is some.
    pub(super) fn announce_capacity(&self) {
        let reader = {
            let mut state = self.lock();
            if state.outbox.is_over_high_water() { None } else { state.take_reader_for_capacity() }
        };
        wake(reader);
    }

    pub(super) fn announce_flushed(&self) {
        self.flushed.notify_waiters();
    }

    /// Fails if the client closed its end before all was written.
    pub(super) async fn wait_flushed(&self) -> io::Result<()> {
        loop {
            let flushed = self.flushed.notified();
            tokio::pin!(flushed);
            flushed.as_mut().enable();
            {
                let state = self.lock();
                if state.outbox.is_broken() {
                    return Err(broken_pipe());
                }
                if state.outbox.is_flushed() {
                    return Ok(());
                }
            }
            flushed.await;
        }
    }

    /// Lets the writer end once all is written.
    pub(super) fn close_outbox(&self) {
        let writer = self.with_outbox(|outbox| {
            outbox.close();
            outbox.take_writer()
        });
        wake(writer);
    }

    pub(super) fn with_outbox<T>(&self, work: impl FnOnce(&mut Outbox) -> T) -> T {
        work(&mut self.lock().outbox)
    }

    /// A panic while the lock is held leaves the state whole: every change is a single step.
    fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionState {
    fn refuse(&mut self, id: Option<&RequestId>, error: &ErrorData) {
        /// rmcp's own type leaves out an absent id, where JSON-RPC asks for a null.
        #[derive(Serialize)]
        struct Refusal<'a> {
            jsonrpc: &'static str,
            id: Option<&'a RequestId>,
            error: &'a ErrorData,
        }
        let refusal = Refusal { jsonrpc: "2.0", id, error };
        if let Err(error) = self.outbox.append(&refusal) {
            tracing::debug!(%error, "a refusal is not sent");
        }
    }

    fn take_from_flight(&mut self, id: &RequestId) -> Option<Arc<CallState>> {
        let InFlight { call_state, is_listen } = self.in_flight.remove(id)?;
        *self.count(is_listen) -= 1;
        Some(call_state)
    }

    fn count(&mut self, is_listen: bool) -> &mut usize {
        if is_listen { &mut self.listens } else { &mut self.calls }
    }

    /// Remembers the task to wake when the connection ends, and when there is room if asked to.
    fn sleep(&mut self, context: &Context<'_>, wants_capacity: bool) {
        self.wants_capacity = wants_capacity;
        match &mut self.reader {
            Some(reader) => reader.clone_from(context.waker()),
            None => self.reader = Some(context.waker().clone()),
        }
    }

    fn take_reader_for_capacity(&mut self) -> Option<Waker> {
        if std::mem::take(&mut self.wants_capacity) { self.reader.take() } else { None }
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}
