//! One thing: a step forward, a step back, or the end.

use std::{pin::Pin, time::Duration};

use control_types::state::{OperationState, StepEvent};
use metrics::{counter, histogram};
use serde_json::json;
use time::OffsetDateTime;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::{After, Engine, Vanished, chain, note::Note};
use crate::engine::{
    ClaimError, Cx, Fault, Flow, Kind, Point, StepError, StepResult,
    decide::{Journal, Next, decide},
    kind::step_name,
    signs::{SILENCE, Signs},
};

/// First pause after a failed attempt; doubles up to [`RETRY_MAX`].
const RETRY_FIRST: Duration = Duration::from_millis(200);
/// Longest pause between attempts.
const RETRY_MAX: Duration = Duration::from_secs(30);

impl Engine {
    pub(super) async fn one_thing<K: Kind>(
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
                let (kind, state_text) = (K::KIND.as_str(), state.as_str());
                counter!("ta3lem_operations_total", "kind" => kind, "state" => state_text)
                    .increment(1);
                let noted = self.note(cx, journal, Note::finished(state)).await;
                // What waited for its end need not wait for the next look.
                self.world.nudges.all();
                noted
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
        let before = journal;
        journal.state = OperationState::Running;
        journal.attempts += 1;
        // A wait is not a try: only the first one is noted, so that a step that waits for days
        // does not fill the log.
        let note = Note { silent: !first, ..Note::event(&name, StepEvent::Started, None) };
        match self.note(cx, journal, note).await {
            Ok(After::Cancelled) => {
                let journal = Journal { cancel_requested: true, ..before };
                return Ok(Ok(After::GoOn(journal)));
            }
            Ok(_) => {}
            Err(error) => return Ok(Err(error)),
        }
        let began = Instant::now();
        let faults = &self.options.faults;
        let mut outcome = match faults.at(cx.operation, K::KIND, &name, Point::BeforeForward) {
            Fault::Fail => Err(StepError::fail("a test made this step fail")),
            Fault::Crash => return Err(Vanished),
            Fault::None | Fault::Again => {
                heeded(cx.signs.clone(), Box::pin(K::forward(step, cx))).await
            }
        };
        if matches!(outcome, Ok(Flow::Done | Flow::Noted(_))) {
            match faults.at(cx.operation, K::KIND, &name, Point::AfterForward) {
                Fault::Crash => return Err(Vanished),
                Fault::Again => {
                    outcome = heeded(cx.signs.clone(), Box::pin(K::forward(step, cx))).await
                }
                Fault::Fail => outcome = Err(StepError::fail("a test made this step fail")),
                Fault::None => {}
            }
        }
        histogram!("ta3lem_step_seconds", "kind" => K::KIND.as_str(), "step" => name.clone())
            .record(began.elapsed());
        let shape = K::shape();
        let past_pivot = shape.pivot.is_some_and(|pivot| index > pivot);
        let tired = K::PATIENCE.filter(|_| shape.pivot.is_none_or(|pivot| index < pivot));
        let outcome = match (outcome, tired, since) {
            (Err(StepError::Retry(error)), Some(patience), Some(since))
                if OffsetDateTime::now_utc() - since > patience =>
            {
                Err(StepError::Fail(error.context("tried for too long")))
            }
            (Ok(Flow::Wait { reason, .. }), Some(patience), Some(since))
                if OffsetDateTime::now_utc() - since > patience =>
            {
                Err(StepError::fail(format!("waited for too long: {reason}")))
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
                self.note(cx, journal, Note::waiting(name, &reason, pause)).await
            }
            Err(StepError::Retry(error)) => {
                let error = chain(&*error);
                warn!(error, "operation {}: {name} is tried again", cx.operation);
                counter!("ta3lem_step_retries_total", "kind" => K::KIND.as_str()).increment(1);
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
            Fault::None | Fault::Again => {
                heeded(cx.signs.clone(), Box::pin(K::undo(step, cx))).await
            }
        };
        if matches!(outcome, Ok(Flow::Done)) {
            match faults.at(cx.operation, K::KIND, &name, Point::AfterUndo) {
                Fault::Crash => return Err(Vanished),
                Fault::Again | Fault::Fail => {
                    outcome = heeded(cx.signs.clone(), Box::pin(K::undo(step, cx))).await
                }
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
                self.note(cx, journal, Note::waiting(&name, &reason, pause)).await
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
}

/// What the step says, unless it is silent for too long. Boxed, since the futures of long steps are so
/// large that a few of them inside each other fill a thread's stack.
async fn heeded(signs: Signs, step: Pin<Box<impl Future<Output = StepResult>>>) -> StepResult {
    signs.heed(SILENCE, step).await.unwrap_or_else(|| {
        let secs = SILENCE.as_secs();
        Err(StepError::Retry(anyhow::anyhow!(
            "nothing was heard for {secs} s: an answer may have been lost"
        )))
    })
}

fn back_off(attempts: u32) -> Duration {
    RETRY_FIRST.saturating_mul(1 << attempts.saturating_sub(1).min(16)).min(RETRY_MAX)
}
