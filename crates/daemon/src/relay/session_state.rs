//! The state of a client's session that the relay tracks, so that the session survives its daemon: requests in flight,
//! the MCP handshake, and subscriptions.
//!
//! Invariants: the size is bounded by the limits of the protocol; an id is present from the forwarding of its request
//! to the forwarding of its reply or cancellation.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
};

use rmcp::model::RequestId;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::super::handshake::SHUTDOWN_NOTICE;
use cortex_lines::parse_id;
use cortex_mcp::transport::LISTENS_MAX;

/// The maximum number of subscriptions of older clients that are replayed; equal to the daemon's limit.
const SUBSCRIPTIONS_MAX: usize = 1_000;

/// The maximum size of the `subscriptions/listen` requests that are kept for a replay, in bytes. When the daemon is
/// lost, requests beyond it are answered with an error.
const LISTEN_BYTES_MAX: usize = 1_048_576;

/// The error code for a call that may or may not have taken effect.
const LOST_CODE: i32 = -32_000;

const LOST_MESSAGE: &str = "the manager was restarted: this call may or may not have taken effect. Retry it: with the \
                            same request_id or task_id nothing is done twice, complete_task can be repeated, and \
                            heartbeat_agent shows the tasks that an agent holds";

const LOST_WITH_STATE_MESSAGE: &str = "the manager was restarted, and all leases, agents and tasks are lost, since its \
                                       state was in memory only. Request again what is still needed; another job may \
                                       hold it now";

const NO_DAEMON_MESSAGE: &str = "the manager cannot be reached, and this process ends: this call may or may not have \
                                 taken effect. Start it again, and retry with the same request_id or task_id";

/// The start of every reply that the daemon writes.
const REPLY_PREFIX: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":";

/// What the relay does with a line of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineAction {
    Forward,
    /// The line replies to a request of the relay.
    Drop,
    /// The line is the shutdown notice of a daemon that was stopped on purpose.
    Shutdown,
}

/// The kinds of requests in flight that are treated differently when the daemon is lost.
#[derive(Debug)]
enum RequestKind {
    Call,
    /// The first request of a session, which can be sent again.
    Initialize,
    /// A subscription to the resource with this URI.
    Subscribe(String),
    /// The line, which can be sent again, and whether the client has received the acknowledgement.
    Listen {
        line: Vec<u8>,
        is_acknowledged: bool,
    },
}

#[derive(Debug, Default)]
pub(super) struct SessionState {
    /// The requests in flight, each with its sequence number.
    in_flight: HashMap<RequestId, (u64, RequestKind)>,
    sequence: u64,
    listens: usize,
    listen_bytes: usize,
    initialize: Option<Vec<u8>>,
    initialized: Option<Vec<u8>>,
    subscriptions: BTreeSet<String>,
}

/// The members of a message that the relay reads.
#[derive(Deserialize)]
struct MessageHead<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<&'a RawValue>,
    error: Option<IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct CancelledParams<'a> {
    #[serde(borrow)]
    request_id: &'a RawValue,
}

#[derive(Deserialize)]
struct AcknowledgedParams<'a> {
    #[serde(borrow, rename = "_meta")]
    meta: AcknowledgedMeta<'a>,
}

#[derive(Deserialize)]
struct AcknowledgedMeta<'a> {
    /// The id of the `subscriptions/listen` request.
    #[serde(borrow, rename = "io.modelcontextprotocol/subscriptionId")]
    subscription_id: &'a RawValue,
}

#[derive(Deserialize)]
struct ResourceParams {
    uri: String,
}

impl SessionState {
    /// Returns the number of requests in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Records a line of the client.
    pub(super) fn note_sent(&mut self, line: &[u8]) {
        let Ok(head) = serde_json::from_slice::<MessageHead<'_>>(line) else { return };
        let (id, Some(method)) = (head.id, head.method.as_deref()) else { return };
        let params = head.params.map_or("null", RawValue::get);
        let Some(id) = id else { return self.note_notification(method, params, line) };
        let Ok(id) = parse_id(id.get()) else { return };
        // The daemon rejects a second request with the id of one in flight.
        if self.in_flight.contains_key(&id) {
            return;
        }
        let uri = || serde_json::from_str::<ResourceParams>(params).ok().map(|params| params.uri);
        let kind = match method {
            "initialize" => {
                self.initialize = Some(line.to_vec());
                RequestKind::Initialize
            }
            "resources/subscribe" => uri().map_or(RequestKind::Call, RequestKind::Subscribe),
            "resources/unsubscribe" => {
                if let Some(uri) = uri() {
                    self.subscriptions.remove(&uri);
                }
                RequestKind::Call
            }
            "subscriptions/listen" if self.has_capacity_for_listen(line) => {
                self.listens += 1;
                self.listen_bytes += line.len();
                RequestKind::Listen { line: line.to_vec(), is_acknowledged: false }
            }
            _ => RequestKind::Call,
        };
        self.sequence += 1;
        self.in_flight.insert(id, (self.sequence, kind));
    }

