//! `/v1/sites/{site}/domains`: claiming, checking, preferring and giving up hostnames.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::StatusCode,
};
use control_types::{
    Hostname, SiteId,
    state::{DomainKind, DomainProof, DomainState, SiteState},
};
use provisioner_api::{
    domains::{AddDomain, ChangeDomain, DomainDetail},
    sites::Site,
};
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::{
    control_db::{
        audit::{self, AuditEvent},
        domains::{self as records, Claim, ClaimHostnameError, NewDomain, checks},
        sites as records_of_sites,
    },
    domain_check,
    http::{
        Api,
        auth::Actor,
        refusal::Refusal,
        sites::{find, refuse_preview},
        validate::{self, Body},
    },
};

/// The hostnames of a site.
pub async fn list(
    State(api): State<Api>,
    Path(site): Path<String>,
) -> Result<Json<Vec<DomainDetail>>, Refusal> {
    let site = find(&api, &site).await?;
    Ok(Json(records::list(&api.world.db.pool, site.id).await?))
}

/// One hostname, and whether the routers have it.
pub async fn show(
    State(api): State<Api>,
    Path((site, hostname)): Path<(String, String)>,
) -> Result<Json<DomainDetail>, Refusal> {
    let site = find(&api, &site).await?;
    let mut domain = detail(&api, &site, &name(&hostname)?).await?;
    domain.routed = Some(is_routed(&api, &site, domain.state).await);
    Ok(Json(domain))
}

async fn is_routed(api: &Api, site: &Site, state: DomainState) -> bool {
    let region = site.placement.as_ref().map(|placement| placement.region.as_str());
    match (state, region) {
        (DomainState::Active, Some(region)) => {
            matches!(api.world.routers_behind(site.id, region).await, Ok(None))
        }
        _ => false,
    }
}

/// Claims a hostname.
pub async fn add(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(site): Path<String>,
    Body(request): Body<AddDomain>,
) -> Result<(StatusCode, Json<DomainDetail>), Refusal> {
    let site = find(&api, &site).await?;
    refuse_preview(&site)?;
    let platform = &api.world.platform_domain;
    let hostname = validate::custom_domain("hostname", &request.hostname, platform)?;
    let mut tx = api.world.db.pool.begin().await?;
    lock(&mut tx, &site).await?;
    let is_new = match records::find(&mut tx, site.id, &hostname).await? {
        Some(claim) => {
            vouch_for(&mut tx, &claim, &hostname, &request).await?;
            false
        }
        None => {
            claim(&mut tx, &site, &hostname, &request).await?;
            true
        }
    };
    let detail_of_event = json!({
        "hostname": hostname,
        "vouched": request.vouched,
        "primary": request.primary,
    });
    let action = if is_new { "domain.add" } else { "domain.vouch" };
    note(&mut tx, &actor, action, site.id, request.reason.as_deref(), detail_of_event).await?;
    tx.commit().await?;
    api.nudges.all();
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(detail(&api, &site, &hostname).await?)))
}

/// A claim that the site has already can still be vouched for; anything else is a mistake.
async fn vouch_for(
    connection: &mut PgConnection,
    claim: &Claim,
    hostname: &Hostname,
    request: &AddDomain,
) -> Result<(), Refusal> {
    if !request.vouched || claim.state != DomainState::Pending {
        return Err(refuse_claim(ClaimHostnameError::Repeated(hostname.clone())));
    }
    if request.primary {
        records::want_primary(connection, claim.id).await?;
    }
    let verified = records::verify(connection, claim.id, hostname, DomainProof::Vouched).await;
    verified.map(drop).map_err(refuse_claim)
}

async fn claim(
    connection: &mut PgConnection,
    site: &Site,
    hostname: &Hostname,
    request: &AddDomain,
) -> Result<(), Refusal> {
    let (n, most, plan) = records::count(connection, site.id).await?;
    if n >= i64::from(most) {
        let detail = match most {
            0 => format!("plan '{plan}' has no domains of one's own"),
            _ => format!(
                "site '{}' has {n} domains of its own, and plan '{plan}' allows {most}; remove \
                 one, or change the plan",
                site.slug
            ),
        };
        let title = "The plan allows no more domains";
        return Err(Refusal::conflict("plan-limit", title, detail).field("hostname"));
    }
    let new = NewDomain {
        site: site.id,
        hostname,
        kind: DomainKind::Custom,
        proof: request.vouched.then_some(DomainProof::Vouched),
        primary_when_active: request.primary,
    };
    records::insert(connection, &new).await.map_err(refuse_claim)
}

fn refuse_claim(error: ClaimHostnameError) -> Refusal {
    let refusal = match error {
        ClaimHostnameError::Taken(hostname) => Refusal::conflict(
            "hostname-taken",
            "The hostname is taken",
            format!("'{hostname}' belongs to another site; it has to be removed there first"),
        ),
        ClaimHostnameError::Repeated(hostname) => Refusal::conflict(
            "hostname-claimed",
            "The site has the hostname already",
            format!("the site has '{hostname}' already"),
        ),
        ClaimHostnameError::Database(error) => return error.into(),
    };
    refusal.field("hostname")
}

