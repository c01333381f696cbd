//! Reads a trace of arrivals row by row: the file may have any length.

use super::arrivals::GAP_SECONDS_MAX;
use csv::{Reader, ReaderBuilder, StringRecord, Terminator, Trim};
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use thiserror::Error;

/// The latest time in seconds: some 30,000 years, far within the exact range of fractions.
const SECONDS_MAX: f64 = 1e12;

/// The maximum number of requests or tokens in a row, up to which all integers are exact.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

/// The maximum length of a row in bytes. An unclosed quote makes one row of the remaining file, which must not be
/// read into memory.
const ROW_BYTES_MAX: u64 = 1 << 20;

/// The recognized columns. Others are ignored.
const SECONDS: &str = "seconds";
const REQUESTS: &str = "requests";
const TOKENS: &str = "tokens";
const CONTEXT_TOKENS: &str = "context_tokens";
const GENERATED_TOKENS: &str = "generated_tokens";

/// The reason why a trace cannot be read.
#[derive(Debug, Error)]
pub enum TraceError {
    /// The file cannot be opened or read.
    #[error("it cannot be read: {0}")]
    Unreadable(#[from] io::Error),
    /// The path is not a regular file, which can be read repeatedly.
    #[error("it is not a regular file: it is read several times, so give the path of a regular file")]
    NotAFile,
    /// The file is empty.
    #[error("the file is empty: give a header and rows")]
    Empty,
    /// The file has only a header.
    #[error("the header is not followed by rows: give at least one")]
    NoRows,
    /// A line is invalid.
    #[error("line {line}: {problem}")]
    Line {
        /// The line, counted from 1.
        line: u64,
        problem: LineProblem,
    },
}

/// Why a line of a trace is invalid. Values are quoted and shortened.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum LineProblem {
    #[error("the first column is {found}: give seconds, and a column requests if they are counted")]
    FirstColumn { found: String },
    #[error("the column {name} appears more than once: give it once")]
    RepeatedColumn { name: &'static str },
    #[error("the token columns do not match: give {TOKENS}, or {CONTEXT_TOKENS} and {GENERATED_TOKENS}")]
    TokenColumns,
    #[error("{found} columns, and the header has {expected}")]
    ColumnCount { found: usize, expected: usize },
    #[error("seconds is {value}: give a number")]
    NotANumber { value: String },
    #[error("seconds is {value}: give 0 to {SECONDS_MAX}")]
    SecondsOutOfRange { value: String },
    #[error("seconds is {value}, after {before} in the previous row: sort the rows by time")]
    NotSorted { value: String, before: f64 },
    #[error(
        "seconds is {seconds} after the previous row, over {GAP_SECONDS_MAX} (a year): correct the times or split the \
         trace"
    )]
    Gap { seconds: f64 },
    #[error("{name} is {value}: give a whole number")]
    NotWhole { name: &'static str, value: String },
    #[error("{name} is {value}: give a whole number from 0 to {WHOLE_MAX}")]
    OutOfRange { name: &'static str, value: String },
    #[error("the row takes over {ROW_BYTES_MAX} bytes: close its quote, or break the line")]
    RowTooLong,
    #[error("it is not text: give UTF-8")]
    NotText,
    /// The CSV reader reports another error, which it describes so.
    #[error("it cannot be read: {0}")]
    NotCsv(String),
}

/// A row of a trace.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TraceRow {
    /// The line where the row begins, counted from 1.
    pub line: u64,
    /// The time in seconds: at least 0, and not before the previous row.
    pub seconds: f64,
    /// The number of requests from this time up to the next row; 1 at exactly this time if the trace has no counts.
    pub requests: u64,
    /// The tokens of each request, if the trace has them.
    pub tokens: Option<u64>,
}

/// The positions of the columns.
struct Columns {
    /// The number of columns in the header, and thus in each row.
    count: usize,
    requests: Option<usize>,
    /// The columns whose sum is the tokens of a request; the second is optional.
    tokens: [Option<usize>; 2],
}

/// The rows of a trace in order. ReadProgress ends after an error.
pub struct TraceRows {
    reader: Reader<RowLimit<File>>,
    record: StringRecord,
    columns: Columns,
    /// The time of the previous row.
    seconds: Option<f64>,
    is_over: bool,
}

impl TraceRows {
    /// Opens a file and reads its header.
    ///
    /// # Errors
    /// [`TraceError`] if the file cannot be read, is empty, or its first column is not `seconds`.
    pub fn open(path: &Path) -> Result<Self, TraceError> {
        let input = RowLimit { input: File::open(path)?, row_bytes: 0 };
        let mut builder = ReaderBuilder::new();
        // The reader would count CRLF line ends wrongly, so LF terminates rows and the CR is trimmed.
        builder.trim(Trim::All).flexible(true).terminator(Terminator::Any(b'\n'));
        let mut reader = builder.from_reader(input);
        let header = reader.headers().map_err(|error| unreadable(1, error))?;
        let columns = Columns::of(header)?;
        Ok(Self { reader, record: StringRecord::new(), columns, seconds: None, is_over: false })
    }

