//! What sites left at their old places is removed when its time is over: an operation for each.

use std::sync::Arc;

use control_types::OperationId;
use serde_json::json;

use crate::{
    control_db::{
        audit::{self, AuditEvent},
        operations::{self, InsertOperationError, NewOperation},
        placements,
    },
    engine::{Engine, Kind},
    operations::retire_placement::{RetirePlacement, RetirePlacementParams},
    world::World,
};

/// Who asked for it, as the audit trail says.
const ACTOR: &str = "provisioner";

/// Records the operations that are due.
///
/// # Errors
/// When the control database does not answer.
pub async fn run_once(world: &World, engine: &Arc<Engine>) -> anyhow::Result<()> {
    let pool = &world.db.pool;
    for (placement, site) in placements::overdue(pool).await? {
        let mut tx = pool.begin().await?;
        let Some(old) = placements::get(&mut tx, placement).await? else { continue };
        let params = RetirePlacementParams { placement, region: old.region.clone() };
        let operation = OperationId::generate();
        let new = NewOperation {
            id: operation,
            kind: RetirePlacement::KIND,
            site,
            params: serde_json::to_value(&params)?,
            requested_by: ACTOR,
            reason: Some("the time for moving the site back is over"),
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
            action: "site.settle",
            site: Some(site),
            operation: Some(operation),
            reason: new.reason,
            detail: json!({ "region": old.region }),
        };
        audit::append(&mut tx, event).await?;
        tx.commit().await?;
        engine.nudge();
    }
    Ok(())
}
