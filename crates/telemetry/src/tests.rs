//! The format of log lines, the levels of log targets, and the queue with sinks that fail, stall and block.

use std::{
    io::{self, Write},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    time::Duration,
};

use tracing::Level;

use super::{
    OUR_TARGETS,
    queue::{QUEUE_BYTES_MAX, Queue},
    subscriber, targets,
};
use cortex_config::{LogFormat, LogLevel};

/// Far longer than any of these tests: it turns a hang into a failure.
const HANG: Duration = Duration::from_secs(60);

/// A sink that stores what it receives.
#[derive(Clone, Default)]
struct StoringSink(Arc<Mutex<Vec<u8>>>);

impl StoringSink {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Write for StoringSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sink that reports each write, and then blocks until it is released for good.
struct BlockingSink {
    entered: Sender<()>,
    release: Receiver<()>,
    kept: StoringSink,
}

impl Write for BlockingSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.entered.send(());
        let _ = self.release.recv();
        self.kept.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sink that accepts one byte at a time, and returns transient errors between two of them.
struct StallingSink {
    calls: usize,
    kept: StoringSink,
}

impl Write for StallingSink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.calls += 1;
        match self.calls % 3 {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            1 => Err(io::ErrorKind::Interrupted.into()),
            _ => self.kept.write(&bytes[..1]),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A sink whose reader has closed the pipe.
struct BrokenSink(Sender<()>);

impl Write for BrokenSink {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        let _ = self.0.send(());
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the log line of one event.
fn log_line(format: LogFormat) -> String {
    let kept = StoringSink::default();
    let queue = Queue::start(kept.clone()).expect("a thread");
    let subscriber = subscriber(LogLevel::Info, format, queue.writer());
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!(job = "j\n1", workers = 2, "granted");
        tracing::debug!("not written");
    });
    queue.flush(HANG);
    String::from_utf8(kept.bytes().clone()).expect("UTF-8")
}

/// Checks that a time is RFC 3339 in UTC, written with a Z.
fn check_time(time: &str) {
    assert!(time.ends_with('Z'), "{time}");
    assert!(chrono::DateTime::parse_from_rfc3339(time).is_ok(), "{time}");
}

#[test]
fn a_text_line_has_time_level_and_figures() {
    let line = log_line(LogFormat::Text);
    let (time, rest) = line.split_once("  ").expect("a time and the rest");
    check_time(time);
    assert_eq!(rest, format!("INFO {}: granted job=\"j\\n1\" workers=2\n", module_path!()));
}

#[test]
fn a_json_line_is_one_object() {
    let line = log_line(LogFormat::Json);
    assert_eq!(line.lines().count(), 1);
    let value: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    check_time(value["timestamp"].as_str().unwrap_or_default());
    assert_eq!(value["level"], "INFO");
    assert_eq!(value["fields"]["job"], "j\n1");
    assert_eq!(value["fields"]["workers"], 2);
}

#[test]
fn other_crates_log_only_errors_unless_debugging_and_rmcp_never_logs_replies() {
    let cases = [
        (LogLevel::Off, [None, None, None]),
        (LogLevel::Error, [Some(Level::ERROR), Some(Level::ERROR), Some(Level::ERROR)]),
        (LogLevel::Warn, [Some(Level::WARN), Some(Level::ERROR), Some(Level::ERROR)]),
        (LogLevel::Info, [Some(Level::INFO), Some(Level::ERROR), Some(Level::ERROR)]),
        (LogLevel::Debug, [Some(Level::DEBUG), Some(Level::DEBUG), Some(Level::INFO)]),
        (LogLevel::Trace, [Some(Level::TRACE), Some(Level::TRACE), Some(Level::INFO)]),
    ];
    assert_eq!(cases.len(), LogLevel::ALL.len());
    for (level, expected) in cases {
        let targets = targets(level);
        let ours = format!("{OUR_TARGETS}::engine");
        for (target, most) in [ours.as_str(), "hyper::proto", "rmcp::service"].into_iter().zip(expected) {
            for of in [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG, Level::TRACE] {
                let expected = most.is_some_and(|most| of <= most);
                assert_eq!(targets.would_enable(target, &of), expected, "{level:?} {target} {of}");
            }
        }
    }
}

#[test]
fn a_blocked_sink_never_blocks_what_logs() {
    let (entered, has_entered) = channel();
    let (release, released) = channel();
    let kept = StoringSink::default();
    let sink = BlockingSink { entered, release: released, kept: kept.clone() };
    let queue = Queue::start(sink).expect("a thread");
    let writer = queue.writer();
    let line = [b'x'; 1_024];
    let write = || (&writer).write_all(&line).expect("a queue that takes everything");

    write();
    has_entered.recv_timeout(HANG).expect("the thread writes");
    let fitting = QUEUE_BYTES_MAX / line.len();
    (0..fitting + 5).for_each(|_| write());
    assert_eq!(queue.dropped(), 5);
    // The end of the process does not wait for it either.
    queue.flush(Duration::from_millis(1));

    drop(release);
    queue.flush(HANG);
    assert_eq!(kept.bytes().len(), (fitting + 1) * line.len());
    assert_eq!(queue.dropped(), 0);
}

#[test]
fn a_line_larger_than_the_queue_is_counted() {
    let queue = Queue::start(StoringSink::default()).expect("a thread");
    let line = vec![b'x'; QUEUE_BYTES_MAX + 1];
    (&queue.writer()).write_all(&line).expect("a queue that takes everything");
    assert_eq!(queue.dropped(), 1);
}

#[test]
fn a_stalling_sink_gets_every_byte_in_order() {
    let kept = StoringSink::default();
    let sink = StallingSink { calls: 0, kept: kept.clone() };
    let queue = Queue::start(sink).expect("a thread");
    for line in ["one\n", "two\n", "three\n"] {
        (&queue.writer()).write_all(line.as_bytes()).expect("a queue that takes everything");
    }
    queue.flush(HANG);
    assert_eq!(kept.bytes().as_slice(), b"one\ntwo\nthree\n");
}

#[test]
fn a_broken_sink_is_tried_again_with_the_next_line() {
    let (tried, was_tried) = channel();
    let queue = Queue::start(BrokenSink(tried)).expect("a thread");
    for _ in 0..3 {
        (&queue.writer()).write_all(b"line\n").expect("a queue that takes everything");
        was_tried.recv_timeout(HANG).expect("a try");
    }
    queue.flush(HANG);
}
