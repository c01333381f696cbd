//! The transport parses the same messages as rmcp, however the bytes are split.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use proptest::prelude::*;
use rmcp::{
    model::{ClientJsonRpcMessage, ClientRequest, GetExtensions, GetMeta, JsonRpcMessage, RequestMetaObject},
    transport::Transport,
};
use tokio::io::{AsyncRead, AsyncReadExt, ReadBuf};

use super::{
    super::{
        LineTransport, WireLimits,
        message::{Incoming, parse},
    },
    server::MODERN_META,
};

/// Messages of both generations. `META` stands for what a modern client adds.
const VALID: &[&str] = &[
    r#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{"roots":{"listChanged":true}},"clientInfo":{"name":"c","version":"1"}}}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
    r#"{"jsonrpc":"2.0","id":"a","method":"ping"}"#,
    r#"{"id":-1,"params":{"x":1},"method":"ping","jsonrpc":"2.0"}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"cursor":"5",META}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/list","params":null}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x"}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":null,"_meta":null}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{}}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x\"\u00e9","arguments":{"a":[1,-2.5e3,{"b":null}],"big":18446744073709551615}}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"_meta":{"progressToken":"t","other":{"a":1}},"name":"x","arguments":{"_meta":1},"unknown":[1]}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{META,"name":"x","arguments":{},"requestState":"s","inputResponses":{}}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tools\/call","params":{"name":"x"}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"resources/read","params":{"uri":"a:b",META}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"resources/subscribe","params":{"uri":"a:b"}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"resources/unsubscribe","params":{"uri":"a:b"}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"resources/list","params":{}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"x"}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"logging/setLevel","params":{"level":"info"}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{META}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"subscriptions/listen","params":{META,"notifications":{"resourceSubscriptions":["a:b"]}}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"tasks/get","params":{"taskId":"t",META}}"#,
    r#"{"jsonrpc":"2.0","id":1,"method":"no/such","params":{"a":1,META}}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"requestId":1,"reason":"r"}}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{}}"#,
    r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":0.5}}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{}}"#,
    r#"{"jsonrpc":"2.0","id":1,"result":{"roots":[]}}"#,
    r#"{"jsonrpc":"2.0","id":1,"error":{"code":-1,"message":"m"}}"#,
    r#"{"jsonrpc":"2.0","error":{"code":-1,"message":"m"}}"#,
];

fn meta(message: &ClientJsonRpcMessage) -> Option<RequestMetaObject> {
    match message {
        JsonRpcMessage::Request(request) => Some(request.request.get_meta().clone()),
        _ => None,
    }
}

#[test]
fn a_valid_message_is_what_rmcp_takes_it_for() {
    for line in VALID {
        let line = line.replace("META", MODERN_META);
        let theirs: ClientJsonRpcMessage = serde_json::from_str(&line).expect("rmcp reads it");
        let ours = match parse(line.as_bytes()) {
            Incoming::Request(request) => {
                let is_listen = matches!(request.message.request, ClientRequest::SubscriptionsListenRequest(_));
                assert_eq!(request.is_listen, is_listen);
                JsonRpcMessage::Request(request.message)
            }
            Incoming::Other(message) => message,
            Incoming::Refused { error, .. } => panic!("{line} is refused: {error:?}"),
            Incoming::Ignored(why) => panic!("{line} is ignored: {why}"),
        };
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"), "{line}");
        assert_eq!(meta(&ours), meta(&theirs), "{line}");
        let [ours, theirs] = [ours, theirs].map(|it| serde_json::to_value(it).expect("JSON"));
        assert_eq!(ours, theirs, "{line}");
    }
}

#[test]
fn the_meta_of_a_call_is_found_where_rmcp_looks_for_it() {
    let line = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","_meta":{"progressToken":7}}}"#;
    let Incoming::Request(request) = parse(line) else {
        panic!("a request");
    };
    let ClientRequest::CallToolRequest(call) = request.message.request else {
        panic!("a call");
    };
    assert_eq!(call.params.meta, None);
    let meta = call.extensions().get::<RequestMetaObject>();
    assert!(meta.is_some_and(|meta| meta.get_progress_token().is_some()));
}

