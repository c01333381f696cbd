//! The planner: looks at demand, makes a plan, carries it out, and shows the last one.

use super::every;
use crate::core::Timestamp;
use crate::engine::{Demand, EngineError, EngineHandle, Reading};
use crate::planning::{Action, Observation, Plan, Planner};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// Plans at once and then every `period` until the engine has ended. Each plan is shown to whoever watches `shown`.
pub async fn plan_capacity(
    engine: EngineHandle,
    mut planner: Planner,
    period: Duration,
    shown: watch::Sender<Option<Arc<Plan>>>,
) {
    let mut last = Last::default();
    let mut tick = async || plan_once(&engine, &mut planner, &mut last, &shown).await;
    if let Err(error) = tick().await {
        tracing::error!(%error, "the first plan failed");
    }
    every("planner", period, tick).await;
}

/// What the next tick is compared with.
#[derive(Default)]
struct Last {
    at: Option<Timestamp>,
    granted: u64,
    refused: u64,
}

impl Last {
    /// What was seen since, and this reading for the next time.
    fn observe(&mut self, reading: &Reading<Demand>) -> Observation {
        let Demand { capacity, granted, refused } = &reading.value;
        let observation = Observation {
            at: reading.at,
            window: self.at.map_or_else(Default::default, |at| reading.at.since(at)),
            workers_total: capacity.total.workers,
            workers_leased: capacity.leased.workers - capacity.reclaimable.workers,
            workers_held: capacity.leased.workers,
            granted: granted - self.granted,
            refused: refused - self.refused,
        };
        *self = Self { at: Some(reading.at), granted: *granted, refused: *refused };
        observation
    }
}

async fn plan_once(
    engine: &EngineHandle,
    planner: &mut Planner,
    last: &mut Last,
    shown: &watch::Sender<Option<Arc<Plan>>>,
) -> Result<(), EngineError> {
    let observation = last.observe(&engine.demand().await?);
    let plan = planner.plan(&observation);
    let is_new = shown
        .borrow()
        .as_ref()
        .is_none_or(|shown| (shown.action, shown.target_workers) != (plan.action, plan.target_workers));
    if is_new {
        tracing::info!(
            action = ?plan.action,
            current_workers = plan.current_workers,
            target_workers = plan.target_workers,
            utilization = plan.utilization,
            refused = plan.refused_requests,
            predicted_rate_per_minute = plan.forecast.predicted_rate_per_minute,
            reasons = plan.reasons.join("; "),
            "plan"
        );
    }
    let carried_out = if plan.action == Action::Hold {
        Ok(false)
    } else {
        engine.set_workers(plan.target_workers).await.map(|()| true)
    };
    planner.note(&plan, *carried_out.as_ref().unwrap_or(&false));
    shown.send_replace(Some(Arc::new(plan)));
    carried_out.map(drop)
}
