//! The server as the client of rmcp sees it, in both generations of the protocol: tools, resources and notifications of
//! changes.

use std::time::Instant;

use rmcp::{
    ClientHandler, Peer, RoleClient, ServiceError,
    model::{
        CallToolRequestParams, ProtocolVersion, ReadResourceRequestParams, ResourceContents,
        ResourceUpdatedNotificationParam, ServerNotification, SubscribeRequestParams, SubscriptionFilter,
        UnsubscribeRequestParams,
    },
    service::{ClientLifecycleMode, ClientServiceExt, NotificationContext, RunningService, Subscription},
    transport::TokioChildProcess,
};
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::support::{
    pattern::{TIME, check},
    server::{Server, TRANSPORTS, command},
    within,
};

/// The capacity of the cluster.
const CAPACITY: &str = "cluster://capacity";

/// The last plan of the planner.
const PLAN: &str = "cluster://plan";

/// The forecast demand.
const FORECAST: &str = "cluster://forecast";

/// The findings of the last sample of the planner.
const BOTTLENECKS: &str = "cluster://bottlenecks";

/// The maximum number of notifications per resource and second.
const NOTICES_PER_SECOND_MAX: u32 = 10;

/// The number of capacity changes in a burst.
const BURST_CHANGES: u32 = 1000;

/// The JSON-RPC error code for invalid params.
const INVALID_PARAMS: i32 = -32602;

/// The two ways in which a client connects to a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Generation {
    /// A handshake, and `resources/subscribe`.
    Legacy,
    /// No handshake, and `subscriptions/listen`.
    Modern,
}

/// Both generations.
const GENERATIONS: [Generation; 2] = [Generation::Legacy, Generation::Modern];

/// Forwards the URIs of changed resources.
struct Handler(UnboundedSender<String>);

impl ClientHandler for Handler {
    async fn on_resource_updated(&self, params: ResourceUpdatedNotificationParam, _: NotificationContext<RoleClient>) {
        // At the end of a test the receiver may be dropped.
        let _ = self.0.send(params.uri);
    }
}

/// A client with its own server.
struct Client {
    generation: Generation,
    service: RunningService<RoleClient, Handler>,
    updated: UnboundedReceiver<String>,
    listen: Option<Subscription>,
}

impl Client {
    async fn connect(generation: Generation, arguments: &[&str]) -> Self {
        let (sender, updated) = unbounded_channel();
        let mut command = tokio::process::Command::from(command(arguments));
        // The server inherits standard error.
        command.args(["--log-level", "off"]).kill_on_drop(true);
        let transport = TokioChildProcess::new(command).expect("the binary");
        let lifecycle = match generation {
            Generation::Legacy => ClientLifecycleMode::Initialize,
            Generation::Modern => ClientLifecycleMode::Auto {
                preferred_versions: vec![ProtocolVersion::V_2026_07_28],
                legacy_version: None,
            },
        };
        let service = within(Handler(sender).serve_with_lifecycle(transport, lifecycle)).await.expect("a server");
        Self { generation, service, updated, listen: None }
    }

    async fn call(&self, tool: &'static str, arguments: Value) -> Value {
        call(self.service.peer(), tool, arguments).await
    }

    async fn grant(&self, workers: u32) -> String {
        grant(self.service.peer(), workers).await
    }

    async fn release(&self, id: &str) {
        let answer = self.call("release_resources", json!({"allocation_id": id})).await;
        assert_eq!(answer["status"], "released", "{answer}");
    }

    async fn read(&self, uri: &str) -> Value {
        let result = within(self.service.read_resource(ReadResourceRequestParams::new(uri))).await.expect("a resource");
        let [ResourceContents::TextResourceContents { uri: read, mime_type, text, .. }] = result.contents.as_slice()
        else {
            panic!("{result:?} is not one text");
        };
        assert_eq!((read.as_str(), mime_type.as_deref()), (uri, Some("application/json")));
        serde_json::from_str(text).expect("a text that is JSON")
    }

