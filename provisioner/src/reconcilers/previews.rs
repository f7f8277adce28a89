//! Previews go when their time is over, or when what they show is gone: a deletion for each.

use std::sync::Arc;

use control_types::OperationId;
use serde_json::json;

use crate::{
    control_db::{
        audit::{self, AuditEvent},
        operations::{self, InsertOperationError, NewOperation},
        previews,
    },
    engine::{Engine, Kind},
    operations::delete_site::{DeleteSite, DeleteSiteParams},
    world::World,
};

/// Who asked for it, as the audit trail says.
const ACTOR: &str = "provisioner";

/// Records the deletions that are due.
///
/// # Errors
/// When the control database does not answer.
pub async fn run_once(world: &World, engine: &Arc<Engine>) -> anyhow::Result<()> {
    let pool = &world.db.pool;
    for site in previews::overdue(pool).await? {
        let mut tx = pool.begin().await?;
        let operation = OperationId::generate();
        let new = NewOperation {
            id: operation,
            kind: DeleteSite::KIND,
            site,
            params: serde_json::to_value(DeleteSiteParams { grace_period_secs: 0 })?,
            requested_by: ACTOR,
            reason: Some("the preview's time is over, or what it shows is gone"),
            idempotency_key: None,
        };
        match operations::insert(&mut tx, &new).await {
            Ok(()) => {}
            // Somebody was faster; the next run looks again.
            Err(InsertOperationError::SiteBusy | InsertOperationError::Repeated) => continue,
            Err(InsertOperationError::Database(error)) => return Err(error.into()),
        }
        let event = AuditEvent {
            actor: ACTOR,
            action: "preview.delete",
            site: Some(site),
            operation: Some(operation),
            reason: new.reason,
            detail: json!({}),
        };
        audit::append(&mut tx, event).await?;
        tx.commit().await?;
        engine.nudge();
    }
    Ok(())
}
