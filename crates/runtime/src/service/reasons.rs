//! The reasons why a service does not run. Each continues a sentence that begins with its name, and says what failed,
//! why, and what to do.

use crate::process::child::ExitReason;

/// Separates a reason from the last lines. They may hold secrets of the process, so that they go to the client that
/// requested it, and neither to the log nor to the state.
const BEFORE_LINES: &str = "; the last lines of its standard error: ";

/// Precedes the line that says why a command could not be started. That line may come from the process too, since a
/// shell exits with the same code.
const BEFORE_REASON: &str = "it could not be started: ";

/// The most last lines in a reason, and the most characters of them together.
const ERROR_LINES_MAX: usize = 10;
const ERROR_CHARACTERS_MAX: usize = 2_000;

/// Removes what the process wrote from a reason.
pub(in super::super) fn without_lines(why: &str) -> &str {
    let why = why.split_once(BEFORE_LINES).map_or(why, |(why, _)| why);
    if why.starts_with(BEFORE_REASON) { BEFORE_REASON.trim_end_matches(": ") } else { why }
}

/// Adds the last lines of a process to a reason.
pub(super) fn with_lines(why: &str, lines: &[String]) -> String {
    let last = &lines[lines.len().saturating_sub(ERROR_LINES_MAX)..];
    if last.is_empty() {
        return why.to_owned();
    }
    format!("{why}{BEFORE_LINES}{}", end_of(&last.join("\n")))
}

/// Returns why a process ended early. `before` says what it did not reach. If it wrote no lines, the reason says what
/// to do.
pub(super) fn ended_early(ended: &ExitReason, before: &str, lines: &[String]) -> String {
    match (ended, lines.last()) {
        (ExitReason::NotStarted, Some(line)) => format!("{BEFORE_REASON}{}", end_of(line)),
        (ExitReason::NotStarted | ExitReason::LimitRefused, _) => with_lines(&format!("it {ended}"), lines),
        (_, None) => {
            format!("it {ended} before {before}, and wrote nothing: run its command in a terminal to see why")
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
    fn a_reason_has_the_last_lines_and_no_more() {
        assert_eq!(with_lines("it ended", &[]), "it ended");
        let lines: Vec<String> = (1..=12).map(|line| format!("line {line}")).collect();
        let reason = with_lines("it ended", &lines);
        assert!(reason.starts_with("it ended; the last lines of its standard error: line 3\nline 4\n"), "{reason}");
        assert!(reason.ends_with("line 12"), "{reason}");
        assert_eq!(without_lines(&reason), "it ended");
        let reason = with_lines("x", &["é".repeat(5_000)]);
        assert!(reason.chars().count() < 2_100 && reason.ends_with('é'), "{} characters", reason.chars().count());
    }

    #[test]
    fn the_reason_of_an_early_end_says_what_to_do() {
        let check = |ended: ExitReason, lines: &[&str], reason: &str, in_log: &str| {
            let lines: Vec<String> = lines.iter().map(|&line| line.to_owned()).collect();
            let why = ended_early(&ended, "it answered", &lines);
            assert_eq!((why.as_str(), without_lines(&why)), (reason, in_log));
        };
        let lines = "it exited with code 3 before it answered; the last lines of its standard error: no data";
        check(ExitReason::Exited(3), &["no data"], lines, "it exited with code 3 before it answered");
        let nothing =
            "it exited with code 0 before it answered, and wrote nothing: run its command in a terminal to see why";
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
