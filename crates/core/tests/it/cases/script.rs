//! A small language for cases: one command per line, and after `=>` its answer.
//!
//! A script starts at second 0 with the node `local` of 10 workers, 16 cores and 32768 MB; a worker takes 1 core and
//! 2048 MB. The fencing token names an allocation: `#1` is the first grant. `at 5.25` advances to that second. After
//! each event the state is checked, and compared with that of a second machine that reads the events as text.

use cortex_core::allocation::{EndReason, Metadata, Phase, State};
use cortex_core::command::{Command, Decision, Denied, DistinctServers, Outcome, Release, Request};
use cortex_core::event::{Event, Limits, Recorded};
use cortex_core::ids::{AllocationId, FencingToken, JobId, NodeId, RequestId, ServerName};
use cortex_core::ports::Port;
use cortex_core::provisioning::{Provisioning, Sharing};
use cortex_core::time::{Millis, Timestamp, TtlSeconds};
use cortex_core::units::{CpuMillis, MemoryMb, Resources, WorkerSize};
use cortex_core::view::{AllocationView, CapacityView, DeadlineReason, Filter};
use cortex_core::{Cluster, check};
use std::collections::BTreeMap;
use std::sync::Arc;

/// Runs a script, and fails at the first line with another answer.
pub(crate) fn check(name: &str, script: &str) {
    let mut player = Player::new();
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (command, expected) = line.split_once("=>").unwrap_or((line, "done"));
        let answer = player.play(command.trim());
        assert_eq!(answer, expected.trim(), "{name}, at second {}: {line}", seconds(player.now));
    }
}

/// Runs the lines of a script against a machine.
pub(crate) struct Player {
    pub(crate) now: Timestamp,
    pub(crate) cluster: Cluster,
    /// All events, as written.
    pub(crate) lines: Vec<String>,
    replica: Cluster,
    /// By token, including those whose records were dropped.
    ids: BTreeMap<u64, AllocationId>,
    size: WorkerSize,
}

/// The words of a line: a verb, plain words, and pairs of a key and a value.
struct Words<'a>(Vec<&'a str>);

impl<'a> Words<'a> {
    fn value(&self, key: &str) -> Option<&'a str> {
        let position = self.0.iter().position(|word| *word == key)?;
        Some(self.0.get(position + 1).unwrap_or_else(|| panic!("{key} needs a value")))
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.value(key).map(|text| text.parse().unwrap_or_else(|_| panic!("{key} {text} is not a number")))
    }

    fn word(&self, position: usize) -> Option<&'a str> {
        self.0.get(position).copied()
    }
}

/// Second 0 of all scripts.
const START_MS: i64 = 1_767_225_600_000;

fn moment(text: &str) -> Timestamp {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let whole: i64 = whole.parse().unwrap_or_else(|_| panic!("{text} is not a second"));
    let part: i64 = format!("{part:0<3}").parse().unwrap_or_else(|_| panic!("{text} is not a second"));
    Timestamp::from_millis(START_MS + whole * 1000 + part)
}

fn seconds(moment: Timestamp) -> String {
    let ms = moment.as_millis() - START_MS;
    if ms % 1000 == 0 { (ms / 1000).to_string() } else { format!("{}.{:03}", ms / 1000, ms % 1000) }
}

fn amount(amount: Resources) -> String {
    format!("{} workers {} cores {} MB", amount.workers, amount.cpu_millis, amount.memory_mb)
}

impl Player {
    pub(crate) fn new() -> Self {
        let mut player = Self::without_node();
        player.play("capacity workers 10 cores 16 memory 32768");
        player
    }

    fn without_node() -> Self {
        Self {
            now: moment("0"),
            cluster: Cluster::default(),
            lines: Vec::new(),
            replica: Cluster::default(),
            ids: BTreeMap::new(),
            size: WorkerSize { cpu_millis: CpuMillis::from_millis(1_000), memory_mb: MemoryMb(2_048) },
        }
    }

