//! `/v1/sites/{site}/hold` and `/v1/routers/{name}/status`: what routers do.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use control_types::state::SiteState;
use provisioner_api::{
    Site,
    routers::{HoldSite, RouterHold, RouterStatus, SiteHold},
    sites::ChangeSite,
};
use serde_json::json;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    control_db::{
        audit::{self, AuditEvent},
        holds, places, sites as records,
    },
    engine::worker::chain,
    http::{Api, auth::Actor, refusal::Refusal, sites::find, validate::Body},
};

/// Longest hold, in seconds. No router lets a request wait for longer.
const LONGEST_SECS: u32 = 30;
/// How long routers may take to hear of a hold before the answer goes out without them.
const PATIENCE: Duration = Duration::from_secs(3);
/// How soon they are asked again.
const PAUSE: Duration = Duration::from_millis(50);

/// Lets the requests of a site wait. Answers when all routers do so, or when some do not in time.
pub async fn hold(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(site): Path<String>,
    Body(request): Body<HoldSite>,
) -> Result<Json<SiteHold>, Refusal> {
    if !(1..=LONGEST_SECS).contains(&request.seconds) {
        let detail = format!("a hold lasts 1 to {LONGEST_SECS} seconds");
        return Err(Refusal::invalid("seconds", detail));
    }
    let site = find(&api, &site).await?;
    let id = Uuid::now_v7();
    let mut tx = api.world.db.pool.begin().await?;
    let state = records::lock_state(&mut tx, site.id).await?.unwrap_or(site.state);
    if state != SiteState::Active {
        let detail = format!("site '{}' is {state}: nobody's requests would wait", site.slug);
        return Err(Refusal::conflict("wrong-state", "Not possible in this state", detail));
    }
    refuse_if_busy(&site)?;
    let longest = Duration::from_secs(request.seconds.into());
    let deadline = holds::put(&mut tx, site.id, id, longest).await?;
    let event = AuditEvent {
        actor: &actor.0,
        action: "site.hold",
        site: Some(site.id),
        operation: None,
        reason: request.reason.as_deref(),
        detail: json!({ "slug": site.slug, "seconds": request.seconds }),
    };
    audit::append(&mut tx, event).await?;
    tx.commit().await?;
    let routers = once(&api, &site, |router| router.is_held(id)).await?;
    Ok(Json(SiteHold { site: site.slug, id: Some(id), deadline: Some(deadline), routers }))
}

/// Lets them go on.
pub async fn release(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(site): Path<String>,
    Body(request): Body<ChangeSite>,
) -> Result<Json<SiteHold>, Refusal> {
    let site = find(&api, &site).await?;
    refuse_if_busy(&site)?;
    let mut tx = api.world.db.pool.begin().await?;
    if holds::remove(&mut tx, site.id).await? {
        let event = AuditEvent {
            actor: &actor.0,
            action: "site.release",
            site: Some(site.id),
            operation: None,
            reason: request.reason.as_deref(),
            detail: json!({ "slug": site.slug }),
        };
        audit::append(&mut tx, event).await?;
    }
    tx.commit().await?;
    let routers = once(&api, &site, |router| router.problem.is_none() && router.hold.is_none());
    let routers = routers.await?;
    Ok(Json(SiteHold { site: site.slug, id: None, deadline: None, routers }))
}

/// The hold of an operation is the operation's.
fn refuse_if_busy(site: &Site) -> Result<(), Refusal> {
    match site.live_operation {
        None => Ok(()),
        Some(id) => Err(Refusal::conflict(
            "operation-in-progress",
            "The site is busy",
            format!("operation {id} on site '{}' is unfinished", site.slug),
        )),
    }
}

/// What the routers say once all are as `wished`, or as they are in the end.
async fn once(
    api: &Api,
    site: &Site,
    wished: impl Fn(&RouterHold) -> bool,
) -> Result<Vec<RouterHold>, Refusal> {
    let end = Instant::now() + PATIENCE;
    loop {
        let routers = api.world.drained(site.id).await?;
        if routers.iter().all(&wished) || Instant::now() >= end {
            return Ok(routers);
        }
        sleep(PAUSE).await;
    }
}

/// How a router is.
pub async fn router_status(
    State(api): State<Api>,
    Path(name): Path<String>,
) -> Result<Json<RouterStatus>, Refusal> {
    let routers = places::routers(&api.world.db.pool).await?;
    let router = routers
        .into_iter()
        .find(|router| router.name == name)
        .ok_or_else(|| Refusal::not_found("router", &name))?;
    let status = api.world.router_status(&router).await.map_err(|error| {
        let detail = format!("router '{name}' does not tell how it is: {}", chain(&error));
        Refusal::unavailable(&format!("router {name}"), detail)
    })?;
    Ok(Json(status))
}
