//! What may be wrong with a state and around it: each is a clear error with code 3 or a correct continuation, never a wrong grant and
//! never a silent start from nothing.

#![cfg(unix)]

#[path = "faults/books.rs"]
mod books;
#[path = "faults/clock.rs"]
mod clock;
#[path = "faults/corruption.rs"]
mod corruption;
#[path = "faults/disk.rs"]
mod disk;
#[path = "faults/files.rs"]
mod files;
#[path = "faults/ownership.rs"]
mod ownership;
#[path = "faults/recovery.rs"]
mod recovery;
#[path = "faults/snapshots.rs"]
mod snapshots;
#[path = "faults/stranger.rs"]
mod stranger;
mod support;
#[path = "faults/totals.rs"]
mod totals;

/// Says why a test has not looked at something: it needs what this machine does not have.
#[expect(clippy::print_stdout, reason = "a skipped test has to say so")]
fn skip(why: &str) {
    println!("skipped: {why}");
}
