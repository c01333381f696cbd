//! A lease as a client knows it from its answers.

use serde_json::Value;

/// What a client knows about the end of a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It was granted, and no release was requested.
    Held,
    /// Its release was requested but not answered.
    MaybeReleased,
    /// Its release was answered.
    Released,
}

/// A lease with all its immutable properties.
#[derive(Debug, Clone)]
pub(crate) struct Lease {
    pub(crate) id: String,
    pub(crate) job: String,
    pub(crate) token: u64,
    /// Worker ids and their endpoints.
    pub(crate) workers: Vec<(String, String)>,
    /// Names of MCP servers and their endpoints.
    pub(crate) servers: Vec<(String, String)>,
    /// The deadline; unknown after a renewal without an answer.
    pub(crate) expires_at: Option<String>,
    pub(crate) standing: Standing,
}

impl Lease {
    /// Returns the lease in an answer of `request_resources` or `get_allocation`.
    pub(crate) fn read(answer: &Value) -> Self {
        // The two answers use different names for some properties.
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

    /// Returns the differences between an answer of `get_allocation` and the acknowledged state of a held lease.
    pub(crate) fn difference(&self, answer: &Value) -> Option<String> {
        let found = Self::read(answer);
        let is_alike = answer["state"] == "active"
            && (&found.id, &found.job, found.token) == (&self.id, &self.job, self.token)
            && (&found.workers, &found.servers) == (&self.workers, &self.servers)
            && (self.expires_at.is_none() || found.expires_at == self.expires_at);
        (!is_alike).then(|| format!("acknowledged {self:?}, found {answer}"))
    }
}
