//! Follows an operation while it runs. The operation does not care: whoever stops following stops
//! nothing.

mod steps;

use std::time::{Duration, Instant};

use control_types::state::{OperationKind, OperationState, SiteState, StepEvent};
use provisioner_api::{Operation, OperationEvent, client::ClientError, operations::OperationNews};
use serde::Serialize;
use time::OffsetDateTime;

use crate::{
    connection::Connection,
    failure::{Code, Failure},
    output::{Output, printable},
    progress::steps::Steps,
};

/// How long one question waits for news.
const LONG_POLL: Duration = Duration::from_secs(20);
/// How long a silent provisioner is waited for: longer than it takes to start again.
const OUTAGE: Duration = Duration::from_secs(60);
/// Between two tries to reach it.
const PAUSE: Duration = Duration::from_secs(1);
/// A waiting operation and its site's deletion are due at the same time, give or take this.
const SAME_TIME: time::Duration = time::Duration::seconds(5);

/// How long to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Until {
    /// Until it ends or is stuck.
    End,
    /// Also no longer than until a deletion waits for the end of its grace period.
    GraceBegins,
}

/// One line of `operation watch --json`.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Line<'a> {
    /// Something happened.
    Event(&'a OperationEvent),
    /// It ended, or is stuck; always the last line.
    Operation(&'a Operation),
}

/// Follows for people, with the output's progress.
///
/// # Errors
/// When interrupted, or when the provisioner stays away.
pub async fn follow(
    connection: &Connection,
    output: &Output,
    operation: &Operation,
    until: Until,
) -> Result<Operation, Failure> {
    let mut progress = Steps::new(output, operation);
    let ended = interruptible(operation, poll(connection, operation, until, &mut progress)).await;
    progress.clear();
    ended
}

/// Follows with a line of JSON for each event, and one for the operation at its end.
///
/// # Errors
/// As [`follow`].
pub async fn follow_lines(
    connection: &Connection,
    output: &Output,
    operation: &Operation,
) -> Result<Operation, Failure> {
    let mut lines = Lines { output };
    let ended =
        interruptible(operation, poll(connection, operation, Until::End, &mut lines)).await?;
    output.line(&Line::Operation(&ended))?;
    Ok(ended)
}

/// What an operation's end means for the exit code.
///
/// # Errors
/// When it did not succeed.
pub fn verdict(operation: &Operation) -> Result<(), Failure> {
    let what = format!("the {}", subject(operation));
    let why = operation.last_error.as_deref().map(printable).unwrap_or_default();
    let because = if why.is_empty() { String::new() } else { format!(": {why}") };
    match operation.state {
        OperationState::Failed => {
            Err(Failure::new(Code::Failed, format!("{what} failed and was undone{because}"))
                .hint(format!("`ta3lem operation show {}` shows each step", operation.id)))
        }
        OperationState::Cancelled => {
            let by = operation
                .cancel_requested_by
                .as_deref()
                .map_or_else(String::new, |who| format!(" (asked by {})", printable(who)));
            Err(Failure::new(Code::Failed, format!("{what} was cancelled and undone{by}")))
        }
        OperationState::Stuck => {
            let hint = format!(
                "`ta3lem operation show {}` shows where; what to do: {}",
                operation.id,
                runbook(operation)
            );
            Err(Failure::new(Code::Stuck, format!("{what} is stuck{because}")).hint(hint))
        }
        _ => Ok(()),
    }
}

/// What an operation is, as the subject of a sentence.
pub fn subject(operation: &Operation) -> String {
    let noun = match operation.kind {
        OperationKind::CreateSite => "creation",
        OperationKind::DeleteSite => "deletion",
        OperationKind::MoveSite => "move",
        OperationKind::MoveSiteBack => "move back",
        OperationKind::RetirePlacement => "settling",
        OperationKind::CreatePreview => "preview",
        OperationKind::RestoreSite => "restore",
        OperationKind::UndoRestore => "undoing of the restore",
    };
    format!("{noun} of {}", operation.site)
}

/// `create_database` as people read it.
pub fn words(name: &str) -> String {
    printable(&name.replace('_', " "))
}

/// What an event says besides its name: an error, what it waits for, a note.
pub fn remark(event: &OperationEvent) -> Option<String> {
    let detail = event.detail.as_ref()?;
    let keys = ["error", "reason", "note"];
    keys.iter().find_map(|key| detail.get(key)?.as_str()).map(printable)
}

/// The page that says what to do about a stuck operation.
pub fn runbook(operation: &Operation) -> &str {
    operation.runbook.as_deref().unwrap_or("ops/runbooks/stuck_operation.md")
}

/// Whether a deletion does nothing now but wait for the end of its grace period.
///
/// # Errors
/// What the client met.
pub async fn in_grace(connection: &Connection, operation: &Operation) -> Result<bool, ClientError> {
    let Some(waits_until) = operation.waits_until else { return Ok(false) };
    if operation.state != OperationState::Running {
        return Ok(false);
    }
    let site = match connection.client.site(&operation.site_id.to_string()).await {
        Ok(site) => site,
        // It was deleted meanwhile.
        Err(error) if error.problem().is_some_and(|problem| problem.status == 404) => {
            return Ok(false);
        }
        Err(error) => return Err(error),
    };
    let Some(delete_after) = site.delete_after else { return Ok(false) };
    let in_step = usize::try_from(operation.steps_done)
        .ok()
        .and_then(|done| operation.steps.get(done))
        .is_some_and(|step| step.step.contains("grace"));
    let same_time = (waits_until - delete_after).abs() <= SAME_TIME;
    let ahead = delete_after > OffsetDateTime::now_utc();
    Ok(site.state == SiteState::Deleting && ahead && (in_step || same_time))
}

async fn interruptible(
    operation: &Operation,
    polling: impl Future<Output = Result<Operation, Failure>>,
) -> Result<Operation, Failure> {
    tokio::select! {
        ended = polling => ended,
        Ok(()) = tokio::signal::ctrl_c() => Err(Failure::new(
            Code::Interrupted,
            format!("stopped watching; the {} goes on", subject(operation)),
        ).hint(again_and_cancel(operation))),
    }
}

fn again_and_cancel(operation: &Operation) -> String {
    let id = operation.id;
    format!("watch: `ta3lem operation watch {id}`; cancel: `ta3lem operation cancel {id}`")
}

/// Who is told what happens.
trait Listener {
    fn happened(&mut self, operation: &Operation, event: &OperationEvent) -> Result<(), Failure>;
    fn quiet(&mut self, operation: &Operation);
    fn away(&mut self);
}

async fn poll(
    connection: &Connection,
    operation: &Operation,
    until: Until,
    listener: &mut impl Listener,
) -> Result<Operation, Failure> {
    let mut seq = 0;
    loop {
        let asked = Instant::now();
        let OperationNews { mut operation, events } =
            news(connection, operation, seq, listener).await?;
        for event in &events {
            seq = event.seq;
            listener.happened(&operation, event)?;
        }
        if events.last().is_some_and(may_rest) {
            // The events can be newer than the operation that came with them, and no more may come.
            let fresh = connection.client.operation(operation.id).await;
            operation = connection.answer(unless_away(fresh, operation))?;
        }
        if operation.state.is_final() || operation.state == OperationState::Stuck {
            return Ok(operation);
        }
        if until == Until::GraceBegins
            && connection.answer(unless_away(in_grace(connection, &operation).await, false))?
        {
            return Ok(operation);
        }
        if events.is_empty() {
            listener.quiet(&operation);
            if asked.elapsed() < PAUSE {
                // A provisioner that is stopping does not wait.
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Whether the operation may do nothing more for a long time after this.
fn may_rest(event: &OperationEvent) -> bool {
    matches!(event.event, StepEvent::Waiting | StepEvent::Failed | StepEvent::UndoFailed)
}

/// The next news. A provisioner that is being restarted is waited for.
async fn news(
    connection: &Connection,
    operation: &Operation,
    seq: i32,
    listener: &mut impl Listener,
) -> Result<OperationNews, Failure> {
    let mut away_since: Option<Instant> = None;
    loop {
        match connection.client.operation_news(operation.id, seq, LONG_POLL).await {
            Ok(news) => return Ok(news),
            Err(error) if is_outage(&error) => {
                let since = *away_since.get_or_insert_with(|| {
                    listener.away();
                    Instant::now()
                });
                if since.elapsed() > OUTAGE {
                    let failure = connection.explain(error);
                    return Err(failure.hint(format!(
                        "the operation goes on when the provisioner is back; {}",
                        again_and_cancel(operation)
                    )));
                }
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(connection.explain(error)),
        }
    }
}

/// An answer, or `otherwise` while the provisioner is away: the next question waits for it.
fn unless_away<T>(answer: Result<T, ClientError>, otherwise: T) -> Result<T, ClientError> {
    match answer {
        Err(error) if is_outage(&error) => Ok(otherwise),
        answer => answer,
    }
}

fn is_outage(error: &ClientError) -> bool {
    match error {
        ClientError::Unreachable { .. } => true,
        ClientError::Refused(problem) => matches!(problem.status, 502..=504),
        // An answer that broke off.
        ClientError::Unexpected { status, .. } => *status == 200,
    }
}

struct Lines<'a> {
    output: &'a Output,
}

impl Listener for Lines<'_> {
    fn happened(&mut self, _: &Operation, event: &OperationEvent) -> Result<(), Failure> {
        self.output.line(&Line::Event(event))
    }

    fn quiet(&mut self, _: &Operation) {}

    fn away(&mut self) {}
}
