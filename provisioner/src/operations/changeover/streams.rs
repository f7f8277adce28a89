//! How the target of a move follows its source, and later the source its target.

use std::time::Duration;

use super::{Side, Sides};
use crate::{
    engine::{Flow, StepError, StepResult},
    site_database::Beginning,
};

/// How often a copy may break off before the move gives up.
const MOST_ERRORS: i64 = 20;
/// How soon to look at the copy again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

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
pub async fn start_copy(sides: &Sides) -> StepResult {
    follow(&sides.source, &sides.target, Beginning::Copy).await?;
    Ok(Flow::Done)
}

/// The target is empty again as far as anybody follows.
pub async fn stop_copy(sides: &Sides) -> StepResult {
    part(&sides.source, &sides.target).await?;
    Ok(Flow::Done)
}

/// Waits until all that was there has been copied.
pub async fn await_copy(sides: &Sides) -> StepResult {
    let (source, target) = (&sides.source, &sides.target);
    let status = target.cluster.copy_status(&target.database).await?;
    if status.is_complete() {
        return Ok(Flow::Done);
    }
    if status.errors > MOST_ERRORS {
        return Err(StepError::fail(format!(
            "the copy broke off {} times; the log of cluster {} says why",
            status.errors,
            target.cluster.cluster()
        )));
    }
    let bytes = source.cluster.table_bytes(&source.database).await?;
    let arrived = status.bytes_on_disk.min(bytes);
    Ok(Flow::Wait {
        pause: LOOK_AGAIN,
        reason: format!(
            "{} of {} tables are there, {} of about {}",
            status.ready,
            status.tables,
            shown(arrived),
            shown(bytes)
        ),
    })
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

/// Bytes for people.
pub fn shown(bytes: i64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::shown;

    #[test]
    fn bytes_are_readable() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (35 << 20, "35.0 MiB")]
        {
            assert_eq!(shown(bytes), text);
        }
    }
}
