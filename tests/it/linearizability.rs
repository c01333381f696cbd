//! Checks that every concurrent history of requests, releases, renewals and reads is linearizable: some sequential
//! order of the calls gives the same answers, and each call takes effect between its sending and its reply.
//!
//! `CORTEX_HISTORIES` sets the number of histories of each kind, and `CORTEX_HISTORY_SEED` the random seed.

mod checker;
mod model;
mod recorder;

use crate::support::durable::{Home, Mode, kill};
use crate::support::session::Session;
use checker::{Entry, check};
use cortex_test_support::setting::setting;
use fastrand::Rng;
use model::{Done, ManagerModel};
use recorder::{Pool, record};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The number of histories of each kind in `cargo test`.
const HISTORIES: u64 = 3;

/// The seed of the first history. Each next history uses the next number.
const SEED: u64 = 20_260_101;

/// The number of calls of each session in one history.
const CALLS: usize = 250;

/// The number of times that the daemon is killed in one history.
const KILLS: usize = 2;

/// The number of workers: few, so that most calls depend on each other.
const WORKERS: u64 = 6;

/// The number of workers as a flag.
const OPTIONS: [&str; 2] = ["--total-workers", "6"];

/// Records histories of a number of sessions with a number of calls in flight on each, and checks them.
fn check_histories(mode: Mode, sessions: usize, in_flight: usize, is_disturbed: bool) {
    let first = setting("CORTEX_HISTORY_SEED", SEED);
    for seed in first..first + setting("CORTEX_HISTORIES", HISTORIES) {
        let home = Home::new();
        let mut sessions: Vec<Session> = (0..sessions).map(|_| home.session(mode, &OPTIONS)).collect();
        let history = concurrently(&home, &mut sessions, in_flight, seed, is_disturbed);
        if let Err(stuck) = check(ManagerModel::new(WORKERS), history) {
            panic!("no order explains the history of seed {seed} ({mode:?}):\n{stuck}");
        }
    }
}

/// Records one history of concurrent calls of all sessions. The daemon may be killed in the middle.
fn concurrently(
    home: &Home,
    sessions: &mut [Session],
    in_flight: usize,
    seed: u64,
    is_disturbed: bool,
) -> Vec<Entry<Done>> {
    let (mut random, start, pool) = (Rng::with_seed(seed), Instant::now(), Pool::default());
    let ids: Vec<u32> = sessions.iter().map(Session::process_id).collect();
    let is_over = AtomicBool::new(false);
    thread::scope(|scope| {
        let threads: Vec<_> = sessions
            .iter_mut()
            .enumerate()
            .map(|(number, session)| {
                let (mut random, pool) = (random.fork(), &pool);
                scope.spawn(move || record(session, &mut random, pool, start, &format!("s{number}"), CALLS, in_flight))
            })
            .collect();
        if is_disturbed {
            scope.spawn(|| {
                let (mut killed, mut kills) = (None, 0);
                while kills < KILLS && !is_over.load(Ordering::Relaxed) {
                    // The moment of the kill is random.
                    thread::sleep(Duration::from_millis(random.u64(20..60)));
                    let Some(daemon) = home.owner().filter(|id| Some(*id) != killed && !ids.contains(id)) else {
                        continue;
                    };
                    kill(daemon);
                    killed = Some(daemon);
                    kills += 1;
                }
            });
        }
        let histories: Vec<_> = threads.into_iter().map(thread::ScopedJoinHandle::join).collect();
        is_over.store(true, Ordering::Relaxed);
        histories.into_iter().flat_map(|history| history.expect("a session that answers")).collect()
    })
}

#[test]
fn histories_of_four_sessions_on_one_daemon_have_an_order() {
    check_histories(Mode::Auto, 4, 2, false);
}

#[test]
fn histories_over_kills_of_the_daemon_have_an_order() {
    check_histories(Mode::Auto, 4, 1, true);
}

#[test]
fn histories_of_one_session_with_many_calls_in_flight_have_an_order() {
    check_histories(Mode::Never, 1, 8, false);
}
