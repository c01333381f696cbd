//! Checks of the whole state: the list of live leases, the capacity, and finally the log.

use super::client::{Client, SILENCE_MAX};
use super::lease::{Lease, Standing};
use super::tally::{Fault, Tally};
use crate::support::durable::{Home, allocation};
use crate::support::session::{Gone, Reply, Session};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Checks that exactly the held leases are live, that they fit, and that no port is held twice. No client may call
/// meanwhile.
pub(crate) fn check_live(
    tally: &Tally,
    clients: &[Client<'_>],
    session: &mut Session,
    workers_max: usize,
) -> Result<(), Gone> {
    let held: BTreeSet<&str> = clients.iter().flat_map(Client::held).map(|lease| lease.id.as_str()).collect();
    let mut ask = |tool, arguments: &Value| match session.insist(tool, arguments, SILENCE_MAX)? {
        Reply::Answer(answer) => Ok(answer),
        other => {
            tally.fault(Fault::Wrong, format!("{tool} {arguments} is answered with {other:?}"));
            Ok(Value::Null)
        }
    };
    let list = ask("list_allocations", &json!({"state": "active", "limit": 2000}))?;
    let live: BTreeSet<&str> = list["allocations"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|entry| entry["allocation_id"].as_str())
        .collect();
    for id in held.difference(&live) {
        tally.fault(Fault::Lost, format!("{id} was acknowledged and is not live"));
    }
    for id in live.difference(&held) {
        tally.fault(Fault::Duplicated, format!("{id} is live and nobody's"));
    }
    let mut holders: BTreeMap<String, &str> = BTreeMap::new();
    let mut taken = 0;
    for id in live {
        let answer = ask("get_allocation", &allocation(id))?;
        if answer.is_null() {
            continue;
        }
        for (_, endpoint) in Lease::read(&answer).workers {
            taken += 1;
            if let Some(other) = holders.insert(endpoint.clone(), id) {
                tally.fault(Fault::Duplicated, format!("{endpoint} is held by {other} and by {id}"));
            }
        }
    }
    let capacity = ask("get_capacity", &json!({}))?;
    if taken > workers_max || capacity["allocated_workers"] != taken {
        tally
            .fault(Fault::Duplicated, format!("{taken} workers of {workers_max} are held; the capacity is {capacity}"));
    }
    Ok(())
}

/// The events of one allocation in the log.
#[derive(Default)]
struct Logged {
    token: Option<u64>,
    ports: Vec<String>,
    is_released: bool,
}

/// Checks the log after all processes have ended: it is valid, nothing acknowledged is missing, and no request was
/// granted twice.
pub(crate) fn check_log(tally: &Tally, clients: &[Client<'_>], home: &Home) {
    let verified = home.ask("verify", &[]);
    assert_eq!(verified.code, Some(0), "{verified:#?}");

    let mut logged: BTreeMap<String, Logged> = BTreeMap::new();
    let mut grants_of_job: BTreeMap<String, u64> = BTreeMap::new();
    for line in home.events(&[]) {
        let event = &line["event"];
        let reservation = &event["reservation"];
        let id = event["allocation"].as_str().or_else(|| reservation["allocation"].as_str());
        let Some(id) = id else { continue };
        let entry = logged.entry(id.to_owned()).or_default();
        match event["type"].as_str() {
            Some("reserved") => {
                *grants_of_job.entry(reservation["job"].to_string()).or_default() += 1;
                entry.token = reservation["fencing_token"].as_u64();
                let ports = reservation["workers"]["ports"].as_array().into_iter().flatten();
                entry.ports = ports.map(|port| format!("http://localhost:{port}")).collect();
            }
            Some("released") => entry.is_released = true,
            _ => {}
        }
    }
    for (job, _) in grants_of_job.iter().filter(|(_, grants)| **grants > 1) {
        tally.fault(Fault::Duplicated, format!("the log grants twice for {job}"));
    }
    for lease in clients.iter().flat_map(|client| client.leases.values()) {
        let ports: Vec<&String> = lease.workers.iter().map(|(_, endpoint)| endpoint).collect();
        let is_there = logged.get(&lease.id).is_some_and(|entry| {
            entry.token == Some(lease.token)
                && entry.ports.iter().eq(ports)
                && match lease.standing {
                    Standing::Held => !entry.is_released,
                    Standing::Released => entry.is_released,
                    Standing::MaybeReleased => true,
                }
        });
        if !is_there {
            tally.fault(Fault::Lost, format!("the log does not have {lease:?}"));
        }
    }
}
