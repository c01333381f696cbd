//! What renew_allocation answers.

use cortex_core::view::AllocationView;
use schemars::JsonSchema;
use serde::Serialize;

/// The answer to renew_allocation.
#[derive(Serialize, JsonSchema)]
pub(crate) struct RenewResult {
    /// `active`.
    status: &'static str,
    /// Which allocation.
    allocation_id: String,
    /// The job that holds it.
    job_id: String,
    /// The time to live from now on, in seconds.
    ttl_seconds: u64,
    /// When it was renewed.
    renewed_at: String,
    /// When it ends unless it is renewed again.
    expires_at: Option<String>,
    /// Its token, which a renewal keeps.
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
