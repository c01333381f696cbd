//! A state has one owner at a time: a second process reports the owner, and the owner continues.

use std::{os::unix::fs::symlink, path::Path, process::Command, thread};

use crate::support::{
    WAIT_MAX,
    durable::{ENDINGS, Ending, Home, MODES, Mode, UNUSABLE, allocation, check_unusable, kill, workers},
    server::Server,
    session::Session,
};

/// The log level at which a failed start prints only its reason.
const ERRORS_ONLY: [&str; 2] = ["--log-level", "error"];

/// Checks that none of these sessions starts, and that each names the owner. They first wait for the owner to end, so
/// they run concurrently.
fn check_all_unusable<const COUNT: usize>(commands: [Command; COUNT], owner: &str) {
    thread::scope(|scope| {
        commands.map(|command| scope.spawn(|| check_unusable(command, &[owner]))).map(thread::ScopedJoinHandle::join)
    })
    .into_iter()
    .for_each(|checked| drop(checked.expect("a session that is refused")));
}

/// Checks that the session still grants leases.
fn check_goes_on(server: &mut Server) {
    let id = server.grant(&workers("goes-on", 1));
    server.answer("release_resources", &allocation(&id));
}

#[test]
fn a_second_process_reports_the_id_of_the_first() {
    let home = Home::new();
    for ending in ENDINGS {
        let mut first = home.server(Mode::Never, &[]);
        let id = first.process_id().to_string();
        assert_eq!(home.owner(), Some(first.process_id()));
        // A process that uses a daemon cannot share a state with a process that serves it alone.
        let refused = MODES.map(|mode| home.serving(mode, &ERRORS_ONLY));
        check_all_unusable(refused, &id);
        check_goes_on(&mut first);
        home.end(first, ending);
        assert!(home.processes().is_empty(), "the sessions that were refused left a daemon behind");
    }
    let third = home.server(Mode::Never, &[]);
    home.end(third, Ending::InOrder);
}

#[test]
fn a_process_that_serves_itself_reports_the_id_of_the_daemon() {
    let home = Home::new();
    let mut first = home.server(Mode::Auto, &[]);
    let daemon = home.daemon(None, &[first.process_id()]);
    home.check_unusable(Mode::Never, &[], &[&daemon.to_string()]);
    check_goes_on(&mut first);
    let mut second = home.server(Mode::Auto, &[]);
    check_goes_on(&mut second);
    assert_eq!(home.owner(), Some(daemon), "both sessions share the one that was there");
    drop(second);
    home.end(first, Ending::InOrder);
    let alone = home.server(Mode::Never, &[]);
    home.end(alone, Ending::InOrder);
}

#[test]
fn another_name_of_the_same_state_is_the_same_state() {
    let home = Home::new();
    let mut first = home.server(Mode::Never, &[]);
    first.grant(&workers("first", 10));
    let link = home.path("link.db");
    symlink(home.state(), &link).expect("a link");
    let given = |mode: Mode, state: &Path| {
        let mut command = home.command(&["--daemon", mode.name(), "--state"]);
        command.arg(state).args(ERRORS_ONLY).current_dir(home.state().parent().expect("a folder"));
        command
    };
    let relative = Path::new("./state.db");
    let refused = [given(Mode::Never, &link), given(Mode::Never, relative), given(Mode::Auto, &link)];
    check_all_unusable(refused, &first.process_id().to_string());
    home.end(first, Ending::InOrder);
}

#[test]
fn the_lock_of_a_killed_process_blocks_no_other() {
    let home = Home::new();
    let first = home.server(Mode::Auto, &[]);
    let daemon = home.daemon(None, &[first.process_id()]);
    drop(first);
    kill(daemon);
    let mut alone = home.server(Mode::Never, &[]);
    check_goes_on(&mut alone);
    assert_eq!(home.owner(), Some(alone.process_id()));
    home.end(alone, Ending::Killed);
    let mut last = home.server(Mode::Auto, &[]);
    check_goes_on(&mut last);
    home.end(last, Ending::InOrder);
}

/// Starts a number of sessions concurrently on a state that does not exist yet. Returns those that start. The others
/// must report the reason.
fn start_at_once(home: &Home, mode: Mode, count: usize) -> Vec<Session> {
    let started: Vec<Session> = (0..count).map(|_| Session::start(home.serving(mode, &[]))).collect();
    let begun = started.into_iter().filter_map(|mut session| {
        if session.greet(WAIT_MAX).is_ok() {
            return Some(session);
        }
        let log = session.log();
        assert_eq!(session.finish().code(), Some(UNUSABLE), "{log}");
        None
    });
    begun.collect()
}

#[test]
fn of_many_that_start_at_once_one_serves() {
    for _ in 0..2 {
        let home = Home::new();
        let mut begun = start_at_once(&home, Mode::Never, 4);
        assert_eq!(begun.len(), 1, "one owner at a time");
        assert_eq!(begun[0].answer("request_resources", &workers("one", 10))["status"], "active");
    }
}

#[test]
fn all_that_start_at_once_share_one_daemon() {
    for _ in 0..5 {
        let home = Home::new();
        let mut begun = start_at_once(&home, Mode::Auto, 4);
        assert_eq!(begun.len(), 4, "each of them is served");
        let answers: Vec<_> =
            begun.iter_mut().map(|session| session.answer("request_resources", &workers("all", 4))).collect();
        let granted = answers.iter().filter(|answer| answer["status"] == "active").count();
        assert_eq!(granted, 2, "two times four of ten workers: {answers:?}");
        drop(begun);
        home.stop();
        home.printed("verify", &[]);
    }
}
