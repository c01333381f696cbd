//! Snapshots that are damaged, missing, or older or newer than the log.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::acknowledged::{AcknowledgedLeases, Files, filled};
use crate::support::{
    WAIT_MAX,
    durable::{Ending, Home, MODES, Mode, UNUSABLE, allocation, workers},
    session::Session,
    wait_until,
};

/// The time limit for granting and releasing leases until a snapshot is due.
const LONG_LIFE_LIMIT: Duration = Duration::from_secs(120);

/// Returns a state with two snapshots, between which leases were granted and released, and the files at the time of the
/// older snapshot.
fn with_two_snapshots(home: &Home) -> (AcknowledgedLeases, Files) {
    let mut leases = filled(home);
    let older = Files::of(home);
    let mut server = home.server(Mode::Never, &[]);
    leases.pass(&mut server, "between", 20);
    leases.hold(&mut server, "newest", 1);
    home.end(server, Ending::InOrder);
    assert_eq!(home.snapshots().len(), 2, "each clean end writes a snapshot, and two are kept");
    (leases, older)
}

fn change(path: &Path, how: impl Fn(&mut Vec<u8>)) {
    let mut bytes = fs::read(path).expect("a file");
    how(&mut bytes);
    fs::write(path, bytes).expect("a file");
}

/// A change of the bytes of a snapshot.
type Damage = fn(&mut Vec<u8>);

/// Ways to damage a snapshot.
const DAMAGES: [(&str, Damage); 5] = [
    ("a bit in the middle", |bytes| {
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
    }),
    ("the first byte", |bytes| bytes[0] ^= 0x80),
    ("the last byte", |bytes| {
        let last = bytes.len() - 1;
        bytes[last] ^= 1;
    }),
    ("half of it is missing", |bytes| bytes.truncate(bytes.len() / 2)),
    ("all of it is missing", Vec::clear),
];

/// Checks that the state still has its leases, and that the log reports the problem.
fn check_falls_back(home: &Home, leases: &AcknowledgedLeases, what: &str) {
    let mut session = home.session(Mode::Never, &[]);
    leases.check(&mut session);
    let log = session.log();
    assert!(log.to_lowercase().contains("snapshot"), "{what}: the log does not say so: {log:?}");
    assert_eq!(session.finish().code(), Some(0), "{what}");
}

#[test]
fn a_damaged_snapshot_falls_back_and_says_so() {
    let home = Home::new();
    let (leases, _) = with_two_snapshots(&home);
    let files = Files::of(&home);
    let newest = home.snapshots().pop().expect("a snapshot");
    for (what, damage) in DAMAGES {
        files.restore(&home);
        change(&newest, damage);
        check_falls_back(&home, &leases, what);
        home.printed("verify", &[]);
    }
}

#[test]
fn two_damaged_snapshots_never_lead_to_an_empty_state() {
    let home = Home::new();
    let (leases, _) = with_two_snapshots(&home);
    let files = Files::of(&home);
    for (what, damage) in DAMAGES {
        files.restore(&home);
        home.snapshots().iter().for_each(|snapshot| change(snapshot, damage));
        let log = leases.check_or_refused(&home, what);
        assert!(log.to_lowercase().contains("snapshot"), "{what}: the log does not say so: {log:?}");
    }
}

#[test]
fn a_snapshot_under_the_name_of_another_is_not_taken_for_it() {
    let home = Home::new();
    let (leases, _) = with_two_snapshots(&home);
    let [older, newest] = home.snapshots().try_into().expect("two snapshots");
    fs::copy(older, newest).expect("a copy");
    leases.check_or_refused(&home, "the older one under the newer one's name");
}

#[test]
fn snapshots_without_their_log_are_no_state() {
    let home = Home::new();
    let (leases, _) = with_two_snapshots(&home);
    let files = Files::of(&home);
    for path in [home.state().to_owned(), home.beside("-wal"), home.beside("-shm")] {
        if path.exists() {
            fs::remove_file(path).expect("a file");
        }
    }
    for mode in MODES {
        home.check_unusable(mode, &[], &[&home.state().display().to_string(), "snapshot"]);
        assert!(!home.state().exists(), "nothing is made in its place");
    }
    assert_eq!(home.snapshots().len(), 2, "they are left as they are");
    files.restore(&home);
    let mut session = home.session(Mode::Never, &[]);
    leases.check(&mut session);
}

