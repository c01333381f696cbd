//! Interoperability with the client and the server of rmcp.

use crate::support::{wait_until_async, within};
use std::time::Duration;

use rmcp::model::{
    CallToolRequestParams, ClientCapabilities, ClientConfig, Implementation, ProgressNotificationParam,
    ProtocolVersion, ServerCapabilities, ServerConfig, SubscriptionFilter,
};
use rmcp::service::{ClientLifecycleMode, RequestContext, RoleServer, serve_client_with_lifecycle};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::{ServerHandler, ServiceExt, tool, tool_handler, tool_router};

use super::rig::Rig;

/// An rmcp server with two tools.
#[derive(Clone)]
struct Tools;

#[tool_router]
impl Tools {
    #[tool(description = "says what it is given")]
    async fn echo(&self, context: RequestContext<RoleServer>) -> String {
        if let Some(token) = context.meta.get_progress_token() {
            let _ = context.peer.notify_progress(ProgressNotificationParam::new(token, 1.0)).await;
        }
        "echoed".to_owned()
    }

    #[tool(description = "tells that the tools changed")]
    async fn change(&self, context: RequestContext<RoleServer>) -> String {
        let _ = context.peer.notify_tool_list_changed().await;
        "changed".to_owned()
    }
}

#[tool_handler]
impl ServerHandler for Tools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().enable_tool_list_changed().build())
    }
}

/// Returns an endpoint whose child is an rmcp server.
async fn rig_with_rmcp() -> (Rig, cortex_runtime::bridge::Link) {
    let rig = Rig::new();
    let (ours, theirs) = tokio::io::duplex(65_536);
    tokio::spawn(async move {
        if let Ok(server) = Tools.serve(theirs).await {
            let _ = server.waiting().await;
        }
    });
    let (output, input) = tokio::io::split(ours);
    let link =
        within(rig.endpoint.connect(input, output, Box::new(|line: &str| panic!("invalid output: {line}")))).await;
    (rig, link.expect("a link"))
}

#[tokio::test]
async fn twenty_clients_with_a_handshake_share_one_server() {
    let (rig, link) = rig_with_rmcp().await;
    let url = format!("http://127.0.0.1:{}/mcp", rig.port);
    let mut clients = Vec::new();
    for _ in 0..20 {
        let transport = StreamableHttpClientTransport::from_uri(url.clone());
        let client = within(().serve(transport)).await.expect("a session");
        clients.push(client);
    }
    for client in &clients {
        let tools = within(client.list_all_tools()).await.expect("tools");
        assert_eq!(tools.len(), 2);
        let called = within(client.call_tool(CallToolRequestParams::new("echo"))).await.expect("an answer");
        assert_eq!(called.content[0].as_text().map(|text| text.text.as_str()), Some("echoed"));
    }
    let calls = clients.iter().map(|client| client.call_tool(CallToolRequestParams::new("change")));
    for called in within(futures_util::future::join_all(calls)).await {
        called.expect("an answer");
    }
    link.ping(Duration::from_secs(5)).await.expect("it lives");
    for client in clients {
        within(client.cancel()).await.expect("an orderly end");
    }
    let has_session = || format!("{:?}", rig.endpoint).contains("Session {");
    wait_until_async("the end of all sessions", async || !has_session()).await;
}

#[tokio::test]
async fn clients_without_a_handshake_are_served_too() {
    let (rig, _link) = rig_with_rmcp().await;
    let url = format!("http://127.0.0.1:{}/mcp", rig.port);
    let info = ClientConfig::new(ClientCapabilities::default(), Implementation::new("modern", "1"));
    let mode =
        ClientLifecycleMode::Auto { preferred_versions: vec![ProtocolVersion::V_2026_07_28], legacy_version: None };
    let transport = StreamableHttpClientTransport::from_uri(url);
    let client = within(serve_client_with_lifecycle(info, transport, mode)).await.expect("a server");
    let tools = within(client.list_all_tools()).await.expect("tools");
    assert_eq!(tools.len(), 2);
    let filter = SubscriptionFilter::builder().tools_list_changed().build();
    let mut subscription = within(client.listen(filter)).await.expect("a stream");
    let called = within(client.call_tool(CallToolRequestParams::new("change"))).await.expect("an answer");
    assert_eq!(called.content[0].as_text().map(|text| text.text.as_str()), Some("changed"));
    let notice = within(subscription.next()).await.expect("a notice").expect("a notice");
    assert!(format!("{notice:?}").contains("ToolListChanged"), "{notice:?}");
}
