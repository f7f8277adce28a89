//! The loop: claim, decide, do one thing, note it.

use std::{sync::Arc, time::Duration};

use control_types::state::{OperationKind, OperationState, StepEvent};
use serde_json::{Value, json};
use sqlx::PgConnection;
use time::OffsetDateTime;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, error, info, info_span, warn};

use crate::{
    engine::{
        Claim, ClaimError, Cx, Fault, Faults, Flow, Kind, NoFaults, Point, StepError, StepResult,
        claim::{self, Claimed},
        decide::{Journal, Next, decide},
        kind::step_name,
    },
    operations::{create_site::CreateSite, delete_site::DeleteSite},
    world::World,
};

/// First pause after a failed attempt; doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest pause between attempts.
const RETRY_MAX: Duration = Duration::from_secs(30);

/// How an engine works.
pub struct EngineOptions {
    /// Names this provisioner in claims.
    pub worker: String,
    /// How long a claim holds without a heartbeat: so long an operation rests when its provisioner
    /// was killed.
    pub lease: Duration,
    /// Operations driven at once.
    pub parallel: usize,
    /// How often to look for work that nobody told of.
    pub poll: Duration,
    /// Where tests make operations fail.
    pub faults: Arc<dyn Faults>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            worker: format!("provisioner-{}", std::process::id()),
            lease: Duration::from_secs(10),
            parallel: 8,
            poll: Duration::from_secs(1),
            faults: Arc::new(NoFaults),
        }
    }
}

/// Drives operations.
pub struct Engine {
    world: Arc<World>,
    options: EngineOptions,
    work: Notify,
    news: watch::Sender<u64>,
}

/// What became of one thing done.
enum After {
    /// Look at the operation again at once.
    GoOn(Journal),
    /// Nothing more now.
    LetGo,
}

/// The worker vanished where a test told it to.
struct Vanished;

impl Engine {
    /// An engine that does not run yet.
    pub fn new(world: Arc<World>, options: EngineOptions) -> Arc<Self> {
        let (news, _) = watch::channel(0);
        Arc::new(Self { world, options, work: Notify::new(), news })
    }

    /// Tells the engine that there may be work.
    pub fn nudge(&self) {
        self.work.notify_one();
        self.tell();
    }

