//! Results as clients see them. Keys, types and spellings are those of the resource allocation API; what is new here is
//! only added to them.

use crate::core::{Allocation, AllocationView, CapacityView, Phase, Release, ServerHold, State, Timestamp, Workers};
use crate::engine::{Expired, Grant, Page, Reading, Record, Refusal};
use rmcp::model::JsonObject;
use schemars::JsonSchema;
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// How many workers of one allocation an answer shows. An answer of over 10 MiB makes some clients drop the connection;
/// this many take about 3.
pub(super) const WORKERS_SHOWN_MAX: usize = 10_000;

/// Amounts of a lease.
#[derive(Serialize, JsonSchema)]
pub(super) struct GrantedResources {
    /// CPU in cores.
    cpu: f64,
    /// Memory in MB.
    memory: u64,
    /// Worker slots.
    workers: u64,
}

/// An MCP server of a new lease.
#[derive(Serialize, JsonSchema)]
pub(super) struct GrantedServer {
    /// Its name.
    name: String,
    /// Where it is.
    endpoint: String,
    /// `running` while the lease is held.
    status: &'static str,
}

/// A worker of a new lease.
#[derive(Serialize, JsonSchema)]
pub(super) struct GrantedWorker {
    /// Its id.
    worker_id: String,
    /// Where it is.
    endpoint: String,
    /// Its CPU in cores.
    cpu: f64,
    /// Its memory in MB.
    memory: u64,
}

/// The answer to request_resources.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum RequestResult {
    /// A lease.
    Granted(Box<GrantedResult>),
    /// There was no room.
    Failed(FailedResult),
}

/// A lease, as request_resources answers it.
#[derive(Serialize, JsonSchema)]
pub(super) struct GrantedResult {
    /// The handle of the lease.
    allocation_id: String,
    /// `active`; when a request is repeated with its `request_id`, the state in which its lease is now.
    status: &'static str,
    /// The job that holds it.
    job_id: String,
    /// The MCP servers, in the order asked for.
    mcp_servers: Vec<GrantedServer>,
    /// The workers.
    workers_allocated: Vec<GrantedWorker>,
    /// How many workers are left out of the list because it would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    workers_omitted: Option<u64>,
    /// What the workers take together.
    resources: GrantedResources,
    /// The time to live in seconds.
    ttl_seconds: u64,
    /// When it was granted.
    created_at: String,
    /// When it ends unless it is renewed; null once it has ended.
    expires_at: Option<String>,
    /// Larger than that of every earlier grant. Show it to what the lease protects, so that a late writer is refused.
    fencing_token: u64,
}

/// A request that there was no room for.
#[derive(Serialize, JsonSchema)]
pub(super) struct FailedResult {
    /// The id under which the refusal can be read back for a while.
    allocation_id: String,
    /// `failed`.
    status: &'static str,
    /// What there was too little of.
    error: String,
    /// After how many seconds enough leases will have run out, if that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<u64>,
}

impl RequestResult {
    pub(super) fn granted(grant: &Grant) -> Self {
        let AllocationView { allocation, expires_at, .. } = &grant.view;
        let reservation = &allocation.reservation;
        let workers = &reservation.workers;
        let taken = workers.resources();
        Self::Granted(Box::new(GrantedResult {
            allocation_id: reservation.allocation.to_string(),
            status: allocation.state().as_str(),
            job_id: reservation.job.to_string(),
            mcp_servers: reservation.servers.iter().map(|hold| granted_server(hold, allocation.state())).collect(),
            workers_allocated: workers
                .iter()
                .take(WORKERS_SHOWN_MAX)
                .map(|(number, port)| GrantedWorker {
                    worker_id: number.worker_id(&reservation.job),
                    endpoint: port.endpoint(),
                    cpu: workers.size.cpu_millis.as_cores(),
                    memory: workers.size.memory_mb.0,
                })
                .collect(),
            workers_omitted: omitted(workers),
            resources: GrantedResources {
                cpu: taken.cpu_millis.as_cores(),
                memory: taken.memory_mb.0,
                workers: taken.workers,
            },
            ttl_seconds: allocation.ttl_seconds.as_seconds(),
            created_at: allocation.created_at.to_string(),
            expires_at: expires_at.map(|at| at.to_string()),
            fencing_token: reservation.fencing_token.as_u64(),
        }))
    }

