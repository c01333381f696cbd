//! What a relay remembers of its client's session, so that the session survives its daemon: the requests that are not
//! answered yet, and what was agreed on with the daemon that is gone.
//!
//! Invariants: what is remembered is bounded by the limits of the wire; an id is here from the passing of its request to
//! the passing of its answer or its cancelling.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashMap},
};

use rmcp::model::RequestId;
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_json::value::RawValue;

use super::super::hello::GOODBYE;
use cortex_lines::parse_id;
use cortex_mcp::transport::LISTENS_MAX;

/// How many subscriptions of an older client are made again; the daemon takes as many.
const SUBSCRIPTIONS_MAX: usize = 1_000;

/// How many bytes of `subscriptions/listen` requests are kept, to be sent again. One beyond is answered with an error then.
const LISTEN_BYTES_MAX: usize = 1_048_576;

/// The code of the error for a call that may or may not have taken effect.
const LOST_CODE: i32 = -32_000;

const LOST: &str = "the manager was restarted: this call may or may not have taken effect. Ask again: with the same request_id or \
                    task_id nothing is done twice, a report to complete_task can be repeated, and heartbeat_agent shows what an agent holds";

const LOST_WITH_BOOKS: &str = "the manager was restarted, and all leases are gone, with agents and tasks, which were in its memory alone. \
                               Ask again for what is still needed; it may be what another job holds on to";

const GIVEN_UP: &str = "the manager cannot be reached any more, and this process ends: this call may or may not have taken effect. \
                        Start it again, and ask again with the same request_id or task_id";

/// How every reply of a daemon of ours begins.
const REPLY_PREFIX: &[u8] = b"{\"jsonrpc\":\"2.0\",\"id\":";

/// What becomes of a line of the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Forward,
    /// It answers what the relay sent by itself.
    Swallow,
    /// The daemon ends because somebody wants it to.
    Goodbye,
}

/// What a request in flight is, as far as it matters when it is lost.
#[derive(Debug)]
enum Kind {
    Call,
    /// Nothing has happened before it: it can be sent again.
    Initialize,
    /// The resource.
    Subscribe(String),
    /// The line, to be sent again, and whether the client has had the acknowledgement.
    Listen {
        line: Vec<u8>,
        is_acknowledged: bool,
    },
}

#[derive(Debug, Default)]
pub(super) struct Memory {
    /// The requests in flight, each with its place in the order in which they were sent.
    flight: HashMap<RequestId, (u64, Kind)>,
    sent: u64,
    listens: usize,
    listen_bytes: usize,
    initialize: Option<Vec<u8>>,
    initialized: Option<Vec<u8>>,
    subscriptions: BTreeSet<String>,
}

/// The members of a message that matter.
#[derive(Deserialize)]
struct Head<'a> {
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
    /// The id of the listen.
    #[serde(borrow, rename = "io.modelcontextprotocol/subscriptionId")]
    subscription_id: &'a RawValue,
}

#[derive(Deserialize)]
struct ResourceParams {
    uri: String,
}

impl Memory {
    /// How many requests are in flight.
    pub(super) fn in_flight(&self) -> usize {
        self.flight.len()
    }

    /// Notes a line of the client's.
    pub(super) fn note_sent(&mut self, line: &[u8]) {
        let Ok(head) = serde_json::from_slice::<Head<'_>>(line) else { return };
        let (id, Some(method)) = (head.id, head.method.as_deref()) else { return };
        let params = head.params.map_or("null", RawValue::get);
        let Some(id) = id else { return self.note_notification(method, params, line) };
        let Ok(id) = parse_id(id.get()) else { return };
        // The daemon refuses a second request with the id of one in flight.
        if self.flight.contains_key(&id) {
            return;
        }
        let uri = || serde_json::from_str::<ResourceParams>(params).ok().map(|params| params.uri);
        let kind = match method {
            "initialize" => {
                self.initialize = Some(line.to_vec());
                Kind::Initialize
            }
            "resources/subscribe" => uri().map_or(Kind::Call, Kind::Subscribe),
            "resources/unsubscribe" => {
                if let Some(uri) = uri() {
                    self.subscriptions.remove(&uri);
                }
                Kind::Call
            }
            "subscriptions/listen" if self.has_room_for_listen(line) => {
                self.listens += 1;
                self.listen_bytes += line.len();
                Kind::Listen { line: line.to_vec(), is_acknowledged: false }
            }
            _ => Kind::Call,
        };
        self.sent += 1;
        self.flight.insert(id, (self.sent, kind));
    }

