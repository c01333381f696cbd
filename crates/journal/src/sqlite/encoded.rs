//! Events on their way to the journal's thread, as the text that their rows will have: whoever decided on them has them at
//! hand, and the thread that writes finds them side by side.

use super::super::Entry;
use cortex_core::ids::JobId;
use cortex_core::time::Timestamp;

/// The rows of some events, in their order.
pub(super) struct EncodedRows {
    /// The events as JSON, one behind the other.
    texts: Vec<u8>,
    rows: Vec<Row>,
}

struct Row {
    at: Timestamp,
    job: Option<JobId>,
    /// Where its text ends.
    end: usize,
}

/// One of them.
pub(super) struct EncodedRow<'a> {
    pub(super) at: Timestamp,
    pub(super) job: Option<&'a str>,
    pub(super) text: &'a str,
}

/// The room that is made for the text of an event: few are longer.
const TEXT_BYTES: usize = 256;

impl EncodedRows {
    /// # Errors
    /// An event cannot be written as JSON.
    pub(super) fn of(entries: impl ExactSizeIterator<Item = Entry>) -> Result<Self, serde_json::Error> {
        let mut texts = Vec::with_capacity(entries.len() * TEXT_BYTES);
        let mut rows = Vec::with_capacity(entries.len());
        for Entry { recorded, job } in entries {
            serde_json::to_writer(&mut texts, &recorded)?;
            rows.push(Row { at: recorded.at, job, end: texts.len() });
        }
        Ok(Self { texts, rows })
    }

    /// The rows.
    ///
    /// # Errors
    /// For a row whose text is no text, which JSON always is.
    pub(super) fn iter(&self) -> impl Iterator<Item = Result<EncodedRow<'_>, std::str::Utf8Error>> {
        let starts = std::iter::once(0).chain(self.rows.iter().map(|row| row.end));
        self.rows.iter().zip(starts).map(|(Row { at, job, end }, start)| {
            let text = std::str::from_utf8(&self.texts[start..*end])?;
            Ok(EncodedRow { at: *at, job: job.as_ref().map(JobId::as_str), text })
        })
    }
}
