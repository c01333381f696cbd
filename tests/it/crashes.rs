//! Real crashes: clients call the real program while it is killed at random times. Afterwards every acknowledged effect
//! is present exactly once.
//!
//! `CORTEX_CRASH_ROUNDS` sets the number of kills, and `CORTEX_CRASH_SEED` the random seed; `.ci/crashes` runs the full
//! counts. The times of the kills also depend on the machine, so a seed repeats the calls but not every interleaving.

mod client;
mod lease;
mod tally;
mod whole;

use crate::support::durable::{Home, Mode, kill};
use crate::support::session::{Gone, Session};
use crate::support::wait_within;
use client::{Client, SILENCE_MAX};
use cortex_test_support::setting::setting;
use fastrand::Rng;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tally::{Fault, Tally};
use whole::{check_live, check_log};

/// The number of times that the process is killed in `cargo test`.
const NEVER_ROUNDS: u64 = 15;

/// The number of times that the daemon is killed in `cargo test`.
const DAEMON_ROUNDS: u64 = 8;

/// The number of sessions of one daemon.
const SESSIONS: usize = 4;

/// The number of workers: few, so that most requests compete.
const WORKERS: usize = 10;

/// The longest time of calls before a kill, in milliseconds.
const WORK_MS_MAX: u64 = 40;

/// The longest time from a start to an early kill, which interrupts the recovery, in milliseconds.
const EARLY_MS_MAX: u64 = 15;

/// The longest time from the end of the input to a kill, which interrupts the writing of the snapshot, in milliseconds.
const ENDING_MS_MAX: u64 = 8;

/// In one round of this number, the next daemon is also killed early.
const EARLY_ROUNDS: u64 = 5;

fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_secs();
    setting("CORTEX_CRASH_SEED", now)
}

/// Returns a random time of at most this many milliseconds. The sleeps here are the moments of the kills.
fn moment(random: &mut Rng, most: u64) -> Duration {
    Duration::from_micros(random.u64(0..=most * 1000))
}

/// The time at which a process is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// During its start and recovery, or soon after.
    Early,
    /// While calls are in flight.
    Working,
    /// During a clean end.
    Ending,
}

impl Moment {
    fn draw(random: &mut Rng) -> Self {
        match random.u8(0..6) {
            0 => Self::Early,
            1 => Self::Ending,
            _ => Self::Working,
        }
    }
}

#[test]
fn a_process_killed_at_any_moment_loses_and_duplicates_nothing() {
    let (seed, rounds) = (seed(), setting("CORTEX_CRASH_ROUNDS", NEVER_ROUNDS));
    let (mut random, tally, home) = (Rng::with_seed(seed), Tally::default(), Home::new());
    let mut clients = [Client::new(&tally, "alone".to_owned(), random.fork())];
    for round in 0..rounds {
        let durability = if random.bool() { "full" } else { "normal" };
        let mut session = Session::start(home.serving(Mode::Never, &["--durability", durability]));
        let when = Moment::draw(&mut random);
        let end = live_and_die(&tally, &mut clients, &mut session, when, &mut random);
        if end != Err(Gone::Ended) {
            tally.fault(Fault::DidNotContinue, format!("round {round}, {when:?}: {end:?}\n{}", session.log()));
        }
    }
    let mut session = home.session(Mode::Never, &[]);
    assert_eq!(begin_greeted(&tally, &mut clients, &mut session), Ok(()), "{}", session.log());
    assert_eq!(session.finish().code(), Some(0));
    check_log(&tally, &clients, &home);
    tally.conclude("--daemon never", rounds, seed);
}

