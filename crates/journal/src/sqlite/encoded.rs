//! Events encoded as the text of their rows, to be sent to the journal's thread. The engine's thread encodes them while
//! they are in its cache, and the writer reads them from one buffer.

use super::super::JournalEntry;
use cortex_core::ids::JobId;
use cortex_core::time::Timestamp;

/// The rows of some events, in order.
pub(super) struct EncodedRows {
    /// The events as JSON, concatenated.
    texts: Vec<u8>,
    rows: Vec<Row>,
}

struct Row {
    at: Timestamp,
    job: Option<JobId>,
    /// The end of its text in `texts`.
    end: usize,
}

/// A row with its text.
pub(super) struct EncodedRow<'a> {
    pub(super) at: Timestamp,
    pub(super) job: Option<&'a str>,
    pub(super) text: &'a str,
}

/// The space that is allocated per event; few texts are longer.
const TEXT_BYTES: usize = 256;

impl EncodedRows {
    /// # Errors
    /// Returns an error if an event cannot be encoded as JSON.
    pub(super) fn of(entries: impl ExactSizeIterator<Item = JournalEntry>) -> Result<Self, serde_json::Error> {
        let mut texts = Vec::with_capacity(entries.len() * TEXT_BYTES);
        let mut rows = Vec::with_capacity(entries.len());
        for JournalEntry { recorded, job } in entries {
            serde_json::to_writer(&mut texts, &recorded)?;
            rows.push(Row { at: recorded.at, job, end: texts.len() });
        }
        Ok(Self { texts, rows })
    }

    /// # Errors
    /// Yields an error for a text that is not UTF-8. JSON always is.
    pub(super) fn iter(&self) -> impl Iterator<Item = Result<EncodedRow<'_>, std::str::Utf8Error>> {
        let starts = std::iter::once(0).chain(self.rows.iter().map(|row| row.end));
        self.rows.iter().zip(starts).map(|(Row { at, job, end }, start)| {
            let text = std::str::from_utf8(&self.texts[start..*end])?;
            Ok(EncodedRow { at: *at, job: job.as_ref().map(JobId::as_str), text })
        })
    }
}
