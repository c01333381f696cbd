//! Sessions that compete for the same workers on one state: the workers are never overcommitted, and each session gets
//! a share.
//!
//! `CORTEX_FAIRNESS_SECONDS` sets the duration; `.ci/fairness` runs longer than `cargo test`.

use crate::support::WAIT_MAX;
use crate::support::durable::{Home, Mode, allocation, workers};
use crate::support::session::{Reply, Session};
use serde_json::Value;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The duration in `cargo test`, in seconds.
const SECONDS: u64 = 3;

/// The number of sessions.
const SESSIONS: usize = 4;

/// The number of workers. Each session requests all of them.
const WORKERS: u64 = 10;

/// The time that a grant is held, which represents the work.
const HOLD: Duration = Duration::from_millis(3);

/// The delay of a refused session before every second request.
const PAUSE: Duration = Duration::from_millis(1);

/// The minimum share of all grants that each session gets, in percent.
const SHARE_PERCENT_MIN: u64 = 10;

/// The grants of a session.
#[derive(Debug, Default, Clone, Copy)]
struct Share {
    grants: u64,
    refusals: u64,
}

/// Requests, holds and releases until the time is over.
fn compete(session: &mut Session, name: &str, held: &AtomicU64, deadline: Instant) -> Share {
    let mut share = Share::default();
    while Instant::now() < deadline {
        let answer = session.answer("request_resources", &workers(name, WORKERS));
        if answer["status"] != "active" {
            assert!(is_for_want_of_workers(&answer), "{answer}");
            share.refusals += 1;
            if share.refusals % 2 == 0 {
                thread::sleep(PAUSE);
            }
            continue;
        }
        let before = held.fetch_add(WORKERS, Ordering::SeqCst);
        assert_eq!(before, 0, "{before} workers are held by others when {name} is granted {answer}");
        share.grants += 1;
        thread::sleep(HOLD);
        held.fetch_sub(WORKERS, Ordering::SeqCst);
        let id = answer["allocation_id"].as_str().expect("an id");
        let reply = session.call("release_resources", &allocation(id), WAIT_MAX);
        assert!(matches!(&reply, Ok(Reply::Answer(answer)) if answer["status"] == "released"), "{reply:?}");
    }
    share
}

fn is_for_want_of_workers(answer: &Value) -> bool {
    answer["error"].as_str().is_some_and(|error| error.starts_with("Insufficient workers"))
}

#[test]
#[expect(clippy::print_stdout, reason = "the shares are what this is for")]
fn four_sessions_share_the_same_workers_fairly() {
    let seconds = match std::env::var("CORTEX_FAIRNESS_SECONDS") {
        Ok(text) => text.parse().expect("CORTEX_FAIRNESS_SECONDS is a whole number"),
        Err(_) => SECONDS,
    };
    let home = Home::new();
    let mut sessions: [Session; SESSIONS] = std::array::from_fn(|_| home.session(Mode::Auto, &[]));
    let (held, start) = (AtomicU64::new(0), Barrier::new(SESSIONS));
    let shares: Vec<Share> = thread::scope(|scope| {
        let competitors: Vec<_> = sessions
            .iter_mut()
            .enumerate()
            .map(|(number, session)| {
                let (held, start) = (&held, &start);
                scope.spawn(move || {
                    start.wait();
                    compete(
                        session,
                        &format!("competitor-{number}"),
                        held,
                        Instant::now() + Duration::from_secs(seconds),
                    )
                })
            })
            .collect();
        competitors.into_iter().map(|one| one.join().expect("a session without errors")).collect()
    });
    let total: u64 = shares.iter().map(|share| share.grants).sum();
    let percent = |share: &Share| share.grants * 100 / total.max(1);
    println!(
        "{total} grants in {seconds} s, never over {WORKERS} workers held at once; shares in percent: {:?}; {shares:?}",
        shares.iter().map(percent).collect::<Vec<_>>()
    );
    for share in &shares {
        assert!(percent(share) >= SHARE_PERCENT_MIN, "a session got less than {SHARE_PERCENT_MIN} %: {shares:?}");
    }
    for session in sessions {
        assert_eq!(session.finish().code(), Some(0));
    }
    home.stop();
    home.printed("verify", &[]);
}
