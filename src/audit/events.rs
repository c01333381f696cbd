//! The events of a state, as JSON lines.

use cortex_core::ids::JobId;
use cortex_core::time::Timestamp;
use cortex_journal::{EventRow, EventRows, JournalError, open_to_read};
use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// How long it is waited before the log is looked at again for events to come.
const FOLLOW_WAIT: Duration = Duration::from_millis(100);

/// Which events to print.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventFilter {
    /// Only those of this job.
    pub job: Option<JobId>,
    /// Only those from this moment on.
    pub since: Option<Timestamp>,
    /// Whether to go on with those to come, for ever.
    pub follow: bool,
}

impl EventFilter {
    fn admits(&self, row: &EventRow) -> bool {
        self.job.as_ref().is_none_or(|job| row.job.as_deref() == Some(job.as_str()))
    }
}

/// Prints the events of a state, oldest first, one JSON object a line: the event as it was written, with its place in the
/// log (`sequence`) and the job it concerns (`job`). A reader that goes away ends it.
///
/// # Errors
/// The log cannot be read, or is not what was written; what is before that is printed.
pub(crate) fn print_events(state: &Path, filter: &EventFilter, output: &mut dyn Write) -> anyhow::Result<()> {
    match print_all(state, filter, output) {
        Err(Fault::Reader(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(Fault::Reader(error)) => Err(error.into()),
        Err(Fault::Log(error)) => Err(error.into()),
        Ok(()) => Ok(()),
    }
}

enum Fault {
    Log(JournalError),
    Reader(io::Error),
}

impl From<JournalError> for Fault {
    fn from(error: JournalError) -> Self {
        Self::Log(error)
    }
}

impl From<io::Error> for Fault {
    fn from(error: io::Error) -> Self {
        Self::Reader(error)
    }
}

fn print_all(state: &Path, filter: &EventFilter, output: &mut dyn Write) -> Result<(), Fault> {
    let connection = open_to_read(state)?;
    let mut rows = EventRows::kept(&connection, state, filter.since)?;
    loop {
        loop {
            let row = match rows.next_row() {
                Ok(Some(row)) => row,
                Ok(None) => break,
                Err(error) => {
                    let first = EventRows::ends(&connection, state)?.map(|(first, _)| first);
                    let Some(first) = first.filter(|first| *first > rows.last() + 1) else { return Err(error.into()) };
                    tracing::warn!(
                        from = rows.last() + 1,
                        to = first - 1,
                        "events were tidied away before they were read"
                    );
                    rows = EventRows::kept(&connection, state, None)?;
                    continue;
                }
            };
            if filter.admits(&row) {
                writeln!(output, "{}", line(&row))?;
            }
        }
        output.flush()?;
        if !filter.follow {
            return Ok(());
        }
        thread::sleep(FOLLOW_WAIT);
    }
}

/// The event with its place and its job ahead of its own keys.
fn line(row: &EventRow) -> String {
    let job = match &row.job {
        Some(job) => format!("\"job\":{},", serde_json::Value::from(job.as_str())),
        None => String::new(),
    };
    let keys = row.event.strip_prefix('{').unwrap_or(&row.event);
    format!("{{\"sequence\":{},{job}{keys}", row.sequence)
}
