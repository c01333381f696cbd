//! A client that writes lines and reads lines. It checks every result against its tool's schema.

use std::collections::{BTreeMap, VecDeque};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, DuplexStream, Lines};

use cortex_test_support::schema;

pub(crate) struct Client {
    writer: DuplexStream,
    lines: Lines<BufReader<DuplexStream>>,
    next_id: i64,
    replies: BTreeMap<i64, Value>,
    /// Received messages other than replies.
    pub(crate) notices: VecDeque<Value>,
    /// The tools as they were listed, by name.
    pub(crate) tools: BTreeMap<String, Value>,
    /// The result of `initialize`.
    pub(crate) greeting: Value,
}

impl Client {
    pub(crate) async fn greet(writer: DuplexStream, reader: DuplexStream) -> Self {
        let mut client = Self {
            writer,
            lines: BufReader::new(reader).lines(),
            next_id: 1,
            replies: BTreeMap::new(),
            notices: VecDeque::new(),
            tools: BTreeMap::new(),
            greeting: Value::Null,
        };
        let hello = json!({
            "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "test", "version": "0"}
        });
        client.greeting = client.ask("initialize", hello).await["result"].take();
        client.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
        let mut listed = client.ask("tools/list", json!({})).await;
        let tools = listed["result"]["tools"].as_array_mut().expect("a list").drain(..);
        client.tools = tools.map(|tool| (tool["name"].as_str().expect("a name").to_owned(), tool)).collect();
        client
    }

    async fn send(&mut self, message: &Value) {
        self.writer.write_all(format!("{message}\n").as_bytes()).await.expect("a server that reads");
    }

    /// Sends a request, and returns its id.
    async fn begin_request(&mut self, method: &str, params: Value) -> i64 {
        let id = self.next_id;
        self.next_id += 1;
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params})).await;
        id
    }

    pub(crate) async fn ask(&mut self, method: &str, params: Value) -> Value {
        let id = self.begin_request(method, params).await;
        self.reply(id).await
    }

    /// Begins a call with a progress token, and returns its id.
    pub(crate) async fn begin(&mut self, tool: &str, arguments: Value) -> i64 {
        let progress = json!({"progressToken": format!("of {tool}")});
        self.begin_request("tools/call", json!({"name": tool, "arguments": arguments, "_meta": progress})).await
    }

    pub(crate) async fn cancel(&mut self, id: i64) {
        let params = json!({"requestId": id});
        self.send(&json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params})).await;
    }

    /// The next line, or nothing at the end.
    pub(crate) async fn next(&mut self) -> Option<Value> {
        let line = self.lines.next_line().await.expect("UTF-8")?;
        Some(serde_json::from_str(&line).expect("JSON"))
    }

    pub(crate) async fn reply(&mut self, id: i64) -> Value {
        loop {
            if let Some(reply) = self.replies.remove(&id) {
                return reply;
            }
            let line = self.next().await.expect("a server that answers");
            match line["id"].as_i64() {
                Some(other) => drop(self.replies.insert(other, line)),
                None => self.notices.push_back(line),
            }
        }
    }

    /// Returns the result of a successful call.
    pub(crate) async fn answer(&mut self, tool: &str, id: i64) -> Value {
        let reply = self.reply(id).await;
        let result = &reply["result"];
        assert_eq!(result["isError"], false, "{reply}");
        let structured = &result["structuredContent"];
        let text: Value = serde_json::from_str(result["content"][0]["text"].as_str().expect("a text")).expect("JSON");
        assert_eq!(text, *structured, "the text has the same content");
        schema::check(&self.tools[tool]["outputSchema"], structured);
        structured.clone()
    }

    pub(crate) async fn call(&mut self, tool: &str, arguments: Value) -> Value {
        let id = self.begin(tool, arguments).await;
        self.answer(tool, id).await
    }

    /// Returns the error text of a failed call.
    pub(crate) async fn error_of(&mut self, id: i64) -> Value {
        let reply = self.reply(id).await;
        assert_eq!(reply["result"]["isError"], true, "{reply}");
        assert!(reply["result"].get("structuredContent").is_none(), "{reply}");
        serde_json::from_str(reply["result"]["content"][0]["text"].as_str().expect("a text")).expect("JSON")
    }

    pub(crate) async fn error(&mut self, tool: &str, arguments: Value) -> String {
        let id = self.begin(tool, arguments).await;
        self.error_of(id).await["error"].as_str().expect("a text").to_owned()
    }

    /// Ends the input, and returns the remaining replies by id.
    pub(crate) async fn finish(self) -> BTreeMap<i64, Value> {
        let Self { writer, mut lines, mut replies, .. } = self;
        drop(writer);
        while let Some(line) = lines.next_line().await.expect("UTF-8") {
            let line: Value = serde_json::from_str(&line).expect("JSON");
            if let Some(id) = line["id"].as_i64() {
                replies.insert(id, line);
            }
        }
        replies
    }
}
