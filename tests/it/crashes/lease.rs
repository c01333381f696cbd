//! A lease as a client knows it from the answers it got.

use serde_json::Value;

/// What is known of a lease's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It was granted, and nobody asked to release it.
    Held,
    /// Its release was asked for and not answered.
    MaybeReleased,
    /// Its release was answered.
    Released,
}

/// A lease, with all that must never change.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) id: String,
    pub(crate) job: String,
    pub(crate) token: u64,
    /// Worker ids with their endpoints.
    pub(crate) workers: Vec<(String, String)>,
    /// Names of MCP servers with their endpoints.
    pub(crate) servers: Vec<(String, String)>,
    /// The deadline; unknown after a renewal that was not answered.
    pub(crate) expires_at: Option<String>,
    pub(crate) standing: Standing,
}

impl Lease {
    /// The lease that an answer of `request_resources` or of `get_allocation` describes.
    pub(crate) fn read(answer: &Value) -> Self {
        // The two answers name some things differently.
        let pairs = |keys: [&str; 2], name: [&str; 2]| {
            let list = keys.iter().find_map(|key| answer[*key].as_array()).expect("a list");
            let text = |item: &Value, key: &str| item[key].as_str().map(str::to_owned);
            let named = |item| name.iter().find_map(|key| text(item, key)).expect("a name");
            list.iter().map(|item| (named(item), text(item, "endpoint").expect("an endpoint"))).collect()
        };
        Self {
            id: answer["allocation_id"].as_str().expect("an id").to_owned(),
            job: answer["job_id"].as_str().expect("a job").to_owned(),
            token: answer["fencing_token"].as_u64().expect("a token"),
            workers: pairs(["workers_allocated", "workers"], ["worker_id", "worker_id"]),
            servers: pairs(["mcp_servers", "mcp_servers"], ["name", "server_name"]),
            expires_at: answer["expires_at"].as_str().map(str::to_owned),
            standing: Standing::Held,
        }
    }

    /// How an answer of `get_allocation` differs from what was acknowledged of a lease that is held.
    pub(crate) fn difference(&self, answer: &Value) -> Option<String> {
        let found = Self::read(answer);
        let is_alike = answer["state"] == "active"
            && (&found.id, &found.job, found.token) == (&self.id, &self.job, self.token)
            && (&found.workers, &found.servers) == (&self.workers, &self.servers)
            && (self.expires_at.is_none() || found.expires_at == self.expires_at);
        (!is_alike).then(|| format!("acknowledged {self:?}, found {answer}"))
    }
}
