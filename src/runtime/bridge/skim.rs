//! What a line answers that is too long to be kept, found while it passes by.
//!
//! Servers write the id of an answer in front of the result or behind it, so that all of the line is followed: its strings
//! and its nesting, and of the outermost object the keys.

use super::message::{number_of, plain_text};

/// The longest key or number that is looked at, in bytes: the number of a call, or "method" in any way of writing it.
const TOKEN_BYTES_MAX: usize = 64;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Before the outermost object.
    #[default]
    Before,
    /// In it, where a key may come.
    Key,
    /// Behind a key.
    Colon,
    /// Where the value begins.
    Value,
    /// In a value that is a number or a word.
    Word,
    /// In a value that is a string.
    Text,
    /// In a value that is an object or an array, so many levels deep.
    Nested(usize),
    /// Behind a value.
    Comma,
    /// Behind the outermost object.
    After,
    /// This is no object, or no JSON.
    Lost,
}

/// Follows one line, in parts of any size.
#[derive(Debug, Default)]
pub(super) struct Skim {
    place: Place,
    /// Within a string, whether the next byte is escaped.
    string: Option<bool>,
    /// The key or word that is being read, as far as it may matter.
    token: Vec<u8>,
    is_id: bool,
    has_method: bool,
    /// How many ids there are, and the number that one is.
    ids: usize,
    number: Option<u64>,
}

impl Skim {
    pub(super) fn push(&mut self, part: &[u8]) {
        let mut rest = part;
        while let Some((byte, after)) = rest.split_first() {
            rest = match self.string {
                Some(false) if self.place != Place::Key => {
                    // Nothing within the string of a value is of interest before its end.
                    let end = memchr::memchr2(b'"', b'\\', rest).unwrap_or(rest.len());
                    let Some((byte, after)) = rest[end..].split_first() else {
                        return;
                    };
                    self.in_string(*byte);
                    after
                }
                Some(_) => {
                    self.in_string(*byte);
                    after
                }
                None => {
                    self.step(*byte);
                    after
                }
            };
        }
    }

    /// The number of the call that the line answers, once all of it has passed.
    pub(super) fn answers(&self) -> Option<u64> {
        let is_answer = self.place == Place::After && self.ids == 1 && !self.has_method;
        self.number.filter(|_| is_answer)
    }

    fn in_string(&mut self, byte: u8) {
        if self.place == Place::Key {
            self.keep(byte);
        }
        self.string = match (self.string, byte) {
            (Some(true), _) => Some(false),
            (_, b'\\') => Some(true),
            (_, b'"') => None,
            _ => Some(false),
        };
        if self.string.is_none() {
            self.place = match self.place {
                Place::Key => self.key(),
                Place::Text => Place::Comma,
                place => place,
            };
        }
    }

    fn step(&mut self, byte: u8) {
        if byte.is_ascii_whitespace() && self.place != Place::Word {
            return;
        }
        self.place = match (self.place, byte) {
            (Place::Before, b'{') => Place::Key,
            (Place::Key, b'"') => {
                self.token.clear();
                self.keep(byte);
                self.string = Some(false);
                Place::Key
            }
            // Of an object without any key, as there is no other place for it.
            (Place::Key | Place::Comma, b'}') => Place::After,
            (Place::Colon, b':') => Place::Value,
            (Place::Value, b'"') => {
                self.string = Some(false);
                Place::Text
            }
            (Place::Value, b'{' | b'[') => Place::Nested(1),
            (Place::Value, b'0'..=b'9' | b'-' | b't' | b'f' | b'n') => {
                self.token.clear();
                self.keep(byte);
                Place::Word
            }
            (Place::Word, b',' | b'}' | b' ' | b'\t' | b'\r') => {
                self.word();
                match byte {
                    b',' => Place::Key,
                    b'}' => Place::After,
                    _ => Place::Comma,
                }
            }
            (Place::Word, _) => {
                self.keep(byte);
                Place::Word
            }
            (Place::Nested(depth), b'"') => {
                self.string = Some(false);
                Place::Nested(depth)
            }
            (Place::Nested(depth), b'{' | b'[') => Place::Nested(depth + 1),
            (Place::Nested(1), b'}' | b']') => Place::Comma,
            (Place::Nested(depth), b'}' | b']') => Place::Nested(depth - 1),
            (Place::Nested(depth), _) => Place::Nested(depth),
            (Place::Comma, b',') => Place::Key,
            _ => Place::Lost,
        };
    }

