//! What is written of an operation: always in a transaction that first makes sure that it is ours.

use std::time::Duration;

use control_types::state::{OperationState, StepEvent};
use serde_json::{Value, json};
use sqlx::PgConnection;

use super::{After, Engine};
use crate::engine::{ClaimError, Cx, Kind, decide::Journal};

impl Engine {
    /// Writes what happened, if the operation is still ours.
    pub(super) async fn note<K: Kind>(
        &self,
        cx: &Cx<'_, K>,
        mut journal: Journal,
        note: Note<'_>,
    ) -> Result<After, ClaimError> {
        let progress = serde_json::to_value(&cx.progress).unwrap_or_else(|_| json!({}));
        let mut tx = self.world.db.pool.begin().await?;
        let cancelled = cx.claim.check(&mut tx).await?;
        let begins = matches!(note.event, Some((_, StepEvent::Started)));
        if begins && cancelled && !journal.cancel_requested {
            // Granted since the journal was read: whoever asked was told that it would be obeyed.
            return Ok(After::Cancelled);
        }
        let attempts = i32::try_from(journal.attempts).unwrap_or(i32::MAX);
        if let (Some((step, event)), false) = (note.event, note.silent) {
            let detail = note.detail.as_ref();
            let repeats = note.unless_repeated
                && is_last(&mut tx, cx.operation.0, step, event, detail).await?;
            if !repeats {
                append_event(&mut tx, cx.operation.0, step, event, attempts, detail).await?;
            }
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
pub(super) struct Note<'a> {
    pub(super) event: Option<(&'a str, StepEvent)>,
    /// The event itself is not worth a line.
    pub(super) silent: bool,
    /// Nor is it when the last event of the operation was the same.
    pub(super) unless_repeated: bool,
    pub(super) detail: Option<Value>,
    pub(super) sets_error: bool,
    pub(super) error: Option<String>,
    pub(super) turn_round: Option<usize>,
    pub(super) finish: Option<OperationState>,
    /// It went this way when it got stuck.
    pub(super) stuck_while: Option<OperationState>,
    pub(super) pause: Option<Duration>,
}

impl<'a> Note<'a> {
    pub(super) fn event(step: &'a str, event: StepEvent, detail: Option<Value>) -> Self {
        let sets_error = matches!(event, StepEvent::Succeeded | StepEvent::Waiting);
        Self { event: Some((step, event)), detail, sets_error, ..Self::default() }
    }

    /// It waits, and for what. Who follows the operation reads it once, and again when the reason is
    /// another one.
    pub(super) fn waiting(step: &'a str, reason: &str, pause: Duration) -> Self {
        let note = Self::event(step, StepEvent::Waiting, Some(json!({ "reason": reason })));
        Self { unless_repeated: true, ..note.after(pause) }
    }

    pub(super) fn failure(step: &'a str, event: StepEvent, error: &str) -> Self {
        Self {
            event: Some((step, event)),
            detail: Some(json!({ "error": error })),
            sets_error: true,
            error: Some(error.to_owned()),
            ..Self::default()
        }
    }

    pub(super) fn turn_round(to_undo: usize) -> Self {
        Self { turn_round: Some(to_undo), ..Self::default() }
    }

    pub(super) fn finished(state: OperationState) -> Self {
        Self { finish: Some(state), ..Self::default() }
    }

    pub(super) fn after(self, pause: Duration) -> Self {
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

/// Whether the operation's last event was this one.
async fn is_last(
    connection: &mut PgConnection,
    operation: uuid::Uuid,
    step: &str,
    event: StepEvent,
    detail: Option<&Value>,
) -> Result<bool, sqlx::Error> {
    let same = sqlx::query_scalar!(
        r#"select step = $2 and event = $3 and detail is not distinct from $4 as "same!"
           from operation_event where operation_id = $1 order by seq desc limit 1"#,
        operation,
        step,
        event as StepEvent,
        detail,
    )
    .fetch_optional(connection)
    .await?;
    Ok(same.unwrap_or(false))
}
