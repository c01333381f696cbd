//! The state of one connection, shared by its reader, its writer and the application.
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
    /// The waker of the reader, if it sleeps.
    reader: Option<Waker>,
    /// Whether the reader waits for capacity, and not only for input.
    wants_capacity: bool,
    outbox: Outbox,
}

struct InFlight {
    call_state: Arc<CallState>,
    is_listen: bool,
}

/// Whether the next line may be read.
pub(super) enum ReadGate {
    Open,
    /// The outbox is full. The reader is woken once the client has read replies.
    Full,
    /// The connection ends: nothing more is read.
    Over,
}

/// The outcome of an attempt to deliver a request.
pub(super) enum Admission {
    /// It is in flight, and its extensions have its [`Call`].
    Delivered,
    /// It was refused, and the refusal is in the outbox.
    Refused,
    /// It waits for a free slot in flight. The reader is woken when there is one.
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

    /// Returns whether to go on reading. The task of `context` is woken when that changes.
    pub(super) fn gate(&self, context: &Context<'_>) -> ReadGate {
        let mut state = self.lock();
        if state.stopped || state.outbox.is_broken() {
            return ReadGate::Over;
        }
        let full = state.outbox.is_over_high_water();
        state.sleep(context, full);
        if full { ReadGate::Full } else { ReadGate::Open }
    }

    /// Delivers or refuses `request`, or lets it wait for a slot.
    pub(super) fn admit(self: &Arc<Self>, request: &mut IncomingRequest, context: &Context<'_>) -> Admission {
        let mut state = self.lock();
        let id = &request.message.id;
        if state.in_flight.contains_key(id) {
            // The refusal has no id: with it, the client would take it for the reply to the first request.
            let text = format!(
                "id {} is already in use by a request in flight: give each request an id of its own",
                shortened(&id.to_string())
            );
            state.refuse(None, &ErrorData::invalid_request(text, None));
        } else if state.cancelled.contains(id) {
            let text = format!(
                "id {} was used by a cancelled request: give each request an id of its own",
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

    /// Replies with an error to a line that is not delivered. Does nothing once the client has closed its end.
    pub(super) fn refuse(&self, id: Option<&RequestId>, error: &ErrorData) {
        let writer = {
            let mut state = self.lock();
            state.refuse(id, error);
            state.outbox.take_writer()
        };
        wake(writer);
    }

    /// Settles the call `id` as cancelled, if it is in flight, and runs its undo. Its slot in flight is
    /// free once its handler is done too.
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

    /// Frees the slot in flight of a cancelled call.
    pub(super) fn release_slot(&self, is_listen: bool) {
        let reader = {
            let mut state = self.lock();
            *state.count(is_listen) -= 1;
            state.take_reader_for_capacity()
        };
        wake(reader);
    }

    /// Replies with an error to a call whose handler panicked.
    pub(super) fn fail(&self, id: &RequestId, call_state: &Arc<CallState>) {
        let (writer, reader) = {
            let mut state = self.lock();
            if !state.in_flight.get(id).is_some_and(|call| Arc::ptr_eq(&call.call_state, call_state)) {
                return;
            }
            state.take_from_flight(id);
            let error = ErrorData::internal_error(
                "internal error: the server failed while it handled this request; \
                 see its log",
                None,
            );
            state.refuse(Some(id), &error);
            (state.outbox.take_writer(), state.take_reader_for_capacity())
        };
        call_state.answer();
        wake(writer);
        wake(reader);
    }

    /// Appends a message of rmcp to the outbox. For a message other than a reply it returns a receiver
    /// that resolves once the message is written, which slows senders of notices to the pace of the
    /// client.
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
                    // The call is already settled: a client must not get a second reply.
                    tracing::debug!(%id, "reply to a settled call dropped");
                    return Ok(None);
                }
            }
            let result = match (state.outbox.append(message), reply_to) {
                (Ok(()), Some(_)) => Ok(None),
                (Ok(()), None) => Ok(Some(state.outbox.written())),
                (Err(error), Some(id)) if !state.outbox.is_broken() => {
                    let text = format!("internal error: the reply could not be written: {error}");
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

    /// Wakes the reader if it waits for capacity in the outbox and there is some.
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

    /// Waits until everything is written and flushed. Fails if the client closed its end before.
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

    /// Locks the state. A panic of another holder leaves it valid: every change is a single step.
    fn lock(&self) -> MutexGuard<'_, ConnectionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ConnectionState {
    fn refuse(&mut self, id: Option<&RequestId>, error: &ErrorData) {
        /// An error reply. rmcp's own type omits an absent id, where JSON-RPC requires null.
        #[derive(Serialize)]
        struct Refusal<'a> {
            jsonrpc: &'static str,
            id: Option<&'a RequestId>,
            error: &'a ErrorData,
        }
        let refusal = Refusal { jsonrpc: "2.0", id, error };
        if let Err(error) = self.outbox.append(&refusal) {
            tracing::debug!(%error, "refusal dropped");
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

    /// Stores the task to wake when the connection ends, and also when there is capacity if it wants it.
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
