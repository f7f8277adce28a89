//! `ta3lem operation`.

use std::collections::HashMap;

use clap::{Args, Subcommand};
use control_types::{
    OperationId,
    state::{OperationState, StepEvent},
};
use provisioner_api::{Operation, OperationEvent, operations::OperationFilter};
use time::OffsetDateTime;

use crate::{
    cli::{SiteName, site_name},
    connection::{Again, Connection},
    failure::{Code, Failure},
    output::{Cell, Output, Tone},
    progress::{self, Until, remark, words},
    when,
};

/// So many operations are searched for the beginning of an id.
const SEARCHED: i64 = 200;
/// Characters of an id that lists show at least: its time of birth in milliseconds.
const SHORT_ID: usize = 13;

/// What can be done with operations.
#[derive(Subcommand)]
pub enum OperationCommand {
    /// List operations, the newest first
    List(ListArgs),
    /// Show one with its steps
    Show(IdArgs),
    /// Follow one until it ends
    ///
    /// With --json, a line {"event": ...} for each event and a last one {"operation": ...}.
    Watch(IdArgs),
    /// Stop one and undo what it did, as long as that is possible
    Cancel(CancelArgs),
    /// Let a stuck one try again where it stopped, when its cause is mended
    Retry(RetryArgs),
}

/// Which operations.
#[derive(Args)]
pub struct ListArgs {
    /// Only those of this site
    #[arg(long, value_name = "SLUG", value_parser = site_name)]
    site: Option<SiteName>,
    /// Only those that have not ended
    #[arg(long)]
    live: bool,
    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 20)]
    #[arg(value_parser = clap::value_parser!(i64).range(1..=1000))]
    limit: i64,
}

/// Which operation.
#[derive(Args)]
pub struct IdArgs {
    /// The operation's id, or a beginning of it that no other recent one has
    #[arg(value_name = "ID", value_parser = id_beginning)]
    id: String,
}

/// Which operation, and whether to wait.
#[derive(Args)]
pub struct RetryArgs {
    #[command(flatten)]
    id: IdArgs,
    /// Return when the next try is asked for
    #[arg(long)]
    no_wait: bool,
}

/// Which operation, and whether to wait.
#[derive(Args)]
pub struct CancelArgs {
    #[command(flatten)]
    id: IdArgs,
    /// Return when the cancelling is asked for
    #[arg(long)]
    no_wait: bool,
}

/// Does it.
pub async fn run(
    command: OperationCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        OperationCommand::List(args) => list(args, connection, output).await,
        OperationCommand::Show(args) => show(&args, connection, output).await,
        OperationCommand::Watch(args) => watch(&args, connection, output).await,
        OperationCommand::Cancel(args) => cancel(&args, connection, output).await,
        OperationCommand::Retry(args) => retry(&args, connection, output).await,
    }
}

async fn list(args: ListArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let site = args.site.map(|site| site.0);
    let filter = OperationFilter { site, live: args.live, limit: Some(args.limit) };
    let operations = connection.answer(connection.client.operations(&filter).await)?;
    if output.json {
        return output.document(&operations);
    }
    let now = OffsetDateTime::now_utc();
    let length = short_length(&operations);
    let rows: Vec<_> = operations
        .iter()
        .map(|operation| {
            let id: String = operation.id.to_string().chars().take(length).collect();
            let end = operation.finished_at.unwrap_or(now);
            vec![
                id.into(),
                operation.site.as_str().into(),
                words(operation.kind.as_str()).into(),
                state(operation),
                format!("{} of {}", operation.steps_done, operation.steps.len()).into(),
                when::relative(operation.created_at, now).into(),
                when::took(when::between(operation.created_at, end)).into(),
                operation.requested_by.as_str().into(),
            ]
        })
        .collect();
    let header = ["id", "site", "operation", "state", "steps", "asked", "took", "by"];
    output.table(&header, &rows, "There are no such operations.")
}

