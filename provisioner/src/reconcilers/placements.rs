//! What sites left at their old places is removed when its time is over: an operation for each.

use std::sync::Arc;

use serde_json::json;

use super::recording::{Because, record};
use crate::{
    control_db::placements,
    engine::Engine,
    operations::retire_placement::{RetirePlacement, RetirePlacementParams},
    world::World,
};

/// Records the operations that are due.
///
/// # Errors
/// When the control database does not answer.
pub async fn run_once(world: &World, engine: &Arc<Engine>) -> anyhow::Result<()> {
    let pool = &world.db.pool;
    for (placement, site) in placements::overdue(pool).await? {
        let mut connection = pool.acquire().await?;
        let Some(old) = placements::get(&mut connection, placement).await? else { continue };
        drop(connection);
        let because = Because {
            action: "site.settle",
            reason: "the time for which the site's old place is kept is over",
            detail: json!({ "region": old.region }),
        };
        let params = RetirePlacementParams { placement, region: old.region };
        record::<RetirePlacement>(world, engine, site, &params, because).await?;
    }
    Ok(())
}
