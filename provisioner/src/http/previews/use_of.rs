//! What is done with a preview that is there: it is compared with its site, or becomes it; and that is
//! undone.

use axum::{
    Extension, Json,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use control_types::state::{OperationKind, SiteState};
use provisioner_api::{Site, previews::Comparison, sites::ChangeMove};
use serde::Deserialize;
use serde_json::json;
use time::OffsetDateTime;

use crate::{
    control_db::{
        operations as records,
        placements::{self, Placement},
        previews::{self, PreviewRow, Which},
        sites as records_of_sites,
    },
    engine::worker::chain,
    http::{
        Api,
        asked::{Asked, plan, record},
        auth::Actor,
        refusal::Refusal,
        sites::{find, idempotency_key, same_request},
        validate::Body,
    },
    operations::{
        create_preview::CreatePreviewParams,
        restore_site::{self, RestoreSite, RestoreSiteParams},
        undo_restore::{UndoRestore, UndoRestoreParams},
    },
    site_database::SiteDatabaseName,
};

/// Differences that are named for each kind of things, and the most that can be asked for.
const LISTED: usize = 20;
const MOST_LISTED: usize = 1000;

async fn find_preview(api: &Api, name: &str) -> Result<PreviewRow, Refusal> {
    let pool = &api.world.db.pool;
    let no_preview = || Refusal::not_found("preview", name);
    let id = records_of_sites::find(pool, name).await?.ok_or_else(no_preview)?;
    previews::list(pool, Which::Itself(id)).await?.pop().ok_or_else(no_preview)
}

/// How many differences are named for each kind of things.
#[derive(Deserialize)]
pub struct List {
    list: Option<usize>,
}

/// What differs between a preview and its site.
pub async fn compare(
    State(api): State<Api>,
    Path(preview): Path<String>,
    Query(asked): Query<List>,
) -> Result<Json<Comparison>, Refusal> {
    let pool = &api.world.db.pool;
    let row = find_preview(&api, &preview).await?;
    let mut connection = pool.acquire().await?;
    let then = placements::current(&mut connection, row.site).await?;
    let now = placements::current(&mut connection, row.of).await?;
    drop(connection);
    let (Some(then), Some(now)) = (then, now) else {
        let detail = format!("the preview is {}: it must be there, and its site too", row.state);
        return Err(Refusal::conflict("wrong-state", "Not possible in this state", detail));
    };
    let name = |placement: &Placement| -> Result<SiteDatabaseName, Refusal> {
        placement.database_name.parse().map_err(|error| Refusal::internal(&error))
    };
    let cluster_then = api.world.clusters.get(then.cluster).await?;
    let cluster_now = api.world.clusters.get(now.cluster).await?;
    let list = asked.list.unwrap_or(LISTED).min(MOST_LISTED);
    let read_at = OffsetDateTime::now_utc();
    let comparing =
        cluster_now.then_and_now(&name(&now)?, &cluster_then, &name(&then)?, list).await;
    let nouns =
        comparing.map_err(|error| Refusal::unavailable(&error.component(), chain(&error)))?;
    Ok(Json(Comparison {
        preview: row.slug.parse().map_err(|error| Refusal::internal(&error))?,
        of_slug: row.of_slug,
        moment: row.moment,
        read_at,
        nouns,
    }))
}

/// Makes the site what its preview shows.
pub async fn promote(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(preview): Path<String>,
    headers: HeaderMap,
    Body(request): Body<ChangeMove>,
) -> Result<Response, Refusal> {
    let key = idempotency_key(&headers)?;
    if let Some(known) = same_request(&api, key, OperationKind::RestoreSite).await? {
        return Ok((StatusCode::ACCEPTED, Json(known)).into_response());
    }
    let preview = find_preview(&api, &preview).await?;
    if preview.state != SiteState::Active {
        let detail = format!("the preview is {}, and must be there to be looked at", preview.state);
        return Err(Refusal::conflict("wrong-state", "Not possible in this state", detail));
    }
    let pool = &api.world.db.pool;
    let made = records::params_of_making(pool, preview.site, OperationKind::CreatePreview).await?;
    let made = made.ok_or_else(|| Refusal::not_found("preview", &preview.slug))?;
    let made: CreatePreviewParams =
        serde_json::from_value(made).map_err(|error| Refusal::internal(&error))?;
    let params = RestoreSiteParams { past: made.past, preview: preview.slug.clone() };
    let of = records_of_sites::get(pool, preview.of).await?;
    refuse_unless_active(of.as_ref())?;
    if let Some(problem) = restore_site::obstacle(&api.world, &params.past).await? {
        let title = "The site cannot be put back";
        return Err(Refusal::conflict("cannot-restore", title, problem));
    }
    if request.dry_run {
        return Ok(Json(plan::<RestoreSite>(&api, &params).await?).into_response());
    }
    let detail = json!({
        "slug": preview.of_slug, "preview": preview.slug,
        "moment": preview.moment.unix_timestamp(),
    });
    let asked = Asked { site: preview.of, actor: &actor, reason: request.reason.as_deref(), key };
    record::<RestoreSite>(&api, &asked, "site.restore", &params, detail).await
}

/// Makes the site again what it was before it was put back.
pub async fn undo(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(site): Path<String>,
    headers: HeaderMap,
    Body(request): Body<ChangeMove>,
) -> Result<Response, Refusal> {
    let key = idempotency_key(&headers)?;
    if let Some(known) = same_request(&api, key, OperationKind::UndoRestore).await? {
        return Ok((StatusCode::ACCEPTED, Json(known)).into_response());
    }
    let site = find(&api, &site).await?;
    refuse_unless_active(Some(&site))?;
    if site.undo_restore_until.is_none() {
        let detail = format!(
            "site '{}' was not put back to an earlier moment, or what was before is removed since",
            site.slug
        );
        return Err(Refusal::conflict("nothing-to-undo", "There is nothing to undo", detail));
    }
    let params = UndoRestoreParams {};
    if request.dry_run {
        return Ok(Json(plan::<UndoRestore>(&api, &params).await?).into_response());
    }
    let asked = Asked { site: site.id, actor: &actor, reason: request.reason.as_deref(), key };
    let detail = json!({ "slug": site.slug });
    record::<UndoRestore>(&api, &asked, "site.undo_restore", &params, detail).await
}

/// A closed site is not put back: nobody could look at what became of it.
fn refuse_unless_active(site: Option<&Site>) -> Result<(), Refusal> {
    match site.map(|site| site.state) {
        Some(SiteState::Active) => Ok(()),
        state => {
            let state = state.map_or_else(|| "gone".to_owned(), |state| state.to_string());
            let detail = format!("the site is {state}: it must be active");
            Err(Refusal::conflict("wrong-state", "Not possible in this state", detail))
        }
    }
}
