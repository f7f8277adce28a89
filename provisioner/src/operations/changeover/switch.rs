//! The moment in which a site changes its place: its requests are held, the source is fenced, the
//! target opened, the route switched, the requests let go. All of it is one step, since each note
//! between would be time in which people wait; what was done is found again in the two databases.
//!
//! The order, what each statement asks for and why that is enough is in `site_database/fence.rs`.

use std::{collections::HashSet, time::Duration};

use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::{Content, Noted, Sides, files};
use crate::{
    control_db::{holds, placements, sites},
    engine::{Cx, Kind, StepError},
    site_database::{Attempt, Opened, SiteDatabaseError, Switch},
    world::HoldId,
};

/// How long requests wait at most if whoever holds them vanishes.
const LONGEST_HOLD: Duration = Duration::from_secs(15);
/// How long requests that were let in before may take until the fence comes all the same. What they
/// read they still get; what they write is refused and, where the router can, sent again.
const DRAIN: Duration = Duration::from_millis(700);
/// How soon routers are asked again.
const ASK_AGAIN: Duration = Duration::from_millis(3);
/// How long what was written last may take to arrive.
const ARRIVAL: Duration = Duration::from_secs(3);

/// What became of a try.
#[derive(Debug)]
pub enum Switched {
    /// The target is the site.
    Open(Opening),
    /// It was given up, and the source is the site as before.
    NotNow(String),
}

/// A target that was opened.
#[derive(Clone, Debug)]
pub struct Opening {
    /// The place in the target's log from which everything was written there.
    pub open_lsn: String,
    /// The place of the fence in the source's log; none when that was done by somebody before.
    pub fence_lsn: Option<String>,
    /// How long requests were held, in milliseconds; none when that was done by somebody before.
    pub held_ms: Option<u64>,
    /// The first moment of the target.
    pub at: OffsetDateTime,
}

/// What was made ready before anybody waits.
struct Switches<'a> {
    /// To the source.
    fence: &'a mut Switch,
    /// To the target.
    open: &'a mut Switch,
    /// Files that came lately and are at the target: nobody waits while they are asked for again.
    settled: &'a HashSet<[u8; 32]>,
}

/// What the time of a hold went into, for the log: people wait meanwhile.
struct Parts {
    begun: Instant,
    last: Instant,
    told: Vec<String>,
}

impl Parts {
    fn begin() -> Self {
        let now = Instant::now();
        Self { begun: now, last: now, told: Vec::new() }
    }

    /// A part ends here and the next one begins.
    fn end(&mut self, part: &str) {
        let now = Instant::now();
        self.told.push(format!("{part} {}", (now - self.last).as_millis()));
        self.last = now;
    }

    fn told(&self) -> String {
        self.told.join(", ")
    }
}

/// Brings an earlier try of the operation to its end: to the opening if it had come that far, and else
/// it is given up. Asks for nothing but the two clusters and the control database.
pub async fn finish_earlier<K: Kind<Progress: Noted>>(
    cx: &mut Cx<'_, K>,
    sides: &Sides,
) -> Result<Option<Opening>, StepError> {
    let number = cx.progress.changeover().number;
    if number == 0 {
        return Ok(None);
    }
    finish(cx, sides, &sides.attempt(number)).await
}

/// One try. The caller has made everything ready: the target follows closely and was compared, and no
/// earlier try is unfinished.
pub async fn switch<K: Kind<Progress: Noted>>(
    cx: &mut Cx<'_, K>,
    sides: &Sides,
) -> Result<Switched, StepError> {
    // No number is used twice: it is noted before it is used.
    let mut tx = cx.begin().await?;
    let number = sites::draw_attempt(&mut tx, cx.site).await?;
    let noted = cx.progress.changeover();
    (noted.tries, noted.number) = (noted.tries + 1, number);
    cx.save_progress(&mut tx).await?;
    tx.commit().await?;
    let attempt = sides.attempt(number);
    match try_it(cx, sides, &attempt).await {
        Ok(Ok(opening)) => Ok(Switched::Open(opening)),
        Ok(Err(reason)) => not_now(cx, sides, &attempt, reason).await,
        Err(StepError::LostClaim) => Err(StepError::LostClaim),
        Err(StepError::Retry(error) | StepError::Fail(error)) => {
            not_now(cx, sides, &attempt, format!("{error:#}")).await
        }
    }
}