    fn has_capacity_for_listen(&self, line: &[u8]) -> bool {
        self.listens < LISTENS_MAX && self.listen_bytes + line.len() <= LISTEN_BYTES_MAX
    }

    fn note_notification(&mut self, method: &str, params: &str, line: &[u8]) {
        match method {
            "notifications/initialized" => self.initialized = Some(line.to_vec()),
            "notifications/cancelled" => {
                let params = serde_json::from_str::<CancelledParams<'_>>(params);
                if let Some(id) = params.ok().and_then(|params| parse_id(params.request_id.get()).ok()) {
                    self.take(&id);
                }
            }
            _ => {}
        }
    }

    /// Records a line of the daemon.
    pub(super) fn note_received(&mut self, line: &[u8]) -> LineAction {
        if line == SHUTDOWN_NOTICE {
            return LineAction::Shutdown;
        }
        if let Some(id) = id_of_reply(line) {
            self.note_reply(&id, line);
            return LineAction::Forward;
        }
        let Ok(head) = serde_json::from_slice::<MessageHead<'_>>(line) else { return LineAction::Forward };
        match (head.id, head.method.as_deref()) {
            (Some(id), None) => {
                if let Ok(id) = parse_id(id.get()) {
                    self.note_reply(&id, line);
                }
            }
            (None, Some("notifications/subscriptions/acknowledged")) => {
                return self.note_acknowledged(head.params.map_or("null", RawValue::get));
            }
            _ => {}
        }
        LineAction::Forward
    }

    /// Records the acknowledgement of a listen. For a replayed listen it is dropped if the client already received one.
    fn note_acknowledged(&mut self, params: &str) -> LineAction {
        let params = serde_json::from_str::<AcknowledgedParams<'_>>(params);
        let id = params.ok().and_then(|params| parse_id(params.meta.subscription_id.get()).ok());
        match id.and_then(|id| self.in_flight.get_mut(&id)) {
            Some((_, RequestKind::Listen { is_acknowledged: true, .. })) => LineAction::Drop,
            Some((_, RequestKind::Listen { is_acknowledged, .. })) => {
                *is_acknowledged = true;
                LineAction::Forward
            }
            _ => LineAction::Forward,
        }
    }

    fn note_reply(&mut self, id: &RequestId, line: &[u8]) {
        let Some(kind) = self.take(id) else { return };
        let is_error = || serde_json::from_slice::<MessageHead<'_>>(line).is_ok_and(|head| head.error.is_some());
        match kind {
            RequestKind::Initialize if is_error() => self.initialize = None,
            RequestKind::Subscribe(uri) if self.subscriptions.len() < SUBSCRIPTIONS_MAX && !is_error() => {
                self.subscriptions.insert(uri);
            }
            _ => {}
        }
    }

    fn take(&mut self, id: &RequestId) -> Option<RequestKind> {
        let (_, kind) = self.in_flight.remove(id)?;
        if let RequestKind::Listen { line, .. } = &kind {
            self.listens -= 1;
            self.listen_bytes -= line.len();
        }
        Some(kind)
    }

    /// Returns error replies for the requests that cannot be sent to another daemon, in the order of the requests.
    /// `is_durable` is whether the state survives the daemon.
    pub(super) fn fail_calls(&mut self, is_durable: bool) -> Vec<u8> {
        let message = if is_durable { LOST_MESSAGE } else { LOST_WITH_STATE_MESSAGE };
        self.error_replies(message, |kind| matches!(kind, RequestKind::Call | RequestKind::Subscribe(_)))
    }

    /// Returns error replies for all requests in flight.
    pub(super) fn fail_all(&mut self) -> Vec<u8> {
        self.error_replies(NO_DAEMON_MESSAGE, |_| true)
    }

