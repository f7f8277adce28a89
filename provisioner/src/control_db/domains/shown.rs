//! How domains are shown over the API.

use control_types::{
    Hostname, SiteId,
    state::{DomainKind, DomainProof, DomainState},
};
use provisioner_api::domains::{DomainCertificate, DomainCheck, DomainDetail};
use sqlx::{PgPool, types::Json};
use time::OffsetDateTime;

use super::checks::CLAIM_LASTS;
use crate::control_db::sites::port_suffix;

/// The hostnames of a site, the primary one first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(pool: &PgPool, site: SiteId) -> Result<Vec<DomainDetail>, sqlx::Error> {
    select(pool, site, None).await
}

/// One hostname of a site.
///
/// # Errors
/// When the database does not answer.
pub async fn get(
    pool: &PgPool,
    site: SiteId,
    hostname: &Hostname,
) -> Result<Option<DomainDetail>, sqlx::Error> {
    Ok(select(pool, site, Some(hostname.as_str())).await?.pop())
}

struct DomainRow {
    site_id: SiteId,
    slug: String,
    hostname: String,
    kind: DomainKind,
    state: DomainState,
    is_primary: bool,
    primary_when_active: bool,
    proof: Option<DomainProof>,
    verified_at: Option<OffsetDateTime>,
    report: Option<Json<DomainCheck>>,
    issuer: Option<String>,
    not_after: Option<OffsetDateTime>,
    https_address: Option<String>,
    created_at: OffsetDateTime,
}

async fn select(
    pool: &PgPool,
    site: SiteId,
    hostname: Option<&str>,
) -> Result<Vec<DomainDetail>, sqlx::Error> {
    let rows = sqlx::query_as!(
        DomainRow,
        r#"select domain.site_id as "site_id: SiteId", site.slug, domain.hostname,
               domain.kind as "kind: DomainKind", domain.state as "state: DomainState",
               domain.is_primary, domain.primary_when_active,
               domain.proof as "proof: DomainProof", domain.verified_at,
               domain.report as "report: Json<DomainCheck>",
               certificate.issuer as "issuer?", certificate.not_after as "not_after?",
               (select router.https_address from router
                where router.region = placement.region order by router.name limit 1)
                   as https_address,
               domain.created_at
           from domain
           join site on site.id = domain.site_id
           left join placement on placement.site_id = site.id and placement.state = 'current'
           left join certificate on certificate.hostname = domain.hostname
               and certificate.region = placement.region
               and certificate.site_id = domain.site_id
           where domain.site_id = $1 and domain.state <> 'released'
               and ($2::text is null or domain.hostname = $2)
           order by domain.is_primary desc, domain.kind, domain.hostname"#,
        site.0,
        hostname,
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(DomainRow::into_detail).collect()
}

impl DomainRow {
    fn into_detail(self) -> Result<DomainDetail, sqlx::Error> {
        let decode = |error: Box<dyn std::error::Error + Send + Sync>| sqlx::Error::Decode(error);
        let hostname: Hostname = self.hostname.parse().map_err(|e| decode(Box::new(e)))?;
        let port = port_suffix(self.https_address.as_deref());
        let is_pending = self.state == DomainState::Pending;
        let certificate = self.issuer.zip(self.not_after);
        Ok(DomainDetail {
            site_id: self.site_id,
            site: self.slug.parse().map_err(|e| decode(Box::new(e)))?,
            unicode: hostname.to_unicode(),
            url: format!("https://{hostname}{port}"),
            hostname,
            kind: self.kind,
            state: self.state,
            is_primary: self.is_primary,
            primary_when_active: self.primary_when_active,
            proof: self.proof,
            verified_at: self.verified_at,
            certificate: certificate
                .map(|(issuer, not_after)| DomainCertificate { issuer, not_after }),
            routed: None,
            check: self.report.map(|report| report.0),
            created_at: self.created_at,
            expires_at: is_pending.then(|| self.created_at + CLAIM_LASTS),
        })
    }
}