async fn show(args: &IdArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let id = find(&args.id, connection).await?;
    if output.json {
        let operation = get(id, connection).await?;
        return output.document(&operation);
    }
    let news = connection.client.operation_news(id, 0, std::time::Duration::ZERO).await;
    let news = connection.answer(news).map_err(|failure| with_hint(failure, id))?;
    let (operation, now) = (&news.operation, OffsetDateTime::now_utc());
    let mut fields = vec![
        ("Operation", Cell::from(operation.id.to_string())),
        ("What", progress::subject(operation).into()),
        ("State", state(operation)),
        ("Asked by", operation.requested_by.as_str().into()),
        ("Asked at", when::both(operation.created_at, now).into()),
    ];
    let optional = [
        ("Reason", operation.reason.clone()),
        ("Goes on at", operation.waits_until.map(|at| when::both(at, now))),
        ("Ended at", operation.finished_at.map(|at| when::both(at, now))),
        ("Cancelled by", operation.cancel_requested_by.clone()),
    ];
    fields.extend(optional.into_iter().filter_map(|(name, text)| Some((name, text?.into()))));
    if let Some(error) = &operation.last_error {
        fields.push(("Last error", Cell::toned(error.as_str(), Tone::Bad)));
    }
    if operation.state == OperationState::Stuck {
        fields.push(("What to do", progress::runbook(operation).into()));
    }
    output.fields(fields)?;
    output.print("")?;
    output.table(&["step", "state", "took", ""], &steps(operation, &news.events), "No steps.")?;
    if operation.state == OperationState::Stuck {
        output.say(&format!("\nTry again: ta3lem operation retry {}", operation.id));
    } else if operation.can_cancel {
        output.say(&format!("\nCancel it: ta3lem operation cancel {}", operation.id));
    }
    Ok(())
}

async fn watch(args: &IdArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let id = find(&args.id, connection).await?;
    let operation = get(id, connection).await?;
    if output.json {
        let ended = progress::follow_lines(connection, output, &operation).await?;
        return progress::verdict(&ended);
    }
    output.say(&format!("The {} (operation {id})", progress::subject(&operation)));
    let ended = progress::follow(connection, output, &operation, Until::End).await?;
    progress::verdict(&ended)?;
    output.print(&ending(&ended))
}

async fn cancel(
    args: &CancelArgs,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let id = find(&args.id.id, connection).await?;
    let asked = connection
        .change(Again::NotSent, async |client| client.cancel_operation(id).await)
        .await
        .map_err(|failure| with_hint(failure, id))?;
    let ended = if args.no_wait {
        asked
    } else {
        output.say(&format!("Cancelling the {} (operation {id})", progress::subject(&asked)));
        progress::follow(connection, output, &asked, Until::End).await?
    };
    if output.json {
        output.document(&ended)?;
    }
    match ended.state {
        OperationState::Cancelled if !output.json => output.print(&ending(&ended)),
        OperationState::Cancelled => Ok(()),
        OperationState::Succeeded => {
            let message = "it was too late to cancel: the operation succeeded";
            Err(Failure::new(Code::Conflict, message))
        }
        OperationState::Failed | OperationState::Stuck => progress::verdict(&ended),
        _ if output.json => Ok(()),
        _ => output
            .print(&format!("Cancelling is asked for. Watch: ta3lem operation watch {}", ended.id)),
    }
}

async fn retry(args: &RetryArgs, connection: &Connection, output: &Output) -> Result<(), Failure> {
    let id = find(&args.id.id, connection).await?;
    let asked = connection
        .change(Again::NotSent, async |client| client.retry_operation(id).await)
        .await
        .map_err(|failure| with_hint(failure, id))?;
    let ended = if args.no_wait {
        asked
    } else {
        output.say(&format!("Trying the {} again (operation {id})", progress::subject(&asked)));
        progress::follow(connection, output, &asked, Until::End).await?
    };
    if output.json {
        output.document(&ended)?;
        return progress::verdict(&ended);
    }
    progress::verdict(&ended)?;
    if ended.state.is_final() {
        output.print(&ending(&ended))
    } else {
        output.print(&format!("It is tried again. Watch: ta3lem operation watch {id}"))
    }
}

/// Says where to look when it cannot be done to this operation now.
fn with_hint(failure: Failure, id: OperationId) -> Failure {
    match failure.code {
        Code::Conflict => failure.hint(format!("`ta3lem operation show {id}` shows how far it is")),
        Code::NotFound => failure.hint("`ta3lem operation list` shows the latest ones"),
        _ => failure,
    }
}

/// One sentence about an operation that ended.
fn ending(operation: &Operation) -> String {
    let end = operation.finished_at.unwrap_or(operation.created_at);
    let took = when::took(when::between(operation.created_at, end));
    format!("{}: {} after {took}", progress::subject(operation), operation.state)
}

/// An operation's state in words and colour.
fn state(operation: &Operation) -> Cell {
    let tone = match operation.state {
        OperationState::Succeeded => Tone::Good,
        OperationState::Stuck | OperationState::Failed => Tone::Bad,
        OperationState::Cancelled => Tone::Faint,
        _ => Tone::Busy,
    };
    match (operation.state, operation.waits_until) {
        (OperationState::Running, Some(at)) if at > OffsetDateTime::now_utc() => {
            Cell::toned("waiting", tone)
        }
        (state, _) => Cell::toned(state.as_str(), tone),
    }
}

