//! The bounded queue between logging code and standard error.
//!
//! Invariants: adding a line takes a short lock and never waits for a write; at most [`QUEUE_BYTES_MAX`] bytes are
//! queued, and as many are being written; every line is either written completely, in order, or counted as dropped.
//!
//! `tracing-appender` does not fit: if standard error blocks at the end of the process, it prints a line to standard
//! output, which belongs to the protocol, or waits for the whole second in which the process has to end. It also limits
//! the number of lines instead of bytes (a line at debug may have a megabyte), and does not log how much it dropped.

use std::{
    fmt, io,
    io::Write,
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// The maximum size of the queued lines, in bytes.
pub(super) const QUEUE_BYTES_MAX: usize = 1_048_576;

/// The capacity above which a written buffer is released, in bytes.
const SPARE_BYTES_MAX: usize = 65_536;

/// How long the writing thread waits when standard error, in non-blocking mode, accepts nothing for now.
const RETRY_WAIT: Duration = Duration::from_millis(10);

/// The queue, and the thread that empties it.
#[derive(Clone)]
pub(super) struct Queue {
    shared: Arc<Shared>,
}

/// The state that the writers and the thread share.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Notified when lines arrive while the thread is idle.
    arrived: Condvar,
    /// Notified when everything is written.
    emptied: Condvar,
}

#[derive(Default)]
struct State {
    /// The queued lines, one after another.
    waiting: Vec<u8>,
    /// The number of dropped lines that were not reported yet.
    dropped: u64,
    /// Whether the thread is writing.
    busy: bool,
    /// Whether the thread should end once the queue is empty.
    closed: bool,
}

impl Queue {
    /// Starts the thread that writes to `sink`.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub(super) fn start(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let thread_shared = Arc::clone(&shared);
        thread::Builder::new().name("log".to_owned()).spawn(move || write_out(&thread_shared, sink))?;
        Ok(Self { shared })
    }

    /// Creates a writer that adds lines.
    pub(super) fn writer(&self) -> QueueWriter {
        QueueWriter { shared: Arc::clone(&self.shared) }
    }

    /// Waits until everything is written, for at most `wait_max`, and lets the thread end.
    pub(super) fn flush(&self, wait_max: Duration) {
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.arrived.notify_one();
        let until = Instant::now() + wait_max;
        while !state.waiting.is_empty() || state.busy {
            let remaining = until.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return;
            }
            state = match self.shared.emptied.wait_timeout(state, remaining) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// Returns the number of dropped lines that were not reported yet.
    #[cfg(test)]
    pub(super) fn dropped(&self) -> u64 {
        self.shared.lock().dropped
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Queue").finish_non_exhaustive()
    }
}

impl Shared {
    /// Locks the state. A poisoned lock is ignored, since no code that holds the lock can panic halfway through a
    /// change.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a line, or counts it as dropped.
    fn add(&self, line: &[u8]) {
        let mut state = self.lock();
        if state.waiting.len() + line.len() > QUEUE_BYTES_MAX {
            state.dropped += 1;
            return;
        }
        // Waking the thread costs a system call, so that it is done only while the thread sleeps.
        let is_asleep = state.waiting.is_empty() && !state.busy;
        state.waiting.extend_from_slice(line);
        drop(state);
        if is_asleep {
            self.arrived.notify_one();
        }
    }
}

/// Runs the thread: takes all queued lines, writes them together, and logs how many lines were dropped.
fn write_out(shared: &Shared, mut sink: impl Write) {
    let mut buffer = Vec::new();
    loop {
        let mut state = shared.lock();
        while state.waiting.is_empty() {
            if state.closed {
                return;
            }
            state = shared.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        mem::swap(&mut state.waiting, &mut buffer);
        let dropped = mem::take(&mut state.dropped);
        state.busy = true;
        drop(state);

        if dropped > 0 {
            // The warning goes through the queue, in the format of all lines. The queue is empty now, so that the
            // warning is not dropped itself, and follows the last line before the gap.
            tracing::warn!(dropped, "log lines dropped: standard error was read too slowly or not at all");
        }
        write_with_retry(&mut sink, &buffer);
        buffer.clear();
        if buffer.capacity() > SPARE_BYTES_MAX {
            buffer = Vec::new();
        }

        let mut state = shared.lock();
        state.busy = false;
        if state.waiting.is_empty() {
            shared.emptied.notify_all();
        }
    }
}

/// Writes all bytes, without a time limit. If writing fails, the lines are lost: the failure cannot be reported
/// anywhere.
fn write_with_retry(sink: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return,
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY_WAIT),
            Err(_) => return,
        }
    }
    // Standard error is not buffered, but another sink may be. A failure is ignored as above.
    let _ = sink.flush();
}

/// Adds lines to the queue. Each write is one whole line, as the formatting layer writes them.
#[derive(Clone)]
pub(super) struct QueueWriter {
    shared: Arc<Shared>,
}

impl fmt::Debug for QueueWriter {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("QueueWriter").finish_non_exhaustive()
    }
}

impl Write for &QueueWriter {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.shared.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for QueueWriter {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}
