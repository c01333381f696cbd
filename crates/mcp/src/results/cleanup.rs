//! What cleanup_expired answers.

use cortex_engine::Expired;
use schemars::JsonSchema;
use serde::Serialize;

/// The answer to cleanup_expired.
#[derive(Serialize, JsonSchema)]
pub(crate) struct CleanupResult {
    /// The allocations that were cleaned up, the longest overdue first.
    cleaned_up: Vec<String>,
    /// How many there were.
    count: u64,
    /// How many ids are left out of the list because it would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    omitted: Option<u64>,
}

impl From<&Expired> for CleanupResult {
    fn from(expired: &Expired) -> Self {
        let left_out = expired.count - expired.named.len() as u64;
        Self {
            cleaned_up: expired.named.iter().map(ToString::to_string).collect(),
            count: expired.count,
            omitted: (left_out > 0).then_some(left_out),
        }
    }
}
