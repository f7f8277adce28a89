//! Certificates as the API shows them.

use control_types::{
    SiteId,
    state::{CertificateFault, CertificateOrderState, CertificateSource},
};
use provisioner_api::certificates::{Certificate, CertificateAlarm};
use sqlx::PgPool;
use time::OffsetDateTime;

struct CertificateRow {
    hostname: String,
    region: String,
    site: Option<String>,
    source: Option<CertificateSource>,
    issuer: Option<String>,
    not_before: Option<OffsetDateTime>,
    not_after: Option<OffsetDateTime>,
    alarm_at: Option<OffsetDateTime>,
    state: Option<CertificateOrderState>,
    renew_at: Option<OffsetDateTime>,
    next_at: Option<OffsetDateTime>,
    failures: i32,
    last_error: Option<String>,
    last_fault: Option<CertificateFault>,
}

/// What is alarming at `now` about a certificate in use.
pub fn alarm(
    now: OffsetDateTime,
    alarm_at: OffsetDateTime,
    not_after: OffsetDateTime,
) -> Option<CertificateAlarm> {
    if not_after <= now {
        Some(CertificateAlarm::Ended)
    } else {
        (alarm_at <= now).then_some(CertificateAlarm::EndsSoon)
    }
}

/// All certificates and the ways to them, or those of a site.
///
/// # Errors
/// When the database does not answer.
pub async fn list(pool: &PgPool, site: Option<SiteId>) -> Result<Vec<Certificate>, sqlx::Error> {
    let rows = sqlx::query_as!(
        CertificateRow,
        r#"select coalesce(certificate.hostname, certificate_order.hostname) as "hostname!",
               coalesce(certificate.region, certificate_order.region) as "region!",
               site.slug as "site?",
               certificate.source as "source?: CertificateSource", certificate.issuer as "issuer?",
               certificate.not_before as "not_before?", certificate.not_after as "not_after?",
               certificate_alarm_at(certificate.source, certificate.not_before,
                   certificate.not_after) as "alarm_at?",
               certificate_order.state as "state?: CertificateOrderState",
               certificate_order.renew_at as "renew_at?",
               certificate_order.next_at as "next_at?",
               coalesce(certificate_order.failures, 0) as "failures!",
               certificate_order.last_error as "last_error?",
               certificate_order.last_fault as "last_fault?: CertificateFault"
           from certificate
           full join certificate_order on certificate_order.hostname = certificate.hostname
               and certificate_order.region = certificate.region
           left join site
               on site.id = coalesce(certificate.site_id, certificate_order.site_id)
           where $1::uuid is null or site.id = $1
           order by 1, 2"#,
        site.map(|site| site.0)
    )
    .fetch_all(pool)
    .await?;
    let now = OffsetDateTime::now_utc();
    Ok(rows.into_iter().map(|row| row.into_certificate(now)).collect())
}

impl CertificateRow {
    fn into_certificate(self, now: OffsetDateTime) -> Certificate {
        Certificate {
            alarm: self.alarm_at.zip(self.not_after).and_then(|(at, end)| alarm(now, at, end)),
            hostname: self.hostname,
            region: self.region,
            site: self.site,
            source: self.source,
            issuer: self.issuer,
            not_before: self.not_before,
            not_after: self.not_after,
            state: self.state,
            renew_at: self.renew_at,
            next_at: self.next_at,
            failures: self.failures,
            last_error: self.last_error,
            last_fault: self.last_fault,
        }
    }
}
