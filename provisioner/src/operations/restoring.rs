//! A site's database as it was at some moment, brought out of the backups into a new database: what
//! `create_preview` and `restore_site` have in common. The keeper of the cluster where the site was then
//! does it.

use std::time::Duration;

use control_types::SiteId;
use provisioner_api::restores::RestoreProgress;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

use super::placed;
use crate::{
    control_db::{
        placements::Placement,
        restore_orders::{self, NewOrder},
    },
    durations::roughly,
    engine::{Cx, Flow, Kind, StepError, StepResult},
    site_database::{Adopted, Authority, SiteDatabaseName},
    world::World,
};

/// How soon to look again what the keeper says.
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// How long a keeper that said something may be silent, until people are told.
const SILENCE: Duration = Duration::from_secs(20);

/// A site as it was, and where that is found.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Past {
    /// The site.
    pub of: SiteId,
    /// As it was then.
    #[serde(with = "time::serde::rfc3339")]
    pub moment: OffsetDateTime,
    /// Where the site was then.
    pub region: String,
    /// On which cluster.
    pub cluster: Uuid,
    /// Its name, for people.
    pub cluster_name: String,
    /// In which database there.
    pub database: SiteDatabaseName,
    /// Where its files are.
    pub object_store: Uuid,
}

/// Makes the empty database of a placement.
pub async fn create_database(world: &World, placement: &Placement) -> StepResult {
    let cluster = world.clusters.get(placement.cluster).await?;
    cluster.create_empty_database(&placed::database(placement)?).await?;
    Ok(Flow::Done)
}

/// Gives the order to the cluster's keeper and waits for what it says.
pub async fn restore_database<K: Kind>(
    cx: &Cx<'_, K>,
    past: &Past,
    placement: &Placement,
) -> StepResult {
    let wait = |reason: String| Ok(Flow::Wait { pause: LOOK_AGAIN, reason });
    let Some((said, at)) = restore_orders::progress(&cx.world.db.pool, cx.operation).await? else {
        let into = placed::database(placement)?;
        let mut tx = cx.begin().await?;
        let order = NewOrder {
            operation: cx.operation,
            cluster: past.cluster,
            database: &past.database,
            moment: past.moment,
            into: &into,
        };
        restore_orders::insert(&mut tx, &order).await?;
        tx.commit().await?;
        cx.world.nudges.all();
        return wait(format!("the keeper of cluster {} shall begin", past.cluster_name));
    };
    match said {
        RestoreProgress::Working { far } => {
            let silent = Duration::try_from(OffsetDateTime::now_utc() - at);
            match silent.ok().filter(|silent| *silent > SILENCE) {
                None => wait(far),
                Some(silent) => wait(format!(
                    "the keeper of cluster {} has said nothing for {}, last: {far}",
                    past.cluster_name,
                    roughly(silent)
                )),
            }
        }
        RestoreProgress::Done { parts, .. } => {
            let told: Vec<_> = parts.iter().map(|(part, ms)| format!("{part} {ms} ms")).collect();
            Ok(Flow::Noted(told.join(", ")))
        }
        RestoreProgress::Failed { reason } => Err(StepError::fail(reason)),
    }
}

/// Nobody wants it any more, or it is done.
pub async fn take_order_back<K: Kind>(cx: &Cx<'_, K>) -> StepResult {
    let mut tx = cx.begin().await?;
    restore_orders::delete(&mut tx, cx.operation).await?;
    tx.commit().await?;
    cx.world.nudges.all();
    Ok(Flow::Done)
}

/// What was restored becomes the placement's.
pub async fn adopt_database<K: Kind>(
    cx: &Cx<'_, K>,
    placement: &Placement,
    adopted: Adopted,
) -> StepResult {
    let database = placed::database(placement)?;
    let cluster = cx.world.clusters.get(placement.cluster).await?;
    let authority = Authority {
        site_id: placement.site,
        generation: placement.generation,
        cluster: cluster.cluster().to_owned(),
    };
    if !cluster.adopt(&database, &authority, adopted).await? {
        return Err(StepError::fail("at that moment the database was no site's yet"));
    }
    if let Some(finding) = cluster.check_isolation(&database).await?.first() {
        return Err(StepError::fail(format!("the restored database is not isolated: {finding}")));
    }
    // It is there and ours: the keeper may forget it.
    take_order_back(cx).await
}
