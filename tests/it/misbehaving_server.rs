//! The test server behaves as the tests expect: correctly for the client of rmcp, and incorrectly where its flags say
//! so.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpListener,
    process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio},
};

use crate::support::{http, misbehaving::misbehaving_server, wait_for, within};
use rmcp::{
    model::{
        CallToolRequestParams, ProtocolVersion, ReadResourceRequestParams, ServerNotification, SubscriptionFilter,
    },
    service::{ClientLifecycleMode, ClientServiceExt},
    transport::TokioChildProcess,
};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

/// A running server. Dropping it kills it.
struct Server {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
    errors: BufReader<ChildStderr>,
}

impl Server {
    fn start(flags: &[&str]) -> Self {
        Self::start_with(flags, &[])
    }

    fn start_with(flags: &[&str], variables: &[(&str, String)]) -> Self {
        let mut child = Command::new(misbehaving_server())
            .args(flags)
            .envs(variables.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server");
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let errors = BufReader::new(child.stderr.take().expect("a pipe"));
        Self { child, input, output, errors }
    }

    fn ask(&mut self, id: u64, method: &str, params: &Value) {
        let request = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params});
        writeln!(self.input.as_mut().expect("open"), "{request}").expect("a server that reads");
    }

    fn call(&mut self, id: u64, tool: &str) {
        self.ask(id, "tools/call", &json!({"name": tool, "arguments": {}}));
    }

    /// Returns the next line of the output, as JSON if it is valid JSON.
    fn line(&mut self) -> Result<Value, String> {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("text");
        serde_json::from_str(&line).map_err(|_| line)
    }

    /// Returns the id of the next line of the output.
    fn id(&mut self) -> Value {
        self.line().expect("JSON")["id"].clone()
    }

    fn error_line(&mut self) -> String {
        let mut line = String::new();
        self.errors.read_line(&mut line).expect("text");
        line.trim_end().to_owned()
    }

    fn ended(&mut self) -> ExitStatus {
        wait_for("the end of the server", || self.child.try_wait().expect("a child"))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The process may already have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A process that a server started, and that would outlive it.
struct Grandchild(Pid);

impl Drop for Grandchild {
    fn drop(&mut self) {
        // The process may already have ended.
        let _ = kill_process(self.0, Signal::KILL);
    }
}

#[tokio::test]
async fn it_behaves_in_both_generations_of_the_protocol() {
    let modern =
        ClientLifecycleMode::Auto { preferred_versions: vec![ProtocolVersion::V_2026_07_28], legacy_version: None };
    for (flag, lifecycle) in [(None, ClientLifecycleMode::Initialize), (Some("--only-2026"), modern)] {
        let mut command = tokio::process::Command::new(misbehaving_server());
        command.args(flag).kill_on_drop(true);
        let transport = TokioChildProcess::new(command).expect("the server");
        let client = within(().serve_with_lifecycle(transport, lifecycle)).await.expect("a server");
        let tools = client.list_all_tools().await.expect("tools");
        assert!(tools.iter().any(|tool| tool.name == "progress"), "{tools:?}");
        let call = async |tool: &'static str, arguments: Value| {
            let arguments = arguments.as_object().cloned().unwrap_or_default();
            let params = CallToolRequestParams::new(tool).with_arguments(arguments);
            let result = within(client.call_tool(params)).await.expect(tool);
            result.structured_content.expect(tool)
        };
        assert_eq!(call("add", json!({"a": 1, "b": 2})).await, json!({"sum": 3.0}));
        assert_eq!(call("count", json!({})).await, json!({"count": 1}));
        assert_eq!(call("progress", json!({"steps": 2})).await, json!({"steps": 2}));
        assert_eq!(call("sleep", json!({"ms": 1})).await, json!({"slept_ms": 1}));
        call("ask_roots", json!({})).await;
        assert_eq!(call("change", json!({"uri": "test://1"})).await["notified"], 0);

        let resources = client.list_all_resources().await.expect("resources");
        assert_eq!(resources.len(), 2);
        client.read_resource(ReadResourceRequestParams::new("test://2")).await.expect("a resource");
        if flag.is_some() {
            let filter = SubscriptionFilter::builder().resource_subscriptions(vec!["test://1".to_owned()]).build();
            let mut listen = client.listen(filter).await.expect("a subscription");
            assert_eq!(call("change", json!({"uri": "test://1"})).await["notified"], 1);
            let notice = within(listen.next()).await;
            assert!(matches!(notice, Ok(Some(ServerNotification::ResourceUpdatedNotification(_)))), "{notice:?}");
        }
        client.cancel().await.expect("an end");
    }
}

