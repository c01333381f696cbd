//! The id of a message: its validation, and a scanner that finds it in a line that is too long to parse.

use rmcp::model::RequestId;

/// The longest string that is accepted as an id. Ids are kept while a call is in flight, and longer if it is cancelled.
pub const ID_BYTES_MAX: usize = 1_024;

/// Parses the JSON text of an id: an integer or a string.
///
/// # Errors
/// Returns what the value is instead, without repeating it.
pub fn parse_id(json: &str) -> Result<RequestId, &'static str> {
    match json.as_bytes().first() {
        Some(b'"') if json.len() > ID_BYTES_MAX + 2 => Err("too long a string"),
        Some(b'"') => match serde_json::from_str::<String>(json) {
            Ok(text) => Ok(RequestId::String(text.into())),
            Err(_) => Err("not a valid string"),
        },
        Some(b'-' | b'0'..=b'9') => match json.parse::<i64>() {
            Ok(number) => Ok(RequestId::Number(number)),
            Err(_) => Err("a number that is not a 64-bit integer"),
        },
        Some(b'n') => Err("null"),
        Some(b't' | b'f') => Err("a boolean"),
        Some(b'[') => Err("an array"),
        Some(b'{') => Err("an object"),
        _ => Err("not a JSON value"),
    }
}

/// Finds the id of a message that arrives in parts and is never complete, and whether it is a response. Tracks only
/// nesting and strings, through the whole line, since the id may be its first or last key.
#[derive(Default)]
pub(crate) struct IdScanner {
    state: ScanState,
    /// The JSON text of the current key or value, truncated to what an id may have.
    text: Vec<u8>,
    /// Whether the current value is that of the id.
    is_id: bool,
    found: Option<RequestId>,
    has_method: bool,
}

/// The state of the scanner. Within strings, it records whether the last byte was an escaping backslash.
#[derive(Clone, Copy, Default, PartialEq)]
enum ScanState {
    #[default]
    Start,
    BeforeKey,
    InKey {
        escaped: bool,
    },
    BeforeColon,
    BeforeValue,
    InString {
        escaped: bool,
    },
    InScalar,
    InNested {
        depth: usize,
        string: Option<bool>,
    },
    /// The object is closed, or the line is not an object.
    Done,
}

impl IdScanner {
    /// Scans the next part of the line.
    pub(super) fn push(&mut self, part: &[u8]) {
        for byte in part {
            if self.state == ScanState::Done {
                return;
            }
            self.step(*byte);
        }
    }

    /// Returns the first valid id, if the line has one, and whether the message has no method, so that it is a
    /// response.
    pub(super) fn finish(self) -> (Option<RequestId>, bool) {
        (self.found, !self.has_method)
    }

    fn step(&mut self, byte: u8) {
        self.state = match self.state {
            ScanState::Start => match byte {
                b'{' => ScanState::BeforeKey,
                b' ' | b'\t' | b'\r' | 0xEF | 0xBB | 0xBF => ScanState::Start,
                _ => ScanState::Done,
            },
            ScanState::BeforeKey => match byte {
                b'"' => {
                    self.text.clear();
                    self.keep(byte);
                    ScanState::InKey { escaped: false }
                }
                b' ' | b'\t' | b'\r' | b',' => ScanState::BeforeKey,
                _ => ScanState::Done,
            },
            ScanState::InKey { escaped } => {
                self.keep(byte);
                match after_string_byte(byte, escaped) {
                    Some(escaped) => ScanState::InKey { escaped },
                    None => ScanState::BeforeColon,
                }
            }
            ScanState::BeforeColon => self.before_colon(byte),
            ScanState::BeforeValue => self.before_value(byte),
            ScanState::InString { escaped } => {
                self.keep(byte);
                match after_string_byte(byte, escaped) {
                    Some(escaped) => ScanState::InString { escaped },
                    None => self.end_value(ScanState::BeforeKey),
                }
            }
            ScanState::InScalar => match byte {
                b',' | b' ' | b'\t' | b'\r' => self.end_value(ScanState::BeforeKey),
                b'}' => self.end_value(ScanState::Done),
                _ => {
                    self.keep(byte);
                    ScanState::InScalar
                }
            },
            ScanState::InNested { depth, string } => after_nested_byte(byte, depth, string),
            ScanState::Done => ScanState::Done,
        };
    }

    fn before_colon(&mut self, byte: u8) -> ScanState {
        match byte {
            b':' => {
                let key = serde_json::from_slice::<String>(&self.text);
                self.is_id = key.as_ref().is_ok_and(|key| key == "id");
                self.has_method |= key.is_ok_and(|key| key == "method");
                self.text.clear();
                ScanState::BeforeValue
            }
            b' ' | b'\t' | b'\r' => ScanState::BeforeColon,
            _ => ScanState::Done,
        }
    }