    pub(super) fn failed(refusal: &Refusal) -> Self {
        Self::Failed(FailedResult {
            allocation_id: refusal.allocation.to_string(),
            status: State::Failed.as_str(),
            error: refusal.error.clone(),
            retry_after_seconds: refusal.retry_at.map(|at| at.since(refusal.refused_at).as_seconds_ceil()),
        })
    }
}

fn granted_server(hold: &ServerHold, state: State) -> GrantedServer {
    GrantedServer { name: hold.name.to_string(), endpoint: hold.port.endpoint(), status: server_status(state) }
}

const fn server_status(state: State) -> &'static str {
    if state.is_live() { "running" } else { "released" }
}

fn omitted(workers: &Workers) -> Option<u64> {
    workers.count().checked_sub(WORKERS_SHOWN_MAX as u64).filter(|rest| *rest > 0)
}

/// The answer to release_resources.
#[derive(Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum ReleaseResult {
    /// This call ended the lease.
    Released(ReleasedResult),
    /// It had ended before.
    AlreadyReleased(AlreadyReleasedResult),
}

/// A lease that this call ended.
#[derive(Serialize, JsonSchema)]
pub(super) struct ReleasedResult {
    /// `released`.
    status: &'static str,
    /// Which allocation.
    allocation_id: String,
    /// Whose it was.
    job_id: String,
    /// How many workers are free again.
    workers_released: u64,
    /// CPU that is free again, in cores.
    cpu_freed: f64,
    /// Memory that is free again, in MB.
    memory_freed: u64,
    /// When.
    released_at: String,
    /// How long it was held.
    duration_seconds: u64,
}

/// A lease that had ended before.
#[derive(Serialize, JsonSchema)]
pub(super) struct AlreadyReleasedResult {
    /// `already_released`.
    status: &'static str,
    /// Which allocation.
    allocation_id: String,
    /// When it ended.
    released_at: String,
}

impl From<crate::engine::Released> for ReleaseResult {
    fn from(released: crate::engine::Released) -> Self {
        match released {
            crate::engine::Released::Now(Release { allocation, job, freed, released_at, duration, .. }) => {
                Self::Released(ReleasedResult {
                    status: "released",
                    allocation_id: allocation.to_string(),
                    job_id: job.to_string(),
                    workers_released: freed.workers,
                    cpu_freed: freed.cpu_millis.as_cores(),
                    memory_freed: freed.memory_mb.0,
                    released_at: released_at.to_string(),
                    duration_seconds: duration.as_seconds(),
                })
            }
            crate::engine::Released::Before { allocation, released_at } => {
                Self::AlreadyReleased(AlreadyReleasedResult {
                    status: "already_released",
                    allocation_id: allocation.to_string(),
                    released_at: released_at.to_string(),
                })
            }
        }
    }
}

/// The answer to get_capacity, and the resource `cluster://capacity`.
#[derive(Serialize, JsonSchema)]
pub(super) struct CapacityResult {
    /// CPU there is, in cores.
    total_cpu: f64,
    /// Memory there is, in MB.
    total_memory: u64,
    /// Worker slots there are.
    total_workers: u64,
    /// CPU leased.
    allocated_cpu: f64,
    /// Memory leased.
    allocated_memory: u64,
    /// Worker slots leased.
    allocated_workers: u64,
    /// CPU not leased.
    available_cpu: f64,
    /// Memory not leased.
    available_memory: u64,
    /// Worker slots not leased.
    available_workers: u64,
    /// CPU leased by leases past their deadline: a request that needs it gets it.
    reclaimable_cpu: f64,
    /// Memory leased by leases past their deadline.
    reclaimable_memory: u64,
    /// Worker slots leased by leases past their deadline.
    reclaimable_workers: u64,
    /// MCP servers that some allocation holds.
    running_mcp_servers: Vec<String>,
    /// Allocations that hold something.
    active_allocations: u64,
}