    /// Runs one command, and returns its answer.
    pub(crate) fn play(&mut self, line: &str) -> String {
        let words = Words(line.split_whitespace().collect());
        match words.word(0).unwrap_or_default() {
            "at" => {
                self.now = moment(words.word(1).expect("a second"));
                "done".to_owned()
            }
            "provisioning" => {
                self.provisioning(&words);
                "done".to_owned()
            }
            "observe" => {
                self.cluster.observe(self.now);
                "done".to_owned()
            }
            "size" => {
                let cpu_millis = CpuMillis::from_millis(words.number("millis").expect("millis"));
                self.size = WorkerSize { cpu_millis, memory_mb: MemoryMb(words.number("memory").expect("memory")) };
                "done".to_owned()
            }
            "no-node" => {
                *self = Self::without_node();
                "done".to_owned()
            }
            "show" => words.word(1).map_or_else(
                || self.capacity_text(&self.cluster.capacity(self.now)),
                |name| self.cluster.allocation(self.now, self.id(name)).map_or("unknown".to_owned(), |v| view_text(&v)),
            ),
            "list" => self.list(&words),
            "next" => self.next_deadline(),
            "reserve" => self.reserve(&words),
            "activate" => self.event(Event::Activated { allocation: self.id_of(&words) }),
            "fail" => {
                self.event(Event::ActivationFailed { allocation: self.id_of(&words), error: Arc::from("no answer") })
            }
            "releasing" => {
                self.event(Event::Releasing { allocation: self.id_of(&words), reason: EndReason::Requested })
            }
            "finish" => self.event(Event::Released { allocation: self.id_of(&words) }),
            _ => {
                let command = self.command(&words);
                self.carry_out(&command)
            }
        }
    }

    /// Returns the id that a name such as `#1` or `alloc-…` stands for.
    fn id(&self, name: &str) -> AllocationId {
        match name.strip_prefix('#').map(|token| token.parse::<u64>().expect("a token")) {
            Some(token) => *self.ids.get(&token).unwrap_or_else(|| panic!("{name} was not granted")),
            None => name.parse().expect("an allocation id"),
        }
    }

    fn id_of(&self, words: &Words<'_>) -> AllocationId {
        self.id(words.word(1).expect("an allocation"))
    }

    fn name(&self, id: AllocationId) -> String {
        // The newest first, since an id may be used again once its record was dropped.
        let token = self.ids.iter().rev().find(|(_, own)| **own == id).map(|(token, _)| *token);
        token.map_or_else(|| id.to_string(), |token| format!("#{token}"))
    }

    fn command(&self, words: &Words<'_>) -> Command {
        match words.word(0).unwrap_or_default() {
            "capacity" => Command::SetCapacity {
                node: NodeId::new(words.value("node").unwrap_or("local")).expect("a name"),
                capacity: Resources {
                    workers: words.number("workers").expect("workers"),
                    cpu_millis: CpuMillis::from_millis(1_000 * words.number("cores").expect("cores")),
                    memory_mb: MemoryMb(words.number("memory").expect("memory")),
                },
            },
            "limits" => Command::SetLimits(Limits {
                live_allocations_max: words.number("live").unwrap_or(1_000),
                history_records_max: words.number("history").unwrap_or(1_000),
            }),
            "request" => self.request(words),
            "release" | "cancel" => {
                let is_cancelled = words.word(0) == Some("cancel");
                let reason = if is_cancelled { EndReason::Cancelled } else { EndReason::Requested };
                Command::Release { allocation: self.id_of(words), reason }
            }
            "started" => Command::Activate { allocation: self.id_of(words) },
            "start-failed" => Command::FailActivation { allocation: self.id_of(words), error: Arc::from("no answer") },
            "stopped" => Command::FinishRelease { allocation: self.id_of(words) },
            "renew" => Command::Renew {
                allocation: self.id_of(words),
                ttl_seconds: words.number("ttl").and_then(TtlSeconds::new),
                fencing_token: words.number("token").map(FencingToken::new),
            },
            "sweep" => Command::Sweep { leases_max: words.word(1).map_or(1_000, |n| n.parse().expect("a number")) },
            "trim" => {
                Command::TrimHistory { older_than: Millis::from_seconds(words.number("older").expect("seconds")) }
            }
            "outage" => Command::NoteOutage {
                since: moment(words.value("since").expect("a second")),
                grace: Millis::from_seconds(words.number("grace").expect("seconds")),
                spread: Millis::from_seconds(words.number("spread").unwrap_or(0)),
            },
            other => panic!("{other} is not a command"),
        }
    }

    /// Sets what has to be started for leases: `provisioning catalog fs,own* workers occupied 9001,8000 start 10`. A
    /// server with a star is not shared.
    fn provisioning(&mut self, words: &Words<'_>) {
        let server = |name: &str| {
            let plain = name.trim_end_matches('*');
            let sharing = if plain == name { Sharing::Shared } else { Sharing::PerAllocation };
            (ServerName::new(plain).expect("a name"), sharing)
        };
        let ports = words.value("occupied").map_or("", |ports| ports).split(',').filter(|port| !port.is_empty());
        let provisioning = Provisioning {
            catalog: words.value("catalog").map(|names| names.split(',').map(server).collect()),
            manages_workers: words.0.contains(&"workers"),
            occupied_ports: ports.map(|port| Port(port.parse().expect("a port"))).collect(),
            start_max: Millis::from_seconds(words.number("start").unwrap_or(30)),
        };
        self.cluster.set_provisioning(provisioning.clone());
        self.replica.set_provisioning(provisioning);
    }

