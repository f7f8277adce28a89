//! `audit_event`: who did what to what, and why.

use control_types::{OperationId, SiteId};
use serde_json::Value;
use sqlx::PgConnection;

/// One line of the audit trail.
pub struct AuditEvent<'a> {
    /// The holder of the token.
    pub actor: &'a str,
    /// As `site.suspend`.
    pub action: &'a str,
    /// The site, if it concerns one.
    pub site: Option<SiteId>,
    /// The operation that it began.
    pub operation: Option<OperationId>,
    /// Why.
    pub reason: Option<&'a str>,
    /// More about it. Never a secret.
    pub detail: Value,
}

/// Appends to the audit trail, in the transaction of what is noted.
///
/// # Errors
/// When the database does not answer.
pub async fn append(
    connection: &mut PgConnection,
    event: AuditEvent<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into audit_event (actor, action, site_id, operation_id, reason, detail)
         values ($1, $2, $3, $4, $5, $6)",
        event.actor,
        event.action,
        event.site.map(|id| id.0),
        event.operation.map(|id| id.0),
        event.reason,
        event.detail,
    )
    .execute(connection)
    .await?;
    Ok(())
}
