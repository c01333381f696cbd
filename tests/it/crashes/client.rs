//! A client: makes random calls with a few in flight, records what was acknowledged, and later determines the effects
//! of the others.
//!
//! Each request has its own job, so the list of allocations shows its effect even without an answer.

use super::lease::{Lease, Standing};
use super::tally::{Fault, Tally};
use crate::support::durable::{allocation, identity};
use crate::support::session::{Gone, Reply, Session};
use fastrand::Rng;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The longest silence after which a session counts as ended.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(10);

/// The maximum number of calls in flight per client.
const BURST_MAX: usize = 4;

/// The number of leases from which a client releases instead of requesting.
const LEASES_MAX: usize = 4;

/// The times to live, in seconds: far longer than a run.
const TTL_SECONDS: std::ops::RangeInclusive<u64> = 100_000..=600_000;

/// A request and its arguments.
#[derive(Debug, Clone)]
struct Asked {
    job: String,
    arguments: Value,
    /// The largest token seen before the request was first sent.
    floor: u64,
}

/// A call in flight.
#[derive(Debug)]
enum Call {
    Request(Asked),
    Release(String),
    Renew(String),
    Read(String),
}

/// A client and its records, which outlive its session.
pub(crate) struct Client<'a> {
    tally: &'a Tally,
    name: String,
    random: Rng,
    asked: u64,
    /// All leases that were ever acknowledged, by id.
    pub(crate) leases: BTreeMap<String, Lease>,
    /// The leases released since the last check.
    just_released: Vec<String>,
    /// The requests with unknown effect.
    open: Vec<Asked>,
}

impl<'a> Client<'a> {
    pub(crate) fn new(tally: &'a Tally, name: String, random: Rng) -> Self {
        Self { tally, name, random, asked: 0, leases: BTreeMap::new(), just_released: Vec::new(), open: Vec::new() }
    }

    /// Returns the leases that are held, as far as the client knows.
    pub(crate) fn held(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values().filter(|lease| lease.standing == Standing::Held)
    }