    /// Returns whether the rows count requests instead of being single arrivals.
    #[must_use]
    pub const fn are_counted(&self) -> bool {
        self.columns.requests.is_some()
    }

    /// Returns the number of bytes read.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.reader.position().byte()
    }

    fn row(&mut self) -> Result<Option<TraceRow>, TraceError> {
        let line = loop {
            self.reader.get_mut().row_bytes = 0;
            let line = self.reader.position().line();
            if !self.reader.read_record(&mut self.record).map_err(|error| unreadable(line, error))? {
                return if self.seconds.is_none() { Err(TraceError::NoRows) } else { Ok(None) };
            }
            let is_blank = self.record.len() == 1 && self.record[0].is_empty();
            if !is_blank {
                break self.record.position().map_or(line, csv::Position::line);
            }
        };
        let row = self.parse(line).map_err(|problem| TraceError::Line { line, problem })?;
        self.seconds = Some(row.seconds);
        Ok(Some(row))
    }

    /// Parses the current record.
    fn parse(&self, line: u64) -> Result<TraceRow, LineProblem> {
        let (record, columns) = (&self.record, &self.columns);
        if record.len() != columns.count {
            return Err(LineProblem::ColumnCount { found: record.len(), expected: columns.count });
        }
        let text = &record[0];
        let seconds: f64 = text.parse().map_err(|_| LineProblem::NotANumber { value: quoted(text) })?;
        if !(0.0..=SECONDS_MAX).contains(&seconds) {
            return Err(LineProblem::SecondsOutOfRange { value: shortened(text) });
        }
        if let Some(before) = self.seconds.filter(|before| seconds < *before) {
            return Err(LineProblem::NotSorted { value: shortened(text), before });
        }
        let requests = columns.requests.map_or(Ok(1), |column| whole(REQUESTS, &record[column]))?;
        let mut tokens = None;
        let names = if columns.tokens[1].is_some() { [CONTEXT_TOKENS, GENERATED_TOKENS] } else { [TOKENS; 2] };
        for (name, column) in names.into_iter().zip(columns.tokens) {
            if let Some(column) = column {
                tokens = Some(tokens.unwrap_or(0) + whole(name, &record[column])?);
            }
        }
        Ok(TraceRow { line, seconds, requests, tokens })
    }
}

impl Iterator for TraceRows {
    type Item = Result<TraceRow, TraceError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let row = self.row().transpose();
        self.is_over = !matches!(row, Some(Ok(_)));
        row
    }
}

impl Columns {
    fn of(header: &StringRecord) -> Result<Self, TraceError> {
        if header.is_empty() {
            return Err(TraceError::Empty);
        }
        let wrong = |problem| TraceError::Line { line: 1, problem };
        if &header[0] != SECONDS {
            return Err(wrong(LineProblem::FirstColumn { found: quoted(&header[0]) }));
        }
        let position = |name: &str| header.iter().position(|column| column == name);
        for name in [SECONDS, REQUESTS, TOKENS, CONTEXT_TOKENS, GENERATED_TOKENS] {
            if header.iter().filter(|column| *column == name).count() > 1 {
                return Err(wrong(LineProblem::RepeatedColumn { name }));
            }
        }
        let tokens = match (position(TOKENS), position(CONTEXT_TOKENS), position(GENERATED_TOKENS)) {
            (tokens, None, None) => [tokens, None],
            (None, Some(context), Some(generated)) => [Some(context), Some(generated)],
            _ => return Err(wrong(LineProblem::TokenColumns)),
        };
        Ok(Self { count: header.len(), requests: position(REQUESTS), tokens })
    }
}

/// Parses a whole number in a column.
fn whole(name: &'static str, text: &str) -> Result<u64, LineProblem> {
    let number: f64 = text.parse().map_err(|_| LineProblem::NotWhole { name, value: quoted(text) })?;
    let is_whole = (0.0..=WHOLE_MAX).contains(&number) && number.fract() == 0.0;
    if is_whole { Ok(number as u64) } else { Err(LineProblem::OutOfRange { name, value: shortened(text) }) }
}

/// Quotes a text from the file for an error.
fn quoted(text: &str) -> String {
    format!("{:?}", shortened(text))
}