    fn request(&self, words: &Words<'_>) -> Command {
        let job = JobId::new(words.word(1).expect("a job")).expect("a name");
        let servers = match words.value("many") {
            // `many 3` or `many 3-5`: that many servers with generated names.
            Some(range) => {
                let (from, to) = range.split_once('-').unwrap_or(("1", range));
                let numbers = from.parse::<u32>().expect("a number")..=to.parse().expect("a number");
                numbers.map(|number| format!("s{number:03}")).collect()
            }
            None => words.value("servers").map_or(Vec::new(), |names| names.split(',').map(str::to_owned).collect()),
        };
        let servers = servers.iter().map(|name| ServerName::new(name).expect("a name"));
        let mut metadata = serde_json::Map::new();
        if let Some(note) = words.value("note") {
            metadata.insert("note".to_owned(), note.into());
        }
        let request = Request {
            job,
            servers: DistinctServers::new(servers),
            workers: words.number("workers").unwrap_or(0),
            priority: words.value("priority").map_or(Ok(Default::default()), str::parse).expect("a priority"),
            ttl_seconds: TtlSeconds::new(words.number("ttl").unwrap_or(60)).expect("at least 1"),
            request_id: words.value("id").map(|id| RequestId::new(id).expect("a name")),
            metadata: Metadata::new(&metadata),
        };
        let random = words.number("random").unwrap_or_else(|| 0xa000 + self.ids.len() as u64);
        Command::Request { request: Box::new(request), worker_size: self.size, random }
    }

    fn carry_out(&mut self, command: &Command) -> String {
        match self.cluster.decide(self.now, command) {
            Ok(Decision { events, outcome }) => {
                for event in events {
                    self.event(event);
                }
                self.outcome_text(&outcome)
            }
            Err(denied) => self.denied_text(&denied),
        }
    }

    /// Applies only the first half of a request.
    fn reserve(&mut self, words: &Words<'_>) -> String {
        let decision = self.cluster.decide(self.now, &self.request(words)).expect("capacity");
        for event in decision.events.iter().filter(|event| !matches!(event, Event::Activated { .. })) {
            self.event(event.clone());
        }
        self.outcome_text(&decision.outcome)
    }

    /// Writes an event, and applies it here and, read back, in the replica.
    fn event(&mut self, event: Event) -> String {
        if let Event::Reserved { reservation } = &event {
            self.ids.insert(reservation.fencing_token.as_u64(), reservation.allocation);
        }
        let recorded = Recorded { at: self.now, event };
        let line = serde_json::to_string(&recorded).expect("an event has a text");
        self.cluster.apply(&recorded);
        self.replica.apply(&serde_json::from_str(&line).expect("an event that can be read"));
        assert_eq!(check::violations(&self.cluster), [""; 0], "after {line}");
        let (mut own, mut replayed) = (self.cluster.clone(), self.replica.clone());
        own.observe(self.now);
        replayed.observe(self.now);
        assert_eq!(check::violations(&replayed), [""; 0], "after {line}");
        assert_eq!(own, replayed, "after {line}");
        self.lines.push(line);
        "done".to_owned()
    }

