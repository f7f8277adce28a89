//! `/v1/operations`.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::{Path, Query, State},
};
use control_types::{OperationId, state::OperationState};
use provisioner_api::operations::{Operation, OperationFilter, OperationNews};
use serde::Deserialize;
use serde_json::json;

use crate::{
    control_db::{
        audit::{self, AuditEvent},
        operations, sites,
    },
    http::{Api, auth::Actor, refusal::Refusal},
};

/// Longest wait for news, in seconds.
const MAX_WAIT_SECS: u64 = 60;
/// How often to look for news that another provisioner noted.
const POLL: Duration = Duration::from_secs(1);

/// Operations, the newest first.
pub async fn list(
    State(api): State<Api>,
    Query(filter): Query<OperationFilter>,
) -> Result<Json<Vec<Operation>>, Refusal> {
    let pool = &api.world.db.pool;
    let site = match &filter.site {
        None => None,
        Some(name) => {
            let found = sites::find(pool, name).await?;
            Some(found.ok_or_else(|| Refusal::not_found("site", name))?)
        }
    };
    Ok(Json(operations::list(pool, site, &filter).await?))
}

/// One operation.
pub async fn show(
    State(api): State<Api>,
    Path(id): Path<String>,
) -> Result<Json<Operation>, Refusal> {
    Ok(Json(find(&api, &id).await?))
}

/// Where in an operation's log, and how long to wait for more.
#[derive(Deserialize)]
pub struct After {
    #[serde(default)]
    after_seq: i32,
    #[serde(default)]
    wait_secs: u64,
}

/// What happened in an operation after a place in its log; waits for something to happen.
pub async fn events(
    State(api): State<Api>,
    Path(id): Path<String>,
    Query(after): Query<After>,
) -> Result<Json<OperationNews>, Refusal> {
    let mut news = api.engine.news();
    let wait = Duration::from_secs(after.wait_secs.min(MAX_WAIT_SECS));
    let until = tokio::time::Instant::now() + wait;
    loop {
        news.mark_unchanged();
        // Events first: the operation is then never older than the newest event.
        let parsed = id.parse().map_err(|_| Refusal::not_found("operation", &id))?;
        let events = operations::events(&api.world.db.pool, parsed, after.after_seq).await?;
        let operation = find(&api, &id).await?;
        let now = tokio::time::Instant::now();
        let ended = operation.state.is_final()
            || operation.state == OperationState::Stuck
            || api.shutdown.is_cancelled();
        if !events.is_empty() || ended || now >= until {
            return Ok(Json(OperationNews { operation, events }));
        }
        tokio::select! {
            _ = news.changed() => {}
            () = tokio::time::sleep_until(until.min(now + POLL)) => {}
            () = api.shutdown.cancelled() => {}
        }
    }
}

/// Asks an operation to stop and undo what it did.
pub async fn cancel(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<Operation>, Refusal> {
    let operation = find(&api, &id).await?;
    let mut tx = api.world.db.pool.begin().await?;
    if !operations::request_cancel(&mut tx, operation.id, &actor.0).await? {
        let detail = if operation.state.is_final() {
            format!("operation {id} has ended: {}", operation.state)
        } else {
            format!("operation {id} can only go forward now")
        };
        return Err(Refusal::conflict("too-late", "Too late to cancel", detail));
    }
    note(&mut tx, &actor, "operation.cancel", &operation).await?;
    tx.commit().await?;
    api.engine.nudge();
    Ok(Json(find(&api, &id).await?))
}

/// Lets a stuck operation try again.
pub async fn retry(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(id): Path<String>,
) -> Result<Json<Operation>, Refusal> {
    let operation = find(&api, &id).await?;
    let mut tx = api.world.db.pool.begin().await?;
    if !operations::retry(&mut tx, operation.id).await? {
        let detail = format!("operation {id} is {}, not stuck", operation.state);
        return Err(Refusal::conflict("not-stuck", "The operation is not stuck", detail));
    }
    note(&mut tx, &actor, "operation.retry", &operation).await?;
    tx.commit().await?;
    api.engine.nudge();
    Ok(Json(find(&api, &id).await?))
}

async fn note(
    connection: &mut sqlx::PgConnection,
    actor: &Actor,
    action: &str,
    operation: &Operation,
) -> Result<(), sqlx::Error> {
    let event = AuditEvent {
        actor: &actor.0,
        action,
        site: Some(operation.site_id),
        operation: Some(operation.id),
        reason: None,
        detail: json!({}),
    };
    audit::append(connection, event).await
}

async fn find(api: &Api, id: &str) -> Result<Operation, Refusal> {
    let refuse = || Refusal::not_found("operation", id);
    let id: OperationId = id.parse().map_err(|_| refuse())?;
    operations::get(&api.world.db.pool, id).await?.ok_or_else(refuse)
}