impl From<&CapacityView> for CapacityResult {
    fn from(view: &CapacityView) -> Self {
        let available = view.total.less(view.leased);
        Self {
            total_cpu: view.total.cpu_millis.as_cores(),
            total_memory: view.total.memory_mb.0,
            total_workers: view.total.workers,
            allocated_cpu: view.leased.cpu_millis.as_cores(),
            allocated_memory: view.leased.memory_mb.0,
            allocated_workers: view.leased.workers,
            available_cpu: available.cpu_millis.as_cores(),
            available_memory: available.memory_mb.0,
            available_workers: available.workers,
            reclaimable_cpu: view.reclaimable.cpu_millis.as_cores(),
            reclaimable_memory: view.reclaimable.memory_mb.0,
            reclaimable_workers: view.reclaimable.workers,
            running_mcp_servers: view.running_servers.iter().map(ToString::to_string).collect(),
            active_allocations: view.live_allocations,
        }
    }
}

/// Amounts of an allocation.
#[derive(Serialize, JsonSchema)]
pub(super) struct AllocatedResources {
    /// CPU in cores.
    cpu_allocated: f64,
    /// Memory in MB.
    memory_allocated: u64,
    /// Worker slots.
    workers: u64,
}

/// An MCP server of an allocation.
#[derive(Serialize, JsonSchema)]
pub(super) struct AllocatedServer {
    /// Its name.
    server_name: String,
    /// Where it is.
    endpoint: String,
    /// `running` while the allocation is live, then `released`.
    status: &'static str,
    /// Its port.
    port: u16,
}

/// A worker of an allocation.
#[derive(Serialize, JsonSchema)]
pub(super) struct AllocatedWorker {
    /// Its id.
    worker_id: String,
    /// `cortex-worker`.
    worker_type: &'static str,
    /// Its CPU in cores.
    cpu: f64,
    /// Its memory in MB.
    memory: u64,
    /// The state of its allocation.
    status: &'static str,
    /// Where it is.
    endpoint: String,
}

/// Moments in the life of an allocation.
#[derive(Serialize, JsonSchema)]
pub(super) struct Timestamps {
    /// When it was asked for.
    created_at: String,
    /// When it became active; null if it did not.
    activated_at: Option<String>,
    /// When it ended; null while it has not.
    released_at: Option<String>,
    /// Seconds since it was asked for.
    age_seconds: u64,
}

/// The answer to get_allocation, and the resource `cluster://allocations/{allocation_id}`.
#[derive(Serialize, JsonSchema)]
pub(super) struct AllocationResult {
    /// Its id.
    allocation_id: String,
    /// The job that holds it.
    job_id: String,
    /// `pending`, `active`, `releasing`, `released` or `failed`.
    state: &'static str,
    /// `low`, `normal`, `high` or `critical`.
    priority: &'static str,
    /// What the workers take together.
    resources: AllocatedResources,
    /// The MCP servers, in the order asked for.
    mcp_servers: Vec<AllocatedServer>,
    /// The workers.
    workers: Vec<AllocatedWorker>,
    /// How many workers are left out of the list because it would be too long.
    #[serde(skip_serializing_if = "Option::is_none")]
    workers_omitted: Option<u64>,
    /// Moments in its life.
    timestamps: Timestamps,
    /// The time to live in seconds, from the activation or the last renewal.
    ttl_seconds: u64,
    /// When it ends unless it is renewed; null once it has ended.
    expires_at: Option<String>,
    /// Whether that moment has passed; false once it has ended.
    is_expired: bool,
    /// Larger than that of every earlier grant; absent if it was never granted.
    #[serde(skip_serializing_if = "Option::is_none")]
    fencing_token: Option<u64>,
    /// Why it failed, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// What the client noted.
    #[schemars(with = "JsonObject")]
    metadata: Box<RawValue>,
}