    /// Ticks whenever something was noted of any operation.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    fn tell(&self) {
        self.news.send_modify(|tick| *tick += 1);
    }

    /// Drives operations until `shutdown`; then lets go of what it drives, so that another
    /// provisioner, or the next one, goes on at once.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let permits = Arc::new(Semaphore::new(self.options.parallel));
        let drives = TaskTracker::new();
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&permits).acquire_owned() => permit,
                () = shutdown.cancelled() => break,
            };
            let pool = &self.world.db.pool;
            match claim::next(pool, &self.options.worker, self.options.lease).await {
                Ok(Some(claimed)) => {
                    let engine = Arc::clone(&self);
                    let shutdown = shutdown.clone();
                    drives.spawn(async move {
                        engine.hold_and_drive(claimed, shutdown).await;
                        drop(permit);
                    });
                    continue;
                }
                Ok(None) => {}
                Err(error) => warn!(error = %chain(&error), "cannot look for operations"),
            }
            drop(permit);
            tokio::select! {
                () = self.work.notified() => {}
                () = tokio::time::sleep(self.options.poll) => {}
                () = shutdown.cancelled() => break,
            }
        }
        drives.close();
        drives.wait().await;
    }

    async fn hold_and_drive(&self, claimed: Claimed, shutdown: CancellationToken) {
        let claim = claimed.claim.clone();
        let span = info_span!(
            "operation", operation.id = %claim.operation, operation.kind = %claimed.kind,
            site.id = %claimed.site, operation.claim = claim.token
        );
        let drive = async {
            tokio::select! {
                done = self.drive(claimed) => {
                    if let Ok(()) = done {
                        self.let_go(&claim).await;
                    }
                }
                lost = claim.hold(&self.world.db.pool) => {
                    warn!(error = %chain(&lost), "operation {} was lost", claim.operation);
                }
                () = shutdown.cancelled() => self.let_go(&claim).await,
            }
        };
        drive.instrument(span).await;
        self.nudge();
    }

    async fn let_go(&self, claim: &Claim) {
        let outcome = sqlx::query!(
            "update operation set claimed_by = null, claim_expires_at = null
             where id = $1 and claim_token = $2",
            claim.operation.0,
            claim.token
        )
        .execute(&self.world.db.pool)
        .await;
        if let Err(error) = outcome {
            // The claim expires by itself.
            warn!(error = %chain(&error), "could not let go of operation {}", claim.operation);
        }
    }

    async fn drive(&self, claimed: Claimed) -> Result<(), Vanished> {
        match claimed.kind {
            OperationKind::CreateSite => self.drive_kind::<CreateSite>(claimed).await,
            OperationKind::DeleteSite => self.drive_kind::<DeleteSite>(claimed).await,
        }
    }

    async fn drive_kind<K: Kind>(&self, claimed: Claimed) -> Result<(), Vanished> {
        let id = claimed.claim.operation;
        if claimed.plan_version != K::PLAN_VERSION {
            error!(
                "operation {id} was made with version {} of its steps; this provisioner has {}",
                claimed.plan_version,
                K::PLAN_VERSION
            );
            self.rest(&claimed.claim).await;
            return Ok(());
        }
        let parsed = serde_json::from_value(claimed.params)
            .and_then(|params| Ok((params, serde_json::from_value(claimed.progress)?)));
        let (params, progress) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                error!(error = %error, "operation {id} cannot be read");
                self.rest(&claimed.claim).await;
                return Ok(());
            }
        };
        let mut cx = Cx::<K> {
            world: &self.world,
            operation: id,
            site: claimed.site,
            params,
            progress,
            claim: &claimed.claim,
        };
        let mut journal = claimed.journal;
        let mut since = claimed.step_since;
        loop {
            match claimed.claim.cancel_requested(&self.world.db.pool).await {
                Ok(requested) => journal.cancel_requested = requested,
                Err(error) => {
                    warn!(error = %chain(&error), "operation {id} waits for the control database");
                    return Ok(());
                }
            }
            let before = journal.steps_done;
            match self.one_thing::<K>(&mut cx, journal, since).await? {
                Ok(After::GoOn(next)) => journal = next,
                Ok(After::LetGo) => return Ok(()),
                Err(error) => {
                    warn!(error = %chain(&error), "operation {id} could not be noted");
                    return Ok(());
                }
            }
            if journal.steps_done != before {
                since = None;
            }
        }
    }

    /// Leaves an operation that this provisioner cannot drive to another one.
    async fn rest(&self, claim: &Claim) {
        let outcome = sqlx::query!(
            "update operation set wake_at = now() + interval '30 s'
             where id = $1 and claim_token = $2",
            claim.operation.0,
            claim.token
        )
        .execute(&self.world.db.pool)
        .await;
        if let Err(error) = outcome {
            warn!(error = %chain(&error), "operation {} could not be put off", claim.operation);
        }
    }

    async fn one_thing<K: Kind>(
        &self,
        cx: &mut Cx<'_, K>,
        journal: Journal,
        since: Option<OffsetDateTime>,
    ) -> Result<Result<After, ClaimError>, Vanished> {
        let noted = match decide(K::shape(), journal) {
            Next::Forward(step) => return self.forward::<K>(cx, journal, step, since).await,
            Next::Undo(step) => return self.undo::<K>(cx, journal, step).await,
            Next::Unwind(to_undo) => self.note(cx, journal, Note::turn_round(to_undo)).await,
            Next::Finish(state) => {
                info!("operation {} {state}", cx.operation);
                self.note(cx, journal, Note::finished(state)).await
            }
            Next::Rest => Ok(After::LetGo),
        };
        Ok(noted)
    }

    async fn forward<K: Kind>(
        &self,
        cx: &mut Cx<'_, K>,
        mut journal: Journal,
        index: usize,
        since: Option<OffsetDateTime>,
    ) -> Result<Result<After, ClaimError>, Vanished> {
        let step = K::STEPS[index];
        let name = step_name(step);
        let first = journal.attempts == 0;
        journal.state = OperationState::Running;
        journal.attempts += 1;
        // A wait is not a try: only the first one is noted, so that a step that waits for days
        // does not fill the log.
        let note = Note { silent: !first, ..Note::event(&name, StepEvent::Started, None) };
        if let Err(error) = self.note(cx, journal, note).await {
            return Ok(Err(error));
        }
        let faults = &self.options.faults;
        let mut outcome = match faults.at(cx.operation, K::KIND, &name, Point::BeforeForward) {
            Fault::Fail => Err(StepError::fail("a test made this step fail")),
            Fault::Crash => return Err(Vanished),
            Fault::None | Fault::Again => K::forward(step, cx).await,
        };
        if matches!(outcome, Ok(Flow::Done | Flow::Noted(_))) {
            match faults.at(cx.operation, K::KIND, &name, Point::AfterForward) {
                Fault::Crash => return Err(Vanished),
                Fault::Again => outcome = K::forward(step, cx).await,
                Fault::Fail => outcome = Err(StepError::fail("a test made this step fail")),
                Fault::None => {}
            }
        }
        let shape = K::shape();
        let past_pivot = shape.pivot.is_some_and(|pivot| index > pivot);
        let tired = K::PATIENCE.filter(|_| shape.pivot.is_none_or(|pivot| index < pivot));
        let outcome = match (outcome, tired, since) {
            (Err(StepError::Retry(error)), Some(patience), Some(since))
                if OffsetDateTime::now_utc() - since > patience =>
            {
                Err(StepError::Fail(error.context("tried for too long")))
            }
            (outcome, _, _) => outcome,
        };
        Ok(self.note_forward(cx, journal, &name, outcome, past_pivot).await)
    }

    async fn note_forward<K: Kind>(
        &self,
        cx: &Cx<'_, K>,
        mut journal: Journal,
        name: &str,
        outcome: StepResult,
        past_pivot: bool,
    ) -> Result<After, ClaimError> {
        match outcome {
            Ok(done @ (Flow::Done | Flow::Noted(_))) => {
                journal.steps_done += 1;
                journal.attempts = 0;
                info!("operation {}: {name} done", cx.operation);
                let detail = match done {
                    Flow::Noted(note) => Some(json!({ "note": note })),
                    _ => None,
                };
                self.note(cx, journal, Note::event(name, StepEvent::Succeeded, detail)).await
            }
            Ok(Flow::Wait { pause, reason }) => {
                let detail = json!({ "reason": reason });
                let silent = journal.attempts > 1;
                let note = Note::event(name, StepEvent::Waiting, Some(detail)).after(pause);
                self.note(cx, journal, Note { silent, ..note }).await
            }
            Err(StepError::Retry(error)) => {
                let error = chain(&*error);
                warn!(error, "operation {}: {name} is tried again", cx.operation);
                let pause = back_off(journal.attempts);
                let note = Note::failure(name, StepEvent::Retried, &error).after(pause);
                self.note(cx, journal, note).await
            }
            Err(StepError::Fail(error)) => {
                let error = chain(&*error);
                error!(error, "operation {}: {name} failed", cx.operation);
                let mut note = Note::failure(name, StepEvent::Failed, &error);
                if past_pivot {
                    note.stuck_while = Some(journal.state);
                } else {
                    let to_undo = K::shape().to_undo(journal.steps_done, journal.attempts);
                    note.turn_round = Some(to_undo);
                }
                self.note(cx, journal, note).await
            }
            Err(StepError::LostClaim) => Err(ClaimError::Lost),
        }
    }

    async fn undo<K: Kind>(
        &self,
        cx: &mut Cx<'_, K>,
        mut journal: Journal,
        index: usize,
    ) -> Result<Result<After, ClaimError>, Vanished> {
        let step = K::STEPS[index];
        let name = step_name(step);
        let first = journal.attempts == 0;
        journal.attempts += 1;
        let note = Note { silent: !first, ..Note::event(&name, StepEvent::UndoStarted, None) };
        if let Err(error) = self.note(cx, journal, note).await {
            return Ok(Err(error));
        }
        let faults = &self.options.faults;
        let mut outcome = match faults.at(cx.operation, K::KIND, &name, Point::BeforeUndo) {
            Fault::Crash => return Err(Vanished),
            Fault::Fail => Err(StepError::Retry(anyhow::anyhow!("a test made this undo fail"))),
            Fault::None | Fault::Again => K::undo(step, cx).await,
        };
        if matches!(outcome, Ok(Flow::Done)) {
            match faults.at(cx.operation, K::KIND, &name, Point::AfterUndo) {
                Fault::Crash => return Err(Vanished),
                Fault::Again | Fault::Fail => outcome = K::undo(step, cx).await,
                Fault::None => {}
            }
        }
        let noted = match outcome {
            Ok(Flow::Done | Flow::Noted(_)) => {
                journal.steps_done -= 1;
                journal.attempts = 0;
                info!("operation {}: {name} undone", cx.operation);
                self.note(cx, journal, Note::event(&name, StepEvent::Undone, None)).await
            }
            Ok(Flow::Wait { pause, reason }) => {
                let detail = json!({ "reason": reason });
                let note = Note::event(&name, StepEvent::Waiting, Some(detail)).after(pause);
                self.note(cx, journal, note).await
            }
            Err(StepError::Retry(error)) => {
                let error = chain(&*error);
                warn!(error, "operation {}: undoing {name} is tried again", cx.operation);
                let pause = back_off(journal.attempts);
                let note = Note::failure(&name, StepEvent::UndoFailed, &error).after(pause);
                self.note(cx, journal, note).await
            }
            Err(StepError::Fail(error)) => {
                let error = chain(&*error);
                error!(error, "operation {}: {name} cannot be undone", cx.operation);
                let mut note = Note::failure(&name, StepEvent::UndoFailed, &error);
                note.stuck_while = Some(journal.state);
                self.note(cx, journal, note).await
            }
            Err(StepError::LostClaim) => Err(ClaimError::Lost),
        };
        Ok(noted)
    }

    /// Writes what happened, if the operation is still ours.
    async fn note<K: Kind>(
        &self,
        cx: &Cx<'_, K>,
        mut journal: Journal,
        note: Note<'_>,
    ) -> Result<After, ClaimError> {
        let progress = serde_json::to_value(&cx.progress).unwrap_or_else(|_| json!({}));
        let mut tx = self.world.db.pool.begin().await?;
        cx.claim.check(&mut tx).await?;
        let attempts = i32::try_from(journal.attempts).unwrap_or(i32::MAX);
        if let (Some((step, event)), false) = (note.event, note.silent) {
            append_event(&mut tx, cx.operation.0, step, event, attempts, note.detail.as_ref())
                .await?;
        }
        if let Some(to_undo) = note.turn_round {
            journal.state = OperationState::Unwinding;
            journal.steps_done = to_undo;
            journal.attempts = 0;
        }
        if let Some(state) = note.finish {
            journal.state = state;
        }
        if note.stuck_while.is_some() {
            journal.state = OperationState::Stuck;
        }
        let pause = note.pause.unwrap_or_default();
        sqlx::query!(
            "update operation set state = $2, steps_done = $3, attempt = $4, progress = $5,
                 last_error = case when $6 then $7 else last_error end,
                 wake_at = now() + make_interval(secs => $8),
                     finished_at = case when $9 then now() end,
                 stuck_while = $10
             where id = $1",
            cx.operation.0,
            journal.state as OperationState,
            i32::try_from(journal.steps_done).unwrap_or(i32::MAX),
            i32::try_from(journal.attempts).unwrap_or(i32::MAX),
            progress,
            note.sets_error,
            note.error,
            pause.as_secs_f64(),
            note.finish.is_some(),
            note.stuck_while as Option<OperationState>,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        self.tell();
        let ends = journal.state.is_final() || note.stuck_while.is_some() || note.pause.is_some();
        Ok(if ends { After::LetGo } else { After::GoOn(journal) })
    }
}

