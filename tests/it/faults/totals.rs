//! A state stores its totals: a start with other totals is refused, unless `--resize` allows the change.

use serde_json::json;

use crate::support::{
    WAIT_MAX,
    durable::{Ending, Home, MODES, Mode, UNUSABLE, check_unusable, workers},
    pattern::check,
    session::Session,
};

fn check_totals(mode: Mode) {
    let home = Home::new();
    let mut server = home.server(mode, &["--total-workers", "4"]);
    let lease = server.grant(&workers("held", 3));
    home.end(server, Ending::InOrder);

    // A start without totals uses those of the state.
    let mut server = home.server(mode, &[]);
    check(
        &server.capacity(),
        &json!({"total_workers": 4, "total_cpu": 16.0, "total_memory": 32768, "allocated_workers": 3}),
    );
    home.end(server, Ending::InOrder);
    let server = home.server(mode, &["--total-workers", "4", "--total-cpu", "16"]);
    home.end(server, Ending::InOrder);

    for (flag, setting, given, state) in [
        ("--total-workers", "total_workers", "6", "4"),
        ("--total-cpu", "total_cpu", "24", "16"),
        ("--total-memory", "total_memory", "65537", "32768"),
    ] {
        let line = home.check_unusable(mode, &[flag, given], &[given, state, "--resize"]);
        assert!(line.contains(setting) || line.contains(flag), "{setting} is not named in {line}");
    }
    let mut command = home.serving(mode, &["--log-level", "error"]);
    command.env("CORTEX_TOTAL_WORKERS", "6");
    check_unusable(command, &["6", "4", "--resize"]);
    assert!(home.processes().is_empty(), "nothing is left running");

    let mut server = home.server(mode, &["--total-workers", "6", "--resize", "yes"]);
    check(&server.capacity(), &json!({"total_workers": 6, "allocated_workers": 3, "available_workers": 3}));
    home.end(server, Ending::Killed);
    let mut server = home.server(mode, &[]);
    check(&server.capacity(), &json!({"total_workers": 6, "total_cpu": 16.0}));
    check(&server.allocation(&lease), &json!({"state": "active"}));
    home.end(server, Ending::InOrder);
    home.check_unusable(mode, &["--total-workers", "4"], &["6", "4", "--resize"]);
    home.printed("verify", &[]);
}

#[test]
fn totals_are_kept_and_changed_only_on_request() {
    MODES.into_iter().for_each(check_totals);
}

#[test]
fn a_session_that_names_other_totals_does_not_join_the_daemon() {
    let home = Home::new();
    let mut first = home.server(Mode::Auto, &["--total-workers", "4"]);
    home.check_unusable(Mode::Auto, &["--total-workers", "6"], &["6", "4"]);
    let mut second = home.server(Mode::Auto, &["--total-workers", "4"]);
    assert_eq!(second.capacity()["total_workers"], 4);
    first.grant(&workers("all", 4));
    check(&second.answer("request_resources", &workers("more", 1)), &json!({"status": "failed"}));
    drop(second);
    home.end(first, Ending::InOrder);
}

#[test]
fn shrinking_below_what_is_leased_never_leases_twice() {
    let home = Home::new();
    let mut server = home.server(Mode::Never, &["--total-workers", "4"]);
    let lease = server.grant(&workers("all", 4));
    home.end(server, Ending::InOrder);
    let mut session = Session::start(home.serving(Mode::Never, &["--total-workers", "2", "--resize", "yes"]));
    if session.greet(WAIT_MAX).is_ok() {
        let refused = session.answer("request_resources", &workers("more", 1));
        assert_eq!(refused["status"], "failed", "{refused}");
        assert_eq!(session.finish().code(), Some(0));
    } else {
        let log = session.log();
        assert!(log.contains('2') && log.contains('4'), "both are named: {log}");
        assert_eq!(session.finish().code(), Some(UNUSABLE), "{log}");
    }
    let mut server = home.server(Mode::Never, &[]);
    assert_eq!(server.allocation(&lease)["state"], "active");
    home.end(server, Ending::InOrder);
    home.printed("verify", &[]);
}