    /// Takes in a key of the outermost object.
    fn key(&mut self) -> Place {
        let key = std::str::from_utf8(&self.token).ok().and_then(plain_text);
        self.is_id = key.as_deref() == Some("id");
        self.ids += usize::from(self.is_id);
        self.has_method |= key.as_deref() == Some("method");
        Place::Colon
    }

    /// Takes in a number or a word of the outermost object.
    fn word(&mut self) {
        if self.is_id && self.token.len() <= TOKEN_BYTES_MAX {
            self.number = std::str::from_utf8(&self.token).ok().and_then(number_of);
        }
    }

    fn keep(&mut self, byte: u8) {
        // One more than the longest is kept, which tells those that are longer.
        if self.token.len() <= TOKEN_BYTES_MAX {
            self.token.push(byte);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(line: &str, expected: Option<u64>) {
        for at in 0..=line.len() {
            let mut skim = Skim::default();
            let (before, after) = line.as_bytes().split_at(at);
            skim.push(before);
            skim.push(after);
            assert_eq!(skim.answers(), expected, "{line} split at {at}");
        }
        let mut skim = Skim::default();
        line.as_bytes().chunks(1).for_each(|byte| skim.push(byte));
        assert_eq!(skim.answers(), expected, "{line} byte by byte");
    }

    #[test]
    fn the_id_is_found_wherever_it_stands() {
        check(r#"{"jsonrpc":"2.0","id":5,"result":{"content":[]}}"#, Some(5));
        check(r#"{"result":{"content":[]},"jsonrpc":"2.0","id":5}"#, Some(5));
        check("{ \"jsonrpc\" : \"2.0\" ,\t\"id\" : 5 , \"error\" : {} }\r", Some(5));
        check(r#"{"result":null,"id":18446744073709551615}"#, Some(u64::MAX));
        check(r#"{"result":{},"id":5.0}"#, Some(5));
        check(r#"{"result":{},"i\u0064":5}"#, Some(5));
    }

    #[test]
    fn what_only_looks_like_an_id_is_none() {
        check(r#"{"result":{"id":7,"x":[{"id":8}]},"id":5}"#, Some(5));
        check(r#"{"id":5,"result":[[{"id":7}],"id",{"a":{"id":8}}]}"#, Some(5));
        check(r#"{"result":"\"id\":7,","id":5}"#, Some(5));
        check(r#"{"result":"}{\\","a":"\\\"","id":5}"#, Some(5));
        check(r#"{"a":"id","result":7,"id":5}"#, Some(5));
        check(r#"{"result":"ü{[\"","id":5}"#, Some(5));
        for line in [
            r#"{"result":{"id":7}}"#,
            r#"{"result":"\"id\":7"}"#,
            r#"{"id":"5","result":{}}"#,
            r#"{"id":null,"result":{}}"#,
            r#"{"id":-5,"result":{}}"#,
            r#"{"id":5.5,"result":{}}"#,
            r#"{"id":{"id":5},"result":{}}"#,
            r#"{"xid":5,"idx":6,"ID":7}"#,
        ] {
            check(line, None);
        }
    }

    #[test]
    fn what_is_no_answer_answers_nothing() {
        for line in [
            r#"{"jsonrpc":"2.0","id":5,"method":"sampling/createMessage","params":{}}"#,
            r#"{"params":{},"method":"x","id":5}"#,
            r#"{"id":5,"result":{},"id":6}"#,
            r#"{"id":5,"result":{"#,
            r#"{"id":5"#,
            r#"{"id":5}}"#,
            r#"{"id":5} {"id":6}"#,
            r#"[{"id":5,"result":{}}]"#,
            r#"{'id':5}"#,
            r#"{id:5}"#,
            r#""id":5"#,
            "id 5 id 5",
            "{}",
            "",
        ] {
            check(line, None);
        }
        let long = "1".repeat(TOKEN_BYTES_MAX + 1);
        check(&format!(r#"{{"id":{long},"result":{{}}}}"#), None);
        check(&format!(r#"{{"{long}":1,"id":5}}"#), Some(5));
    }
}
