//! A site's files at both places. They are named by their content and never changed, so a second copy
//! is small, and a copy can begin long before the switch.

use std::collections::HashSet;

use time::OffsetDateTime;

use super::{
    Sides,
    far::{self, Far, Seen, shown},
};
use crate::{
    engine::{Cx, Flow, Kind, StepError, StepResult},
    site_database::{BlobRow, LATELY},
    site_storage::{CopyProgress, CopySettings},
};

/// Copies what the target does not have.
pub async fn copy<K: Kind>(cx: &Cx<'_, K>, sides: &Sides) -> StepResult {
    if sides.share_objects() {
        return Ok(Flow::Done);
    }
    let (from, to) = (sides.source.store(cx.world).await?, sides.target.store(cx.world).await?);
    let (settings, seen) = (sides.pace.files(), Seen::default());
    let prefix = sides.source.prefix();
    let note = |progress| seen.set(far("copied", progress));
    let copying = from.copy_prefix(&prefix, &to, &settings, &note);
    let copied = far::told(cx, &seen, copying).await??;
    if copied.objects == 0 {
        return Ok(Flow::Done);
    }
    let bytes = shown(copied.bytes);
    Ok(Flow::Noted(format!("{} files with {bytes} were copied", copied.objects)))
}

/// Reads every file at the target and looks whether all of the site's are there. How many, and their
/// bytes; none when both places have the same.
pub async fn verify<K: Kind>(
    cx: &Cx<'_, K>,
    sides: &Sides,
) -> Result<Option<(u64, u64)>, StepError> {
    if sides.share_objects() {
        return Ok(None);
    }
    let to = sides.target.store(cx.world).await?;
    let (settings, seen) = (sides.pace.files(), Seen::default());
    let prefix = sides.target.prefix();
    let note = |progress| seen.set(far("read again", progress));
    let verifying = to.verify_prefix(&prefix, &settings, &note);
    let verified = far::told(cx, &seen, verifying).await??;
    if verified.wrong.count > 0 {
        return Err(StepError::fail(format!(
            "{} files at the target do not hold what their names say, among them {}",
            verified.wrong.count,
            verified.wrong.first.join(", ")
        )));
    }
    let rows = sides.source.cluster.blobs(&sides.source.database, None).await?;
    let missing = absent(cx, sides, rows).await?;
    if !missing.is_empty() {
        let named: Vec<_> = missing.iter().take(10).map(BlobRow::name).collect();
        return Err(StepError::fail(format!(
            "{} files of the site are in neither place as its database says, among them {}",
            missing.len(),
            named.join(", ")
        )));
    }
    Ok(Some((verified.objects, verified.bytes)))
}

/// Which of these the target does not have, after one more try to bring them there: a file that came since
/// the step before is no difference.
async fn absent<K: Kind>(
    cx: &Cx<'_, K>,
    sides: &Sides,
    rows: Vec<BlobRow>,
) -> Result<Vec<BlobRow>, StepError> {
    let to = sides.target.store(cx.world).await?;
    let prefix = sides.target.prefix();
    let expected = |rows: &[BlobRow]| {
        rows.iter().map(|row| (row.sha256, row.size_bytes)).collect::<Vec<_>>().into_iter()
    };
    let missing = to.missing_blobs(&prefix, expected(&rows)).await?;
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    copy(cx, sides).await?;
    let missing = to.missing_blobs(&prefix, expected(&rows)).await?;
    let missing: HashSet<_> = missing.iter().map(|blob| blob.sha256).collect();
    Ok(rows.into_iter().filter(|row| missing.contains(&row.sha256)).collect())
}

/// Brings the files that came lately to the target, and tells which those are: they are never changed,
/// so nobody needs to look for them again while requests wait.
pub async fn settle_lately<K: Kind>(
    cx: &Cx<'_, K>,
    sides: &Sides,
) -> Result<HashSet<[u8; 32]>, StepError> {
    if sides.share_objects() {
        return Ok(HashSet::new());
    }
    let since = OffsetDateTime::now_utc() - LATELY;
    let rows = sides.source.cluster.blobs(&sides.source.database, Some(since)).await?;
    settle(cx, sides, &rows).await?;
    Ok(rows.into_iter().map(|row| row.sha256).collect())
}

/// Brings the files of these rows, which came in the last moments, to the target. Few, while requests
/// wait: those that are there are only asked for.
pub async fn settle<K: Kind>(
    cx: &Cx<'_, K>,
    sides: &Sides,
    rows: &[BlobRow],
) -> Result<(), StepError> {
    if rows.is_empty() || sides.share_objects() {
        return Ok(());
    }
    let (from, to) = (sides.source.store(cx.world).await?, sides.target.store(cx.world).await?);
    let prefix = sides.source.prefix();
    let blobs: Vec<_> = rows.iter().map(|row| (row.sha256, row.size_bytes)).collect();
    let absent = to.absent_blobs(&prefix, &blobs).await?;
    if !absent.is_empty() {
        from.recopy_blobs(&prefix, &to, &absent, &CopySettings::default(), &|_| ()).await?;
    }
    Ok(())
}

fn far(verb: &str, progress: CopyProgress) -> Far {
    let CopyProgress { objects_done, objects_total, bytes_done, bytes_total } = progress;
    let words = format!("{objects_done} of {objects_total} files are {verb}");
    Far { words, done: bytes_done, total: bytes_total }
}