    /// Removes the requests in flight that `is_failed` selects, and returns error replies for them.
    fn error_replies(&mut self, message: &str, is_failed: impl Fn(&RequestKind) -> bool) -> Vec<u8> {
        let failed = self.in_flight.iter().filter(|(_, (_, kind))| is_failed(kind));
        let mut failed: Vec<(u64, RequestId)> = failed.map(|(id, (sequence, _))| (*sequence, id.clone())).collect();
        failed.sort_by_key(|(sequence, _)| *sequence);
        let mut replies = Vec::new();
        for (_, id) in failed {
            self.take(&id);
            write_error(&mut replies, Some(&id), LOST_CODE, message, true);
        }
        replies
    }

    /// Returns the client's `initialize` request, and whether it is still in flight.
    pub(super) fn initialize(&self) -> Option<(&[u8], bool)> {
        let is_in_flight = self.in_flight.values().any(|(_, kind)| matches!(kind, RequestKind::Initialize));
        Some((self.initialize.as_deref()?, is_in_flight))
    }

    /// Returns the client's `notifications/initialized`.
    pub(super) fn initialized(&self) -> Option<&[u8]> {
        self.initialized.as_deref()
    }

    /// Returns the resources that a client of an older protocol has subscribed to.
    pub(super) fn subscriptions(&self) -> impl Iterator<Item = &str> {
        self.subscriptions.iter().map(String::as_str)
    }

    /// Returns the lines of the listens, in the order of the requests.
    pub(super) fn listens(&self) -> Vec<Vec<u8>> {
        let mut listens: Vec<_> = self
            .in_flight
            .values()
            .filter_map(|(sequence, kind)| match kind {
                RequestKind::Listen { line, .. } => Some((*sequence, line.clone())),
                _ => None,
            })
            .collect();
        listens.sort_unstable();
        listens.into_iter().map(|(_, line)| line).collect()
    }
}

/// Reads the id of a reply from the start of the line; `None` if the start does not identify a reply.
fn id_of_reply(line: &[u8]) -> Option<RequestId> {
    let rest = line.strip_prefix(REPLY_PREFIX)?;
    let end = match rest.first()? {
        b'"' => 2 + rest[1..].iter().position(|byte| *byte == b'"' || *byte == b'\\')?,
        _ => rest.iter().position(|byte| *byte == b',')?,
    };
    let (id, rest) = rest.split_at_checked(end)?;
    if !rest.starts_with(b",\"result\":") && !rest.starts_with(b",\"error\":") {
        return None;
    }
    parse_id(str::from_utf8(id).ok()?).ok()
}

