//! How a reconciler records an operation that is due.

use std::sync::Arc;

use control_types::{OperationId, SiteId};
use serde_json::Value;

use crate::{
    control_db::{
        audit::{self, AuditEvent},
        operations::{self, InsertOperationError, NewOperation},
    },
    engine::{Engine, Kind},
    world::World,
};

/// Who asked for it, as the audit trail says.
pub const ACTOR: &str = "provisioner";

/// Why, for the audit trail.
pub struct Because<'a> {
    /// What is done, as `site.settle`.
    pub action: &'a str,
    /// Why now.
    pub reason: &'a str,
    /// What else there is to know.
    pub detail: Value,
}

/// Records it, unless another operation is on the site: then the next run looks again.
///
/// # Errors
/// When the control database does not answer.
pub async fn record<K: Kind>(
    world: &World,
    engine: &Arc<Engine>,
    site: SiteId,
    params: &K::Params,
    because: Because<'_>,
) -> anyhow::Result<()> {
    let mut tx = world.db.pool.begin().await?;
    let operation = OperationId::generate();
    let new = NewOperation {
        id: operation,
        kind: K::KIND,
        site,
        params: serde_json::to_value(params)?,
        requested_by: ACTOR,
        reason: Some(because.reason),
        idempotency_key: None,
    };
    match operations::insert(&mut tx, &new).await {
        Ok(()) => {}
        Err(InsertOperationError::SiteBusy | InsertOperationError::Repeated) => return Ok(()),
        Err(InsertOperationError::Database(error)) => return Err(error.into()),
    }
    let event = AuditEvent {
        actor: ACTOR,
        action: because.action,
        site: Some(site),
        operation: Some(operation),
        reason: new.reason,
        detail: because.detail,
    };
    audit::append(&mut tx, event).await?;
    tx.commit().await?;
    engine.nudge();
    Ok(())
}
