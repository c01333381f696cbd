//! The baseline: an MCP server with six tools that return their argument, on the fast transport of rmcp.

use rmcp::handler::server::router::tool::ToolRouter;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::{Json, ServerHandler, ServiceExt, tool, tool_handler, tool_router};
use serde::{Deserialize, Serialize};

#[derive(Deserialize, schemars::JsonSchema)]
struct Given {
    count: u32,
}

#[derive(Serialize, schemars::JsonSchema)]
struct Returned {
    count: u32,
}

struct Empty {
    tools: ToolRouter<Self>,
}

macro_rules! echo {
    ($($name:ident)*) => {
        #[tool_router]
        impl Empty {
            $(
                #[tool(description = "Return the argument.")]
                async fn $name(&self, Parameters(given): Parameters<Given>) -> Json<Returned> {
                    Json(Returned { count: given.count })
                }
            )*
        }
    };
}

echo!(one two three four five six);

#[tool_handler(router = self.tools)]
impl ServerHandler for Empty {}

pub(crate) fn run(over_socket: bool) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let server = Empty { tools: Empty::tool_router() };
        let running = match over_socket {
            #[cfg(unix)]
            true => server.serve(sockets()).await,
            _ => server.serve(rmcp::transport::stdio_pipes()).await,
        };
        let _ = running.expect("a handshake").waiting().await;
    });
    runtime.shutdown_background();
}

#[cfg(unix)]
fn sockets() -> (tokio::net::UnixStream, tokio::net::UnixStream) {
    use std::os::fd::{AsFd, BorrowedFd};
    let open = |descriptor: BorrowedFd<'_>| {
        let stream = std::os::unix::net::UnixStream::from(descriptor.try_clone_to_owned().expect("a descriptor"));
        stream.set_nonblocking(true).expect("a socket");
        tokio::net::UnixStream::from_std(stream).expect("a registered socket")
    };
    (open(std::io::stdin().as_fd()), open(std::io::stdout().as_fd()))
}
