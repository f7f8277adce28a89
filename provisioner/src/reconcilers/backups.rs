//! Every keeper's key is known to its object store, and what backups need to be read again lies beside
//! them: their passphrase, sealed with the region's key. So a region's key file and its object store are
//! enough for a restore when the control database is lost.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::{backups, control_db::cluster_backups, world::World};

/// Looks once.
///
/// # Errors
/// When the control database does not answer. What is wrong with an object store is noted in the row.
pub async fn run_once(world: &World) -> anyhow::Result<()> {
    let control = &world.db.pool;
    for cluster in cluster_backups::to_prepare(control).await? {
        let error = prepare(world, cluster).await.err().map(|error| format!("{error:#}"));
        if let Some(error) = &error {
            tracing::warn!("the backups of cluster {cluster} cannot be prepared: {error}");
        }
        cluster_backups::set_prepared(control, cluster, error.as_deref()).await?;
    }
    let now = OffsetDateTime::now_utc();
    for known in cluster_backups::list(control).await? {
        let shown = backups::shown(known, now);
        let cluster = shown.cluster;
        #[allow(clippy::cast_precision_loss, reason = "seconds and counts, for people")]
        if let Some(secs) = shown.at_risk_secs {
            metrics::gauge!("ta3lem_backup_at_risk_seconds", "cluster" => cluster.clone())
                .set(secs as f64);
        }
        let has_problem = u32::from(shown.problem.is_some());
        metrics::gauge!("ta3lem_backup_problem", "cluster" => cluster).set(has_problem);
    }
    Ok(())
}

async fn prepare(world: &World, cluster: Uuid) -> anyhow::Result<()> {
    let open = cluster_backups::get(&world.db.pool, &world.keys, cluster).await?;
    let store = world.object_stores.get(open.object_store).await?;
    let secrets = &open.secrets;
    store.ensure_key(&secrets.access_key, &secrets.secret_key, &open.prefix).await?;
    store.put_backup_secrets(&open.prefix, &open.sealed).await?;
    Ok(())
}