#[test]
fn it_answers_wrongly_as_its_flags_say() {
    let mut server = Server::start(&["--answer-twice", "--foreign-id", "--garbage-stdout", "--crash-after", "1"]);
    server.call(1, "echo");
    assert!(server.line().is_err(), "no JSON");
    let ids = [server.id(), server.id(), server.id(), server.id()];
    assert_eq!(ids, [json!(999_999_999), json!("foreign"), json!(1), json!(1)]);
    server.call(2, "echo");
    assert_eq!(server.ended().code(), Some(7));
    assert_eq!(server.line(), Err(String::new()), "no answer");

    let mut slow = Server::start(&["--slow-ping-ms", "20", "--huge-line", "100000"]);
    slow.ask(1, "ping", &json!({}));
    slow.call(2, "big");
    assert!(slow.line().expect("JSON").to_string().len() > 100_000);
    assert_eq!(slow.id(), 1, "the ping, late");

    let mut deaf = Server::start(&["--hang-on-ping"]);
    deaf.ask(1, "ping", &json!({}));
    deaf.call(2, "echo");
    assert_eq!(deaf.id(), 2);
}

#[test]
fn it_starts_and_ends_wrongly_as_its_flags_say() {
    let mut crashing = Server::start(&["--crash-at-start"]);
    assert_eq!(crashing.ended().code(), Some(3));
    let mut output = String::new();
    crashing.errors.read_to_string(&mut output).expect("text");
    assert_eq!(output.lines().count(), 3);

    let mut flooding = Server::start(&["--flood-stderr", "3"]);
    assert_eq!(flooding.error_line(), "flood line 1 of 3");
    drop(flooding.input.take());
    assert_eq!(flooding.ended().code(), Some(0), "its input has ended");

    let mut stubborn = Server::start(&["--ignore-term", "--grandchild", "--grandchild-setsid"]);
    let mut grandchildren = Vec::new();
    while grandchildren.len() < 2 {
        let line = stubborn.error_line();
        // The grandchildren write to it, too.
        if let Some(pid) = line.strip_prefix("grandchild ") {
            grandchildren.push(Grandchild(Pid::from_raw(pid.parse().expect("a pid")).expect("a pid")));
        }
    }
    let pid = Pid::from_child(&stubborn.child);
    kill_process(pid, Signal::TERM).expect("a process");
    assert_eq!(stubborn.error_line(), "SIGTERM ignored");
    drop(stubborn.input.take());
    assert_eq!(stubborn.error_line(), "the input has ended");
    assert!(stubborn.child.try_wait().expect("a child").is_none(), "it still runs");
    for Grandchild(pid) in &grandchildren {
        test_kill_process(*pid).expect("a grandchild that lives");
    }
}

#[test]
fn a_worker_reports_its_variables_and_crashes_on_request() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    drop(taken);
    let variables = [("CORTEX_PORT", port.to_string()), ("CORTEX_WORKER_ID", "worker-a-001".to_owned())];
    let mut worker = Server::start_with(&["--worker", "--start-delay-ms", "10"], &variables);
    assert_eq!(worker.error_line(), format!("listening on port {port}"));
    let ask = |path: &str| http::get(&format!("http://127.0.0.1:{port}{path}"));
    let (status, body) = ask("/health").expect("an answer");
    assert_eq!(status, 200, "{body}");
    let variables: Value = serde_json::from_str(&body).expect("JSON");
    assert_eq!(
        (&variables["CORTEX_PORT"], &variables["CORTEX_WORKER_ID"]),
        (&json!(port.to_string()), &json!("worker-a-001"))
    );
    assert_eq!(ask("/crash"), None);
    assert_eq!(worker.ended().code(), Some(7));
}
