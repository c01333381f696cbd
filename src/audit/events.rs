//! The events of a state, as JSON lines.

use cortex_core::ids::JobId;
use cortex_core::time::Timestamp;
use cortex_journal::{EventRow, EventRows, JournalError, open_to_read};
use std::io::{self, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// The interval at which the log is checked for new events.
const FOLLOW_INTERVAL: Duration = Duration::from_millis(100);

/// Which events to print.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EventFilter {
    /// Only events of this job.
    pub job: Option<JobId>,
    /// Only events from this time on.
    pub since: Option<Timestamp>,
    /// Whether to wait for new events, without an end.
    pub follow: bool,
}

impl EventFilter {
    fn admits(&self, row: &EventRow) -> bool {
        self.job.as_ref().is_none_or(|job| row.job.as_deref() == Some(job.as_str()))
    }
}

/// Prints the events of a state, oldest first, one JSON object per line: the event as it was written, with its sequence
/// number in the log (`sequence`) and the job it concerns (`job`). Stops without an error when the reader closes the
/// pipe.
///
/// # Errors
/// The log cannot be read, or is damaged; the events before that are printed.
pub(crate) fn print_events(state: &Path, filter: &EventFilter, output: &mut dyn Write) -> anyhow::Result<()> {
    match print_all(state, filter, output) {
        Err(PrintError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        Err(PrintError::Output(error)) => Err(error.into()),
        Err(PrintError::Journal(error)) => Err(error.into()),
        Ok(()) => Ok(()),
    }
}

enum PrintError {
    Journal(JournalError),
    Output(io::Error),
}

impl From<JournalError> for PrintError {
    fn from(error: JournalError) -> Self {
        Self::Journal(error)
    }
}

impl From<io::Error> for PrintError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

fn print_all(state: &Path, filter: &EventFilter, output: &mut dyn Write) -> Result<(), PrintError> {
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
                    tracing::warn!(from = rows.last() + 1, to = first - 1, "events were deleted before they were read");
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
        thread::sleep(FOLLOW_INTERVAL);
    }
}

/// Formats an event with its sequence number and job before its own keys.
fn line(row: &EventRow) -> String {
    let job = match &row.job {
        Some(job) => format!("\"job\":{},", serde_json::Value::from(job.as_str())),
        None => String::new(),
    };
    let keys = row.event.strip_prefix('{').unwrap_or(&row.event);
    format!("{{\"sequence\":{},{job}{keys}", row.sequence)
}