    /// Subscribes to changes of these resources, as the generation does.
    #[expect(deprecated, reason = "clients of the older protocol generation have no other way")]
    async fn watch(&mut self, uris: &[&str]) {
        match self.generation {
            Generation::Legacy => {
                for uri in uris {
                    within(self.service.subscribe(SubscribeRequestParams::new(*uri))).await.expect("a subscription");
                }
            }
            Generation::Modern => {
                let uris: Vec<_> = uris.iter().map(ToString::to_string).collect();
                let filter = SubscriptionFilter::builder().resource_subscriptions(uris.clone()).build();
                let listen = within(self.service.listen(filter)).await.expect("a subscription");
                assert_eq!(listen.acknowledged().resource_subscriptions, Some(uris));
                self.listen = Some(listen);
            }
        }
    }

    /// Returns the resource of the next notification.
    async fn notice(&mut self) -> String {
        match &mut self.listen {
            None => within(self.updated.recv()).await.expect("a notice"),
            Some(listen) => match within(listen.next()).await.expect("a notice") {
                Some(ServerNotification::ResourceUpdatedNotification(notice)) => notice.params.uri,
                other => panic!("{other:?} is no notice"),
            },
        }
    }

    /// Reads at each notification, as a client does, until the value is as expected. Returns the number of
    /// notifications.
    async fn read_until(&mut self, uri: &str, expected: impl Fn(&Value) -> bool) -> u32 {
        let mut notices = 1;
        loop {
            assert_eq!(self.notice().await, uri);
            if expected(&self.read(uri).await) {
                return notices;
            }
            notices += 1;
        }
    }

    async fn end(self) {
        within(self.service.cancel()).await.expect("an end");
    }
}

/// Calls a tool that succeeds.
async fn call(peer: &Peer<RoleClient>, tool: &'static str, arguments: Value) -> Value {
    let arguments = arguments.as_object().expect("an object").clone();
    let call = peer.call_tool(CallToolRequestParams::new(tool).with_arguments(arguments));
    let result = within(call).await.expect("a result");
    assert_ne!(result.is_error, Some(true), "{result:?}");
    result.structured_content.expect("a structured result")
}

/// Requests workers that must be granted, and returns the id of the allocation.
async fn grant(peer: &Peer<RoleClient>, workers: u32) -> String {
    let answer = call(peer, "request_resources", json!({"job_id": "a", "mcp_servers": [], "workers": workers})).await;
    assert_eq!(answer["status"], "active", "{answer}");
    answer["allocation_id"].as_str().expect("an id").to_owned()
}

/// Returns the code of a protocol error.
fn code(error: &ServiceError) -> i32 {
    match error {
        ServiceError::McpError(error) => error.code.0,
        error => panic!("{error} is no error of the protocol"),
    }
}

#[tokio::test]
async fn a_lease_from_its_grant_to_its_end() {
    for generation in GENERATIONS {
        let client = Client::connect(generation, &[]).await;
        let tools = within(client.service.list_all_tools()).await.expect("a list");
        assert_eq!(tools.len(), 6);
        let version = client.service.peer_info().expect("a server").protocol_version.clone();
        match generation {
            Generation::Legacy => assert_eq!(version, ProtocolVersion::V_2025_11_25),
            Generation::Modern => assert_eq!(version, ProtocolVersion::V_2026_07_28),
        }
        let id = client.grant(4).await;
        check(&client.call("get_capacity", json!({})).await, &json!({"available_workers": 6}));
        check(
            &client.call("get_allocation", json!({"allocation_id": id})).await,
            &json!({"allocation_id": id, "state": "active", "timestamps": {"created_at": TIME}}),
        );
        check(&client.call("list_allocations", json!({})).await, &json!({"count": 1, "total": 1}));
        check(&client.call("cleanup_expired", json!({})).await, &json!({"cleaned_up": [], "count": 0}));
        client.release(&id).await;
        let call = CallToolRequestParams::new("get_allocation");
        let result = within(client.service.call_tool(call)).await.expect("a result");
        assert_eq!(result.is_error, Some(true), "{result:?}");
        let call = CallToolRequestParams::new("no_such_tool");
        assert_eq!(code(&within(client.service.call_tool(call)).await.expect_err("no such tool")), INVALID_PARAMS);
        client.end().await;
    }
}

