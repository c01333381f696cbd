//! Records what callers observe: each call with the times of its sending and its reply, by one monotonic clock.
//!
//! A call whose answer is retryable is sent again until its effect is known. In the history it is one call, from its
//! first sending to its last reply. Requests carry a `request_id`, so that they are granted only once.

use super::checker::Entry;
use super::model::Done;
use crate::support::WAIT_MAX;
use crate::support::durable::allocation;
use crate::support::session::{Reply, Session};
use fastrand::Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The number of newest leases among which callers choose: few, so that they often choose the same ones.
const POOL_MAX: usize = 8;

/// The largest number of workers in a request.
const ASKED_MAX: u64 = 4;

/// The leases that all callers know.
#[derive(Default)]
pub(crate) struct Pool(Mutex<Vec<Known>>);

/// The token and the id of a lease.
#[derive(Debug, Clone)]
struct Known {
    token: u64,
    id: String,
}

impl Pool {
    fn add(&self, lease: Known) {
        let mut leases = self.0.lock().expect("no panic while adding");
        leases.push(lease);
        if leases.len() > POOL_MAX {
            leases.remove(0);
        }
    }

    fn draw(&self, random: &mut Rng) -> Option<Known> {
        random.choice(&*self.0.lock().expect("no panic while drawing")).cloned()
    }
}

/// The subject of a call.
#[derive(Debug, Clone)]
enum Asked {
    Request { workers: u64 },
    Release(Known),
    Renew(Known),
    Read(Known),
    Capacity,
}

/// A call in flight.
struct Pending {
    tool: &'static str,
    arguments: Value,
    asked: Asked,
    sent: Duration,
    is_repeat: bool,
}

/// Sends a number of calls, a limited number of them in flight, and returns their history.
pub(crate) fn record(
    session: &mut Session,
    random: &mut Rng,
    pool: &Pool,
    start: Instant,
    name: &str,
    calls: usize,
    in_flight_max: usize,
) -> Vec<Entry<Done>> {
    let mut history = Vec::with_capacity(calls);
    let mut in_flight: BTreeMap<u64, Pending> = BTreeMap::new();
    let mut begun = 0;
    while history.len() < calls {
        while begun < calls && in_flight.len() < in_flight_max {
            begun += 1;
            let (tool, arguments, asked) = draw(random, pool, &format!("{name}-{begun}"));
            let pending = Pending { tool, arguments, asked, sent: start.elapsed(), is_repeat: false };
            in_flight.insert(session.send(pending.tool, &pending.arguments), pending);
        }
        let received = session.receive(WAIT_MAX).unwrap_or_else(|gone| panic!("{name}: {gone:?}\n{}", session.log()));
        let mut pending = in_flight.remove(&received.id).expect("a reply to a call in flight");
        if matches!(received.reply, Reply::Retry(_)) {
            pending.is_repeat = true;
            in_flight.insert(session.send(pending.tool, &pending.arguments), pending);
            continue;
        }
        let replied = received.at.duration_since(start);
        let done = understand(&pending, received.reply, pool);
        history.push(Entry { sent: pending.sent, replied, done });
    }
    history
}

fn draw(random: &mut Rng, pool: &Pool, key: &str) -> (&'static str, Value, Asked) {
    let lease = pool.draw(random);
    let (kind, workers) = (random.u8(0..10), random.u64(1..=ASKED_MAX));
    match lease {
        Some(lease) if kind < 4 => ("release_resources", allocation(&lease.id), Asked::Release(lease)),
        Some(lease) if kind < 5 => ("renew_allocation", allocation(&lease.id), Asked::Renew(lease)),
        Some(lease) if kind < 6 => ("get_allocation", allocation(&lease.id), Asked::Read(lease)),
        _ if kind == 6 => ("get_capacity", json!({}), Asked::Capacity),
        _ => {
            let arguments = json!({
                "job_id": key, "mcp_servers": [], "workers": workers, "ttl_seconds": 100_000, "request_id": key,
            });
            ("request_resources", arguments, Asked::Request { workers })
        }
    }
}

/// Returns the call with its answer, in the types of the model.
fn understand(pending: &Pending, reply: Reply, pool: &Pool) -> Done {
    let Pending { tool, asked, is_repeat, .. } = pending;
    let answer = match (asked, reply) {
        (Asked::Renew(lease), Reply::Error(error)) => {
            let text = error["result"]["content"][0]["text"].as_str().unwrap_or_default();
            assert!(text.contains("released"), "a renewal is refused only for a lease that is over: {error}");
            return Done::RenewalRefused { token: lease.token };
        }
        (_, Reply::Answer(answer)) => answer,
        (_, other) => panic!("{tool} {asked:?} is answered with {other:?}"),
    };
    let number = |key: &str| answer[key].as_u64().unwrap_or_else(|| panic!("{key} is no number in {answer}"));
    match asked {
        Asked::Request { workers } if answer["status"] == "active" => {
            let token = number("fencing_token");
            pool.add(Known { token, id: answer["allocation_id"].as_str().expect("an id").to_owned() });
            assert_eq!(
                answer["workers_allocated"].as_array().map(Vec::len),
                usize::try_from(*workers).ok(),
                "{answer}"
            );
            Done::Granted { token, workers: *workers }
        }
        Asked::Request { workers } => {
            let error = answer["error"].as_str().expect("a reason");
            let available = error.strip_prefix(&format!("Insufficient workers: requested {workers}, available "));
            let available = available.and_then(|number| number.parse().ok());
            Done::Refused { workers: *workers, available: available.unwrap_or_else(|| panic!("{answer}")) }
        }
        Asked::Release(lease) if *is_repeat => Done::ReleasedAnyhow { token: lease.token },
        Asked::Release(lease) => match answer["status"].as_str() {
            Some("released") => Done::Released { token: lease.token, workers: number("workers_released") },
            Some("already_released") => Done::ReleasedBefore { token: lease.token },
            _ => panic!("{answer}"),
        },
        Asked::Renew(lease) => Done::Renewed { token: lease.token },
        Asked::Read(lease) => {
            assert!(answer["state"] == "active" || answer["state"] == "released", "{answer}");
            Done::Read { token: lease.token, is_live: answer["state"] == "active" }
        }
        Asked::Capacity => Done::Capacity { available: number("available_workers") },
    }
}
