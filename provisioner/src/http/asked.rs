//! Work on a site that somebody asked for: what it would do, and how it is recorded.

use axum::{
    Json,
    http::StatusCode,
    response::{IntoResponse as _, Response},
};
use control_types::{OperationId, SiteId};
use provisioner_api::sites::DryRun;
use serde_json::Value;

use crate::{
    control_db::{
        operations::{self as records, NewOperation},
        sites,
    },
    engine::Kind,
    http::{
        Api,
        auth::Actor,
        refusal::Refusal,
        sites::{accepted, insert_operation, to_json},
    },
    operations::dry_run,
};

/// Who asked for what.
pub struct Asked<'a> {
    /// The site.
    pub site: SiteId,
    /// Who.
    pub actor: &'a Actor,
    /// Why.
    pub reason: Option<&'a str>,
    /// The same key again is the same request.
    pub key: Option<&'a str>,
}

/// What an operation would do, and how long others of its kind took.
pub async fn plan<K: Kind>(api: &Api, params: &K::Params) -> Result<DryRun, Refusal> {
    let took = records::typical_ms(&api.world.db.pool, K::KIND).await?;
    Ok(dry_run::<K>(params, took))
}

/// Records an operation, with `action` in the audit trail.
pub async fn record<K: Kind>(
    api: &Api,
    asked: &Asked<'_>,
    action: &str,
    params: &K::Params,
    detail: Value,
) -> Result<Response, Refusal> {
    let operation = OperationId::generate();
    let mut tx = api.world.db.pool.begin().await?;
    sites::lock_state(&mut tx, asked.site).await?;
    let new = NewOperation {
        id: operation,
        kind: K::KIND,
        site: asked.site,
        params: to_json(params)?,
        requested_by: &asked.actor.0,
        reason: asked.reason,
        idempotency_key: asked.key,
    };
    insert_operation(&mut tx, &new, action, detail).await?;
    tx.commit().await?;
    api.engine.nudge();
    Ok((StatusCode::ACCEPTED, Json(accepted(api, operation).await?)).into_response())
}
