//! Excerpts of the client's input for error texts.

/// The most characters of the client's input in an error text.
const EXCERPT_CHARACTERS_MAX: usize = 60;

/// The most characters of a parser's message in an error text; it may quote the input.
const REASON_CHARACTERS_MAX: usize = 100;

/// Returns the start of `text`, with a mark if it was cut.
pub(super) fn shortened(text: &str) -> String {
    cut(text, EXCERPT_CHARACTERS_MAX)
}

/// Returns a parser's message without its position, which counts from the start of a part that the client
/// does not know.
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
