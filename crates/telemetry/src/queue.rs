//! The bounded queue between what logs and standard error.
//!
//! Invariants: adding a line takes a short lock and never waits for a write; no more than [`QUEUE_BYTES_MAX`] bytes wait, and
//! as many are being written; every line is either written whole, in order, or counted as dropped.
//!
//! It is written here rather than taken from `tracing-appender`, because that one, when standard error is stuck at the end of
//! the process, prints a line to standard output, which belongs to the protocol, or waits for the whole second in which the
//! process has to end. It also bounds lines where we want to bound bytes (a line at debug may hold a megabyte), and logs
//! nothing about what it dropped.

use std::{
    fmt, io,
    io::Write,
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, Instant},
};

use tracing_subscriber::fmt::MakeWriter;

/// How many bytes of lines may wait to be written.
pub(super) const QUEUE_BYTES_MAX: usize = 1_048_576;

/// A buffer that grew beyond this is given back to the system once it is written.
const SPARE_BYTES_MAX: usize = 65_536;

/// How long the writing thread waits when standard error takes nothing for now, as one in non-blocking mode may say.
const RETRY_WAIT: Duration = Duration::from_millis(10);

/// The queue, and the thread that empties it.
#[derive(Clone)]
pub(super) struct Queue {
    shared: Arc<Shared>,
}

/// What the two ends share.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Told when lines arrive while the thread has nothing to do.
    arrived: Condvar,
    /// Told when everything is written.
    emptied: Condvar,
}

/// What waits, and what the thread is doing.
#[derive(Default)]
struct State {
    /// The lines that wait, one after another.
    waiting: Vec<u8>,
    /// Lines dropped since the last time that this was reported.
    dropped: u64,
    /// Whether the thread is writing.
    busy: bool,
    /// Whether nobody is left who could add a line, and the thread should end.
    closed: bool,
}

impl Queue {
    /// Starts the thread that writes to `sink`.
    ///
    /// # Errors
    /// The system cannot start a thread.
    pub(super) fn start(sink: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::<Shared>::default();
        let of_thread = Arc::clone(&shared);
        thread::Builder::new().name("log".to_owned()).spawn(move || write_out(&of_thread, sink))?;
        Ok(Self { shared })
    }

    /// The end that takes lines.
    pub(super) fn writer(&self) -> QueueWriter {
        QueueWriter { shared: Arc::clone(&self.shared) }
    }

    /// Waits until everything is written, but no longer than `wait_max`, and lets the thread end.
    pub(super) fn flush(&self, wait_max: Duration) {
        let mut state = self.shared.lock();
        state.closed = true;
        self.shared.arrived.notify_one();
        let until = Instant::now() + wait_max;
        while !state.waiting.is_empty() || state.busy {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            state = match self.shared.emptied.wait_timeout(state, left) {
                Ok((state, _)) => state,
                Err(poisoned) => poisoned.into_inner().0,
            };
        }
    }

    /// How many lines were dropped and not yet reported.
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
    /// The state. A panic of another thread leaves it whole, since nothing between lock and unlock can panic half-way.
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
        // Waking a thread costs a system call, so that it is only done when the thread sleeps.
        let asleep = state.waiting.is_empty() && !state.busy;
        state.waiting.extend_from_slice(line);
        drop(state);
        if asleep {
            self.arrived.notify_one();
        }
    }
}

/// The work of the thread: takes everything that waits, writes it in one go, and reports what was dropped meanwhile.
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
            // It goes through the queue like any line and so has the format of all the others. Said now, while the queue is
            // empty, it is not dropped itself, and stands behind the last line before the gap.
            tracing::warn!(dropped, "log lines dropped: standard error was read too slowly or not at all");
        }
        write_patiently(&mut sink, &buffer);
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

/// Writes all of it, however long that takes. Where writing fails, the lines are lost: there is nowhere to say so.
fn write_patiently(sink: &mut impl Write, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match sink.write(bytes) {
            Ok(0) => return,
            Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(RETRY_WAIT),
            Err(_) => return,
        }
    }
    // Standard error has no buffer of its own; any other sink may, and a failure is as above.
    let _ = sink.flush();
}

/// Takes lines. Each write is one whole line, as the formatting layer makes them.
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
