//! Certificates as the API shows them.

use control_types::{
    SiteId,
    state::{CertificateOrderState, CertificateSource},
};
use provisioner_api::certificates::Certificate;
use sqlx::PgPool;

/// All certificates and the ways to them, or those of a site.
///
/// # Errors
/// When the database does not answer.
pub async fn list(pool: &PgPool, site: Option<SiteId>) -> Result<Vec<Certificate>, sqlx::Error> {
    sqlx::query_as!(
        Certificate,
        r#"select coalesce(certificate.hostname, certificate_order.hostname) as "hostname!",
               coalesce(certificate.region, certificate_order.region) as "region!",
               site.slug as "site?",
               certificate.source as "source?: CertificateSource", certificate.issuer as "issuer?",
               certificate.not_before as "not_before?", certificate.not_after as "not_after?",
               certificate_order.state as "state?: CertificateOrderState",
               certificate_order.renew_at as "renew_at?",
               certificate_order.next_at as "next_at?",
               coalesce(certificate_order.failures, 0) as "failures!",
               certificate_order.last_error as "last_error?"
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
    .await
}
