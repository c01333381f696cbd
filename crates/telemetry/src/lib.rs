//! Logs, to standard error only: standard output belongs to the protocol.
//!
//! Nothing that logs ever waits for whoever reads the logs. A parent that does not read standard error at all leaves a pipe
//! that is full after 64 KiB, and a plain write to it would then hold the server for ever. So log lines go into a bounded
//! queue that a thread of its own writes out (`queue.rs`); what does not fit is dropped and counted, and the count is logged
//! as soon as there is room.

mod queue;

use std::{io, panic, time::Duration};

use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Registry, filter::Targets, fmt, layer::SubscriberExt};

use cortex_config::{LogFormat, LogLevel};
use queue::{Queue, QueueWriter};

/// How long the end of the process waits for the last lines to be written: enough for a reader that reads, and well within
/// the second in which the process has to end for one that does not.
const FLUSH_WAIT_MAX: Duration = Duration::from_millis(250);

/// What the names under which our crates log begin with.
const OUR_TARGETS: &str = "cortex_";

/// The name under which the crate of the protocol logs.
const PROTOCOL_TARGET: &str = "rmcp";

/// Logging that did not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The thread that writes the lines could not be started.
    #[error("the thread that writes the log could not be started")]
    Thread(#[source] io::Error),
    /// Somebody in this process has set logging up before.
    #[error("logging is already set up in this process")]
    AlreadySet,
}

/// Writes out what is queued when it is dropped, for at most a quarter of a second. Keep it until the process ends.
#[must_use = "dropping it at once gives up waiting for the last log lines"]
#[derive(Debug)]
pub struct LogGuard {
    queue: Queue,
}

impl Drop for LogGuard {
    fn drop(&mut self) {
        self.queue.flush(FLUSH_WAIT_MAX);
    }
}

/// Starts logging for the whole process, panics included.
///
/// Lines of this crate are written from `level` on. Other crates are heard at `debug` and `trace` like this one, and only
/// with their errors otherwise: rmcp warns of each error reply with its text, which may repeat what a client sent. At `debug`
/// it would write out every answer, with the access tokens in it, so that it is never heard beyond `info`.
///
/// # Errors
/// The writing thread cannot be started, or logging was started before.
pub fn init(level: LogLevel, format: LogFormat) -> Result<LogGuard, TelemetryError> {
    init_to(io::stderr(), level, format)
}

/// The same, with lines that go to `sink` instead of standard error.
///
/// # Errors
/// The writing thread cannot be started, or logging was started before.
pub fn init_to(
    sink: impl io::Write + Send + 'static,
    level: LogLevel,
    format: LogFormat,
) -> Result<LogGuard, TelemetryError> {
    let queue = Queue::start(sink).map_err(TelemetryError::Thread)?;
    tracing::subscriber::set_global_default(subscriber(level, format, queue.writer()))
        .map_err(|_| TelemetryError::AlreadySet)?;
    log_panics();
    Ok(LogGuard { queue })
}

/// What turns events into lines and hands them to the queue.
fn subscriber(level: LogLevel, format: LogFormat, writer: QueueWriter) -> Box<dyn Subscriber + Send + Sync> {
    let registry = Registry::default().with(targets(level));
    // The layer's own complaints would be written to standard error directly, past the queue, and could wait there.
    let layer = fmt::layer().with_writer(writer).with_ansi(false).log_internal_errors(false);
    match format {
        LogFormat::Text => Box::new(registry.with(layer)),
        LogFormat::Json => Box::new(registry.with(layer.json())),
    }
}

/// Which lines of which crate are written.
fn targets(level: LogLevel) -> Targets {
    let ours = filter(level);
    let others = match level {
        LogLevel::Info | LogLevel::Warn => LevelFilter::ERROR,
        _ => ours,
    };
    let of_protocol = others.min(LevelFilter::INFO);
    Targets::new().with_default(others).with_target(PROTOCOL_TARGET, of_protocol).with_target(OUR_TARGETS, ours)
}

/// The filter for a level.
fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Panics go the way of all log lines: the usual hook writes to standard error itself, which may be a pipe that nobody reads.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(panic = message, place, "a mistake in this program");
    }));
}

#[cfg(test)]
mod tests;
