//! Faults of a state and its environment: each leads to a clear error with code 3 or to a correct continuation, never
//! to a wrong grant or a silently empty state.

mod acknowledged;
mod clock;
mod corruption;
mod disk;
mod files;
mod foreign_writer;
mod ownership;
mod recovery;
mod snapshots;
mod totals;

/// Prints why a test was skipped: this machine lacks a requirement.
#[expect(clippy::print_stdout, reason = "a skipped test has to say so")]
fn skip(why: &str) {
    println!("skipped: {why}");
}
