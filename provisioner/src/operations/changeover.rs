//! How a site changes its place, whichever way: `move_site` and `move_site_back` end with these steps.
//! A database that follows the site's is compared with it, requests are held for a moment, the one
//! becomes the site and the other follows from then on.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use control_types::Generation;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

mod certificate;
pub mod far;
pub mod files;
mod pace;
pub mod place;
mod sides;
pub mod streams;
mod switch;

pub use certificate::{described, sign};
pub use pace::Pace;
pub use sides::{Content, Side, Sides};

use crate::{
    control_db::placements,
    engine::{Cx, Flow, Kind, StepError, StepResult},
    site_database::{Comparison, Read, Reading},
};
use far::{Far, Seen};
use switch::{Opening, Switched};

/// Tries to switch before the operation gives up.
const MOST_TRIES: u32 = 8;
/// Between two tries.
const BETWEEN_TRIES: Duration = Duration::from_secs(5);
/// Before the two databases are compared again, when there was no moment for it.
const COMPARE_AGAIN: Duration = Duration::from_secs(2);

/// What an operation notes of these steps, as a part of its progress.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Changeover {
    /// When the copy of the rows began.
    #[serde(default, with = "time::serde::rfc3339::option")]
    copy_began: Option<OffsetDateTime>,
    /// Tables that were there, and how often the copy had broken off, when another one came last.
    #[serde(default)]
    copy_reached: (i64, i64),
    /// Tries to switch that began.
    #[serde(default)]
    tries: u32,
    /// The number of the last one, drawn for the site; 0 before the first.
    #[serde(default)]
    number: i64,
    /// Before the switch.
    #[serde(default)]
    compared: Option<Compared>,
    /// At the switch.
    #[serde(default)]
    opened: Option<Opened>,
}

impl Changeover {
    /// How often the copy broke off since the last table came that is there.
    fn errors_since(&mut self, ready: i64, errors: i64) -> i64 {
        let (reached, before) = self.copy_reached;
        if ready <= reached {
            return errors - before;
        }
        self.copy_reached = (ready, errors);
        0
    }
}

/// Progress that has it.
pub trait Noted {
    /// That part.
    fn changeover(&mut self) -> &mut Changeover;
}

/// What was compared before the switch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Compared {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// Tables.
    tables: usize,
    /// Rows in them.
    rows: i64,
    /// Columns, constraints, indexes, grants and the like.
    definitions: usize,
    /// SHA-256 over all of it.
    digest: String,
    /// The place in the source's log at which both were read.
    lsn: String,
    /// Files, whose content was read at the target; none when both places have the same store.
    files: Option<u64>,
    /// Their bytes.
    file_bytes: Option<u64>,
}

/// What was opened at the switch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Opened {
    /// When.
    #[serde(with = "time::serde::rfc3339")]
    at: OffsetDateTime,
    /// The place in the target's log from which everything was written there.
    open_lsn: String,
    /// The place of the fence in the source's log, if the try that opened came to its end.
    fence_lsn: Option<String>,
    /// How long requests were held, in milliseconds, if the same.
    held_ms: Option<u64>,
}

impl From<Opening> for Opened {
    fn from(opening: Opening) -> Self {
        let Opening { open_lsn, fence_lsn, held_ms, at } = opening;
        Self { at, open_lsn, fence_lsn, held_ms }
    }
}

/// Compares the database that follows with the site's, and the files. A difference of any kind is the
/// end of the operation.
pub async fn compare<K: Kind<Progress: Noted>>(cx: &mut Cx<'_, K>, sides: &Sides) -> StepResult {
    let Some(comparison) = compare_databases(cx, sides).await? else {
        let reason = "writers of the site, or the way to the target, left no moment to compare";
        return Ok(Flow::Wait { pause: COMPARE_AGAIN, reason: reason.to_owned() });
    };
    refuse_differences(&comparison)?;
    let files = files::verify(cx, sides).await?;
    let compared = Compared {
        at: OffsetDateTime::now_utc(),
        tables: comparison.tables,
        rows: comparison.rows,
        definitions: comparison.definitions,
        digest: comparison.digest,
        lsn: comparison.lsn,
        files: files.map(|(files, _)| files),
        file_bytes: files.map(|(_, bytes)| bytes),
    };
    let note = format!(
        "{} tables with {} rows, {} definitions and {} files are the same",
        compared.tables,
        compared.rows,
        compared.definitions,
        compared.files.unwrap_or_default()
    );
    cx.progress.changeover().compared = Some(compared);
    Ok(Flow::Noted(note))
}

async fn compare_databases<K: Kind>(
    cx: &Cx<'_, K>,
    sides: &Sides,
) -> Result<Option<Comparison>, StepError> {
    let (source, target) = (&sides.source, &sides.target);
    let (done, total, seen) = (AtomicU64::new(0), AtomicU64::new(0), Seen::default());
    let note = |read| {
        match read {
            Read::Of(bytes) => total.fetch_add(bytes, Ordering::Relaxed),
            Read::Piece(bytes) => done.fetch_add(bytes, Ordering::Relaxed),
        };
        let (done, total) = (done.load(Ordering::Relaxed), total.load(Ordering::Relaxed));
        seen.set(Far { words: "rows of both places are compared".to_owned(), done, total });
    };
    let reading = Reading { rest: sides.pace.rest(), progress: &note };
    let comparing =
        source.cluster.compare(&source.database, &target.cluster, &target.database, &reading);
    Ok(far::told(cx, &seen, comparing).await??)
}

