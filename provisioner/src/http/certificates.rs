//! `/v1/certificates`, `/v1/sites/{site}/certificates`, `/v1/platform/certificate`.

use axum::{
    Extension, Json,
    extract::{Path, State},
};
use control_types::{
    Hostname, SiteId,
    state::{CertificateSource, DomainState},
};
use provisioner_api::{
    certificates::{Certificate, UploadCertificate},
    sites::Site,
};
use serde_json::json;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    certificate_check::{self, Anchors, Checked, Unfit},
    control_db::{
        audit::{self, AuditEvent},
        certificate_orders,
        certificates::{self as records, NewCertificate},
        domains, places,
    },
    http::{Api, auth::Actor, refusal::Refusal, sites::find, validate::Body},
};

/// All certificates.
pub async fn list_all(State(api): State<Api>) -> Result<Json<Vec<Certificate>>, Refusal> {
    Ok(Json(records::list(&api.world.db.pool, None).await?))
}

/// Those of a site.
pub async fn list(
    State(api): State<Api>,
    Path(site): Path<String>,
) -> Result<Json<Vec<Certificate>>, Refusal> {
    let site = find(&api, &site).await?;
    Ok(Json(records::list(&api.world.db.pool, Some(site.id)).await?))
}

/// Asks for a new certificate now.
pub async fn renew(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path((site, hostname)): Path<(String, String)>,
) -> Result<Json<Certificate>, Refusal> {
    let site = find(&api, &site).await?;
    let region = home(&site)?;
    let mut tx = api.world.db.pool.begin().await?;
    let hostname = own(&mut tx, &site, &hostname).await?;
    if api.world.acme_for(hostname.as_str()).is_some() {
        if !certificate_orders::request_renewal(&mut tx, hostname.as_str(), region).await? {
            let detail = format!("'{hostname}' is not verified yet: see ta3lem domain check");
            return Err(Refusal::conflict("wrong-state", "Not possible in this state", detail));
        }
    } else {
        let certified = api.world.certify(&mut tx, &hostname, Some(site.id), region).await;
        certified.map_err(|error| Refusal::internal(&*error))?;
    }
    note(&mut tx, &actor, "certificate.renew", Some(site.id), hostname.as_str()).await?;
    tx.commit().await?;
    api.nudges.all();
    one(&api, &site, &hostname, region).await
}

/// Takes a certificate of one's own.
pub async fn upload(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Path(site): Path<String>,
    Body(upload): Body<UploadCertificate>,
) -> Result<Json<Certificate>, Refusal> {
    let site = find(&api, &site).await?;
    let region = home(&site)?;
    let mut tx = api.world.db.pool.begin().await?;
    let hostname = own(&mut tx, &site, &upload.hostname).await?;
    let checked = check(hostname.as_str(), &upload)?;
    store(&api, &mut tx, Some(site.id), hostname.as_str(), region, &checked, &upload).await?;
    note(&mut tx, &actor, "certificate.upload", Some(site.id), hostname.as_str()).await?;
    tx.commit().await?;
    api.nudges.all();
    one(&api, &site, &hostname, region).await
}

/// The certificate for all names right below the platform's domain, in each region; none before one
/// was uploaded.
pub async fn show_wildcard(State(api): State<Api>) -> Result<Json<Vec<Certificate>>, Refusal> {
    Ok(Json(wildcard(&api).await?))
}

async fn wildcard(api: &Api) -> Result<Vec<Certificate>, Refusal> {
    let hostname = format!("*.{}", api.world.platform_domain);
    let all = records::list(&api.world.db.pool, None).await?;
    Ok(all.into_iter().filter(|one| one.hostname == hostname).collect())
}