/// Looks into the DNS now.
pub async fn check(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path((site, hostname)): Path<(String, String)>,
) -> Result<Json<DomainDetail>, Refusal> {
    let site = find(&api, &site).await?;
    let hostname = name(&hostname)?;
    let pool = &api.world.db.pool;
    let claim = known(&mut *pool.acquire().await?, &site, &hostname).await?;
    if claim.kind == DomainKind::Platform {
        let mut domain = detail(&api, &site, &hostname).await?;
        domain.routed = Some(is_routed(&api, &site, domain.state).await);
        return Ok(Json(domain));
    }
    let Some(target) = checks::target(pool, claim.id).await? else {
        let text = format!("site '{}' is not placed in a region yet; wait for it", site.slug);
        return Err(Refusal::conflict("wrong-state", "Not possible in this state", text));
    };
    let check = domain_check::look(&api.world, &target, &actor.0).await?;
    let mut domain = detail(&api, &site, &hostname).await?;
    domain.check = Some(check);
    domain.routed = Some(is_routed(&api, &site, domain.state).await);
    Ok(Json(domain))
}

/// Lets the site's other hostnames redirect to this one.
pub async fn make_primary(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path((site, hostname)): Path<(String, String)>,
    Body(request): Body<ChangeDomain>,
) -> Result<Json<DomainDetail>, Refusal> {
    let site = find(&api, &site).await?;
    let hostname = name(&hostname)?;
    let mut tx = api.world.db.pool.begin().await?;
    let claim = locked(&mut tx, &site, &hostname).await?;
    if claim.state != DomainState::Active {
        return Err(Refusal::conflict(
            "not-active",
            "The domain does not serve yet",
            format!(
                "'{hostname}' is {}; only a domain that serves can be the primary one",
                claim.state
            ),
        ));
    }
    if !claim.is_primary {
        records::make_primary(&mut tx, site.id, &hostname).await?;
        let event = json!({ "hostname": hostname });
        note(&mut tx, &actor, "domain.primary", site.id, request.reason.as_deref(), event).await?;
    }
    tx.commit().await?;
    Ok(Json(detail(&api, &site, &hostname).await?))
}

/// Gives a hostname up.
pub async fn remove(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path((site, hostname)): Path<(String, String)>,
    Body(request): Body<ChangeDomain>,
) -> Result<Json<DomainDetail>, Refusal> {
    let site = find(&api, &site).await?;
    let hostname = name(&hostname)?;
    let mut domain = detail(&api, &site, &hostname).await?;
    let mut tx = api.world.db.pool.begin().await?;
    let claim = locked(&mut tx, &site, &hostname).await?;
    if claim.kind == DomainKind::Platform {
        let text =
            format!("'{hostname}' is the site's name on the platform; it goes with the site");
        return Err(Refusal::conflict("platform-name", "A platform name stays", text));
    }
    records::remove(&mut tx, site.id, &hostname).await?;
    let event = json!({ "hostname": hostname, "state": claim.state, "primary": claim.is_primary });
    note(&mut tx, &actor, "domain.remove", site.id, request.reason.as_deref(), event).await?;
    tx.commit().await?;
    api.nudges.all();
    domain.state = DomainState::Released;
    domain.is_primary = false;
    domain.certificate = None;
    domain.certificate_state = None;
    domain.certificate_failure = None;
    domain.certificate_to_do = Vec::new();
    Ok(Json(domain))
}

/// Holds the site's row, and refuses when the site is not there to stay.
async fn lock(connection: &mut PgConnection, site: &Site) -> Result<(), Refusal> {
    let state = records_of_sites::lock_state(connection, site.id).await?.unwrap_or(site.state);
    match state {
        SiteState::Active | SiteState::Suspended => Ok(()),
        SiteState::Creating | SiteState::Deleting | SiteState::Deleted => {
            let detail = format!("site '{}' is {state}", site.slug);
            Err(Refusal::conflict("wrong-state", "Not possible in this state", detail))
        }
    }
}

/// The site's claim of a hostname, with the site's row held.
async fn locked(
    connection: &mut PgConnection,
    site: &Site,
    hostname: &Hostname,
) -> Result<Claim, Refusal> {
    lock(connection, site).await?;
    known(connection, site, hostname).await
}

async fn known(
    connection: &mut PgConnection,
    site: &Site,
    hostname: &Hostname,
) -> Result<Claim, Refusal> {
    let found = records::find(connection, site.id, hostname).await?;
    found.ok_or_else(|| no_domain(site, hostname))
}

fn name(text: &str) -> Result<Hostname, Refusal> {
    text.parse().map_err(|_| Refusal::not_found("domain", text))
}

fn no_domain(site: &Site, hostname: &Hostname) -> Refusal {
    Refusal::not_found(&format!("domain of site '{}' named", site.slug), hostname.as_str())
}

async fn detail(api: &Api, site: &Site, hostname: &Hostname) -> Result<DomainDetail, Refusal> {
    let found = records::get(&api.world.db.pool, site.id, hostname).await?;
    found.ok_or_else(|| no_domain(site, hostname))
}

async fn note(
    connection: &mut PgConnection,
    actor: &Actor,
    action: &str,
    site: SiteId,
    reason: Option<&str>,
    detail: Value,
) -> Result<(), Refusal> {
    let event =
        AuditEvent { actor: &actor.0, action, site: Some(site), operation: None, reason, detail };
    Ok(audit::append(connection, event).await?)
}
