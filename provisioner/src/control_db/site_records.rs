//! `site_record`: what was proven of a site, signed. Kept as long as the site's row.

use control_types::{OperationId, SiteId, state::RecordKind};
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

/// A record as stored.
#[derive(Clone, Debug)]
pub struct SiteRecord {
    /// The operation that it is of.
    pub operation: OperationId,
    /// What it proves.
    pub kind: RecordKind,
    /// JSON, exactly as signed.
    pub document: String,
    /// By the platform's authority.
    pub signature: Vec<u8>,
    /// When.
    pub created_at: OffsetDateTime,
}

/// Stores a record. An operation has one: the same again changes nothing.
///
/// # Errors
/// When the database does not answer.
pub async fn put(
    connection: &mut PgConnection,
    site: SiteId,
    operation: OperationId,
    kind: RecordKind,
    document: &str,
    signature: &[u8],
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into site_record (operation_id, site_id, kind, document, signature)
         values ($1, $2, $3, $4, $5) on conflict (operation_id) do nothing",
        operation.0,
        site.0,
        kind as RecordKind,
        document,
        signature,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// All records of a site, the oldest first.
///
/// # Errors
/// When the database does not answer.
pub async fn of_site(pool: &PgPool, site: SiteId) -> Result<Vec<SiteRecord>, sqlx::Error> {
    sqlx::query_as!(
        SiteRecord,
        r#"select operation_id as "operation: OperationId", kind as "kind: RecordKind", document,
               signature, created_at
           from site_record where site_id = $1 order by created_at, operation_id"#,
        site.0
    )
    .fetch_all(pool)
    .await
}