    fn before_value(&mut self, byte: u8) -> ScanState {
        let state = match byte {
            b' ' | b'\t' | b'\r' => return ScanState::BeforeValue,
            b'"' => ScanState::InString { escaped: false },
            b'{' | b'[' => ScanState::InNested { depth: 1, string: None },
            _ => ScanState::InScalar,
        };
        self.keep(byte);
        state
    }

    /// Keeps a byte of what may be a key or the id, up to the longest id.
    fn keep(&mut self, byte: u8) {
        if self.text.len() <= ID_BYTES_MAX + 2 {
            self.text.push(byte);
        }
    }

    fn end_value(&mut self, next: ScanState) -> ScanState {
        if self.is_id && self.found.is_none() {
            self.found = str::from_utf8(&self.text).ok().and_then(|text| parse_id(text).ok());
        }
        next
    }
}

/// Returns whether the next byte of a string is escaped, or `None` if this byte closes the string.
fn after_string_byte(byte: u8, escaped: bool) -> Option<bool> {
    match (byte, escaped) {
        (_, true) => Some(false),
        (b'\\', false) => Some(true),
        (b'"', false) => None,
        (_, false) => Some(false),
    }
}

fn after_nested_byte(byte: u8, depth: usize, string: Option<bool>) -> ScanState {
    let (depth, string) = match (string, byte) {
        (Some(escaped), _) => (depth, after_string_byte(byte, escaped)),
        (None, b'"') => (depth, Some(false)),
        (None, b'{' | b'[') => (depth + 1, None),
        (None, b'}' | b']') if depth == 1 => return ScanState::BeforeKey,
        (None, b'}' | b']') => (depth - 1, None),
        (None, _) => (depth, None),
    };
    ScanState::InNested { depth, string }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_scan(line: &str, expected: Option<RequestId>) {
        for chunk_bytes in [1, 3, line.len()] {
            let mut scanner = IdScanner::default();
            for part in line.as_bytes().chunks(chunk_bytes) {
                scanner.push(part);
            }
            assert_eq!(scanner.finish().0, expected, "{line} in chunks of {chunk_bytes}");
        }
    }

    #[test]
    fn the_id_of_the_request_itself_is_found() {
        let seven = Some(RequestId::Number(7));
        check_scan(r#"{"jsonrpc":"2.0","id":7,"method":"x"#, seven.clone());
        check_scan(r#"{ "id" : 7 }"#, seven.clone());
        check_scan(r#"{"params":{"id":1,"a":[{"id":2}]},"id":7}"#, seven.clone());
        check_scan(r#"{"params":["}","\"]\\",{"id":1}],"id":7}"#, seven.clone());
        check_scan(r#"{"a":"\"id\":1,","\u0069d":7,"id":8}"#, seven);
        check_scan(r#"{"id":"a\"b}","x":"#, Some(RequestId::String("a\"b}".into())));
    }

    #[test]
    fn responses_are_distinguished_from_requests() {
        for (line, is_answer) in [
            (r#"{"jsonrpc":"2.0","id":7,"result":{"method":"x"}}"#, true),
            (r#"{"result":"\"method\":1","id":7}"#, true),
            (r#"{"id":7,"params":{},"method":"x"}"#, false),
            (r#"{"\u006dethod":"x","id":7}"#, false),
        ] {
            let mut scanner = IdScanner::default();
            scanner.push(line.as_bytes());
            assert_eq!(scanner.finish(), (Some(RequestId::Number(7)), is_answer), "{line}");
        }
    }

    #[test]
    fn invalid_ids_are_not_found() {
        for line in [
            r#"{"params":{"id":1}}"#,
            r#"{"params":{"id":1},"#,
            r#"{"id":"never closed"#,
            r#"{"id":12"#,
            r#"{"id":null,"x":1}"#,
            r#"{"id":1.5,"x":1}"#,
            r#"{"id":{"id":1},"x":{"id":2}}"#,
            r#"{"a":"id","b":1}"#,
            r#"[{"id":1}]"#,
            r#""id":1"#,
            "xxxxx",
        ] {
            check_scan(line, None);
        }
        let long = "x".repeat(ID_BYTES_MAX + 1);
        check_scan(&format!(r#"{{"id":"{long}","a":1}}"#), None);
        check_scan(&format!(r#"{{"{long}":1,"id":2}}"#), Some(RequestId::Number(2)));
    }
}
