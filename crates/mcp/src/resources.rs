//! Resources: the capacity, the plan, the forecast, the bottlenecks and each allocation, as documents that clients read
//! and watch.

use super::results::RuntimeStatus;
use super::tools::{AllocationResult, BottlenecksResult, CapacityResult, ForecastResult, PlanResult, dry_run};
use cortex_core::ids::AllocationId;
use cortex_core::time::Timestamp;
use cortex_engine::{EngineHandle, Record};
use cortex_managed::RuntimeHandle;
use cortex_planning::{Bottlenecks, Plan, Planner, WhatIf};
use rmcp::ErrorData;
use rmcp::model::{ReadResourceResult, Resource, ResourceContents, ResourceTemplate};
use serde::Serialize;
use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::watch;

const CAPACITY: &str = "cluster://capacity";
const PLAN: &str = "cluster://plan";
const FORECAST: &str = "cluster://forecast";
const BOTTLENECKS: &str = "cluster://bottlenecks";
const ALLOCATIONS: &str = "cluster://allocations/";
const MIME_TYPE: &str = "application/json";

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ResourceUri {
    Capacity,
    Plan,
    Forecast,
    Bottlenecks,
    Allocation(AllocationId),
}

/// What the background loops publish: the planner's latest results.
#[derive(Clone, Debug)]
pub struct PlannerFeed {
    /// The last plan.
    pub plan: watch::Receiver<Option<Arc<Plan>>>,
    /// The beginning of the latest bin of demand that forecasts use.
    pub forecast: watch::Receiver<Option<Timestamp>>,
    /// The bottlenecks of the last check.
    pub bottlenecks: watch::Receiver<Option<Arc<Bottlenecks>>>,
    /// The planner itself, for dry runs.
    pub planner: Arc<Mutex<Planner>>,
}

impl PlannerFeed {
    /// Waits for the next resource to change; returns nothing once the loops have ended.
    pub(super) async fn changed(&mut self) -> Option<ResourceUri> {
        tokio::select! {
            changed = self.plan.changed() => changed.ok().map(|()| ResourceUri::Plan),
            changed = self.forecast.changed() => changed.ok().map(|()| ResourceUri::Forecast),
            changed = self.bottlenecks.changed() => changed.ok().map(|()| ResourceUri::Bottlenecks),
        }
    }
}

/// A URI that does not name a resource of this server.
pub(super) struct UnknownUri;

impl FromStr for ResourceUri {
    type Err = UnknownUri;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            CAPACITY => Ok(Self::Capacity),
            PLAN => Ok(Self::Plan),
            FORECAST => Ok(Self::Forecast),
            BOTTLENECKS => Ok(Self::Bottlenecks),
            _ => {
                let id = text.strip_prefix(ALLOCATIONS).ok_or(UnknownUri)?;
                id.parse().map(Self::Allocation).map_err(|_| UnknownUri)
            }
        }
    }
}

impl fmt::Display for ResourceUri {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Capacity => f.write_str(CAPACITY),
            Self::Plan => f.write_str(PLAN),
            Self::Forecast => f.write_str(FORECAST),
            Self::Bottlenecks => f.write_str(BOTTLENECKS),
            Self::Allocation(id) => write!(f, "{ALLOCATIONS}{id}"),
        }
    }
}

/// Returns the resources of `resources/list`. Allocations have a template instead.
pub(super) fn listed() -> Vec<Resource> {
    vec![
        Resource::new(CAPACITY, "capacity")
            .with_title("Capacity")
            .with_description("Workers, CPU and memory: total, leased and available. The same as get_capacity.")
            .with_mime_type(MIME_TYPE),
        Resource::new(PLAN, "plan")
            .with_title("Plan")
            .with_description(
                "The planner's last plan for the numbers of workers and agents, with figures and reasons.",
            )
            .with_mime_type(MIME_TYPE),
        Resource::new(FORECAST, "forecast")
            .with_title("Forecast")
            .with_description(
                "Expected demand in the next half hour, and how accurate such forecasts were. The same as \
                 get_forecast.",
            )
            .with_mime_type(MIME_TYPE),
        Resource::new(BOTTLENECKS, "bottlenecks")
            .with_title("Bottlenecks")
            .with_description(
                "What delayed tasks at the planner's last check: tokens, quotas, slow agents, the queue. The same as \
                 detect_bottlenecks.",
            )
            .with_mime_type(MIME_TYPE),
    ]
}

