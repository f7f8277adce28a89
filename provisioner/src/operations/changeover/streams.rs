//! How the target of a move follows its source, and later the source its target.

use std::time::Duration;

use time::OffsetDateTime;

use super::{Noted, Side, Sides, far::Far};
use crate::{
    engine::{Cx, Flow, Kind, StepError, StepResult},
    site_database::Beginning,
};

/// How often a copy may break off without another table that is there before the move gives up.
const MOST_ERRORS: i64 = 20;
/// How soon to look at the copy again, and how late when it takes long.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
const LOOK_LATE: Duration = Duration::from_secs(10);

/// Lets `follower` follow `leader`.
async fn follow(leader: &Side, follower: &Side, beginning: Beginning) -> Result<(), StepError> {
    let address = leader.cluster.address();
    let mover = leader.cluster.publish(&leader.database, address).await??;
    leader.cluster.ensure_slot(&leader.database, &follower.database).await?;
    follower.cluster.subscribe(&follower.database, &mover, beginning).await?;
    Ok(())
}

/// Ends it, whatever of it was begun.
async fn part(leader: &Side, follower: &Side) -> Result<(), StepError> {
    follower.cluster.unsubscribe(&follower.database).await?;
    leader.cluster.unpublish(&leader.database).await?;
    Ok(())
}

/// The target follows the source, and begins with a copy.
pub async fn start_copy<K: Kind<Progress: Noted>>(cx: &mut Cx<'_, K>, sides: &Sides) -> StepResult {
    let (source, target, rest) = (&sides.source, &sides.target, sides.pace.rest());
    if rest > 0.0 {
        let tables = source.cluster.large_tables(&source.database).await?;
        target.cluster.pace_copy(&target.database, &tables, rest).await?;
    }
    follow(source, target, Beginning::Copy).await?;
    cx.progress.changeover().copy_began = Some(OffsetDateTime::now_utc());
    Ok(Flow::Done)
}

/// The target is empty again as far as anybody follows.
pub async fn stop_copy(sides: &Sides) -> StepResult {
    part(&sides.source, &sides.target).await?;
    Ok(Flow::Done)
}

/// Waits until all that was there has been copied.
pub async fn await_copy<K: Kind<Progress: Noted>>(cx: &mut Cx<'_, K>, sides: &Sides) -> StepResult {
    let (source, target) = (&sides.source, &sides.target);
    let status = target.cluster.copy_status(&target.database).await?;
    if status.is_complete() {
        target.cluster.end_pace(&target.database).await?;
        return Ok(Flow::Done);
    }
    let errors = cx.progress.changeover().errors_since(status.ready, status.errors);
    if errors > MOST_ERRORS {
        return Err(StepError::fail(format!(
            "the copy broke off {errors} times since {} of {} tables were there; the log of cluster {} \
             says why",
            status.ready,
            status.tables,
            target.cluster.cluster()
        )));
    }
    let leader = (&source.cluster, &source.database);
    for table in target.cluster.repair_copy(&target.database, leader).await? {
        tracing::warn!(table, "the copy of a table was lost with a connection; it begins anew");
    }
    let bytes = |bytes: i64| u64::try_from(bytes).unwrap_or_default();
    let total = bytes(source.cluster.table_bytes(&source.database).await?);
    let words = format!("{} of {} tables are there", status.ready, status.tables);
    let far = Far { words, done: bytes(status.bytes_on_disk).min(total), total };
    let took = cx.progress.changeover().copy_began.map(|began| OffsetDateTime::now_utc() - began);
    let took = took.and_then(|took| Duration::try_from(took).ok()).unwrap_or_default();
    let pause = (took / 20).clamp(LOOK_AGAIN, LOOK_LATE);
    Ok(Flow::Wait { pause, reason: far.told(took) })
}

/// Makes the way back ready: a place in the target's log is kept from now on.
pub async fn arm_way_back(sides: &Sides) -> StepResult {
    follow(&sides.target, &sides.source, Beginning::Later).await?;
    Ok(Flow::Done)
}

/// Takes it away again.
pub async fn disarm_way_back(sides: &Sides) -> StepResult {
    part(&sides.target, &sides.source).await?;
    Ok(Flow::Done)
}

/// From now on the source follows the target.
pub async fn turn_round(sides: &Sides, open_lsn: &str) -> StepResult {
    let (source, target) = (&sides.source, &sides.target);
    // The one direction must have ended before the other begins: neither knows what came from where.
    part(source, target).await?;
    source.cluster.follow_from(&source.database, open_lsn).await?;
    Ok(Flow::Done)
}
