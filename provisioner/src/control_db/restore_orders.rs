//! `restore_order`: what keepers shall bring back, and what they say of it.

use control_types::OperationId;
use provisioner_api::restores::{RestoreOrder, RestoreProgress};
use sqlx::{PgConnection, PgPool, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::site_database::SiteDatabaseName;

/// An order as an operation gives it.
pub struct NewOrder<'a> {
    /// The operation, whose id it bears.
    pub operation: OperationId,
    /// Whose keeper it is for.
    pub cluster: Uuid,
    /// The database as the backups have it.
    pub database: &'a SiteDatabaseName,
    /// As it was then.
    pub moment: OffsetDateTime,
    /// The empty database that it comes into.
    pub into: &'a SiteDatabaseName,
}

/// Gives an order. The same again changes nothing.
///
/// # Errors
/// When the database does not answer.
pub async fn insert(
    connection: &mut PgConnection,
    order: &NewOrder<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into restore_order (id, cluster_id, database_name, moment, into_database)
         values ($1, $2, $3, $4, $5) on conflict (id) do nothing",
        order.operation.0,
        order.cluster,
        order.database.as_str(),
        order.moment,
        order.into.as_str(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes an order back, or puts it away when it is done.
///
/// # Errors
/// When the database does not answer.
pub async fn delete(
    connection: &mut PgConnection,
    operation: OperationId,
) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from restore_order where id = $1", operation.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// What the keeper of a cluster shall do, the oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn of_cluster(control: &PgPool, cluster: Uuid) -> Result<Vec<RestoreOrder>, sqlx::Error> {
    sqlx::query_as!(
        RestoreOrder,
        r#"select id, database_name as database, moment, into_database as into,
               into_database || '_owner' as "owner!"
           from restore_order where cluster_id = $1 order by created_at, id"#,
        cluster
    )
    .fetch_all(control)
    .await
}

/// Notes what a keeper says; false when nobody wants the order any more, or not of this cluster.
///
/// # Errors
/// When the database does not answer.
pub async fn put_progress(
    control: &PgPool,
    cluster: Uuid,
    order: Uuid,
    progress: &RestoreProgress,
) -> Result<bool, sqlx::Error> {
    let noted = sqlx::query!(
        "update restore_order set progress = $3, told_at = now() where id = $1 and cluster_id = $2",
        order,
        cluster,
        Json(progress) as _,
    )
    .execute(control)
    .await?;
    Ok(noted.rows_affected() == 1)
}

/// What the keeper said last of an operation's order, and when; nothing when it has not.
///
/// # Errors
/// When the database does not answer.
pub async fn progress(
    control: &PgPool,
    operation: OperationId,
) -> Result<Option<(RestoreProgress, OffsetDateTime)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select progress as "progress: Json<RestoreProgress>", told_at
           from restore_order where id = $1"#,
        operation.0
    )
    .fetch_optional(control)
    .await?;
    Ok(row.and_then(|row| Some((row.progress?.0, row.told_at?))))
}
