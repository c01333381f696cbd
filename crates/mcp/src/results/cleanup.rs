//! The result of cleanup_expired.

use cortex_engine::Expired;
use schemars::JsonSchema;
use serde::Serialize;

/// The result of cleanup_expired.
#[derive(Serialize, JsonSchema)]
pub(crate) struct CleanupResult {
    /// The ids of the reclaimed allocations, the longest overdue first.
    cleaned_up: Vec<String>,
    /// Reclaimed allocations, omitted ones included.
    count: u64,
    /// Ids left out because the list would be too long.
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
