//! What may be wrong with a state and around it: each is a clear error with code 3 or a correct continuation, never a wrong grant and
//! never a silent start from nothing.

mod books;
mod clock;
mod corruption;
mod disk;
mod files;
mod ownership;
mod recovery;
mod snapshots;
mod stranger;
mod totals;

/// Says why a test has not looked at something: it needs what this machine does not have.
#[expect(clippy::print_stdout, reason = "a skipped test has to say so")]
fn skip(why: &str) {
    println!("skipped: {why}");
}