/// Runs one life of a process: it starts with everything that was acknowledged, works, and is killed.
fn live_and_die(
    tally: &Tally,
    clients: &mut [Client<'_>; 1],
    session: &mut Session,
    when: Moment,
    random: &mut Rng,
) -> Result<(), Gone> {
    let (id, stop) = (session.process_id(), AtomicBool::new(false));
    let wait = moment(random, if when == Moment::Early { EARLY_MS_MAX } else { WORK_MS_MAX });
    thread::scope(|scope| {
        let killer = || {
            thread::sleep(wait);
            if when == Moment::Ending {
                stop.store(true, Ordering::Relaxed);
            } else {
                kill(id);
            }
        };
        if when == Moment::Early {
            scope.spawn(killer);
            begin(tally, clients, session)?;
        } else {
            begin(tally, clients, session)?;
            scope.spawn(killer);
        }
        clients[0].work(session, &stop)
    })?;
    session.close_input();
    thread::sleep(moment(random, ENDING_MS_MAX));
    kill(id);
    session.receive(SILENCE_MAX).map(drop)
}

/// Makes the first calls on a new process, and checks that everything that was acknowledged is present.
fn begin(tally: &Tally, clients: &mut [Client<'_>; 1], session: &mut Session) -> Result<(), Gone> {
    session.greet(SILENCE_MAX)?;
    begin_greeted(tally, clients, session)
}

fn begin_greeted(tally: &Tally, clients: &mut [Client<'_>; 1], session: &mut Session) -> Result<(), Gone> {
    clients[0].settle(session)?;
    check_live(tally, clients, session, WORKERS)
}

#[test]
fn a_daemon_killed_at_any_moment_loses_nothing_and_its_sessions_continue() {
    let (seed, rounds) = (seed(), setting("CORTEX_CRASH_ROUNDS", DAEMON_ROUNDS));
    let (mut random, tally, home) = (Rng::with_seed(seed), Tally::default(), Home::new());
    let mut clients: [Client<'_>; SESSIONS] =
        std::array::from_fn(|number| Client::new(&tally, format!("session{number}"), random.fork()));
    let mut sessions: [Session; SESSIONS] = std::array::from_fn(|_| home.session(Mode::Auto, &[]));
    let mut killed = None;
    for round in 0..rounds {
        let (ends, last) = disturb(&home, &mut random, &mut clients, &mut sessions, killed);
        killed = Some(last);
        for (number, end) in ends.into_iter().enumerate() {
            let Err(gone) = end else { continue };
            tally.fault(
                Fault::DidNotContinue,
                format!("round {round}, session {number}: {gone:?}\n{}", sessions[number].log()),
            );
            sessions[number] = home.session(Mode::Auto, &[]);
            assert_eq!(clients[number].settle(&mut sessions[number]), Ok(()), "on a new session");
        }
        if let Err(gone) = check_live(&tally, &clients, &mut sessions[0], WORKERS) {
            tally.fault(Fault::DidNotContinue, format!("round {round}, session 0: {gone:?}\n{}", sessions[0].log()));
            sessions[0] = home.session(Mode::Auto, &[]);
        }
    }
    for session in sessions {
        assert_eq!(session.finish().code(), Some(0), "a session ends in order");
    }
    // The daemons that start after the last kill must all end before the log is read.
    let stopped = wait_within(SILENCE_MAX, || {
        home.printed("stop", &[]);
        home.processes().is_empty().then_some(())
    });
    assert_eq!(stopped, Some(()), "still running: {:?}", home.processes());
    check_log(&tally, &clients, &home);
    tally.conclude("the daemon under four sessions", rounds, seed);
}

/// Lets all clients call, kills the daemon meanwhile, and lets the clients determine the effects of their calls on
/// their sessions. Returns which sessions continued, and the process that was killed last.
fn disturb(
    home: &Home,
    random: &mut Rng,
    clients: &mut [Client<'_>],
    sessions: &mut [Session],
    killed: Option<u32>,
) -> (Vec<Result<(), Gone>>, u32) {
    let ids: Vec<u32> = sessions.iter().map(Session::process_id).collect();
    let mut daemon = home.daemon(killed, &ids);
    let stop = AtomicBool::new(false);
    let ends: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .zip(&mut *sessions)
            .map(|(client, session)| scope.spawn(|| client.work(session, &stop)))
            .collect();
        // Nothing here may panic before the clients receive the signal to stop.
        thread::sleep(moment(random, WORK_MS_MAX));
        kill(daemon);
        if random.u64(0..EARLY_ROUNDS) == 0 {
            // The next daemon is killed as soon as it owns the state, during its recovery.
            if let Some(next) = wait_within(SILENCE_MAX, || home.next_daemon(Some(daemon), &ids)) {
                thread::sleep(moment(random, EARLY_MS_MAX));
                kill(next);
                daemon = next;
            }
        }
        thread::sleep(moment(random, WORK_MS_MAX));
        stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().expect("a client that ends")).collect()
    });
    let settled = thread::scope(|scope| {
        let threads: Vec<_> = clients
            .iter_mut()
            .zip(&mut *sessions)
            .zip(ends)
            .map(|((client, session), end)| scope.spawn(move || end.and_then(|()| client.settle(session))))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("a client that ends")).collect()
    });
    (settled, daemon)
}