#[test]
fn a_log_older_than_its_snapshots_never_leads_to_an_older_state() {
    let home = Home::new();
    let older = {
        filled(&home);
        fs::read(home.state()).expect("a file")
    };
    let mut server = home.server(Mode::Never, &[]);
    let mut leases = AcknowledgedLeases::default();
    let held = server.answer("list_allocations", &serde_json::json!({"state": "active"}));
    for entry in held["allocations"].as_array().expect("a list") {
        server.answer("release_resources", &serde_json::json!({"allocation_id": entry["allocation_id"]}));
    }
    leases.hold(&mut server, "newest", 4);
    home.end(server, Ending::InOrder);
    fs::write(home.state(), older).expect("a file");
    let log = leases.check_or_refused(&home, "an older log");
    assert!(log.to_lowercase().contains("snapshot"), "the log does not say so: {log:?}");
}

#[test]
fn an_older_copy_of_everything_is_a_state_again() {
    let home = Home::new();
    let leases = filled(&home);
    let older = Files::of(&home);
    let mut server = home.server(Mode::Never, &[]);
    AcknowledgedLeases::default().hold(&mut server, "after", 4);
    home.end(server, Ending::InOrder);
    older.restore(&home);
    let mut session = home.session(Mode::Never, &[]);
    leases.check(&mut session);
}

#[test]
fn events_that_are_gone_are_in_the_snapshots_or_nothing_starts() {
    let home = Home::new();
    let mut leases = filled(&home);
    let all = home.events(&[]).len();
    for round in 0..3 {
        let mut server = home.server(Mode::Never, &["--keep-events", "0"]);
        leases.pass(&mut server, &format!("round-{round}"), 5);
        home.end(server, Ending::InOrder);
    }
    let kept = home.events(&[]);
    assert!(kept.len() < all, "{} events are kept although none has to be", kept.len());
    home.printed("verify", &[]);
    let mut session = home.session(Mode::Never, &["--keep-events", "0"]);
    leases.check(&mut session);
    assert_eq!(session.finish().code(), Some(0));

    let files = Files::of(&home);
    let newest = home.snapshots().pop().expect("a snapshot");
    change(&newest, DAMAGES[0].1);
    check_falls_back(&home, &leases, "the newest one, without the events before the older one");

    files.restore(&home);
    home.snapshots().iter().for_each(|snapshot| change(snapshot, DAMAGES[0].1));
    let mut session = Session::start(home.serving(Mode::Never, &[]));
    assert!(session.greet(WAIT_MAX).is_err(), "the state cannot be recovered");
    assert_eq!(session.finish().code(), Some(UNUSABLE));
    assert_eq!(home.ask("verify", &[]).code, Some(UNUSABLE));
}

/// Leases and releases the four available workers concurrently, a number of times. Each time writes sixteen events.
fn churn(session: &mut Session, times: usize) {
    let answers = |session: &mut Session, count: usize| -> Vec<Value> {
        (0..count).map(|_| session.receive(WAIT_MAX).expect("a reply").reply.answer().expect("an answer")).collect()
    };
    for _ in 0..times {
        for number in 0..4 {
            session.send("request_resources", &workers(&format!("churn-{number}"), 1));
        }
        for granted in answers(session, 4) {
            session.send("release_resources", &allocation(granted["allocation_id"].as_str().expect("an id")));
        }
        answers(session, 4).iter().for_each(|released| assert_eq!(released["status"], "released", "{released}"));
    }
}

#[test]
fn a_long_run_writes_snapshots_and_prunes_the_events_before_them() {
    let home = Home::new();
    let leases = filled(&home);
    let options = ["--durability", "normal", "--keep-events", "0", "--history-count", "100"];
    let mut session = home.session(Mode::Never, &options);
    let begun = Instant::now();
    while home.snapshots().len() < 2 {
        assert!(begun.elapsed() < LONG_LIFE_LIMIT, "no snapshot is written while it lives");
        churn(&mut session, 200);
    }
    wait_until("the events before the older snapshot to go", || {
        home.events(&[]).first().is_some_and(|event| event["sequence"].as_u64() > Some(1))
    });
    home.printed("verify", &[]);
    churn(&mut session, 1);
    drop(session);

    let mut session = home.session(Mode::Never, &options);
    leases.check(&mut session);
    drop(session);

    let newest = home.snapshots().pop().expect("a snapshot");
    change(&newest, DAMAGES[0].1);
    let verified = home.ask("verify", &[]);
    assert_eq!(verified.code, Some(UNUSABLE), "{verified:#?}");
    assert!(verified.output.contains(&newest.display().to_string()), "{verified:#?}");
    check_falls_back(&home, &leases, "the one of the long life");
}