impl From<&Reading<Record>> for AllocationResult {
    fn from(reading: &Reading<Record>) -> Self {
        match &reading.value {
            Record::Allocation(view) => Self::of_allocation(view),
            Record::Refusal(refusal) => Self::of_refusal(refusal, reading.at),
        }
    }
}

impl AllocationResult {
    fn of_allocation(view: &AllocationView) -> Self {
        let AllocationView { allocation, at, expires_at } = view;
        let reservation = &allocation.reservation;
        let state = allocation.state();
        let workers = &reservation.workers;
        let taken = workers.resources();
        let server = |hold: &ServerHold| AllocatedServer {
            server_name: hold.name.to_string(),
            endpoint: hold.port.endpoint(),
            status: server_status(state),
            port: hold.port.0,
        };
        Self {
            allocation_id: reservation.allocation.to_string(),
            job_id: reservation.job.to_string(),
            state: state.as_str(),
            priority: reservation.priority.as_str(),
            resources: AllocatedResources {
                cpu_allocated: taken.cpu_millis.as_cores(),
                memory_allocated: taken.memory_mb.0,
                workers: taken.workers,
            },
            mcp_servers: reservation.servers.iter().map(server).collect(),
            workers: workers
                .iter()
                .take(WORKERS_SHOWN_MAX)
                .map(|(number, port)| AllocatedWorker {
                    worker_id: number.worker_id(&reservation.job),
                    worker_type: "cortex-worker",
                    cpu: workers.size.cpu_millis.as_cores(),
                    memory: workers.size.memory_mb.0,
                    status: state.as_str(),
                    endpoint: port.endpoint(),
                })
                .collect(),
            workers_omitted: omitted(workers),
            timestamps: Timestamps {
                created_at: allocation.created_at.to_string(),
                activated_at: allocation.activated_at().map(|at| at.to_string()),
                released_at: allocation.ended_at().map(|at| at.to_string()),
                age_seconds: allocation.age(*at).as_seconds(),
            },
            ttl_seconds: allocation.ttl_seconds.as_seconds(),
            expires_at: expires_at.map(|at| at.to_string()),
            is_expired: view.is_expired(),
            fencing_token: Some(reservation.fencing_token.as_u64()),
            error: failure(allocation),
            metadata: raw(reservation.metadata.as_json()),
        }
    }

    fn of_refusal(refusal: &Refusal, now: Timestamp) -> Self {
        Self {
            allocation_id: refusal.allocation.to_string(),
            job_id: refusal.job.to_string(),
            state: State::Failed.as_str(),
            priority: refusal.priority.as_str(),
            resources: AllocatedResources { cpu_allocated: 0.0, memory_allocated: 0, workers: 0 },
            mcp_servers: Vec::new(),
            workers: Vec::new(),
            workers_omitted: None,
            timestamps: Timestamps {
                created_at: refusal.refused_at.to_string(),
                activated_at: None,
                released_at: None,
                age_seconds: now.since(refusal.refused_at).as_seconds(),
            },
            ttl_seconds: refusal.ttl_seconds.as_seconds(),
            expires_at: None,
            is_expired: false,
            fencing_token: None,
            error: Some(refusal.error.clone()),
            metadata: raw(refusal.metadata.as_json()),
        }
    }
}

fn failure(allocation: &Allocation) -> Option<String> {
    match &allocation.phase {
        Phase::Failed { error, .. } => Some(error.to_string()),
        _ => None,
    }
}

/// JSON text that is put into an answer as it stands.
fn raw(json: &str) -> Box<RawValue> {
    // Metadata is kept as JSON text, so that this cannot fail; an empty note is the safe answer if it did.
    RawValue::from_string(json.to_owned())
        .unwrap_or_else(|_| RawValue::from_string("{}".to_owned()).unwrap_or_default())
}

