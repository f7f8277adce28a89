//! `/v1/sites/{site}/move`, `/move-back`, `/settle` and `/records`: a site at another place.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use control_types::state::OperationKind;
use provisioner_api::{
    Site,
    sites::{ChangeMove, DryRun, MoveSite, SiteRecord},
};
use serde_json::json;

use crate::{
    control_db::{placements, places, site_records},
    engine::StepError,
    http::{
        Api,
        asked::{Asked, plan, record},
        auth::Actor,
        refusal::Refusal,
        sites::{find, idempotency_key, refuse_preview, same_request},
        validate::Body,
    },
    operations::{
        dry_run,
        move_site::{
            MoveSite as Move, MoveSiteParams, Pace,
            preflight::{self, Estimate, Findings},
        },
        move_site_back::{MoveSiteBack, MoveSiteBackParams},
        retire_placement::{RetirePlacement, RetirePlacementParams},
    },
};

/// Moves a site while people use it.
pub async fn begin(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(site): Path<String>,
    headers: HeaderMap,
    Body(request): Body<MoveSite>,
) -> Result<Response, Refusal> {
    let key = idempotency_key(&headers)?;
    if let Some(known) = same_request(&api, key, OperationKind::MoveSite).await? {
        return Ok((StatusCode::ACCEPTED, Json(known)).into_response());
    }
    let site = find(&api, &site).await?;
    refuse_preview(&site)?;
    let params = params_of(&api, &site, &request).await?;
    let mut findings = preflight::look(&api.world, site.id, &params).await.map_err(refused)?;
    findings.problems.append(&mut findings.away);
    if request.dry_run {
        return Ok(Json(planned(&params, findings)).into_response());
    }
    if !findings.problems.is_empty() {
        let detail = findings.problems.join("; ");
        return Err(Refusal::conflict("cannot-move", "The site cannot be moved now", detail));
    }
    let detail = json!({
        "slug": site.slug, "region": params.region, "cluster": params.cluster,
    });
    let asked = Asked { site: site.id, actor: &actor, reason: request.reason.as_deref(), key };
    record::<Move>(&api, &asked, "site.move", &params, detail).await
}

/// Moves a site back to where it was before its last move.
pub async fn back(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(site): Path<String>,
    headers: HeaderMap,
    Body(request): Body<ChangeMove>,
) -> Result<Response, Refusal> {
    let key = idempotency_key(&headers)?;
    if let Some(known) = same_request(&api, key, OperationKind::MoveSiteBack).await? {
        return Ok((StatusCode::ACCEPTED, Json(known)).into_response());
    }
    let site = find(&api, &site).await?;
    let Some(way_back) = &site.way_back else { return Err(no_way_back(&site)) };
    let params = MoveSiteBackParams { region: way_back.region.clone() };
    if request.dry_run {
        return Ok(Json(plan::<MoveSiteBack>(&api, &params).await?).into_response());
    }
    let detail = json!({ "slug": site.slug, "region": params.region });
    let asked = Asked { site: site.id, actor: &actor, reason: request.reason.as_deref(), key };
    record::<MoveSiteBack>(&api, &asked, "site.move_back", &params, detail).await
}

/// Removes what a site left at its old place, before its time.
pub async fn settle(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(site): Path<String>,
    headers: HeaderMap,
    Body(request): Body<ChangeMove>,
) -> Result<Response, Refusal> {
    let key = idempotency_key(&headers)?;
    if let Some(known) = same_request(&api, key, OperationKind::RetirePlacement).await? {
        return Ok((StatusCode::ACCEPTED, Json(known)).into_response());
    }
    let site = find(&api, &site).await?;
    let mut connection = api.world.db.pool.acquire().await?;
    let following = placements::following(&mut connection, site.id).await?;
    drop(connection);
    let Some(old) = following.map(|kept| kept.placement) else { return Err(no_way_back(&site)) };
    let params = RetirePlacementParams { placement: old.id, region: old.region };
    if request.dry_run {
        return Ok(Json(plan::<RetirePlacement>(&api, &params).await?).into_response());
    }
    let detail = json!({ "slug": site.slug, "region": params.region });
    let asked = Asked { site: site.id, actor: &actor, reason: request.reason.as_deref(), key };
    record::<RetirePlacement>(&api, &asked, "site.settle", &params, detail).await
}

/// What was proven of a site, the oldest first.
pub async fn records(
    State(api): State<Api>,
    Path(site): Path<String>,
) -> Result<Json<Vec<SiteRecord>>, Refusal> {
    let site = find(&api, &site).await?;
    let records = site_records::of_site(&api.world.db.pool, site.id).await?;
    let shown = records.into_iter().map(|record| SiteRecord {
        operation: record.operation,
        kind: record.kind,
        document: record.document,
        signature: STANDARD.encode(record.signature),
        created_at: record.created_at,
    });
    Ok(Json(shown.collect()))
}

async fn params_of(api: &Api, site: &Site, request: &MoveSite) -> Result<MoveSiteParams, Refusal> {
    let here = site.placement.as_ref().ok_or_else(|| {
        let detail = format!("site '{}' has no place yet", site.slug);
        Refusal::conflict("wrong-state", "Not possible in this state", detail)
    })?;
    let region = request.region.clone().unwrap_or_else(|| here.region.clone());
    let regions = places::regions(&api.world.db.pool).await?;
    if !regions.iter().any(|known| known.name == region) {
        let known: Vec<_> = regions.iter().map(|region| region.name.as_str()).collect();
        let detail = format!("there is no region '{region}'; there are {}", known.join(", "));
        return Err(Refusal::invalid("region", detail));
    }
    if region == here.region && request.cluster.is_none() {
        let detail = format!("the site is in {region}: name another region, or a cluster");
        return Err(Refusal::invalid("region", detail));
    }
    if request.cluster.as_deref() == Some(here.cluster.as_str()) {
        let detail = format!("the site is on cluster {} already", here.cluster);
        return Err(Refusal::invalid("cluster", detail));
    }
    Ok(MoveSiteParams {
        region,
        cluster: request.cluster.clone(),
        not_before: request.not_before,
        when_quiet: request.when_quiet,
        pace: Pace::asked(request.fast),
    })
}

/// What a move would do: how much there is counts for more than how long others took.
fn planned(params: &MoveSiteParams, findings: Findings) -> DryRun {
    let Findings { problems, waits, estimate, .. } = findings;
    let Estimate { bytes, copy_ms, pause_ms } = estimate;
    DryRun {
        problems,
        waits,
        bytes: Some(bytes),
        pause_ms: Some(pause_ms),
        ..dry_run::<Move>(params, Some(copy_ms))
    }
}

fn no_way_back(site: &Site) -> Refusal {
    let detail = format!(
        "site '{}' has no way back: it was not moved, or its old place was removed since",
        site.slug
    );
    Refusal::conflict("no-way-back", "There is no way back", detail)
}

fn refused(error: StepError) -> Refusal {
    match error {
        StepError::Retry(error) | StepError::Fail(error) => {
            Refusal::conflict("cannot-move", "The site cannot be moved now", format!("{error:#}"))
        }
        StepError::LostClaim => {
            Refusal::conflict("cannot-move", "The site cannot be moved now", "ask again")
        }
    }
}
