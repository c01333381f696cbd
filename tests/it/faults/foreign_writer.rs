//! A foreign program that locks the database: calls answer that they are retryable, and work again after the lock is
//! released.

use std::time::{Duration, Instant};

use rusqlite::Connection;
use serde_json::{Value, json};

use super::acknowledged::check_retryable;
use crate::faults::skip;
use crate::support::{
    WAIT_MAX,
    durable::{Ending, Home, MODES, Mode, UNUSABLE, allocation, workers},
    session::{Reply, Session},
};

/// The time limit for the answer to a call that cannot be written.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// The time limit for the other program to lock the database.
const FOREIGN_LOCK_MAX: Duration = Duration::from_secs(5);

/// Returns a connection that holds the write lock; `None` if the database is locked, which suffices as well.
fn hold(home: &Home) -> Option<Connection> {
    let foreign = Connection::open(home.state()).expect("a database");
    foreign.busy_timeout(FOREIGN_LOCK_MAX).expect("a connection");
    match foreign.execute_batch("BEGIN IMMEDIATE") {
        Ok(()) => Some(foreign),
        Err(error) => {
            skip(&format!("the other program gets no lock: {error}"));
            None
        }
    }
}

/// Makes a call that must be answered within the limit.
fn call(session: &mut Session, tool: &str, arguments: &Value) -> Reply {
    let start = Instant::now();
    let reply = session.call(tool, arguments, WAIT_MAX);
    assert!(start.elapsed() < ANSWER_LIMIT, "{tool} took {:?}", start.elapsed());
    reply.unwrap_or_else(|gone| panic!("{tool}: {gone:?}\n{}", session.log()))
}

fn check_lock_held(mode: Mode) {
    let home = Home::new();
    let mut session = home.session(mode, &[]);
    let held = session.answer("request_resources", &workers("held", 3));
    let id = held["allocation_id"].as_str().expect("an id").to_owned();
    let mut request = workers("wanted", 4);
    request["request_id"] = "the-key".into();
    if let Some(foreign) = hold(&home) {
        for (tool, arguments) in
            [("request_resources", &request), ("release_resources", &allocation(&id)), ("request_resources", &request)]
        {
            check_retryable(Ok(call(&mut session, tool, arguments)));
        }
        // A read changes nothing: it returns the committed state, or a retryable error.
        match call(&mut session, "get_capacity", &json!({})) {
            Reply::Answer(capacity) => assert_eq!(capacity["allocated_workers"], 3, "{capacity}"),
            other => drop(check_retryable(Ok(other))),
        }
        foreign.execute_batch("ROLLBACK").expect("a transaction that can be left");
        foreign.close().expect("a connection that closes");
    }
    let granted = session.answer("request_resources", &request);
    assert_eq!(granted["status"], "active", "{granted}");
    assert_eq!(session.answer("request_resources", &request), granted, "a repeat is the same grant");
    let list = session.answer("list_allocations", &json!({"state": "active"}));
    assert_eq!(list["count"], 2, "nothing is granted twice: {list}");
    assert_eq!(session.answer("get_capacity", &json!({}))["allocated_workers"], 7);
    assert_eq!(session.answer("release_resources", &allocation(&id))["status"], "released");
    assert_eq!(session.finish().code(), Some(0));
    if mode == Mode::Auto {
        home.stop();
    }
    home.printed("verify", &[]);
}

#[test]
fn calls_are_retryable_while_another_program_writes() {
    MODES.into_iter().for_each(check_lock_held);
}

#[test]
fn a_write_of_another_program_at_the_start_never_leads_to_an_empty_state() {
    for mode in MODES {
        let home = Home::new();
        let mut server = home.server(mode, &[]);
        let id = server.grant(&workers("held", 6));
        home.end(server, Ending::InOrder);
        let foreign = hold(&home);
        let mut session = Session::start(home.serving(mode, &[]));
        // The session either reports that it cannot start, or starts with the present state.
        if session.greet(WAIT_MAX).is_ok() {
            let reply = session.insist("request_resources", &workers("other", 6), Duration::from_secs(1));
            let is_granted = matches!(&reply, Ok(Reply::Answer(answer)) if answer["status"] == "active");
            assert!(!is_granted, "six of ten workers are held: {reply:?}");
        } else {
            let log = session.log();
            assert_eq!(session.finish().code(), Some(UNUSABLE), "{log}");
        }
        drop(foreign);
        let mut session = home.session(mode, &[]);
        assert_eq!(session.answer("get_allocation", &allocation(&id))["state"], "active");
    }
}