/// Appends an error reply and its line end.
pub(super) fn write_error(to: &mut Vec<u8>, id: Option<&RequestId>, code: i32, message: &str, is_retryable: bool) {
    #[derive(Serialize)]
    struct Reply<'a> {
        jsonrpc: &'static str,
        id: Option<&'a RequestId>,
        error: Error<'a>,
    }
    #[derive(Serialize)]
    struct Error<'a> {
        code: i32,
        message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        data: Option<Data>,
    }
    #[derive(Serialize)]
    struct Data {
        retryable: bool,
    }
    let error = Error { code, message, data: is_retryable.then_some(Data { retryable: true }) };
    let before = to.len();
    match serde_json::to_writer(&mut *to, &Reply { jsonrpc: "2.0", id, error }) {
        Ok(()) => to.push(b'\n'),
        Err(_) => to.truncate(before),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn request(id: impl Into<Value>, method: &str, params: &Value) -> Vec<u8> {
        json!({"jsonrpc": "2.0", "id": id.into(), "method": method, "params": params}).to_string().into_bytes()
    }

    fn notification(method: &str, params: &Value) -> Vec<u8> {
        json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string().into_bytes()
    }

    fn reply(id: impl Into<Value>) -> Vec<u8> {
        format!("{{\"jsonrpc\":\"2.0\",\"id\":{},\"result\":{{}}}}", id.into()).into_bytes()
    }

    /// Returns the ids of the replies, which all have to be retryable errors.
    fn ids(answers: &[u8]) -> Vec<Value> {
        let lines = answers.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        let of = |line| {
            let answer: Value = serde_json::from_slice(line).expect("JSON");
            assert_eq!(
                (&answer["error"]["code"], &answer["error"]["data"]["retryable"]),
                (&json!(-32000), &json!(true))
            );
            answer["id"].clone()
        };
        lines.map(of).collect()
    }

    #[test]
    fn lost_calls_are_answered_in_order_and_nothing_else_is() {
        let mut session = SessionState::default();
        for id in [json!(3), json!("a"), json!(-1), json!("needs \"escape"), json!(9), json!(4)] {
            session.note_sent(&request(id, "tools/call", &json!({"name": "x"})));
        }
        session.note_sent(&notification("notifications/cancelled", &json!({"requestId": 9})));
        for odd in [
            "{\"id\":1.5,\"method\":\"x\"}",
            "[1]",
            "{",
            "{\"id\":1,\"id\":2,\"method\":\"x\"}",
            "{\"id\":7,\"result\":1}",
        ] {
            session.note_sent(odd.as_bytes());
        }
        assert_eq!(session.note_received(&reply("a")), LineAction::Forward);
        assert_eq!(session.note_received(br#"{"result":{},"id":4}"#), LineAction::Forward);
        assert_eq!(
            session.note_received(br#"{"jsonrpc":"2.0","id":"needs \"escape","result":{}}"#),
            LineAction::Forward
        );
        assert_eq!(session.note_received(br#"{"jsonrpc":"2.0","id":null,"error":{}}"#), LineAction::Forward);
        assert_eq!(session.in_flight(), 2);
        assert_eq!(ids(&session.fail_calls(true)), [json!(3), json!(-1)]);
        assert_eq!((session.in_flight(), session.fail_calls(true)), (0, Vec::new()));
        assert_eq!(session.note_received(SHUTDOWN_NOTICE), LineAction::Shutdown);
    }

    #[test]
    fn the_error_reports_the_loss_of_a_state_in_memory() {
        for (is_durable, expected) in [(true, LOST_MESSAGE), (false, LOST_WITH_STATE_MESSAGE)] {
            let mut session = SessionState::default();
            session.note_sent(&request(1, "tools/call", &json!({"name": "x"})));
            let answer: Value = serde_json::from_slice(&session.fail_calls(is_durable)).expect("JSON");
            assert_eq!(answer["error"]["message"], expected);
        }
    }

    #[test]
    fn the_handshake_and_subscriptions_are_remembered_as_they_were_agreed_on() {
        let mut session = SessionState::default();
        assert!(session.initialize().is_none());
        let initialize = request(1, "initialize", &json!({}));
        session.note_sent(&initialize);
        assert_eq!(session.initialize(), Some((initialize.as_slice(), true)));
        assert_eq!(session.fail_calls(true), b"", "it is sent again");
        session.note_received(&reply(1));
        assert_eq!(session.initialize(), Some((initialize.as_slice(), false)));
        session.note_sent(&notification("notifications/initialized", &json!({})));
        assert!(session.initialized().is_some());

        for (id, uri) in [(2, "a"), (3, "b"), (4, "refused"), (5, "unanswered")] {
            session.note_sent(&request(id, "resources/subscribe", &json!({"uri": uri})));
        }
        session.note_received(&reply(2));
        session.note_received(&reply(3));
        session.note_received(br#"{"jsonrpc":"2.0","id":4,"error":{"code":1,"message":""}}"#);
        session.note_sent(&request(6, "resources/unsubscribe", &json!({"uri": "b"})));
        assert_eq!(session.subscriptions().collect::<Vec<_>>(), ["a"]);
        assert_eq!(ids(&session.fail_calls(true)), [json!(5), json!(6)]);
    }

    #[test]
    fn listens_are_sent_again_and_acknowledged_once() {
        let mut session = SessionState::default();
        let listens = [request(8, "subscriptions/listen", &json!({})), request(7, "subscriptions/listen", &json!({}))];
        for listen in &listens {
            session.note_sent(listen);
        }
        let acknowledged = |id: u64| {
            let meta = json!({"_meta": {"io.modelcontextprotocol/subscriptionId": id}});
            notification("notifications/subscriptions/acknowledged", &meta)
        };
        assert_eq!(session.note_received(&acknowledged(8)), LineAction::Forward);
        assert_eq!(session.fail_calls(true), b"");
        assert_eq!(session.listens(), listens);
        // The acknowledgement of the listen that was not acknowledged before is forwarded.
        let actions = [8, 7, 7, 99].map(|id| session.note_received(&acknowledged(id)));
        assert_eq!(actions, [LineAction::Drop, LineAction::Forward, LineAction::Drop, LineAction::Forward]);
        let odd = notification("notifications/subscriptions/acknowledged", &json!({}));
        assert_eq!(session.note_received(&odd), LineAction::Forward);
        session.note_sent(&notification("notifications/cancelled", &json!({"requestId": 8})));
        assert_eq!(session.listens(), listens[1..]);
        for id in 100..200 {
            session.note_sent(&request(id, "subscriptions/listen", &json!({})));
        }
        assert_eq!(session.listens().len(), LISTENS_MAX);
        assert_eq!(ids(&session.fail_all()).len(), 101);
        assert_eq!((session.listens, session.listen_bytes), (0, 0));
    }
}