#[tokio::test]
async fn resources_are_listed_and_read() {
    for generation in GENERATIONS {
        let client = Client::connect(generation, &[]).await;
        let listed = within(client.service.list_all_resources()).await.expect("a list");
        let mut uris: Vec<_> = listed.iter().map(|resource| resource.uri.as_str()).collect();
        uris.sort_unstable();
        assert_eq!(uris, [BOTTLENECKS, CAPACITY, FORECAST, PLAN]);
        let templates = within(client.service.list_all_resource_templates()).await.expect("a list");
        let uris: Vec<_> = templates.iter().map(|template| template.uri_template.as_str()).collect();
        assert_eq!(uris, ["cluster://allocations/{allocation_id}"]);

        let id = client.grant(4).await;
        assert_eq!(client.read(CAPACITY).await, client.call("get_capacity", json!({})).await);
        let mut read = client.read(&format!("cluster://allocations/{id}")).await;
        let mut answer = client.call("get_allocation", json!({"allocation_id": id})).await;
        for value in [&mut read, &mut answer] {
            value["timestamps"]["age_seconds"] = Value::Null;
        }
        assert_eq!(read, answer);
        check(
            &client.read(PLAN).await,
            &json!({"action": "hold", "current_workers": 10, "min_workers": 10, "max_workers": 10}),
        );
        check(&client.read(BOTTLENECKS).await, &json!({"bottlenecks": [], "count": 0, "detected_at": TIME}));
        client.end().await;
    }
}

#[tokio::test]
#[expect(deprecated, reason = "clients of the older protocol generation have no other way to subscribe")]
async fn what_is_no_resource_is_refused() {
    for generation in GENERATIONS {
        let client = Client::connect(generation, &[]).await;
        for uri in [
            "cluster://nothing",
            "cluster://capacity/",
            "cluster://allocations/",
            "cluster://allocations/nonexistent-id",
            "cluster://allocations/alloc-000000000000",
            "file:///etc/passwd",
            "capacity",
            "",
        ] {
            let read = within(client.service.read_resource(ReadResourceRequestParams::new(uri))).await;
            assert_eq!(code(&read.expect_err("no such resource")), INVALID_PARAMS, "{uri}");
            if generation == Generation::Legacy {
                let subscribed = within(client.service.subscribe(SubscribeRequestParams::new(uri))).await;
                assert_eq!(code(&subscribed.expect_err("no such resource")), INVALID_PARAMS, "{uri}");
            }
        }
        if generation == Generation::Modern {
            let uris = vec![CAPACITY.to_owned(), "cluster://nothing".to_owned()];
            let filter = SubscriptionFilter::builder().resource_subscriptions(uris).build();
            let listen = within(client.service.listen(filter)).await.expect("a subscription to what there is");
            assert_eq!(listen.acknowledged().resource_subscriptions, Some(vec![CAPACITY.to_owned()]));
        }
        client.end().await;
    }
}

#[tokio::test]
async fn each_change_is_notified() {
    for generation in GENERATIONS {
        let mut client = Client::connect(generation, &[]).await;
        client.watch(&[CAPACITY]).await;
        for _ in 0..3 {
            let id = client.grant(2).await;
            client.read_until(CAPACITY, |capacity| capacity["allocated_workers"] == 2).await;
            client.release(&id).await;
            client.read_until(CAPACITY, |capacity| capacity["allocated_workers"] == 0).await;
        }
        client.end().await;
    }
}

#[tokio::test]
async fn bottlenecks_that_appear_and_end_are_notified() {
    for generation in GENERATIONS {
        let mut client = Client::connect(generation, &["--toolsets", "all", "--plan-seconds", "1"]).await;
        client.watch(&[BOTTLENECKS]).await;
        for (budget, count) in [(0, 1), (100, 0)] {
            client.call("set_token_budget", json!({"job_id": "a", "budget_tokens": budget})).await;
            let notices = client.read_until(BOTTLENECKS, |bottlenecks| bottlenecks["count"] == count).await;
            assert_eq!(notices, 1, "looks that find the same tell of nothing");
        }
        client.end().await;
    }
}

