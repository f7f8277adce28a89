//! How the certificates are as a whole: what operators are warned of.

use sqlx::PgPool;
use time::OffsetDateTime;

/// How the certificates are.
#[derive(Clone, Debug, Default)]
pub struct Health {
    /// When the first certificate in use ends; none when there are none.
    pub first_expiry: Option<OffsetDateTime>,
    /// Names whose last attempt failed.
    pub n_failing: i64,
    /// Names whose certificate ends within 7 days (uploaded ones: 14, those of a short life: a
    /// quarter of it).
    pub n_expiring: i64,
    /// How often a second order was placed because nobody knows what became of the first one.
    pub n_unsure: i64,
    /// Some of those that fail or end, with what is wrong.
    pub examples: Vec<String>,
}

/// How the certificates are.
///
/// # Errors
/// When the database does not answer.
pub async fn health(pool: &PgPool, platform_domain: &str) -> Result<Health, sqlx::Error> {
    let row = sqlx::query!(
        r#"with used as (
               select certificate.* from certificate
               where exists (
                       select from certificate_wanted($1, now()) wanted
                       where wanted.hostname = certificate.hostname
                           and wanted.region = certificate.region)
                   or certificate.hostname = '*.' || $1
           ), expiring as (
               select hostname, not_after from used
               where certificate_alarm_at(source, not_before, not_after) < now()
           ), failing as (
               select hostname, last_error from certificate_order
               where failures > 0 and state in ('failing', 'ordered')
           )
           select (select min(not_after) from used) as first_expiry,
               (select count(*) from failing) as "n_failing!",
               (select count(*) from expiring) as "n_expiring!",
               (select coalesce(sum(n_unsure), 0) from certificate_order) as "n_unsure!",
               array(
                   (select hostname || ' ends at ' || to_char(not_after at time zone 'utc',
                        'YYYY-MM-DD HH24:MI') || ' UTC' from expiring order by not_after limit 3)
                   union all
                   (select hostname || ': ' || coalesce(last_error, 'failed')
                    from failing order by hostname limit 3)
               ) as "examples!""#,
        platform_domain
    )
    .fetch_one(pool)
    .await?;
    Ok(Health {
        first_expiry: row.first_expiry,
        n_failing: row.n_failing,
        n_expiring: row.n_expiring,
        n_unsure: row.n_unsure,
        examples: row.examples,
    })
}

impl Health {
    /// What is wrong, in a sentence; none when nothing is.
    pub fn problem(&self) -> Option<String> {
        if self.n_failing == 0 && self.n_expiring == 0 {
            return None;
        }
        Some(format!(
            "{} name(s) without a new certificate, {} certificate(s) that end soon: {}",
            self.n_failing,
            self.n_expiring,
            self.examples.join("; ")
        ))
    }
}