/// The steps with how each went.
fn steps(operation: &Operation, events: &[OperationEvent]) -> Vec<Vec<Cell>> {
    let mut last: HashMap<&str, &OperationEvent> = HashMap::new();
    let mut began: HashMap<&str, OffsetDateTime> = HashMap::new();
    for event in events {
        let first = event.attempt <= 1;
        match event.event {
            StepEvent::Started | StepEvent::UndoStarted if first => {
                began.insert(&event.step, event.at);
            }
            _ => {}
        }
        last.insert(&event.step, event);
    }
    let row = |step: &provisioner_api::StepProgress| {
        let event = last.get(step.step.as_str());
        let state = match event.map(|event| event.event) {
            Some(StepEvent::UndoStarted) => Cell::toned("being undone", Tone::Busy),
            Some(StepEvent::UndoFailed) => Cell::toned("undo tried again", Tone::Busy),
            _ if step.done => Cell::toned("done", Tone::Good),
            None => Cell::toned("to do", Tone::Faint),
            Some(StepEvent::Started) => Cell::toned("running", Tone::Busy),
            Some(StepEvent::Succeeded) => Cell::toned("done", Tone::Good),
            Some(StepEvent::Waiting) => Cell::toned("waiting", Tone::Busy),
            Some(StepEvent::Retried) => Cell::toned("tried again", Tone::Busy),
            Some(StepEvent::Failed) => Cell::toned("failed", Tone::Bad),
            Some(StepEvent::Undone) => Cell::toned("undone", Tone::Busy),
        };
        let took = event.and_then(|event| {
            Some(when::took(when::between(*began.get(step.step.as_str())?, event.at)))
        });
        let note = event
            .and_then(|event| remark(event))
            .or_else(|| step.is_pivot.then(|| "no way back after this".into()));
        vec![words(&step.step).into(), state, Cell::or_dash(took), note.unwrap_or_default().into()]
    };
    operation.steps.iter().map(row).collect()
}

/// The length at which the ids of a list begin differently.
fn short_length(operations: &[Operation]) -> usize {
    let mut ids: Vec<String> = operations.iter().map(|o| o.id.to_string()).collect();
    ids.sort_unstable();
    let common = |pair: &[String]| {
        pair[0].chars().zip(pair[1].chars()).take_while(|(one, other)| one == other).count()
    };
    ids.windows(2).map(common).max().map_or(SHORT_ID, |common| SHORT_ID.max(common + 1))
}

/// Reads an id or its beginning.
fn id_beginning(text: &str) -> Result<String, String> {
    let text = text.to_ascii_lowercase();
    if text.parse::<OperationId>().is_ok() {
        return Ok(text);
    }
    let legal = text.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-');
    if legal && (4..=36).contains(&text.len()) {
        Ok(text)
    } else {
        Err("an operation's id, or at least its first 4 characters, is wanted".into())
    }
}

async fn get(id: OperationId, connection: &Connection) -> Result<Operation, Failure> {
    let operation = connection.client.operation(id).await;
    connection.answer(operation).map_err(|failure| with_hint(failure, id))
}

/// The operation that is meant.
async fn find(beginning: &str, connection: &Connection) -> Result<OperationId, Failure> {
    if let Ok(id) = beginning.parse() {
        return Ok(id);
    }
    let filter = OperationFilter { site: None, live: false, limit: Some(SEARCHED) };
    let operations = connection.answer(connection.client.operations(&filter).await)?;
    let meant: Vec<&Operation> = operations
        .iter()
        .filter(|operation| operation.id.to_string().starts_with(beginning))
        .collect();
    match meant.as_slice() {
        [one] => Ok(one.id),
        [] => Err(Failure::new(
            Code::NotFound,
            format!("none of the latest {} operations begins with {beginning}", operations.len()),
        )
        .hint("`ta3lem operation list` shows them; older ones need their whole id")),
        several => {
            let mut ids: Vec<String> = several.iter().map(|one| one.id.to_string()).collect();
            let more = ids.len().saturating_sub(5);
            ids.truncate(5);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let message = format!("{beginning} is the beginning of {} operations", several.len());
            Err(Failure::new(Code::Usage, message)
                .hint(format!("give more of one of {}{more}", ids.join(", "))))
        }
    }
}
