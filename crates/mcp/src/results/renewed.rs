//! The result of renew_allocation.

use cortex_core::view::AllocationView;
use schemars::JsonSchema;
use serde::Serialize;

/// The result of renew_allocation.
#[derive(Serialize, JsonSchema)]
pub(crate) struct RenewResult {
    /// `active`.
    status: &'static str,
    allocation_id: String,
    job_id: String,
    /// The lease time from now on, in seconds.
    ttl_seconds: u64,
    renewed_at: String,
    /// The deadline unless it is renewed again.
    expires_at: Option<String>,
    /// Unchanged by a renewal.
    fencing_token: u64,
}

impl From<&AllocationView> for RenewResult {
    fn from(view: &AllocationView) -> Self {
        let reservation = &view.allocation.reservation;
        Self {
            status: view.allocation.state().as_str(),
            allocation_id: reservation.allocation.to_string(),
            job_id: reservation.job.to_string(),
            ttl_seconds: view.allocation.ttl_seconds.as_seconds(),
            renewed_at: view.at.to_string(),
            expires_at: view.expires_at.map(|at| at.to_string()),
            fencing_token: reservation.fencing_token.as_u64(),
        }
    }
}
