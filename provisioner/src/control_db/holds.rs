//! `site_hold`: sites whose requests wait at the routers. Triggers tell the routers of every change.

use std::time::Duration;

use control_types::SiteId;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

/// Holds a site from now on, in the place of the hold that it has. Gives the deadline, by the
/// database's clock.
///
/// # Errors
/// When the database does not answer.
pub async fn put(
    connection: &mut PgConnection,
    site: SiteId,
    hold: Uuid,
    longest: Duration,
) -> Result<OffsetDateTime, sqlx::Error> {
    sqlx::query_scalar!(
        "insert into site_hold (site_id, id, deadline)
         values ($1, $2, now() + make_interval(secs => $3))
         on conflict (site_id) do update
             set id = excluded.id, deadline = excluded.deadline, created_at = now()
         returning deadline",
        site.0,
        hold,
        longest.as_secs_f64(),
    )
    .fetch_one(connection)
    .await
}

/// Takes the site's hold away; whether it had one.
///
/// # Errors
/// When the database does not answer.
pub async fn remove(connection: &mut PgConnection, site: SiteId) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!("delete from site_hold where site_id = $1", site.0)
        .execute(connection)
        .await?;
    Ok(done.rows_affected() > 0)
}

/// Removes holds that ended long ago and that nobody took away.
///
/// # Errors
/// When the database does not answer.
pub async fn prune(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!("delete from site_hold where deadline < now() - interval '1 hour'")
        .execute(pool)
        .await?;
    Ok(done.rows_affected())
}
