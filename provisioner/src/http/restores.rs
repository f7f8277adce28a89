//! `/v1/keeper/restores`: what keepers shall bring back, and what they say of it.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::{Path, Query, State},
};
use provisioner_api::restores::{RestoreOrder, RestoreProgress};
use serde::Deserialize;
use tokio::time::{Instant, sleep_until};
use uuid::Uuid;

use crate::{
    control_db::restore_orders,
    http::{Api, auth::KeptCluster, refusal::Refusal, validate::Body},
};

/// Longest wait for other orders, in seconds.
const MAX_WAIT_SECS: u64 = 30;
/// How often to look for orders that another provisioner gave.
const POLL: Duration = Duration::from_secs(1);

/// What a keeper knows, and how long to wait for something else.
#[derive(Deserialize)]
pub struct Known {
    /// Ids with commas between them.
    #[serde(default)]
    known: String,
    #[serde(default)]
    wait_secs: u64,
}

/// What a keeper shall bring back; waits for that to be something else than it knows.
pub async fn list(
    State(api): State<Api>,
    Extension(kept): Extension<KeptCluster>,
    Query(asked): Query<Known>,
) -> Result<Json<Vec<RestoreOrder>>, Refusal> {
    let mut known: Vec<Uuid> = asked.known.split(',').filter_map(|id| id.parse().ok()).collect();
    known.sort_unstable();
    let until = Instant::now() + Duration::from_secs(asked.wait_secs.min(MAX_WAIT_SECS));
    let mut nudged = api.nudges.listen();
    loop {
        nudged.mark_unchanged();
        let orders = restore_orders::of_cluster(&api.world.db.pool, kept.0).await?;
        let mut ids: Vec<_> = orders.iter().map(|order| order.id).collect();
        ids.sort_unstable();
        let now = Instant::now();
        if ids != known || now >= until || api.shutdown.is_cancelled() {
            return Ok(Json(orders));
        }
        tokio::select! {
            _ = nudged.changed() => {}
            () = sleep_until(until.min(now + POLL)) => {}
            () = api.shutdown.cancelled() => {}
        }
    }
}

/// What a keeper says of an order; answers the same.
pub async fn progress(
    State(api): State<Api>,
    Extension(kept): Extension<KeptCluster>,
    Path(order): Path<Uuid>,
    Body(progress): Body<RestoreProgress>,
) -> Result<Json<RestoreProgress>, Refusal> {
    let is_wanted =
        restore_orders::put_progress(&api.world.db.pool, kept.0, order, &progress).await?;
    if !is_wanted {
        return Err(Refusal::not_found("order to restore", &order.to_string()));
    }
    api.engine.nudge();
    Ok(Json(progress))
}