/// Only who knows that the target is not the site may let the source be written again.
async fn not_now<K: Kind>(
    cx: &Cx<'_, K>,
    sides: &Sides,
    attempt: &Attempt,
    reason: String,
) -> Result<Switched, StepError> {
    let opening = finish(cx, sides, attempt).await?;
    Ok(opening.map_or(Switched::NotNow(reason), Switched::Open))
}

/// Gives the attempt up, or sends everybody to the target if that is the site already.
async fn finish<K: Kind>(
    cx: &Cx<'_, K>,
    sides: &Sides,
    attempt: &Attempt,
) -> Result<Option<Opening>, StepError> {
    let opening = give_up(cx, sides, attempt).await?;
    if opening.is_some() {
        hand_over(cx, sides, attempt).await?;
    }
    Ok(opening)
}

/// Why it could not be, in words, or the opening. After an error anything may have happened.
async fn try_it<K: Kind>(
    cx: &Cx<'_, K>,
    sides: &Sides,
    attempt: &Attempt,
) -> Result<Result<Opening, String>, StepError> {
    let (source, target) = (&sides.source, &sides.target);
    if !target.cluster.stand_by(&target.database, attempt).await? {
        return Ok(Err("the target does not stand by".to_owned()));
    }
    if !source.cluster.arm(&source.database, sides.left(), attempt).await? {
        return Ok(Err("the source is not the site any more".to_owned()));
    }
    let mut fence = source.cluster.switch(&source.database).await?;
    let mut open = target.cluster.switch(&target.database).await?;
    let settled = files::settle_lately(cx, sides).await?;
    // Whoever lost the operation stops before anybody waits.
    cx.begin().await?.rollback().await?;
    let mut parts = Parts::begin();
    let (hold, _) = cx.world.hold(cx.site, LONGEST_HOLD).await?;
    parts.end("hold");
    let mut switches = Switches { fence: &mut fence, open: &mut open, settled: &settled };
    let opened = fence_and_open(cx, sides, attempt, &mut switches, hold, &mut parts).await;
    let mut held = Duration::ZERO;
    if let Ok(Ok(_)) = &opened {
        // The session is open anyway. The source hears of it also when the control database does not
        // answer: then those who ask it still are many.
        let (sent, left) = tokio::join!(send_on(cx, sides), fence.retire(attempt));
        parts.end("hand over");
        held = parts.begun.elapsed();
        told_later(cx, left);
        sent?;
    }
    fence.close().await;
    open.close().await;
    Ok(opened?.map(|opening| {
        let (operation, ms) = (cx.operation, held.as_millis());
        info!("operation {operation}: requests were held for {ms} ms: {}", parts.told());
        Opening { held_ms: u64::try_from(held.as_millis()).ok(), ..opening }
    }))
}

async fn fence_and_open<K: Kind>(
    cx: &Cx<'_, K>,
    sides: &Sides,
    attempt: &Attempt,
    ready: &mut Switches<'_>,
    hold: HoldId,
    parts: &mut Parts,
) -> Result<Result<Opening, String>, StepError> {
    let (source, Switches { fence, open, settled }) = (&sides.source, ready);
    if let Some(stragglers) = drained(cx, hold).await? {
        warn!("operation {}: not waited for any longer: {stragglers}", cx.operation);
    }
    parts.end("drain");
    let mut fenced = fence.fence(sides.left(), attempt).await?;
    if fenced.is_none() {
        let ended = source.cluster.end_transactions(&source.database).await?;
        warn!("operation {}: {ended} long transactions of the site were ended", cx.operation);
        fenced = fence.fence(sides.left(), attempt).await?;
    }
    let Some(mut fenced) = fenced else {
        return Ok(Err("transactions of the site do not end".to_owned()));
    };
    parts.end("fence");
    fenced.files.retain(|row| !settled.contains(&row.sha256));
    files::settle(cx, sides, &fenced.files).await?;
    parts.end("files");
    if sides.content == Content::Past {
        // What stands for the stream: nothing arrives, so the marker is brought. The target keeps its own
        // numbers.
        let revocations = fence.revocations().await?;
        open.bring(attempt, &fenced.fence_lsn, &revocations).await?;
        fenced.sequences.clear();
        parts.end("revocations");
    }
    let opened = open.open(attempt, &fenced.sequences, ARRIVAL).await?;
    parts.end("open");
    Ok(match opened {
        Opened::Primary { open_lsn } => Ok(Opening {
            open_lsn,
            fence_lsn: Some(fenced.fence_lsn),
            held_ms: None,
            at: OffsetDateTime::now_utc(),
        }),
        Opened::NotArrived => {
            Err(format!("what was written last did not arrive within {} s", ARRIVAL.as_secs()))
        }
        Opened::GivenUp => Err("somebody gave this try up".to_owned()),
    })
}