    /// Makes calls until the signal to stop, or until the session ends.
    pub(crate) fn work(&mut self, session: &mut Session, stop: &AtomicBool) -> Result<(), Gone> {
        while !stop.load(Ordering::Relaxed) {
            let mut in_flight = BTreeMap::new();
            for (tool, arguments, call) in self.burst() {
                in_flight.insert(session.send(tool, &arguments), call);
            }
            while !in_flight.is_empty() {
                match session.receive(SILENCE_MAX) {
                    Ok(received) => {
                        let call = in_flight.remove(&received.id).expect("a reply to a call in flight");
                        self.note(call, received.reply);
                    }
                    Err(gone) => {
                        in_flight.into_values().for_each(|call| self.note_nothing(call));
                        return Err(gone);
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns some calls that do not depend on each other.
    fn burst(&mut self) -> Vec<(&'static str, Value, Call)> {
        let mut free: Vec<String> = self.held().map(|lease| lease.id.clone()).collect();
        self.random.shuffle(&mut free);
        let is_full = free.len() >= LEASES_MAX;
        (0..self.random.usize(1..=BURST_MAX))
            .map(|_| {
                let kind = self.random.u8(0..10);
                match free.pop() {
                    Some(id) if kind < if is_full { 6 } else { 3 } => {
                        ("release_resources", allocation(&id), Call::Release(id))
                    }
                    Some(id) if kind < 7 => {
                        let arguments = json!({"allocation_id": id, "ttl_seconds": self.random.u64(TTL_SECONDS)});
                        ("renew_allocation", arguments, Call::Renew(id))
                    }
                    Some(id) if kind < 8 => ("get_allocation", allocation(&id), Call::Read(id)),
                    _ => {
                        let asked = self.request();
                        ("request_resources", asked.arguments.clone(), Call::Request(asked))
                    }
                }
            })
            .collect()
    }

    fn request(&mut self) -> Asked {
        self.asked += 1;
        let job = format!("{}-{}", self.name, self.asked);
        let servers: &[&str] = if self.random.u8(0..4) == 0 { &["filesystem"] } else { &[] };
        let mut arguments = json!({
            "job_id": job, "mcp_servers": servers, "workers": self.random.u64(1..=3),
            "ttl_seconds": self.random.u64(TTL_SECONDS),
        });
        if self.random.u8(0..4) != 0 {
            arguments["request_id"] = format!("key-{job}").into();
        }
        Asked { job, arguments, floor: self.tally.largest_token() }
    }

    /// Processes a reply.
    fn note(&mut self, call: Call, reply: Reply) {
        let answer = match reply {
            Reply::Answer(answer) => answer,
            Reply::Retry(_) => return self.note_nothing(call),
            Reply::Error(error) => {
                return self.tally.fault(Fault::Wrong, format!("{call:?} is answered with {error}"));
            }
        };
        match call {
            Call::Request(asked) => self.note_request(&asked, &answer),
            Call::Release(id) => self.note_release(&id, &answer, false),
            Call::Renew(id) => {
                self.tally.acknowledged();
                let lease = self.leases.get_mut(&id).expect("a lease that was renewed");
                lease.expires_at = answer["expires_at"].as_str().map(str::to_owned);
            }
            Call::Read(id) => self.compare(&id, &answer),
        }
    }

    /// Records a call without an answer, whose effect must be determined.
    fn note_nothing(&mut self, call: Call) {
        self.tally.unanswered();
        match call {
            Call::Request(asked) => self.open.push(asked),
            Call::Release(id) => self.lease(&id).standing = Standing::MaybeReleased,
            Call::Renew(id) => self.lease(&id).expires_at = None,
            Call::Read(_) => {}
        }
    }

    fn note_request(&mut self, asked: &Asked, answer: &Value) {
        match answer["status"].as_str() {
            Some("active") => self.adopt(asked, Lease::read(answer)),
            // Too few workers were available. There is nothing to record.
            Some("failed") => {}
            _ => self.tally.fault(Fault::Wrong, format!("{asked:?} is answered with {answer}")),
        }
    }

    fn adopt(&mut self, asked: &Asked, lease: Lease) {
        self.tally.acknowledged();
        self.tally.token(lease.token, asked.floor, &lease.id);
        if asked.arguments["workers"] != lease.workers.len() || asked.job != lease.job {
            self.tally.fault(Fault::Wrong, format!("{asked:?} is granted {lease:?}"));
        }
        if let Some(before) = self.leases.insert(lease.id.clone(), lease) {
            self.tally.fault(Fault::Duplicated, format!("{asked:?} is granted {before:?}, which another request got"));
        }
    }

    fn note_release(&mut self, id: &str, answer: &Value, may_be_over: bool) {
        let is_fine = answer["status"] == "released" || (may_be_over && answer["status"] == "already_released");
        if !is_fine {
            self.tally.fault(Fault::Wrong, format!("the release of {id} is answered with {answer}"));
        }
        self.tally.acknowledged();
        self.lease(id).standing = Standing::Released;
        self.just_released.push(id.to_owned());
    }

    fn lease(&mut self, id: &str) -> &mut Lease {
        self.leases.get_mut(id).expect("a lease that was acknowledged")
    }

    fn compare(&self, id: &str, answer: &Value) {
        if let Some(difference) = self.leases[id].difference(answer) {
            self.tally.fault(Fault::Lost, difference);
        }
    }

    /// Determines the effects of all unanswered calls, and checks that everything that was acknowledged is present.
    pub(crate) fn settle(&mut self, session: &mut Session) -> Result<(), Gone> {
        self.settle_requests(session)?;
        self.settle_releases(session)?;
        for id in self.held().map(|lease| lease.id.clone()).collect::<Vec<_>>() {
            let reply = session.insist("get_allocation", &allocation(&id), SILENCE_MAX)?;
            match reply {
                Reply::Answer(answer) => {
                    self.compare(&id, &answer);
                    // A renewal without an answer has either happened or not. From here on its effect is known.
                    self.lease(&id).expires_at = answer["expires_at"].as_str().map(str::to_owned);
                }
                other => self.tally.fault(Fault::Lost, format!("{:?} is answered with {other:?}", self.leases[&id])),
            }
        }
        while let Some(id) = self.just_released.last().cloned() {
            let reply = session.insist("get_allocation", &allocation(&id), SILENCE_MAX)?;
            if !matches!(&reply, Reply::Answer(answer) if answer["state"] == "released") {
                self.tally.fault(Fault::Lost, format!("the release of {id} was acknowledged, but now: {reply:?}"));
            }
            self.just_released.pop();
        }
        Ok(())
    }

    /// Repeats a request that has a key, which grants it once. Looks up the effect of a request without a key.
    fn settle_requests(&mut self, session: &mut Session) -> Result<(), Gone> {
        while let Some(asked) = self.open.last().cloned() {
            if asked.arguments.get("request_id").is_some() {
                match session.insist("request_resources", &asked.arguments, SILENCE_MAX)? {
                    Reply::Answer(answer) => self.note_request(&asked, &answer),
                    other => self.tally.fault(Fault::Wrong, format!("{asked:?} again is answered with {other:?}")),
                }
                self.open.pop();
                self.count_grants(session, &asked)?;
            } else {
                let granted = self.count_grants(session, &asked)?;
                if let Some(id) = granted {
                    let reply = session.insist("get_allocation", &allocation(&id), SILENCE_MAX)?;
                    match reply.answer() {
                        Some(answer) => self.adopt(&asked, Lease::read(&answer)),
                        None => self.tally.fault(Fault::Lost, format!("{id} is in the list and cannot be read")),
                    }
                }
                self.open.pop();
            }
        }
        Ok(())
    }

    /// Checks that a request has at most one grant, and returns its id.
    fn count_grants(&self, session: &mut Session, asked: &Asked) -> Result<Option<String>, Gone> {
        let reply = session.insist("list_allocations", &json!({"job_id": asked.job}), SILENCE_MAX)?;
        let Some(list) = reply.answer() else {
            self.tally.fault(Fault::Wrong, format!("the allocations of {} cannot be listed", asked.job));
            return Ok(None);
        };
        let granted = list["allocations"].as_array().into_iter().flatten().filter(|entry| entry["state"] != "failed");
        let ids: Vec<&str> = granted.filter_map(|entry| entry["allocation_id"].as_str()).collect();
        if ids.len() > 1 {
            self.tally.fault(Fault::Duplicated, format!("{asked:?} was granted {ids:?}"));
        }
        Ok(ids.first().map(|id| (*id).to_owned()))
    }

    /// Checks that a release without an answer has either happened or not. Repeats some of the releases.
    fn settle_releases(&mut self, session: &mut Session) -> Result<(), Gone> {
        let is_open = |lease: &&Lease| lease.standing == Standing::MaybeReleased;
        for id in self.leases.values().filter(is_open).map(|lease| lease.id.clone()).collect::<Vec<_>>() {
            let reply = session.insist("get_allocation", &allocation(&id), SILENCE_MAX)?;
            let Reply::Answer(answer) = reply else {
                self.tally.fault(Fault::Lost, format!("{:?} is answered with {reply:?}", self.leases[&id]));
                continue;
            };
            if self.random.bool() {
                let reply = session.insist("release_resources", &allocation(&id), SILENCE_MAX)?;
                match reply.answer() {
                    Some(released) => self.note_release(&id, &released, true),
                    None => self.tally.fault(Fault::Wrong, format!("{id} cannot be released again")),
                }
            } else if answer["state"] == "active" {
                self.lease(&id).standing = Standing::Held;
                self.compare(&id, &answer);
            } else {
                self.lease(&id).standing = Standing::Released;
                let kept = identity(&answer);
                if answer["state"] != "released" || kept["fencing_token"] != self.leases[&id].token {
                    self.tally.fault(Fault::Lost, format!("{:?} became {answer}", self.leases[&id]));
                }
            }
        }
        Ok(())
    }
}