#[tokio::test]
async fn an_allocation_notifies_of_its_own_changes_only() {
    for generation in GENERATIONS {
        let mut client = Client::connect(generation, &["--toolsets", "all"]).await;
        let (watched, other) = (client.grant(1).await, client.grant(1).await);
        let uri = format!("cluster://allocations/{watched}");
        client.watch(&[&uri]).await;
        // A notification about this release would come before the awaited one, with another state.
        client.release(&other).await;
        client.call("renew_allocation", json!({"allocation_id": watched, "ttl_seconds": 77})).await;
        assert_eq!(client.read_until(&uri, |allocation| allocation["ttl_seconds"] == 77).await, 1);
        client.release(&watched).await;
        client.read_until(&uri, |allocation| allocation["state"] == "released").await;
        client.end().await;
    }
}

#[tokio::test]
#[expect(deprecated, reason = "clients of the older protocol generation have no other way to unsubscribe")]
async fn changes_are_not_notified_after_an_unsubscribe() {
    let mut client = Client::connect(Generation::Legacy, &[]).await;
    client.watch(&[CAPACITY]).await;
    let first = client.grant(1).await;
    client.read_until(CAPACITY, |capacity| capacity["allocated_workers"] == 1).await;
    within(client.service.unsubscribe(UnsubscribeRequestParams::new(CAPACITY))).await.expect("an end of it");
    let allocation = format!("cluster://allocations/{first}");
    client.watch(&[&allocation]).await;
    for _ in 0..5 {
        let id = client.grant(1).await;
        client.release(&id).await;
    }
    // The only later notification is about the allocation, although the capacity changes too.
    client.release(&first).await;
    assert_eq!(client.notice().await, allocation);
    // Unsubscribing without a subscription changes nothing.
    within(client.service.unsubscribe(UnsubscribeRequestParams::new(PLAN))).await.expect("nothing to end");
    assert!(client.updated.try_recv().is_err());
    client.end().await;
}

#[tokio::test]
async fn a_burst_is_notified_at_most_ten_times_a_second_and_its_last_state_always() {
    for generation in GENERATIONS {
        let mut client = Client::connect(generation, &[]).await;
        client.watch(&[CAPACITY]).await;
        let start = Instant::now();
        // Runs in another task, so that notifications are read when they arrive.
        let peer = client.service.peer().clone();
        let burst = tokio::spawn(async move {
            for _ in 0..BURST_CHANGES / 2 {
                let id = grant(&peer, 2).await;
                call(&peer, "release_resources", json!({"allocation_id": id})).await;
            }
            grant(&peer, 1).await;
        });
        let notices = client.read_until(CAPACITY, |capacity| capacity["allocated_workers"] == 1).await;
        within(burst).await.expect("a burst without a failure");
        // This number of whole seconds covers the time from the first change to the last notification.
        let seconds = start.elapsed().as_secs() as u32 + 1;
        assert!(
            notices <= NOTICES_PER_SECOND_MAX * seconds,
            "{notices} notices within {:?} for {generation:?}",
            start.elapsed()
        );
        client.end().await;
    }
}

#[test]
fn every_older_version_of_the_protocol_is_spoken() {
    for transport in TRANSPORTS {
        for (asked, answered) in [
            ("2024-11-05", "2024-11-05"),
            ("2025-03-26", "2025-03-26"),
            ("2025-06-18", "2025-06-18"),
            ("2025-11-25", "2025-11-25"),
            ("1999-01-01", "2025-11-25"),
        ] {
            let mut server = Server::start_on(transport, command(&[]));
            let greeting = server.greet(asked);
            check(
                &greeting,
                &json!({
                    "protocolVersion": answered,
                    "serverInfo": {"name": "cortex-resource-manager", "version": env!("CARGO_PKG_VERSION")},
                    "capabilities": {"tools": {}, "resources": {"subscribe": true}}
                }),
            );
            assert!(greeting["instructions"].as_str().is_some_and(|text| text.contains("release_resources")));
            server.learn_schemas();
            let id = server.grant(&json!({"job_id": "a", "mcp_servers": ["s"], "workers": 1}));
            server.answer("release_resources", &json!({"allocation_id": id}));
            server.close_input();
            server.check_end();
        }
    }
}
