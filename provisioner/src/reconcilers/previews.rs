//! Previews go when their time is over, or when what they show is gone: a deletion for each.

use std::sync::Arc;

use serde_json::json;

use super::recording::{Because, record};
use crate::{
    control_db::previews,
    engine::Engine,
    operations::delete_site::{DeleteSite, DeleteSiteParams},
    world::World,
};

/// Records the deletions that are due.
///
/// # Errors
/// When the control database does not answer.
pub async fn run_once(world: &World, engine: &Arc<Engine>) -> anyhow::Result<()> {
    for site in previews::overdue(&world.db.pool).await? {
        let because = Because {
            action: "preview.delete",
            reason: "the preview's time is over, or what it shows is gone",
            detail: json!({}),
        };
        let params = DeleteSiteParams { grace_period_secs: 0 };
        record::<DeleteSite>(world, engine, site, &params, because).await?;
    }
    Ok(())
}
