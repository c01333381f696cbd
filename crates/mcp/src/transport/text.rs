//! Pieces of the client's input in our own error texts, always short.

/// How many characters of the client's input an error text repeats.
const EXCERPT_CHARACTERS_MAX: usize = 60;

/// How many characters of a parser's message an error text repeats; it may quote the input too.
const REASON_CHARACTERS_MAX: usize = 100;

/// The beginning of `text`, with a mark if it was longer.
pub(super) fn shortened(text: &str) -> String {
    cut(text, EXCERPT_CHARACTERS_MAX)
}

/// What a parser said, without where: it counts from the start of a part that the client does not
/// know of.
pub(super) fn reason(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let end = text.rfind(" at line ").unwrap_or(text.len());
    cut(&text[..end], REASON_CHARACTERS_MAX)
}

fn cut(text: &str, characters_max: usize) -> String {
    match text.char_indices().nth(characters_max) {
        None => text.to_owned(),
        Some((end, _)) => format!("{}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_text_is_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        let long = "ö".repeat(EXCERPT_CHARACTERS_MAX);
        assert_eq!(shortened(&long), long);
        assert_eq!(shortened(&format!("{long}x")), format!("{long}…"));
    }
}