/// Waits until no request of the site is under way, or until that takes too long. What is in the way
/// then.
async fn drained<K: Kind>(cx: &Cx<'_, K>, hold: HoldId) -> Result<Option<String>, StepError> {
    let until = Instant::now() + DRAIN;
    loop {
        let routers = cx.world.drained(cx.site).await?;
        let busy: Vec<_> = routers.iter().filter(|router| !router.is_drained(hold.0)).collect();
        if busy.is_empty() {
            return Ok(None);
        }
        if Instant::now() >= until {
            let told = busy.iter().map(|router| match &router.problem {
                Some(problem) => format!("{} ({problem})", router.router),
                None => format!(
                    "{} ({} requests, {} tunnels)",
                    router.router, router.requests_in_flight, router.tunnels
                ),
            });
            return Ok(Some(told.collect::<Vec<_>>().join(", ")));
        }
        // A router tells when it is asked.
        sleep(ASK_AGAIN).await;
    }
}

/// Wins the attempt's end in the target, then lets the source be written again and requests go on.
/// The opening, if the attempt cannot be given up any more.
async fn give_up<K: Kind>(
    cx: &Cx<'_, K>,
    sides: &Sides,
    attempt: &Attempt,
) -> Result<Option<Opening>, StepError> {
    let (source, target) = (&sides.source, &sides.target);
    if !target.cluster.abort(&target.database, attempt).await? {
        let state = target.cluster.authority(&target.database).await?;
        let Some(open_lsn) = state.open_lsn.filter(|_| state.generation == attempt.generation)
        else {
            return Err(StepError::fail("the target is the site, by nobody's doing"));
        };
        let at = OffsetDateTime::now_utc();
        return Ok(Some(Opening { open_lsn, fence_lsn: None, held_ms: None, at }));
    }
    source.cluster.unfence(&source.database, sides.left(), attempt).await?;
    let mut tx = cx.begin().await?;
    holds::remove(&mut tx, cx.site).await?;
    tx.commit().await?;
    Ok(None)
}

/// Sends everybody to the target. The source learns that it was left, for those who ask it still: also
/// when the control database does not answer, since then they are many.
async fn hand_over<K: Kind>(
    cx: &Cx<'_, K>,
    sides: &Sides,
    attempt: &Attempt,
) -> Result<(), StepError> {
    let source = &sides.source;
    let retiring = source.cluster.retire(&source.database, attempt);
    let (sent, left) = tokio::join!(send_on(cx, sides), retiring);
    told_later(cx, left);
    sent
}

/// Sends everybody to the target: with this the hold ends.
async fn send_on<K: Kind>(cx: &Cx<'_, K>, sides: &Sides) -> Result<(), StepError> {
    let (source, target) = (&sides.source.placement, &sides.target.placement);
    let mut tx = cx.begin().await?;
    let follows = sides.content == Content::Follows;
    placements::hand_over(&mut tx, source.id, target.id, cx.operation, follows).await?;
    holds::remove(&mut tx, cx.site).await?;
    tx.commit().await?;
    Ok(())
}

/// Nobody depends on it now: who asks an old place that does not answer waits for the news. The next
/// step tells it again, and again.
fn told_later<K: Kind>(cx: &Cx<'_, K>, left: Result<(), SiteDatabaseError>) {
    if let Err(error) = left {
        warn!("operation {}: the old place does not know that it was left: {error}", cx.operation);
    }
}
