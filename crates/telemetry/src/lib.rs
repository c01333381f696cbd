//! Logging to standard error only: standard output belongs to the protocol.
//!
//! Logging never waits for the reader of the log. If a parent does not read standard error, its pipe is full after 64
//! KiB, and a plain write would block the server forever. Log lines therefore go into a bounded queue that a separate
//! thread writes out (`queue.rs`). Lines that do not fit are dropped and counted, and the count is logged as soon as
//! possible.

mod queue;

use std::{io, panic, time::Duration};

use tracing::{Subscriber, level_filters::LevelFilter};
use tracing_subscriber::{Registry, filter::Targets, fmt, layer::SubscriberExt};

use cortex_config::{LogFormat, LogLevel};
use queue::{Queue, QueueWriter};

/// How long the process waits at its end for the last lines to be written: enough if the log is read, and well within
/// the second in which the process has to end if it is not.
const FLUSH_WAIT_MAX: Duration = Duration::from_millis(250);

/// The prefix of the log targets of this workspace's crates.
const OUR_TARGETS: &str = "cortex_";

/// The log target of the MCP crate.
const PROTOCOL_TARGET: &str = "rmcp";

/// Logging could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("failed to start the thread that writes the log")]
    Thread(#[source] io::Error),
    /// Logging was started before in this process.
    #[error("logging is already started in this process")]
    AlreadySet,
}

/// Writes the queued lines when it is dropped, for at most 250 ms. Keep it until the process ends.
#[must_use = "dropping it immediately skips the wait for the last log lines"]
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
/// Lines of this workspace's crates are written from `level` on. For other crates, the levels `debug` and `trace` apply
/// as well, and all other levels write only their errors: rmcp logs a warning with the text of each error reply, which
/// may repeat what a client sent. At `debug`, rmcp would log every reply with its access tokens, so that its level is
/// never above `info`.
///
/// # Errors
/// The writing thread cannot be started, or logging was started before.
pub fn init(level: LogLevel, format: LogFormat) -> Result<LogGuard, TelemetryError> {
    init_to(io::stderr(), level, format)
}

/// Starts logging like [`init`], with lines that go to `sink` instead of standard error.
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

/// Creates the subscriber that formats events as lines and passes them to the queue.
fn subscriber(level: LogLevel, format: LogFormat, writer: QueueWriter) -> Box<dyn Subscriber + Send + Sync> {
    let registry = Registry::default().with(targets(level));
    // The layer would write its internal errors directly to standard error, where a write can block.
    let layer = fmt::layer().with_writer(writer).with_ansi(false).log_internal_errors(false);
    match format {
        LogFormat::Text => Box::new(registry.with(layer)),
        LogFormat::Json => Box::new(registry.with(layer.json())),
    }
}

/// Returns the level filters of the log targets.
fn targets(level: LogLevel) -> Targets {
    let own = level_filter(level);
    let others = match level {
        LogLevel::Info | LogLevel::Warn => LevelFilter::ERROR,
        _ => own,
    };
    let of_protocol = others.min(LevelFilter::INFO);
    Targets::new().with_default(others).with_target(PROTOCOL_TARGET, of_protocol).with_target(OUR_TARGETS, own)
}

/// Converts a level to its filter.
fn level_filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Off => LevelFilter::OFF,
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// Logs panics through the queue: the default hook writes to standard error, which may be a full pipe that is not read.
fn log_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map_or_else(String::new, ToString::to_string);
        let message = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(panic = message, place, "internal error: the program panicked");
    }));
}

#[cfg(test)]
mod tests;
