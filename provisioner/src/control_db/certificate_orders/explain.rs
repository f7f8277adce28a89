//! Why a hostname has no new certificate, in one sentence.

use control_types::state::CertificateOrderState;
use sqlx::PgPool;
use time::format_description::well_known::Rfc3339;

/// Why a hostname has no new certificate, in words for its site's administrator; none when nothing
/// is wrong.
///
/// # Errors
/// When the database does not answer.
pub async fn explain(pool: &PgPool, hostname: &str) -> Result<Option<String>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select certificate_order.state as "state: CertificateOrderState", failures, last_error,
               next_at, exists (
                   select from certificate where certificate.hostname = certificate_order.hostname
                       and certificate.region = certificate_order.region
                       and certificate.not_after > now()) as "has_one!"
           from certificate_order where hostname = $1 order by failures desc limit 1"#,
        hostname
    )
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let next = row.next_at.replace_nanosecond(0).unwrap_or(row.next_at);
    let next = next.format(&Rfc3339).unwrap_or_default();
    Ok(match (row.state, row.last_error) {
        (CertificateOrderState::Failing | CertificateOrderState::Ordered, Some(error)) => {
            let until = if row.has_one { ", the present one serves until its end" } else { "" };
            Some(format!("no new certificate yet{until}: {error}; tried again at {next}"))
        }
        (CertificateOrderState::Wanted | CertificateOrderState::Ordered, _) if !row.has_one => {
            Some("the certificate is being ordered".to_owned())
        }
        _ => None,
    })
}
