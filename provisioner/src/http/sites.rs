//! `/v1/sites`. Creating one is in `create`.

mod create;

pub use create::create;

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use control_types::{
    OperationId,
    state::{OperationKind, SiteState},
};
use provisioner_api::{
    backups::RestoreWindow,
    sites::{Accepted, ChangeSite, DeleteSite, Site},
};
use serde_json::json;
use sqlx::PgConnection;
use time::OffsetDateTime;

use crate::{
    backups,
    control_db::{
        audit::{self, AuditEvent},
        cluster_backups,
        instances::{self, Whose},
        operations::{self as records, InsertOperationError, NewOperation},
        places, restore_proofs, sites as records_of_sites,
    },
    http::{Api, auth::Actor, refusal::Refusal, validate::Body},
    operations::{
        delete_site::{DeleteSite as Delete, DeleteSiteParams},
        dry_run,
    },
};

/// All sites that are not deleted.
pub async fn list(State(api): State<Api>) -> Result<Json<Vec<Site>>, Refusal> {
    Ok(Json(records_of_sites::list(&api.world.db.pool).await?))
}

/// One site.
pub async fn show(State(api): State<Api>, Path(site): Path<String>) -> Result<Json<Site>, Refusal> {
    let mut site = find(&api, &site).await?;
    let pool = &api.world.db.pool;
    if let Some(reach) = cluster_backups::reach(pool, site.id).await?
        && let Some(known) = cluster_backups::known(pool, reach.cluster).await?
    {
        let window = backups::restore_window(&known, &reach, OffsetDateTime::now_utc());
        let proof = restore_proofs::get(pool, site.id).await?;
        site.restorable = window.map(|window| RestoreWindow { proof, ..window });
    }
    Ok(Json(site))
}

/// Deletes a site after its grace period.
pub async fn delete(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(site): Path<String>,
    headers: HeaderMap,
    Body(request): Body<DeleteSite>,
) -> Result<Response, Refusal> {
    let key = idempotency_key(&headers)?;
    if let Some(known) = same_request(&api, key, OperationKind::DeleteSite).await? {
        return Ok((StatusCode::ACCEPTED, Json(known)).into_response());
    }
    let site = find(&api, &site).await?;
    let pool = &api.world.db.pool;
    let grace_period_secs = match request.grace_period_secs {
        Some(secs) if secs < 0 => {
            return Err(Refusal::invalid("grace_period_secs", "a grace period is not negative"));
        }
        Some(secs) => secs,
        // Another one is made in a minute.
        None if site.preview_of.is_some() => 0,
        None => places::grace_period_secs(pool, &site.plan).await?.unwrap_or(0),
    };
    let params = DeleteSiteParams { grace_period_secs };
    if request.dry_run {
        refuse_if_not_deletable(site.state, &site)?;
        let took = records::typical_ms(pool, OperationKind::DeleteSite).await?;
        return Ok(Json(dry_run::<Delete>(&params, took)).into_response());
    }
    let operation = OperationId::generate();
    let mut tx = pool.begin().await?;
    let state = records_of_sites::lock_state(&mut tx, site.id).await?.unwrap_or(site.state);
    refuse_if_not_deletable(state, &site)?;
    let new = NewOperation {
        id: operation,
        kind: OperationKind::DeleteSite,
        site: site.id,
        params: to_json(&params)?,
        requested_by: &actor.0,
        reason: request.reason.as_deref(),
        idempotency_key: key,
    };
    let detail = json!({ "slug": site.slug, "grace_period_secs": grace_period_secs });
    insert_operation(&mut tx, &new, "site.delete", detail).await?;
    tx.commit().await?;
    api.engine.nudge();
    Ok((StatusCode::ACCEPTED, Json(accepted(&api, operation).await?)).into_response())
}

fn refuse_if_not_deletable(state: SiteState, site: &Site) -> Result<(), Refusal> {
    match state {
        SiteState::Active | SiteState::Suspended => Ok(()),
        SiteState::Creating | SiteState::Deleting | SiteState::Deleted => {
            let detail = format!("site '{}' is {state}", site.slug);
            Err(Refusal::conflict("wrong-state", "Not possible in this state", detail))
        }
    }
}

/// Closes a site that serves.
pub async fn suspend(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(site): Path<String>,
    Body(request): Body<ChangeSite>,
) -> Result<Json<Site>, Refusal> {
    change(&api, &actor, &site, &request, SiteState::Active, SiteState::Suspended).await
}

/// Opens a suspended site again.
pub async fn resume(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(site): Path<String>,
    Body(request): Body<ChangeSite>,
) -> Result<Json<Site>, Refusal> {
    change(&api, &actor, &site, &request, SiteState::Suspended, SiteState::Active).await
}