fn refuse_differences(comparison: &Comparison) -> Result<(), StepError> {
    if comparison.differences.is_empty() {
        return Ok(());
    }
    let told: Vec<_> = comparison.differences.iter().map(ToString::to_string).collect();
    Err(StepError::fail(format!("the two places are not the same: {}", told.join("; "))))
}

/// Makes the target the site. Nothing before it is lost, whatever ends in the middle of it.
pub async fn switch<K: Kind<Progress: Noted>>(cx: &mut Cx<'_, K>, sides: &Sides) -> StepResult {
    // First, since it may be half done and what follows asks for more.
    if let Some(opening) = switch::finish_earlier(cx, sides).await? {
        return Ok(opened(cx, opening));
    }
    // What came since the comparison is little: the pause shall not wait for it.
    files::copy(cx, sides).await?;
    place::warm(&sides.target, cx).await?;
    match switch::switch(cx, sides).await? {
        Switched::Open(opening) => Ok(opened(cx, opening)),
        Switched::NotNow(reason) => {
            let tries = cx.progress.changeover().tries;
            if tries >= MOST_TRIES {
                return Err(StepError::fail(format!(
                    "it could not be switched in {MOST_TRIES} tries; the last one: {reason}"
                )));
            }
            let reason = format!("try {tries} was given up: {reason}");
            Ok(Flow::Wait { pause: BETWEEN_TRIES, reason })
        }
    }
}

fn opened<K: Kind<Progress: Noted>>(cx: &mut Cx<'_, K>, opening: Opening) -> Flow {
    let note = match opening.held_ms {
        Some(ms) => format!("requests were held for {ms} ms"),
        None => "an earlier try had opened the target".to_owned(),
    };
    cx.progress.changeover().opened = Some(opening.into());
    Flow::Noted(note)
}

/// Whatever a try left is given up. When the target is the site already, that cannot be: then everybody
/// is sent there.
pub async fn undo_switch<K: Kind<Progress: Noted>>(
    cx: &mut Cx<'_, K>,
    sides: &Sides,
) -> StepResult {
    match switch::finish_earlier(cx, sides).await? {
        None => Ok(Flow::Done),
        Some(_) => Err(StepError::fail("the site is at its new place already: move it back")),
    }
}

/// The place that shall be the site again gets a generation of its own.
pub async fn take_generation<K: Kind>(
    cx: &mut Cx<'_, K>,
    target: &Side,
    noted: impl Fn(&mut K::Progress) -> &mut Option<Generation>,
) -> StepResult {
    let mut tx = cx.begin().await?;
    let generation = match *noted(&mut cx.progress) {
        Some(generation) => generation,
        None => placements::next_generation(&mut tx, cx.site).await?,
    };
    *noted(&mut cx.progress) = Some(generation);
    cx.save_progress(&mut tx).await?;
    placements::set_generation(&mut tx, target.placement.id, generation).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

/// Makes a source ready that nobody follows: the fence locks what is published.
pub async fn publish_source(sides: &Sides) -> StepResult {
    let source = &sides.source;
    source.cluster.publish(&source.database, source.cluster.address()).await??;
    Ok(Flow::Done)
}

/// Takes that away again.
pub async fn unpublish_source(sides: &Sides) -> StepResult {
    sides.source.cluster.unpublish(&sides.source.database).await?;
    Ok(Flow::Done)
}

/// The place that was left is kept as it was left.
pub async fn keep_source<K: Kind<Progress: Noted>>(
    cx: &mut Cx<'_, K>,
    sides: &Sides,
) -> StepResult {
    // As in `turn_round`: it may have been down at the switch.
    let attempt = sides.attempt(cx.progress.changeover().number);
    sides.source.cluster.retire(&sides.source.database, &attempt).await?;
    unpublish_source(sides).await
}

/// The place that was left follows from now on.
pub async fn turn_round<K: Kind<Progress: Noted>>(cx: &mut Cx<'_, K>, sides: &Sides) -> StepResult {
    let opened = cx.progress.changeover().opened.as_ref();
    let opened = opened.ok_or_else(|| StepError::fail("the switch did not note its place"))?;
    let open_lsn = opened.open_lsn.clone();
    // The switch has told it, if it could: a server that was down at that moment still believes in a
    // fence that may be lifted, so its instance shows old pages, and nothing could come back to it.
    let attempt = sides.attempt(cx.progress.changeover().number);
    sides.source.cluster.retire(&sides.source.database, &attempt).await?;
    streams::turn_round(sides, &open_lsn).await?;
    Ok(Flow::Done)
}

/// Signs what was proven and keeps it with the site.
pub async fn certify<K: Kind<Progress: Noted>>(cx: &mut Cx<'_, K>, sides: &Sides) -> StepResult {
    let Changeover { compared, opened, .. } = cx.progress.changeover().clone();
    certificate::keep(cx, sides, compared.as_ref(), opened.as_ref()).await
}
