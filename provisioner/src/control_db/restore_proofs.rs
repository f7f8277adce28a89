//! `restore_proof`: whether sites can be put back, as it was tried.

use control_types::{SiteId, state::OperationState};
use provisioner_api::backups::RestoreProof;
use sqlx::PgPool;

/// Sites whose turn it is, at most one for each region: those that were never tried first, then those
/// whose last try is longest ago. Not in their first day, nor while nobody makes their backups.
///
/// # Errors
/// When the database does not answer.
pub async fn due(control: &PgPool) -> Result<Vec<SiteId>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select distinct on (placement.region) site.id as "site: SiteId"
           from site
           join placement on placement.site_id = site.id and placement.state = 'current'
           join cluster_backup backup on backup.cluster_id = placement.cluster_id
           left join restore_proof proof on proof.site_id = site.id
           where site.state = 'active' and site.created_at < now() - interval '1 day'
               and backup.reported_at > now() - interval '1 minute'
               and (proof.tried_at is null
                   or proof.tried_at < now() - interval '7 days'
                   or proof.problem is not null and proof.tried_at < now() - interval '1 hour')
               and not exists (select from preview where preview.site_id = site.id)
               and not exists (
                   select from preview going join site itself on itself.id = going.site_id
                   where going.is_proof and going.region = placement.region
                       and itself.state <> 'deleted')
           order by placement.region, proof.tried_at nulls first, site.created_at"#
    )
    .fetch_all(control)
    .await
}

/// A preview that was made to prove something.
pub struct Made {
    /// Itself, as a site.
    pub preview: SiteId,
    /// The site that it is of.
    pub of: SiteId,
    /// How the operation that made it ended.
    pub ended: OperationState,
    /// Why, if it was not made.
    pub error: Option<String>,
    /// How long that took, in milliseconds.
    pub took_ms: i64,
}

/// Those of which nothing is noted yet: then they expire.
///
/// # Errors
/// When the database does not answer.
pub async fn made(control: &PgPool) -> Result<Vec<Made>, sqlx::Error> {
    sqlx::query_as!(
        Made,
        r#"select preview.site_id as "preview: SiteId", preview.of_site_id as "of: SiteId",
               operation.state as "ended: OperationState", operation.last_error as error,
               (extract(epoch from operation.finished_at - operation.created_at) * 1000)::bigint
                   as "took_ms!"
           from preview
           join operation on operation.site_id = preview.site_id
               and operation.kind = 'create_preview'
           where preview.is_proof and operation.finished_at is not null
               and preview.expires_at > now()"#
    )
    .fetch_all(control)
    .await
}

/// What was found in a site that was put back to prove that it can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Found {
    /// From the order to an open site, in milliseconds.
    pub took_ms: i64,
    /// The age of the oldest write that was in no backup, in seconds.
    pub at_risk_secs: i64,
    /// Accounts in it.
    pub accounts: i64,
    /// Courses.
    pub courses: i64,
    /// Contents of files.
    pub files: i64,
}

/// Notes a try that ended now.
///
/// # Errors
/// When the database does not answer.
pub async fn put(
    control: &PgPool,
    site: SiteId,
    found: &Result<Found, String>,
) -> Result<(), sqlx::Error> {
    match found {
        Ok(found) => {
            sqlx::query!(
                "insert into restore_proof (site_id, tried_at, proved_at, took_ms, at_risk_secs,
                                            accounts, courses, files)
                 values ($1, now(), now(), $2, $3, $4, $5, $6)
                 on conflict (site_id) do update set tried_at = now(), proved_at = now(),
                     problem = null, took_ms = $2, at_risk_secs = $3, accounts = $4, courses = $5,
                     files = $6",
                site.0,
                found.took_ms,
                found.at_risk_secs,
                found.accounts,
                found.courses,
                found.files,
            )
            .execute(control)
            .await
        }
        Err(problem) => {
            sqlx::query!(
                "insert into restore_proof (site_id, tried_at, problem) values ($1, now(), $2)
                 on conflict (site_id) do update set tried_at = now(), problem = $2",
                site.0,
                problem,
            )
            .execute(control)
            .await
        }
    }
    .map(drop)
}

/// Of a site; none before the first try.
///
/// # Errors
/// When the database does not answer.
pub async fn get(control: &PgPool, site: SiteId) -> Result<Option<RestoreProof>, sqlx::Error> {
    let row = sqlx::query!(
        "select tried_at, problem, proved_at, took_ms, at_risk_secs
         from restore_proof where site_id = $1",
        site.0
    )
    .fetch_optional(control)
    .await?;
    let count = |number: Option<i64>| number.and_then(|number| u64::try_from(number).ok());
    Ok(row.map(|row| RestoreProof {
        tried_at: row.tried_at,
        problem: row.problem,
        proved_at: row.proved_at,
        took_ms: count(row.took_ms),
        at_risk_secs: count(row.at_risk_secs),
    }))
}