/// Takes one certificate for all names right below the platform's domain.
pub async fn put_wildcard(
    State(api): State<Api>,
    Extension(actor): Extension<Actor>,
    Body(upload): Body<UploadCertificate>,
) -> Result<Json<Vec<Certificate>>, Refusal> {
    let platform = api.world.platform_domain.as_str();
    let hostname = format!("*.{platform}");
    if !upload.hostname.is_empty() && upload.hostname != hostname {
        let detail = format!("the platform's wildcard is {hostname}, not {}", upload.hostname);
        return Err(Refusal::invalid("hostname", detail));
    }
    let checked = check(&hostname, &upload)?;
    let pool = &api.world.db.pool;
    let mut tx = pool.begin().await?;
    for region in places::regions(pool).await? {
        store(&api, &mut tx, None, &hostname, &region.name, &checked, &upload).await?;
        records::delete_covered(&mut tx, platform, &region.name).await?;
    }
    note(&mut tx, &actor, "certificate.upload", None, &hostname).await?;
    tx.commit().await?;
    api.nudges.all();
    Ok(Json(wildcard(&api).await?))
}

fn check(hostname: &str, upload: &UploadCertificate) -> Result<Checked, Refusal> {
    let now = OffsetDateTime::now_utc();
    let (chain, key) = (&upload.chain_pem, &upload.key_pem);
    certificate_check::check(hostname, chain, key, now, &Anchors::Complete).map_err(|unfit| {
        let field = match unfit {
            Unfit::Chain(_) => "chain_pem",
            Unfit::Key(_) => "key_pem",
        };
        Refusal::invalid(field, unfit.to_string())
    })
}

async fn store(
    api: &Api,
    connection: &mut PgConnection,
    site: Option<SiteId>,
    hostname: &str,
    region: &str,
    checked: &Checked,
    upload: &UploadCertificate,
) -> Result<(), Refusal> {
    let id = Uuid::now_v7();
    let sealed_key = api.world.keys.seal_certificate_key(region, id, &upload.key_pem);
    let certificate = NewCertificate {
        id,
        site,
        hostname,
        region,
        issuer: "uploaded",
        source: CertificateSource::Uploaded,
        chain_pem: &checked.chain_pem,
        sealed_key: &sealed_key.map_err(|error| Refusal::internal(&error))?,
        not_before: checked.validity.not_before,
        not_after: checked.validity.not_after,
    };
    records::put(connection, &certificate).await?;
    certificate_orders::look_again(connection, hostname, region).await?;
    Ok(())
}

fn home(site: &Site) -> Result<&str, Refusal> {
    site.placement.as_ref().map(|placement| placement.region.as_str()).ok_or_else(|| {
        let detail = format!("site '{}' is not placed yet", site.slug);
        Refusal::conflict("wrong-state", "Not possible in this state", detail)
    })
}

/// A hostname that is the site's own.
async fn own(
    connection: &mut PgConnection,
    site: &Site,
    hostname: &str,
) -> Result<Hostname, Refusal> {
    let name: Hostname = hostname
        .parse()
        .map_err(|error| Refusal::invalid("hostname", format!("'{hostname}': {error}")))?;
    match domains::find(connection, site.id, &name).await? {
        Some(claim) if matches!(claim.state, DomainState::Verified | DomainState::Active) => {
            Ok(name)
        }
        Some(_) => {
            let detail = format!("'{name}' is not verified yet: see ta3lem domain check");
            Err(Refusal::conflict("wrong-state", "Not possible in this state", detail))
        }
        None => Err(Refusal::not_found("hostname of this site", name.as_str())),
    }
}

async fn one(
    api: &Api,
    site: &Site,
    hostname: &Hostname,
    region: &str,
) -> Result<Json<Certificate>, Refusal> {
    let all = records::list(&api.world.db.pool, Some(site.id)).await?;
    let found =
        all.into_iter().find(|one| one.hostname == hostname.as_str() && one.region == region);
    found.map(Json).ok_or_else(|| Refusal::not_found("certificate", hostname.as_str()))
}

async fn note(
    connection: &mut PgConnection,
    actor: &Actor,
    action: &str,
    site: Option<SiteId>,
    hostname: &str,
) -> Result<(), sqlx::Error> {
    let event = AuditEvent {
        actor: &actor.0,
        action,
        site,
        operation: None,
        reason: None,
        detail: json!({ "hostname": hostname }),
    };
    audit::append(connection, event).await
}