/// What is to be written.
#[derive(Default)]
struct Note<'a> {
    event: Option<(&'a str, StepEvent)>,
    /// The event itself is not worth a line.
    silent: bool,
    detail: Option<Value>,
    sets_error: bool,
    error: Option<String>,
    turn_round: Option<usize>,
    finish: Option<OperationState>,
    /// It went this way when it got stuck.
    stuck_while: Option<OperationState>,
    pause: Option<Duration>,
}

impl<'a> Note<'a> {
    fn event(step: &'a str, event: StepEvent, detail: Option<Value>) -> Self {
        let sets_error = matches!(event, StepEvent::Succeeded | StepEvent::Waiting);
        Self { event: Some((step, event)), detail, sets_error, ..Self::default() }
    }

    fn failure(step: &'a str, event: StepEvent, error: &str) -> Self {
        Self {
            event: Some((step, event)),
            detail: Some(json!({ "error": error })),
            sets_error: true,
            error: Some(error.to_owned()),
            ..Self::default()
        }
    }

    fn turn_round(to_undo: usize) -> Self {
        Self { turn_round: Some(to_undo), ..Self::default() }
    }

    fn finished(state: OperationState) -> Self {
        Self { finish: Some(state), ..Self::default() }
    }

    fn after(self, pause: Duration) -> Self {
        Self { pause: Some(pause), ..self }
    }
}

async fn append_event(
    connection: &mut PgConnection,
    operation: uuid::Uuid,
    step: &str,
    event: StepEvent,
    attempt: i32,
    detail: Option<&Value>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into operation_event (operation_id, seq, step, event, attempt, detail)
         select $1, coalesce(max(seq), 0) + 1, $2, $3, $4, $5
         from operation_event where operation_id = $1",
        operation,
        step,
        event as StepEvent,
        attempt,
        detail,
    )
    .execute(connection)
    .await?;
    Ok(())
}

fn back_off(attempts: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(RETRY_MAX)
}

/// An error with all its causes, as one line.
pub fn chain(error: &(impl std::error::Error + ?Sized)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
