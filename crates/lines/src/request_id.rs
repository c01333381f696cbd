//! The id of a message: what is allowed as one, and how it is found in a line too long to parse.

use rmcp::model::RequestId;

/// The longest string that may be an id. Ids are kept for as long as a call is in flight, and
/// longer if it is cancelled.
pub const ID_BYTES_MAX: usize = 1_024;

/// Reads the JSON text of an id: an integer or a string.
///
/// # Errors
/// Says what the id is instead, without repeating it.
pub fn parse_id(json: &str) -> Result<RequestId, &'static str> {
    match json.as_bytes().first() {
        Some(b'"') if json.len() > ID_BYTES_MAX + 2 => Err("too long a string"),
        Some(b'"') => match serde_json::from_str::<String>(json) {
            Ok(text) => Ok(RequestId::String(text.into())),
            Err(_) => Err("not a valid string"),
        },
        Some(b'-' | b'0'..=b'9') => match json.parse::<i64>() {
            Ok(number) => Ok(RequestId::Number(number)),
            Err(_) => Err("a number that is no 64-bit integer"),
        },
        Some(b'n') => Err("null"),
        Some(b't' | b'f') => Err("a boolean"),
        Some(b'[') => Err("an array"),
        Some(b'{') => Err("an object"),
        _ => Err("no JSON value"),
    }
}

/// Finds the id of a message that comes in parts and is never whole, and whether it is an answer, by following only its
/// nesting and its strings. Some put the id first and some last, so all of the line is followed.
#[derive(Default)]
pub(crate) struct IdScanner {
    place: Place,
    /// The JSON text of the key or value being read, as far as it may matter.
    text: Vec<u8>,
    /// Whether the value being read is that of the id.
    is_id: bool,
    found: Option<RequestId>,
    has_method: bool,
}

/// Where in the line the scanner is. Strings know whether a backslash came before.
#[derive(Clone, Copy, Default, PartialEq)]
enum Place {
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
    /// The object is closed, or this is no object.
    Done,
}

impl IdScanner {
    /// Follows the next part of the line.
    pub(super) fn push(&mut self, part: &[u8]) {
        for byte in part {
            if self.place == Place::Done {
                return;
            }
            self.step(*byte);
        }
    }

    /// The first id, if the line has one that can be read, and whether there is no method: then it is of an answer.
    pub(super) fn finish(self) -> (Option<RequestId>, bool) {
        (self.found, !self.has_method)
    }

    fn step(&mut self, byte: u8) {
        self.place = match self.place {
            Place::Start => match byte {
                b'{' => Place::BeforeKey,
                b' ' | b'\t' | b'\r' | 0xEF | 0xBB | 0xBF => Place::Start,
                _ => Place::Done,
            },
            Place::BeforeKey => match byte {
                b'"' => {
                    self.text.clear();
                    self.keep(byte);
                    Place::InKey { escaped: false }
                }
                b' ' | b'\t' | b'\r' | b',' => Place::BeforeKey,
                _ => Place::Done,
            },
            Place::InKey { escaped } => {
                self.keep(byte);
                match after_string_byte(byte, escaped) {
                    Some(escaped) => Place::InKey { escaped },
                    None => Place::BeforeColon,
                }
            }
            Place::BeforeColon => self.before_colon(byte),
            Place::BeforeValue => self.before_value(byte),
            Place::InString { escaped } => {
                self.keep(byte);
                match after_string_byte(byte, escaped) {
                    Some(escaped) => Place::InString { escaped },
                    None => self.end_value(Place::BeforeKey),
                }
            }
            Place::InScalar => match byte {
                b',' | b' ' | b'\t' | b'\r' => self.end_value(Place::BeforeKey),
                b'}' => self.end_value(Place::Done),
                _ => {
                    self.keep(byte);
                    Place::InScalar
                }
            },
            Place::InNested { depth, string } => after_nested_byte(byte, depth, string),
            Place::Done => Place::Done,
        };
    }

    fn before_colon(&mut self, byte: u8) -> Place {
        match byte {
            b':' => {
                let key = serde_json::from_slice::<String>(&self.text);
                self.is_id = key.as_ref().is_ok_and(|key| key == "id");
                self.has_method |= key.is_ok_and(|key| key == "method");
                self.text.clear();
                Place::BeforeValue
            }
            b' ' | b'\t' | b'\r' => Place::BeforeColon,
            _ => Place::Done,
        }
    }

    fn before_value(&mut self, byte: u8) -> Place {
        let place = match byte {
            b' ' | b'\t' | b'\r' => return Place::BeforeValue,
            b'"' => Place::InString { escaped: false },
            b'{' | b'[' => Place::InNested { depth: 1, string: None },
            _ => Place::InScalar,
        };
        self.keep(byte);
        place
    }

    /// Keeps what may be a key or the id; more than the longest id is of no interest.
    fn keep(&mut self, byte: u8) {
        if self.text.len() <= ID_BYTES_MAX + 2 {
            self.text.push(byte);
        }
    }

    fn end_value(&mut self, next: Place) -> Place {
        if self.is_id && self.found.is_none() {
            self.found = str::from_utf8(&self.text).ok().and_then(|text| parse_id(text).ok());
        }
        next
    }
}

/// Within a string: whether the next byte is escaped, or none if this one closes the string.
fn after_string_byte(byte: u8, escaped: bool) -> Option<bool> {
    match (byte, escaped) {
        (_, true) => Some(false),
        (b'\\', false) => Some(true),
        (b'"', false) => None,
        (_, false) => Some(false),
    }
}

fn after_nested_byte(byte: u8, depth: usize, string: Option<bool>) -> Place {
    let (depth, string) = match (string, byte) {
        (Some(escaped), _) => (depth, after_string_byte(byte, escaped)),
        (None, b'"') => (depth, Some(false)),
        (None, b'{' | b'[') => (depth + 1, None),
        (None, b'}' | b']') if depth == 1 => return Place::BeforeKey,
        (None, b'}' | b']') => (depth - 1, None),
        (None, _) => (depth, None),
    };
    Place::InNested { depth, string }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_scan(line: &str, expected: Option<RequestId>) {
        for piece in [1, 3, line.len()] {
            let mut scanner = IdScanner::default();
            for part in line.as_bytes().chunks(piece) {
                scanner.push(part);
            }
            assert_eq!(scanner.finish().0, expected, "{line} in pieces of {piece}");
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
    fn answers_are_told_from_requests() {
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
    fn what_is_no_id_is_not_taken_for_one() {
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
