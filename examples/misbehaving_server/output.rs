//! Standard output: one complete message per line, from any thread.

use crate::flags::Flags;
use serde_json::{Value, json};
use std::io::{BufWriter, Stdout, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// An id that no client uses.
const FOREIGN_ID: u64 = 999_999_999;

/// The error of a request: its code, message and data.
pub(crate) struct Refusal(pub(crate) i32, pub(crate) String, pub(crate) Option<Value>);

/// The answer to a request.
pub(crate) type Outcome = Result<Value, Refusal>;

/// A buffered standard output. Written messages are sent by the next flush at the latest.
pub(crate) struct Output {
    sink: Mutex<BufWriter<Stdout>>,
    garbage: bool,
    twice: bool,
    foreign_id: bool,
}

impl Output {
    pub(crate) fn new(flags: &Flags) -> Self {
        Self {
            sink: Mutex::new(BufWriter::new(std::io::stdout())),
            garbage: flags.garbage_stdout,
            twice: flags.answer_twice,
            foreign_id: flags.foreign_id,
        }
    }

    /// Writes the answer to a request, with the selected faults.
    pub(crate) fn answer(&self, id: &Value, outcome: Outcome) {
        let answer = match outcome {
            Ok(result) => json!({"jsonrpc": "2.0", "id": id, "result": result}),
            Err(Refusal(code, message, None)) => {
                json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message}})
            }
            Err(Refusal(code, message, Some(data))) => {
                json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message, "data": data}})
            }
        };
        let mut sink = self.lock();
        if self.garbage {
            write(&mut sink, b"Debugger listening on ws://127.0.0.1:9229/ {\"not\": json");
        }
        if self.foreign_id {
            for id in [json!(FOREIGN_ID), json!("foreign")] {
                write_json(&mut sink, &json!({"jsonrpc": "2.0", "id": id, "result": {"foreign": true}}));
            }
        }
        write_json(&mut sink, &answer);
        if self.twice {
            write_json(&mut sink, &answer);
        }
    }

    /// Sends a request or a notification of the server's own.
    pub(crate) fn send(&self, message: &Value) {
        write_json(&mut self.lock(), message);
        self.flush();
    }

    pub(crate) fn notify(&self, method: &str, params: Value) {
        self.send(&json!({"jsonrpc": "2.0", "method": method, "params": params}));
    }

    pub(crate) fn flush(&self) {
        if self.lock().flush().is_err() {
            // The reader has closed the pipe.
            std::process::exit(0);
        }
    }

    fn lock(&self) -> MutexGuard<'_, BufWriter<Stdout>> {
        self.sink.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn write_json(sink: &mut BufWriter<Stdout>, message: &Value) {
    write(sink, message.to_string().as_bytes());
}

fn write(sink: &mut BufWriter<Stdout>, line: &[u8]) {
    // The next flush reports a failure as well.
    let _ = sink.write_all(line);
    let _ = sink.write_all(b"\n");
}
