//! A wrong clock: leases neither end early nor live forever, and the times in the log do not go back.
//!
//! The library faketime changes the clock only for the process under test. Without it these tests are skipped. The
//! variable `CORTEX_FAKETIME` sets another path of the library.

use std::path::Path;
use std::process::Command;

use crate::faults::skip;
use crate::support::{
    durable::{Ending, Home, Mode, allocation, identity, workers},
    server::{Server, Transport},
};

/// The paths of the library in common distributions.
const PLACES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
];

/// Returns the path of the library, if it exists.
fn library() -> Option<String> {
    let named = std::env::var("CORTEX_FAKETIME").ok();
    named.into_iter().chain(PLACES.map(str::to_owned)).find(|place| Path::new(place).exists())
}

/// Starts a session whose clock is wrong by this offset.
fn server(home: &Home, library: &str, offset: &str) -> Server {
    let mut command: Command = home.serving(Mode::Never, &["--recovery-grace-seconds", "30"]);
    command.env("LD_PRELOAD", library).env("FAKETIME", offset).env("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    let mut server = Server::start_on(Transport::Pipes, command);
    server.greet("2025-11-25");
    server.learn_schemas();
    server
}

/// Checks that a lease continues when the process restarts with a clock that is wrong by this offset, and that the log
/// is valid.
fn check_restart(offset: &str) {
    let Some(library) = library() else { return skip("faketime is not installed") };
    let home = Home::new();
    let mut first = home.server(Mode::Never, &[]);
    let id = first.grant(&workers("held", 4));
    let before = first.allocation(&id);
    home.end(first, Ending::InOrder);

    let mut second = server(&home, &library, offset);
    let after = second.allocation(&id);
    assert_eq!(identity(&after), identity(&before));
    assert_eq!(after["state"], "active", "{after}");
    assert_eq!(after["is_expired"], false, "holders get the time to renew: {after}");
    let renewed = second.answer("renew_allocation", &allocation(&id));
    assert_eq!(renewed["status"], "active", "{renewed}");
    let other = second.answer("request_resources", &workers("other", 6));
    assert_eq!(other["status"], "active", "{other}");
    assert!(other["fencing_token"].as_u64() > after["fencing_token"].as_u64(), "{other}");
    let refused = second.answer("request_resources", &workers("too-many", 1));
    assert_eq!(refused["status"], "failed", "{refused}");
    home.end(second, Ending::Killed);

    let third = home.server(Mode::Never, &["--recovery-grace-seconds", "30"]);
    home.end(third, Ending::InOrder);
    home.printed("verify", &[]);
    let events = home.events(&[]);
    let times: Vec<_> = events.iter().map(|event| event["at"].as_str().expect("a time")).collect();
    assert!(times.is_sorted(), "the log's times do not go back: {times:?}");
}

#[test]
fn a_clock_set_back_an_hour_ends_no_lease() {
    check_restart("-3600");
}

#[test]
fn a_clock_a_day_ahead_leaves_holders_a_grace() {
    check_restart("+86400");
}
