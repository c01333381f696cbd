//! Leases that must survive all faults of their state, and the check that they did.

use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;

use crate::support::{
    WAIT_MAX,
    durable::{Ending, Home, Mode, UNUSABLE, allocation, identity, workers},
    server::Server,
    session::{Gone, Reply, Session},
};

/// The number of workers of a state without configured totals.
const WORKERS: u64 = 10;

/// The acknowledged leases of a state.
#[derive(Default)]
pub(crate) struct AcknowledgedLeases {
    /// The held leases, as `get_allocation` answered.
    held: Vec<Value>,
    /// The largest token.
    last_token: u64,
}

impl AcknowledgedLeases {
    /// Leases resources for a job and keeps the lease.
    pub(crate) fn hold(&mut self, server: &mut Server, job: &str, count: u64) {
        let id = server.grant(&workers(job, count));
        let answer = server.allocation(&id);
        self.last_token = answer["fencing_token"].as_u64().expect("a token");
        self.held.push(answer);
    }

    /// Leases and releases a number of times, with metadata that fills some pages of a file.
    pub(crate) fn pass(&mut self, server: &mut Server, job: &str, count: usize) {
        for number in 0..count {
            let mut request = workers(&format!("{job}-{number}"), 1);
            request["metadata"] = json!({"note": "x".repeat(300)});
            let answer = server.answer("request_resources", &request);
            self.last_token = answer["fencing_token"].as_u64().expect("a token");
            let id = answer["allocation_id"].as_str().expect("an id");
            server.answer("release_resources", &allocation(id));
        }
    }

    /// Checks that a session on the state starts with these leases.
    pub(crate) fn check(&self, session: &mut Session) {
        let mut taken = 0;
        for lease in &self.held {
            let found = session.answer("get_allocation", &allocation(lease["allocation_id"].as_str().expect("an id")));
            assert_eq!(identity(&found), identity(lease));
            assert_eq!(found["state"], "active", "{found}");
            taken += found["workers"].as_array().expect("workers").len() as u64;
        }
        let capacity = session.answer("get_capacity", &json!({}));
        assert_eq!(capacity["allocated_workers"], taken, "{capacity}");
        let too_many = session.answer("request_resources", &workers("too-many", WORKERS - taken + 1));
        assert_eq!(too_many["status"], "failed", "{too_many}");
        let granted = session.answer("request_resources", &workers("one-more", 1));
        assert!(granted["fencing_token"].as_u64() > Some(self.last_token), "tokens go on growing: {granted}");
        session.answer("release_resources", &allocation(granted["allocation_id"].as_str().expect("an id")));
    }

    /// Checks that a session on the state either has these leases or does not start, with code 3. Returns its log.
    pub(crate) fn check_or_refused(&self, home: &Home, what: &str) -> String {
        let mut session = Session::start(home.serving(Mode::Never, &[]));
        match session.greet(WAIT_MAX) {
            Ok(()) => {
                self.check(&mut session);
                let log = session.log();
                assert_eq!(session.finish().code(), Some(0), "{what}");
                log
            }
            Err(Gone::Silent) => panic!("{what}: silence\n{}", session.log()),
            Err(Gone::Ended) => {
                let log = session.log();
                assert_eq!(session.finish().code(), Some(UNUSABLE), "{what}: {log}");
                log
            }
        }
    }
}

/// Returns a state with some pages of events, three held leases, and a clean end.
pub(crate) fn filled(home: &Home) -> AcknowledgedLeases {
    let (mut leases, mut server) = (AcknowledgedLeases::default(), home.server(Mode::Never, &[]));
    leases.hold(&mut server, "first", 1);
    leases.pass(&mut server, "early", 60);
    leases.hold(&mut server, "middle", 2);
    leases.pass(&mut server, "late", 60);
    leases.hold(&mut server, "last", 3);
    home.end(server, Ending::InOrder);
    leases
}

/// All files of a state with their contents.
pub(crate) struct Files(Vec<(PathBuf, Vec<u8>)>);

impl Files {
    /// Reads the present files.
    pub(crate) fn of(home: &Home) -> Self {
        let paths = home.files();
        Self(paths.into_iter().map(|path| (path.clone(), fs::read(path).expect("a file that can be read"))).collect())
    }

    /// Restores the files.
    pub(crate) fn restore(&self, home: &Home) {
        for path in home.files() {
            fs::remove_file(path).expect("a file that can be removed");
        }
        for (path, bytes) in &self.0 {
            fs::write(path, bytes).expect("a file that can be written");
        }
    }
}

/// Checks that a call answers with a retryable error, and returns its text.
pub(crate) fn check_retryable(reply: Result<Reply, Gone>) -> String {
    let Ok(Reply::Retry(message)) = reply else { panic!("{reply:?} does not say that it may be repeated") };
    let result = &message["result"];
    assert_eq!(result["isError"], true, "{message}");
    assert_eq!(result.get("structuredContent"), None, "{message}");
    let text = result["content"][0]["text"].as_str().expect("a text");
    let answer: Value = serde_json::from_str(text).expect("a text that is JSON");
    assert_eq!(answer["status"], "error", "{message}");
    answer["error"].as_str().expect("an error's text").to_owned()
}