/// Shortens a text, with an ellipsis if it was cut.
fn shortened(text: &str) -> String {
    const CHARACTERS_MAX: usize = 60;
    let mut short: String = text.chars().take(CHARACTERS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    short
}

/// Converts an error of the CSV reader.
fn unreadable(line: u64, error: csv::Error) -> TraceError {
    let at = error.position().map_or(line, csv::Position::line);
    let (line, problem) = match error.into_kind() {
        // Only [`RowLimit`] fails with this kind.
        csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::InvalidData => (line, LineProblem::RowTooLong),
        csv::ErrorKind::Io(error) => return TraceError::Unreadable(error),
        csv::ErrorKind::Utf8 { .. } => (at, LineProblem::NotText),
        kind => (at, LineProblem::NotCsv(format!("{kind:?}"))),
    };
    TraceError::Line { line, problem }
}

/// An input that fails within a row that is too long.
struct RowLimit<R> {
    input: R,
    /// The number of bytes read since the last row began.
    row_bytes: u64,
}

impl<R: Read> Read for RowLimit<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.row_bytes > ROW_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let read = self.input.read(buffer)?;
        self.row_bytes += read as u64;
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use tempfile::NamedTempFile;

    fn file(text: impl AsRef<[u8]>) -> NamedTempFile {
        let mut file = NamedTempFile::new().expect("a file");
        file.write_all(text.as_ref()).expect("room for it");
        file
    }

    fn rows(text: impl AsRef<[u8]>) -> Result<Vec<TraceRow>, TraceError> {
        TraceRows::open(file(text).path())?.collect()
    }

    #[test]
    fn rows_are_read_in_order() {
        let row = |line, seconds, requests, tokens| TraceRow { line, seconds, requests, tokens };
        let read = |text: &str| rows(text).unwrap_or_else(|error| panic!("{text:?}: {error}"));
        assert_eq!(read("seconds\n0\n0.5\n"), [row(2, 0.0, 1, None), row(3, 0.5, 1, None)]);
        assert_eq!(read("seconds,requests\n0,7\n\n 300 , 0 \n \r\n"), [row(2, 0.0, 7, None), row(3, 300.0, 0, None)]);
        assert_eq!(
            read("\u{feff}seconds,note,tokens\r\n1,\"a\nb\",9\r\n2,,1e3"),
            [row(2, 1.0, 1, Some(9)), row(4, 2.0, 1, Some(1_000))]
        );
        assert_eq!(read("seconds,context_tokens,generated_tokens,requests\n1,2,3,4\n"), [row(2, 1.0, 4, Some(5))]);
    }

    #[test]
    fn errors_in_a_file_name_the_line() {
        let long = format!("seconds,note\n0,a\n1,\"{}", "1,\n".repeat(1 << 20));
        let cases: [(&[u8], &str); 24] = [
            (b"", "the file is empty: give a header and rows"),
            (b"\n\n", "the file is empty: give a header and rows"),
            (b"seconds\n", "the header is not followed by rows: give at least one"),
            (b"time\n1\n", "line 1: the first column is \"time\": give seconds"),
            (b"requests,seconds\n1,1\n", "line 1: the first column is \"requests\": give seconds"),
            (b"seconds,requests,requests\n", "line 1: the column requests appears more than once: give it once"),
            (b"seconds,tokens,context_tokens\n", "line 1: the token columns do not match: give tokens, or"),
            (b"seconds,generated_tokens\n", "line 1: the token columns do not match: give tokens, or"),
            (b"seconds\n1\nlate\n", "line 3: seconds is \"late\": give a number"),
            (b"seconds,requests\n1,1\n,2\n", "line 3: seconds is \"\": give a number"),
            (b"seconds\n2\n1\n", "line 3: seconds is 1, after 2 in the previous row: sort the rows by time"),
            (b"seconds\n-1\n", "line 2: seconds is -1: give 0 to 1000000000000"),
            (b"seconds\nNaN\n", "line 2: seconds is NaN: give 0 to 1000000000000"),
            (b"seconds\ninf\n", "line 2: seconds is inf: give 0 to 1000000000000"),
            (b"seconds\n1e13\n", "line 2: seconds is 1e13: give 0 to 1000000000000"),
            (b"seconds,requests\n0,\n", "line 2: requests is \"\": give a whole number"),
            (b"seconds,requests\n0,-5\n", "line 2: requests is -5: give a whole number from 0 to 9007199254740992"),
            (b"seconds,requests\n0,1.5\n", "line 2: requests is 1.5: give a whole number from 0 to"),
            (b"seconds,tokens\n0,many\n", "line 2: tokens is \"many\": give a whole number"),
            (b"seconds,context_tokens,generated_tokens\n0,1,\n", "line 2: generated_tokens is \"\": give a whole"),
            (b"seconds,requests\n0,1\n2\n", "line 3: 1 columns, and the header has 2"),
            (b"seconds,requests\n0,1\n2,1,1\n", "line 3: 3 columns, and the header has 2"),
            (b"seconds,note\n0,a\n1,\xff\n", "line 3: it is not text: give UTF-8"),
            (long.as_bytes(), "line 3: the row takes over 1048576 bytes: close its quote, or break the line"),
        ];
        for (text, expected) in cases {
            let shown = String::from_utf8_lossy(&text[..text.len().min(80)]);
            match rows(text) {
                Ok(rows) => panic!("{shown:?} was accepted: {rows:?}"),
                Err(error) => assert!(error.to_string().starts_with(expected), "{shown:?}: {error}"),
            }
        }
    }

    #[test]
    fn a_missing_file_and_a_folder_are_errors() {
        let folder = tempfile::tempdir().expect("a folder");
        for path in [folder.path().join("none.csv"), folder.path().to_owned()] {
            let error = TraceRows::open(&path).err().expect("no trace");
            assert!(matches!(error, TraceError::Unreadable(_)), "{error}");
        }
    }
}