/// An input in pieces, with a pause before each.
struct Pieces {
    rest: VecDeque<Vec<u8>>,
    paused: bool,
}

impl Pieces {
    fn cut(input: &[u8], mut positions: Vec<usize>) -> Self {
        positions.extend([0, input.len()]);
        positions.sort_unstable();
        let rest = positions
            .windows(2)
            .map(|pair| input[pair[0]..pair[1]].to_vec())
            .filter(|piece| !piece.is_empty())
            .collect();
        Self { rest, paused: false }
    }
}

impl AsyncRead for Pieces {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.paused = !self.paused;
        if self.paused {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if let Some(piece) = self.rest.front_mut() {
            let taken = piece.len().min(buffer.remaining());
            buffer.put_slice(&piece[..taken]);
            piece.drain(..taken);
            if piece.is_empty() {
                self.rest.pop_front();
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Everything that comes out of the transport for `input`: the messages and the written bytes.
/// Each receive is polled once and dropped, as rmcp may.
async fn outcome(input: Pieces) -> (Vec<String>, Vec<u8>) {
    let limits = WireLimits { line_bytes_max: 400, ..WireLimits::default() };
    let (output, mut written) = tokio::io::duplex(1_000_000);
    let (mut transport, handle) = LineTransport::new(input, output, limits);
    handle.established();
    let mut messages = Vec::new();
    loop {
        let received = std::future::poll_fn(|context| {
            let receive = std::pin::pin!(transport.receive());
            Poll::Ready(receive.poll(context))
        });
        match received.await {
            Poll::Ready(Some(message)) => messages.push(format!("{message:?}")),
            Poll::Ready(None) => break,
            Poll::Pending => tokio::task::yield_now().await,
        }
    }
    transport.close().await.expect("all is written");
    drop(transport);
    let mut bytes = Vec::new();
    written.read_to_end(&mut bytes).await.expect("the replies");
    (messages, bytes)
}

fn transcript() -> Vec<u8> {
    let mut input = b"\xEF\xBB\xBF\r\n".to_vec();
    for (number, line) in VALID.iter().enumerate() {
        let id = format!("\"id\":{},", 1_000 + number);
        let line = line.replace("META", MODERN_META).replace("\"id\":1,", &id);
        input.extend_from_slice(line.as_bytes());
        input.extend_from_slice(if number % 2 == 0 { b"\n" } else { b"\r\n" });
    }
    input.extend_from_slice(b"nonsense\n{\"a\":\xFF}\n[]\n\n{}\n");
    let long = format!(r#"{{"method":"{}","id":5}}"#, "x".repeat(500));
    input.extend_from_slice(long.as_bytes());
    input.extend_from_slice(b"\n{\"jsonrpc\":\"2.0\",\"id\":1007,\"method\":\"ping\"}\n");
    input.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":6,\"method\":\"ping\"}");
    input
}

fn run(positions: Vec<usize>) -> (Vec<String>, Vec<u8>) {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime")
        .block_on(outcome(Pieces::cut(&transcript(), positions)))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_cut_of_the_input_gives_the_same_messages_and_replies(
        positions in prop::collection::vec(0..transcript().len(), 0..200),
    ) {
        let whole = run(Vec::new());
        prop_assert!(whole.0.len() > 25);
        prop_assert_eq!(run(positions), whole);
    }

    #[test]
    fn no_line_panics(line in prop::collection::vec(any::<u8>(), 0..80)) {
        parse(&line);
    }

    #[test]
    fn no_json_panics(
        line in concat!(
            r#"\{"(id|method|params|jsonrpc|result)":[\[{"0-9a-z\]}:,.\\ue-]{0,20},"#,
            r#""(id|method|params)":(1|"ping"|"tools/call"|\{"name":"x"\})\}"#,
        ),
    ) {
        parse(line.as_bytes());
    }
}
