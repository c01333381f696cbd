//! The application: wires engine, loops, server and transport together, and ends them.

use crate::config::Settings;
use crate::core::{Limits, Millis, Resources, TtlSeconds, WorkerSize};
use crate::engine::clock::EngineClock;
use crate::engine::{Engine, EngineOptions, Totals};
use crate::journal::Nowhere;
use crate::loops::{plan_capacity, sweep_expired};
use crate::mcp::transport::{ConnectionHandle, LineTransport, WireLimits, stdio};
use crate::mcp::{Server, ServerOptions};
use crate::planning::{Bounds, Planner, Policy};
use anyhow::{Context, bail};
use rmcp::ServiceExt;
use rmcp::service::ServerInitializeError;
use std::process::ExitCode;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// How long the end may take once the input has ended: calls in flight are answered and everything is flushed within it,
/// or left. Together with the flush of the log it stays under a second.
const END_WAIT_MAX: Duration = Duration::from_millis(700);

/// How long leases that ran out during an outage are spared after it at least.
const OUTAGE_GRACE: Millis = Millis::from_seconds(60);

/// Serves one client on standard input and output until it goes away or the process is told to end.
///
/// # Errors
/// If the settings cannot be served, or the handshake with the client fails in a way that is not its going away.
pub fn run(settings: &Settings) -> anyhow::Result<ExitCode> {
    // One thread for transport and engine: calls take effect in the order sent, and none is handed between threads.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the runtime could not be started")?;
    let result = runtime.block_on(serve(settings));
    // A read from a terminal cannot be called off; it must not hold up the end.
    runtime.shutdown_background();
    result.map(|()| ExitCode::SUCCESS)
}

async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let (engine, handle) = Engine::start(engine_options(settings), Nowhere, EngineClock::system())
        .await
        .context("the books could not be set up")?;
    let engine = tokio::spawn(engine.run());

    let (show_plan, plan) = watch::channel(None);
    let planner = Planner::new(
        Policy::BALANCED,
        Bounds { workers_min: u64::from(settings.min_workers), workers_max: u64::from(settings.max_workers) },
    );
    let sweep = sweep_expired(handle.clone(), Duration::from_secs(settings.sweep_seconds));
    let plan_ahead = plan_capacity(handle.clone(), planner, Duration::from_secs(settings.plan_seconds), show_plan);

    let (reader, writer) = stdio::open();
    tracing::debug!(input = reader.kind(), output = writer.kind(), "transport");
    let (transport, connection) = LineTransport::new(reader, writer, wire_limits(settings));
    let server = Server::new(handle, plan, &server_options(settings)?, connection.closing());
    stop_on_signals(connection.clone()).context("signals cannot be handled")?;
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        workers = settings.total_workers,
        cpu_cores = settings.total_cpu.as_cores(),
        memory_mb = settings.total_memory.0,
        "ready"
    );

    tokio::select! {
        result = converse(server, transport, &connection) => result?,
        ended = engine => bail!("the engine ended: {ended:?}"),
        // The loops go on until the engine has ended, and so does this.
        _ = async { tokio::join!(sweep, plan_ahead) } => bail!("the engine ended"),
    }
    tracing::info!("ended");
    Ok(())
}

/// Speaks with the client until the connection has ended.
async fn converse<R>(server: Server, transport: LineTransport<R>, connection: &ConnectionHandle) -> anyhow::Result<()>
where
    R: tokio::io::AsyncRead + Send + Unpin + 'static,
{
    let deadline = match server.serve(transport).await {
        Ok(running) => {
            connection.established();
            let ended = connection.ended();
            let mut waiting = std::pin::pin!(running.waiting());
            tokio::select! {
                _ = &mut waiting => end_deadline(),
                () = ended.cancelled() => {
                    let deadline = end_deadline();
                    if timeout_at(deadline, waiting).await.is_err() {
                        tracing::warn!("the client did not take all replies in time");
                    }
                    deadline
                }
            }
        }
        // A client that goes away before its first request is no error.
        Err(ServerInitializeError::ConnectionClosed(_)) => end_deadline(),
        Err(error) => return Err(error).context("the handshake failed"),
    };
    // Nothing is lost if the client closed its end before: it does not listen any more.
    let _ = timeout_at(deadline, connection.flushed()).await;
    Ok(())
}

/// By when all that is left to do has to be done, if the end begins now. The waits of the end share it.
fn end_deadline() -> Instant {
    Instant::now() + END_WAIT_MAX
}

/// The first signal ends the connection in order, the second at once.
fn stop_on_signals(connection: ConnectionHandle) -> std::io::Result<()> {
    let mut signals = Signals::new()?;
    tokio::spawn(async move {
        signals.next().await;
        tracing::info!("told to end");
        connection.stop();
        signals.next().await;
        std::process::exit(0);
    });
    Ok(())
}

#[cfg(unix)]
struct Signals {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

#[cfg(unix)]
impl Signals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { interrupt: signal(SignalKind::interrupt())?, terminate: signal(SignalKind::terminate())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct Signals;

#[cfg(not(unix))]
impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        // Without a way to hear of it the process is ended by the system, which is in order too.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

fn engine_options(settings: &Settings) -> EngineOptions {
    EngineOptions {
        totals: Totals::fixed(Resources {
            cpu_millis: settings.total_cpu,
            memory_mb: settings.total_memory,
            workers: u64::from(settings.total_workers),
        }),
        worker_size: WorkerSize { cpu_millis: settings.worker_cpu, memory_mb: settings.worker_memory },
        limits: Limits {
            live_allocations_max: settings.max_live_allocations as u64,
            history_records_max: settings.history_count as u64,
        },
        history_age: Millis::from_seconds(settings.history_seconds),
        outage_grace: OUTAGE_GRACE,
        close_within: Duration::ZERO,
    }
}

fn server_options(settings: &Settings) -> anyhow::Result<ServerOptions> {
    Ok(ServerOptions {
        toolsets: settings.toolsets.clone(),
        default_ttl: TtlSeconds::new(settings.default_ttl_seconds)
            .context("default_ttl_seconds is 0: give 1 or more")?,
        ttl_seconds_max: settings.max_ttl_seconds,
    })
}

fn wire_limits(settings: &Settings) -> WireLimits {
    WireLimits {
        line_bytes_max: settings.max_line_bytes,
        calls_in_flight_max: settings.max_calls_in_flight,
        ..WireLimits::default()
    }
}