/// Returns the templates of resources.
pub(super) fn templates(is_managed: bool) -> Vec<ResourceTemplate> {
    let allocation = if is_managed {
        "One allocation. The same as get_allocation, without the credentials for its MCP servers."
    } else {
        "One allocation. The same as get_allocation."
    };
    vec![
        ResourceTemplate::new(format!("{ALLOCATIONS}{{allocation_id}}"), "allocation")
            .with_title("Allocation")
            .with_description(allocation)
            .with_mime_type(MIME_TYPE),
    ]
}

/// Reads a resource.
///
/// # Errors
/// `-32602` if there is no resource at this URI; `-32603` if the engine has ended.
pub(super) async fn read(
    engine: &EngineHandle,
    planner_feed: &PlannerFeed,
    managed: Option<&RuntimeHandle>,
    uri: &str,
) -> Result<ReadResourceResult, ErrorData> {
    let text = match uri.parse() {
        Ok(ResourceUri::Capacity) => {
            json(&CapacityResult::from(&engine.read(|state, now| state.cluster.capacity(now)).await.map_err(ended)?))?
        }
        Ok(ResourceUri::Plan) => {
            let latest = planner_feed.plan.borrow().clone();
            let plan = match latest {
                Some(plan) => plan,
                // The planner has not run yet.
                None => Arc::new(dry_run(engine, &planner_feed.planner, &WhatIf::default()).await.map_err(ended)?),
            };
            json(&PlanResult::from(&*plan))?
        }
        Ok(ResourceUri::Forecast) => {
            let forecast = {
                let planner = planner_feed.planner.lock().unwrap_or_else(PoisonError::into_inner);
                ForecastResult::new(planner.demand_forecast(), None)
            };
            json(&forecast)?
        }
        Ok(ResourceUri::Bottlenecks) => {
            let latest = planner_feed.bottlenecks.borrow().clone();
            let bottlenecks = match latest {
                Some(bottlenecks) => bottlenecks,
                // The planner has not run yet.
                None => Arc::new(Bottlenecks::find(
                    &engine.read(|state, now| state.fleet_metrics(now)).await.map_err(ended)?,
                )),
            };
            json(&BottlenecksResult::from(&*bottlenecks))?
        }
        Ok(ResourceUri::Allocation(id)) => {
            let (now, record) = engine.read(move |state, now| (now, state.record(now, id))).await.map_err(ended)?;
            let record = record.ok_or_else(|| not_found(uri))?;
            let runtime_status = match (managed, &record) {
                (Some(managed), Record::Allocation(view)) => {
                    RuntimeStatus::without_credentials(managed, view).await.map_err(ended)?
                }
                _ => None,
            };
            json(&AllocationResult::new(&record, now, runtime_status.as_ref()))?
        }
        Err(UnknownUri) => return Err(not_found(uri)),
    };
    Ok(ReadResourceResult::new(vec![ResourceContents::text(text, uri).with_mime_type(MIME_TYPE)]))
}

fn json<T: Serialize>(value: &T) -> Result<String, ErrorData> {
    serde_json::to_string(value).map_err(|error| ErrorData::internal_error(error.to_string(), None))
}

fn ended(error: impl fmt::Display) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}

/// Returns the error for a URI without a resource.
pub(super) fn not_found(uri: &str) -> ErrorData {
    let excerpt: String = uri.chars().take(100).collect();
    ErrorData::invalid_params(
        format!(
            "unknown resource {excerpt}: read {CAPACITY}, {PLAN}, {FORECAST}, {BOTTLENECKS} or \
             {ALLOCATIONS}{{allocation_id}}"
        ),
        None,
    )
}
