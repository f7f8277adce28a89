//! How domains are shown over the API.

use control_types::{
    Hostname, SiteId, Slug,
    state::{
        CertificateFault, CertificateOrderState, CertificateSource, DomainKind, DomainProof,
        DomainState,
    },
};
use provisioner_api::{
    certificates::CertificateFailure,
    domains::{DomainCertificate, DomainCheck, DomainDetail},
};
use sqlx::{PgPool, types::Json};
use time::OffsetDateTime;

use super::checks::CLAIM_LASTS;
use crate::{
    acme::advice,
    control_db::{certificates::alarm, sites::port_suffix},
};

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
    certificate_name: Option<String>,
    issuer: Option<String>,
    source: Option<CertificateSource>,
    not_before: Option<OffsetDateTime>,
    not_after: Option<OffsetDateTime>,
    alarm_at: Option<OffsetDateTime>,
    order_state: Option<CertificateOrderState>,
    failures: Option<i32>,
    last_error: Option<String>,
    last_fault: Option<CertificateFault>,
    last_error_at: Option<OffsetDateTime>,
    next_at: Option<OffsetDateTime>,
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
               certificate.hostname as "certificate_name?", certificate.issuer as "issuer?",
               certificate.source as "source?: CertificateSource",
               certificate.not_before as "not_before?", certificate.not_after as "not_after?",
               certificate_alarm_at(certificate.source, certificate.not_before,
                   certificate.not_after) as "alarm_at?",
               certificate_order.state as "order_state?: CertificateOrderState",
               certificate_order.failures as "failures?",
               certificate_order.last_error as "last_error?",
               certificate_order.last_fault as "last_fault?: CertificateFault",
               certificate_order.last_error_at as "last_error_at?",
               certificate_order.next_at as "next_at?",
               (select router.https_address from router
                where router.region = placement.region order by router.name limit 1)
                   as https_address,
               domain.created_at
           from domain
           join site on site.id = domain.site_id
           left join placement on placement.site_id = site.id and placement.state = 'current'
           left join lateral (
               select certificate.* from certificate
               where certificate.region = placement.region
                   and (certificate.hostname = domain.hostname
                           and certificate.site_id = domain.site_id
                       or domain.kind = 'platform' and certificate.site_id is null
                           and certificate.hostname = '*' || substring(domain.hostname from '[.].*'))
               order by certificate.site_id is null limit 1
           ) certificate on true
           left join certificate_order on certificate_order.hostname = domain.hostname
               and certificate_order.region = placement.region
               and certificate_order.site_id = domain.site_id
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
        let now = OffsetDateTime::now_utc();
        let certificate = self.certificate(now);
        let failure = self.failure();
        let site: Slug = self.slug.parse().map_err(|e| decode(Box::new(e)))?;
        let named = advice::Named { site: &site, hostname: &hostname, kind: self.kind };
        Ok(DomainDetail {
            certificate_to_do: advice::to_do(&named, certificate.as_ref(), failure.as_ref(), now),
            certificate_state: self.order_state,
            certificate_failure: failure,
            certificate,
            site_id: self.site_id,
            site,
            unicode: hostname.to_unicode(),
            url: format!("https://{hostname}{port}"),
            hostname,
            kind: self.kind,
            state: self.state,
            is_primary: self.is_primary,
            primary_when_active: self.primary_when_active,
            proof: self.proof,
            verified_at: self.verified_at,
            routed: None,
            check: self.report.map(|report| report.0),
            created_at: self.created_at,
            expires_at: is_pending.then(|| self.created_at + CLAIM_LASTS),
        })
    }

    fn certificate(&self, now: OffsetDateTime) -> Option<DomainCertificate> {
        let not_after = self.not_after?;
        Some(DomainCertificate {
            hostname: self.certificate_name.clone()?,
            issuer: self.issuer.clone()?,
            source: self.source?,
            not_before: self.not_before?,
            not_after,
            alarm: self.alarm_at.and_then(|at| alarm(now, at, not_after)),
        })
    }

    fn failure(&self) -> Option<CertificateFailure> {
        let is_over = matches!(self.order_state, Some(CertificateOrderState::Issued) | None);
        let reason = self.last_error.clone().filter(|_| !is_over)?;
        Some(CertificateFailure {
            reason,
            fault: self.last_fault,
            at: self.last_error_at?,
            failures: self.failures?,
            next_at: self.next_at?,
        })
    }
}