/// The one transition that needs no operation: it is a single transaction, and undone by its
/// opposite.
async fn change(
    api: &Api,
    actor: &Actor,
    site: &str,
    request: &ChangeSite,
    from: SiteState,
    to: SiteState,
) -> Result<Json<Site>, Refusal> {
    let site = find(api, site).await?;
    let mut tx = api.world.db.pool.begin().await?;
    let state = records_of_sites::lock_state(&mut tx, site.id).await?.unwrap_or(site.state);
    if state == to {
        return Ok(Json(site));
    }
    if state != from || site.live_operation.is_some() {
        let detail = match site.live_operation {
            Some(id) => format!("operation {id} on site '{}' is unfinished", site.slug),
            None => format!("site '{}' is {state}, not {from}", site.slug),
        };
        return Err(Refusal::conflict("wrong-state", "Not possible in this state", detail));
    }
    let reason = request.reason.as_deref();
    let action = if to == SiteState::Suspended {
        records_of_sites::suspend(&mut tx, site.id, reason).await?;
        instances::want_absent(&mut tx, Whose::Site(site.id)).await?;
        "site.suspend"
    } else {
        records_of_sites::set_state(&mut tx, site.id, &[from], to).await?;
        instances::want_listening(&mut tx, Whose::Site(site.id)).await?;
        "site.resume"
    };
    let event = AuditEvent {
        actor: &actor.0,
        action,
        site: Some(site.id),
        operation: None,
        reason,
        detail: json!({ "slug": site.slug }),
    };
    audit::append(&mut tx, event).await?;
    tx.commit().await?;
    api.nudges.all();
    Ok(Json(find(api, site.slug.as_str()).await?))
}

pub(super) async fn insert_operation(
    connection: &mut PgConnection,
    new: &NewOperation<'_>,
    action: &str,
    detail: serde_json::Value,
) -> Result<(), Refusal> {
    records::insert(connection, new).await.map_err(|error| match error {
        InsertOperationError::SiteBusy => Refusal::conflict(
            "operation-in-progress",
            "The site is busy",
            "another operation on this site is unfinished; wait for it or cancel it",
        ),
        InsertOperationError::Repeated => Refusal::conflict(
            "repeated",
            "The same request is being recorded",
            "the same idempotency key was just used; ask again",
        ),
        InsertOperationError::Database(error) => error.into(),
    })?;
    let event = AuditEvent {
        actor: new.requested_by,
        action,
        site: Some(new.site),
        operation: Some(new.id),
        reason: new.reason,
        detail,
    };
    Ok(audit::append(connection, event).await?)
}

pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, Refusal> {
    let Some(value) = headers.get("idempotency-key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=200).contains(&key.len()) => Ok(Some(key)),
        _ => Err(Refusal::invalid(
            "idempotency-key",
            "an idempotency key has 1 to 200 printable ASCII characters",
        )),
    }
}

/// What an earlier request with the same key began.
pub(super) async fn same_request(
    api: &Api,
    key: Option<&str>,
    kind: OperationKind,
) -> Result<Option<Accepted>, Refusal> {
    let Some(key) = key else { return Ok(None) };
    let Some(id) = records::by_key(&api.world.db.pool, key).await? else { return Ok(None) };
    let known = accepted(api, id).await?;
    if known.operation.kind != kind {
        return Err(Refusal::conflict(
            "key-reused",
            "The idempotency key was used for something else",
            format!("operation {id} has this key; use a new one"),
        )
        .field("idempotency-key"));
    }
    Ok(Some(known))
}

pub(super) async fn accepted(api: &Api, id: OperationId) -> Result<Accepted, Refusal> {
    let pool = &api.world.db.pool;
    let refuse = || Refusal::not_found("operation", &id.to_string());
    let operation = records::get(pool, id).await?.ok_or_else(refuse)?;
    let site = records_of_sites::get(pool, operation.site_id).await?.ok_or_else(refuse)?;
    Ok(Accepted { operation, site, invitation_url: None })
}

/// A site by slug or id.
pub async fn find(api: &Api, site: &str) -> Result<Site, Refusal> {
    let pool = &api.world.db.pool;
    let refuse = || Refusal::not_found("site", site);
    let id = records_of_sites::find(pool, site).await?.ok_or_else(refuse)?;
    records_of_sites::get(pool, id).await?.ok_or_else(refuse)
}

/// A preview is looked at until it goes, and that is all.
pub(super) fn refuse_preview(site: &Site) -> Result<(), Refusal> {
    if site.preview_of.is_none() {
        return Ok(());
    }
    let detail = format!("'{}' is a preview: it can be looked at and deleted", site.slug);
    Err(Refusal::conflict("preview", "Not possible with a preview", detail))
}

pub(super) fn to_json(params: &impl serde::Serialize) -> Result<serde_json::Value, Refusal> {
    serde_json::to_value(params).map_err(|error| Refusal::internal(&error))
}
