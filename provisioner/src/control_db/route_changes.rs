//! `route_change`: the feed that routers follow. Triggers write it; here it is only kept short.

use sqlx::PgPool;

/// Removes what no router can still ask for: one that was away for longer reads everything anew
/// (routers do so after 30 minutes).
///
/// # Errors
/// When the database does not answer.
pub async fn prune(pool: &PgPool) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!("delete from route_change where at < now() - interval '2 hours'")
        .execute(pool)
        .await?;
    Ok(done.rows_affected())
}