/// One entry of a list.
#[derive(Serialize, JsonSchema)]
pub(super) struct ListedAllocation {
    /// Its id.
    allocation_id: String,
    /// The job that holds it.
    job_id: String,
    /// `pending`, `active`, `releasing`, `released` or `failed`.
    state: &'static str,
    /// `low`, `normal`, `high` or `critical`.
    priority: &'static str,
    /// How many workers.
    workers: u64,
    /// Seconds since it was asked for.
    age_seconds: u64,
    /// Whether its deadline has passed; false once it has ended.
    is_expired: bool,
}

impl ListedAllocation {
    fn new(record: &Record, now: Timestamp) -> Self {
        match record {
            Record::Allocation(view) => {
                let reservation = &view.allocation.reservation;
                Self {
                    allocation_id: reservation.allocation.to_string(),
                    job_id: reservation.job.to_string(),
                    state: view.allocation.state().as_str(),
                    priority: reservation.priority.as_str(),
                    workers: reservation.workers.count(),
                    age_seconds: view.allocation.age(now).as_seconds(),
                    is_expired: view.is_expired(),
                }
            }
            Record::Refusal(refusal) => Self {
                allocation_id: refusal.allocation.to_string(),
                job_id: refusal.job.to_string(),
                state: State::Failed.as_str(),
                priority: refusal.priority.as_str(),
                workers: 0,
                age_seconds: now.since(refusal.refused_at).as_seconds(),
                is_expired: false,
            },
        }
    }
}

/// The answer to list_allocations.
#[derive(Serialize, JsonSchema)]
pub(super) struct ListResult {
    /// This page, oldest first.
    allocations: Vec<ListedAllocation>,
    /// How many are on this page.
    count: u64,
    /// How many there are on all pages.
    total: u64,
    /// What to give as `cursor` for the next page; absent on the last.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

impl ListResult {
    pub(super) fn new(page: &Page, next_cursor: Option<String>) -> Self {
        let allocations: Vec<_> = page.entries.iter().map(|record| ListedAllocation::new(record, page.at)).collect();
        Self { count: allocations.len() as u64, allocations, total: page.total, next_cursor }
    }
}

/// The answer to cleanup_expired.
#[derive(Serialize, JsonSchema)]
pub(super) struct CleanupResult {
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

/// The answer to renew_allocation.
#[derive(Serialize, JsonSchema)]
pub(super) struct RenewResult {
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

/// The output schema of a result, in the plain form that every client takes.
pub(super) fn output_schema<T: JsonSchema>() -> JsonObject {
    let settings =
        schemars::generate::SchemaSettings::draft2020_12().for_serialize().with(|s| s.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<T>().to_value();
    simplify(&mut schema);
    match schema {
        Value::Object(mut object) => {
            // The top must be an object; a result of several shapes says so beside them.
            object.remove("$schema");
            object.remove("title");
            object.entry("type").or_insert_with(|| Value::from("object"));
            object
        }
        _ => JsonObject::new(),
    }
}

/// Takes out what some clients stumble over: number formats that they do not know, and `null` where a field is left out
/// rather than null.
fn simplify(schema: &mut Value) {
    match schema {
        Value::Object(object) => {
            object.remove("format");
            let required = object.get("required").cloned().unwrap_or_default();
            if let Some(Value::Object(properties)) = object.get_mut("properties") {
                for (name, property) in properties {
                    let is_required =
                        required.as_array().is_some_and(|names| names.contains(&Value::from(name.as_str())));
                    if let Some(types) = property.get_mut("type")
                        && !is_required
                        && let Some(plain) = types.as_array().and_then(|t| t.iter().find(|t| *t != "null")).cloned()
                    {
                        *types = plain;
                    }
                }
            }
            object.values_mut().for_each(simplify);
        }
        Value::Array(items) => items.iter_mut().for_each(simplify),
        _ => {}
    }
}
