//! Why something does not run, in words that go on after its name: what failed, why, and what can be done about it.

use crate::process::child::ExitReason;

/// What stands before the last lines in an error. They may hold secrets of the process, so that they are for whoever asked
/// for it, and neither for the log nor for the books.
const BEFORE_LINES: &str = "; the last lines of its standard error: ";

/// What stands before the line that says why a command could not be started. It is of the process, too: a shell ends with
/// the same code.
const BEFORE_REASON: &str = "it could not be started: ";

/// How many of the last lines an error carries, and how many characters of them.
const ERROR_LINES_MAX: usize = 10;
const ERROR_CHARACTERS_MAX: usize = 2_000;

/// An error without what the process wrote.
pub(in super::super) fn without_lines(why: &str) -> &str {
    let why = why.split_once(BEFORE_LINES).map_or(why, |(why, _)| why);
    if why.starts_with(BEFORE_REASON) { BEFORE_REASON.trim_end_matches(": ") } else { why }
}

/// An error with the last lines that were written before it.
pub(super) fn with_lines(why: &str, lines: &[String]) -> String {
    let last = &lines[lines.len().saturating_sub(ERROR_LINES_MAX)..];
    if last.is_empty() {
        return why.to_owned();
    }
    format!("{why}{BEFORE_LINES}{}", end_of(&last.join("\n")))
}

/// Why a process that ended before it was of use did, `before` what: with its last lines, or with what to do where there are
/// none.
pub(super) fn ended_early(ended: &ExitReason, before: &str, lines: &[String]) -> String {
    match (ended, lines.last()) {
        (ExitReason::NotStarted, Some(line)) => format!("{BEFORE_REASON}{}", end_of(line)),
        (ExitReason::NotStarted | ExitReason::LimitRefused, _) => with_lines(&format!("it {ended}"), lines),
        (_, None) => {
            format!("it {ended} before {before}, and wrote nothing: run its command in a terminal to see what it wants")
        }
        (_, Some(_)) => with_lines(&format!("it {ended} before {before}"), lines),
    }
}

fn end_of(text: &str) -> &str {
    let cut = text.char_indices().rev().nth(ERROR_CHARACTERS_MAX - 1).map_or(0, |(at, _)| at);
    &text[cut..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_carries_the_last_lines_and_no_more() {
        assert_eq!(with_lines("it ended", &[]), "it ended");
        let lines: Vec<String> = (1..=12).map(|line| format!("line {line}")).collect();
        let told = with_lines("it ended", &lines);
        assert!(told.starts_with("it ended; the last lines of its standard error: line 3\nline 4\n"), "{told}");
        assert!(told.ends_with("line 12"), "{told}");
        assert_eq!(without_lines(&told), "it ended");
        let told = with_lines("x", &["é".repeat(5_000)]);
        assert!(told.chars().count() < 2_100 && told.ends_with('é'), "{} characters", told.chars().count());
    }

    #[test]
    fn an_early_end_says_what_to_do() {
        let check = |ended: ExitReason, lines: &[&str], told: &str, in_log: &str| {
            let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
            let why = ended_early(&ended, "it answered", &lines);
            assert_eq!((why.as_str(), without_lines(&why)), (told, in_log));
        };
        let lines = "it exited with code 3 before it answered; the last lines of its standard error: no data";
        check(ExitReason::Exited(3), &["no data"], lines, "it exited with code 3 before it answered");
        let nothing = "it exited with code 0 before it answered, and wrote nothing: run its command in a terminal to see what it \
                       wants";
        check(ExitReason::Exited(0), &[], nothing, nothing);
        check(
            ExitReason::NotStarted,
            &["x", "sh: secret"],
            "it could not be started: sh: secret",
            "it could not be started",
        );
        check(ExitReason::NotStarted, &[], "it could not be started", "it could not be started");
        let refused = "it could not be started: its limits were refused";
        let lines = format!("{refused}; the last lines of its standard error: why");
        check(ExitReason::LimitRefused, &["why"], &lines, "it could not be started");
    }
}