    fn has_room_for_listen(&self, line: &[u8]) -> bool {
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

    /// Notes a line of the daemon's.
    pub(super) fn note_received(&mut self, line: &[u8]) -> Verdict {
        if line == GOODBYE {
            return Verdict::Goodbye;
        }
        if let Some(id) = id_of_reply(line) {
            self.note_reply(&id, line);
            return Verdict::Forward;
        }
        let Ok(head) = serde_json::from_slice::<Head<'_>>(line) else { return Verdict::Forward };
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
        Verdict::Forward
    }

    /// A listen that was sent again is acknowledged again, which is no news to a client that has had it.
    fn note_acknowledged(&mut self, params: &str) -> Verdict {
        let params = serde_json::from_str::<AcknowledgedParams<'_>>(params);
        let id = params.ok().and_then(|params| parse_id(params.meta.subscription_id.get()).ok());
        match id.and_then(|id| self.flight.get_mut(&id)) {
            Some((_, Kind::Listen { is_acknowledged: true, .. })) => Verdict::Swallow,
            Some((_, Kind::Listen { is_acknowledged, .. })) => {
                *is_acknowledged = true;
                Verdict::Forward
            }
            _ => Verdict::Forward,
        }
    }

    fn note_reply(&mut self, id: &RequestId, line: &[u8]) {
        let Some(kind) = self.take(id) else { return };
        let is_error = || serde_json::from_slice::<Head<'_>>(line).is_ok_and(|head| head.error.is_some());
        match kind {
            Kind::Initialize if is_error() => self.initialize = None,
            Kind::Subscribe(uri) if self.subscriptions.len() < SUBSCRIPTIONS_MAX && !is_error() => {
                self.subscriptions.insert(uri);
            }
            _ => {}
        }
    }

    fn take(&mut self, id: &RequestId) -> Option<Kind> {
        let (_, kind) = self.flight.remove(id)?;
        if let Kind::Listen { line, .. } = &kind {
            self.listens -= 1;
            self.listen_bytes -= line.len();
        }
        Some(kind)
    }

    /// The daemon is lost: gives the answers to all that cannot be sent again, in the order in which they were asked.
    pub(super) fn lose(&mut self, is_lasting: bool) -> Vec<u8> {
        let message = if is_lasting { LOST } else { LOST_WITH_BOOKS };
        self.answers(message, |kind| matches!(kind, Kind::Call | Kind::Subscribe(_)))
    }

    /// There is no daemon any more: gives the answers to all.
    pub(super) fn give_up(&mut self) -> Vec<u8> {
        self.answers(GIVEN_UP, |_| true)
    }

    /// The answers to those in flight that `wanted` picks; they are not in flight any more.
    fn answers(&mut self, message: &str, wanted: impl Fn(&Kind) -> bool) -> Vec<u8> {
        let picked = self.flight.iter().filter(|(_, (_, kind))| wanted(kind));
        let mut picked: Vec<(u64, RequestId)> = picked.map(|(id, (place, _))| (*place, id.clone())).collect();
        picked.sort_by_key(|(place, _)| *place);
        let mut answers = Vec::new();
        for (_, id) in picked {
            self.take(&id);
            write_error(&mut answers, Some(&id), LOST_CODE, message, true);
        }
        answers
    }

    /// The client's `initialize`, and whether it is still in flight.
    pub(super) fn greeting(&self) -> Option<(&[u8], bool)> {
        let is_in_flight = self.flight.values().any(|(_, kind)| matches!(kind, Kind::Initialize));
        Some((self.initialize.as_deref()?, is_in_flight))
    }

    /// The client's word that the handshake is over.
    pub(super) fn initialized(&self) -> Option<&[u8]> {
        self.initialized.as_deref()
    }

    /// The resources that a client of an older protocol has subscribed to.
    pub(super) fn subscriptions(&self) -> impl Iterator<Item = &str> {
        self.subscriptions.iter().map(String::as_str)
    }

    /// The listens, to be sent again in their order.
    pub(super) fn listens(&self) -> Vec<Vec<u8>> {
        let mut listens: Vec<_> = self
            .flight
            .values()
            .filter_map(|(place, kind)| match kind {
                Kind::Listen { line, .. } => Some((*place, line.clone())),
                _ => None,
            })
            .collect();
        listens.sort_unstable();
        listens.into_iter().map(|(_, line)| line).collect()
    }
}

/// The id of a reply, found without reading the rest of the line; nothing if that is not enough to be sure.
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

/// Appends an error reply and its newline.
pub(super) fn write_error(to: &mut Vec<u8>, id: Option<&RequestId>, code: i32, message: &str, retryable: bool) {
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
    let error = Error { code, message, data: retryable.then_some(Data { retryable }) };
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

    /// The ids of the answers, which all have to be retryable errors.
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
    fn what_is_lost_is_answered_in_order_and_nothing_else_is() {
        let mut memory = Memory::default();
        for id in [json!(3), json!("a"), json!(-1), json!("needs \"escape"), json!(9), json!(4)] {
            memory.note_sent(&request(id, "tools/call", &json!({"name": "x"})));
        }
        memory.note_sent(&notification("notifications/cancelled", &json!({"requestId": 9})));
        for odd in [
            "{\"id\":1.5,\"method\":\"x\"}",
            "[1]",
            "{",
            "{\"id\":1,\"id\":2,\"method\":\"x\"}",
            "{\"id\":7,\"result\":1}",
        ] {
            memory.note_sent(odd.as_bytes());
        }
        assert_eq!(memory.note_received(&reply("a")), Verdict::Forward);
        assert_eq!(memory.note_received(br#"{"result":{},"id":4}"#), Verdict::Forward);
        assert_eq!(memory.note_received(br#"{"jsonrpc":"2.0","id":"needs \"escape","result":{}}"#), Verdict::Forward);
        assert_eq!(memory.note_received(br#"{"jsonrpc":"2.0","id":null,"error":{}}"#), Verdict::Forward);
        assert_eq!(memory.in_flight(), 2);
        assert_eq!(ids(&memory.lose(true)), [json!(3), json!(-1)]);
        assert_eq!((memory.in_flight(), memory.lose(true)), (0, Vec::new()));
        assert_eq!(memory.note_received(GOODBYE), Verdict::Goodbye);
    }

    #[test]
    fn who_lost_books_in_memory_is_told_so() {
        for (is_lasting, expected) in [(true, LOST), (false, LOST_WITH_BOOKS)] {
            let mut memory = Memory::default();
            memory.note_sent(&request(1, "tools/call", &json!({"name": "x"})));
            let answer: Value = serde_json::from_slice(&memory.lose(is_lasting)).expect("JSON");
            assert_eq!(answer["error"]["message"], expected);
        }
    }

    #[test]
    fn the_handshake_and_subscriptions_are_remembered_as_they_were_agreed_on() {
        let mut memory = Memory::default();
        assert!(memory.greeting().is_none());
        let initialize = request(1, "initialize", &json!({}));
        memory.note_sent(&initialize);
        assert_eq!(memory.greeting(), Some((initialize.as_slice(), true)));
        assert_eq!(memory.lose(true), b"", "it is sent again");
        memory.note_received(&reply(1));
        assert_eq!(memory.greeting(), Some((initialize.as_slice(), false)));
        memory.note_sent(&notification("notifications/initialized", &json!({})));
        assert!(memory.initialized().is_some());

        for (id, uri) in [(2, "a"), (3, "b"), (4, "refused"), (5, "unanswered")] {
            memory.note_sent(&request(id, "resources/subscribe", &json!({"uri": uri})));
        }
        memory.note_received(&reply(2));
        memory.note_received(&reply(3));
        memory.note_received(br#"{"jsonrpc":"2.0","id":4,"error":{"code":1,"message":""}}"#);
        memory.note_sent(&request(6, "resources/unsubscribe", &json!({"uri": "b"})));
        assert_eq!(memory.subscriptions().collect::<Vec<_>>(), ["a"]);
        assert_eq!(ids(&memory.lose(true)), [json!(5), json!(6)]);
    }

    #[test]
    fn listens_are_sent_again_and_acknowledged_once() {
        let mut memory = Memory::default();
        let listens = [request(8, "subscriptions/listen", &json!({})), request(7, "subscriptions/listen", &json!({}))];
        for listen in &listens {
            memory.note_sent(listen);
        }
        let acknowledged = |id: u64| {
            let meta = json!({"_meta": {"io.modelcontextprotocol/subscriptionId": id}});
            notification("notifications/subscriptions/acknowledged", &meta)
        };
        assert_eq!(memory.note_received(&acknowledged(8)), Verdict::Forward);
        assert_eq!(memory.lose(true), b"");
        assert_eq!(memory.listens(), listens);
        // The one that was lost before it was acknowledged is news.
        let verdicts = [8, 7, 7, 99].map(|id| memory.note_received(&acknowledged(id)));
        assert_eq!(verdicts, [Verdict::Swallow, Verdict::Forward, Verdict::Swallow, Verdict::Forward]);
        let odd = notification("notifications/subscriptions/acknowledged", &json!({}));
        assert_eq!(memory.note_received(&odd), Verdict::Forward);
        memory.note_sent(&notification("notifications/cancelled", &json!({"requestId": 8})));
        assert_eq!(memory.listens(), listens[1..]);
        for id in 100..200 {
            memory.note_sent(&request(id, "subscriptions/listen", &json!({})));
        }
        assert_eq!(memory.listens().len(), LISTENS_MAX);
        assert_eq!(ids(&memory.give_up()).len(), 101);
        assert_eq!((memory.listens, memory.listen_bytes), (0, 0));
    }
}