    fn outcome_text(&self, outcome: &Outcome) -> String {
        match outcome {
            Outcome::Done | Outcome::PolicySet { .. } => "done".to_owned(),
            Outcome::Granted { allocation, reclaimed } => {
                let mut text = format!("granted {}", self.name(*allocation));
                if !reclaimed.is_empty() {
                    text += &format!(", reclaimed {}", self.names(reclaimed));
                }
                text
            }
            Outcome::CapacityPending { shortage, reclaimed } => {
                let ending =
                    if reclaimed.is_empty() { String::new() } else { format!(", ends {}", self.names(reclaimed)) };
                format!("capacity pending: {shortage}{ending}")
            }
            Outcome::Releasing { allocation } => format!("{} is being released", self.name(*allocation)),
            Outcome::Repeated { allocation } => {
                let state = self.cluster.allocation(self.now, *allocation).expect("a record").allocation.state();
                format!("repeated {}, {state}", self.name(*allocation))
            }
            Outcome::Released(Release { allocation, reason, freed, duration, released_at, job: _ }) => {
                assert_eq!(*released_at, self.now);
                let lasted = Timestamp::from_millis(START_MS).after(*duration);
                let (name, freed, lasted) = (self.name(*allocation), amount(*freed), seconds(lasted));
                format!("released {name}, {reason:?}: {freed} after {lasted} s")
            }
            Outcome::AlreadyReleased { allocation, released_at } => {
                format!("{} was released at {}", self.name(*allocation), seconds(*released_at))
            }
            Outcome::Renewed { allocation } => {
                let view = self.cluster.allocation(self.now, *allocation).expect("a record");
                format!("renewed until {}", seconds(view.expires_at.expect("a deadline")))
            }
            Outcome::Swept { expired, more } => {
                format!("expired {}{}", self.names(expired), if *more { ", more" } else { "" })
            }
            Outcome::Fleet(outcome) => format!("{outcome:?}"),
        }
    }

    fn names(&self, releases: &[Release]) -> String {
        let names: Vec<String> = releases.iter().map(|release| self.name(release.allocation)).collect();
        if names.is_empty() { "nothing".to_owned() } else { names.join(" ") }
    }

    /// Returns the text of a denial, with names for ids and seconds for times.
    fn denied_text(&self, denied: &Denied) -> String {
        let text = match denied {
            Denied::InsufficientCapacity { retry_at: Some(at), .. } => format!("{denied}; retry at {}", seconds(*at)),
            Denied::Expired { expired_at, .. } => {
                denied.to_string().replace(&expired_at.to_string(), &seconds(*expired_at))
            }
            _ => denied.to_string(),
        };
        self.ids.values().fold(text, |text, id| text.replace(&id.to_string(), &self.name(*id)))
    }

    fn capacity_text(&self, view: &CapacityView) -> String {
        let servers: Vec<&str> = view.running_servers.iter().map(ServerName::as_str).collect();
        let servers = if servers.len() > 5 { servers.len().to_string() } else { servers.join(",") };
        format!(
            "{} live, {} leased, {} workers reclaimable, servers {}",
            view.live_allocations,
            amount(view.leased),
            view.reclaimable.workers,
            if servers.is_empty() { "none" } else { &servers }
        )
    }

    fn list(&self, words: &Words<'_>) -> String {
        let state =
            words.value("state").map(|name| State::ALL.into_iter().find(|s| s.as_str() == name).expect("a state"));
        let filter = Filter { state, job: words.value("job").map(|job| JobId::new(job).expect("a name")) };
        let all = self.cluster.list(self.now, &filter, FencingToken::new(0)).count() as u64;
        assert_eq!(self.cluster.count(&filter), all, "{filter:?}");
        let after = FencingToken::new(words.number("after").unwrap_or(0));
        let page = words.number("limit").map_or(usize::MAX, |limit| usize::try_from(limit).expect("a limit"));
        let listed = self.cluster.list(self.now, &filter, after).take(page);
        let names: Vec<String> = listed.map(|view| self.name(view.allocation.reservation.allocation)).collect();
        if names.is_empty() { "nothing".to_owned() } else { names.join(" ") }
    }

    fn next_deadline(&self) -> String {
        match self.cluster.next_deadline() {
            None => "nothing".to_owned(),
            Some((at, DeadlineReason::LeaseExpires(id))) => format!("{} expires at {}", self.name(id), seconds(at)),
            Some((at, DeadlineReason::ActivationFails(id))) => format!("{} fails at {}", self.name(id), seconds(at)),
        }
    }
}

/// Describes one allocation: state, holdings, and when it expires.
pub(crate) fn view_text(view: &AllocationView) -> String {
    let reservation = &view.allocation.reservation;
    let mut text = view.allocation.state().to_string();
    let workers: Vec<String> =
        reservation.workers.iter().map(|(number, port)| format!("{}:{port}", number.0)).collect();
    let servers = reservation.servers.iter().map(|hold| format!("{}:{}", hold.name, hold.port));
    let held: Vec<String> = workers.into_iter().chain(servers).collect();
    text += &format!(" [{}]", held.join(" "));
    if let Phase::Failed { error, .. } = &view.allocation.phase {
        text += &format!(", {error}");
    }
    match view.expires_at {
        Some(at) if view.is_expired() => text + &format!(", expired at {}", seconds(at)),
        Some(at) => text + &format!(", until {}", seconds(at)),
        None => text,
    }
}
