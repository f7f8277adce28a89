//! `ta3lem plan`.

use clap::Subcommand;

use crate::{
    connection::Connection,
    failure::Failure,
    output::{Cell, Output, Tone},
    when,
};

/// What can be done with plans.
#[derive(Subcommand)]
pub enum PlanCommand {
    /// List the plans with their limits
    List,
}

/// Does it.
pub async fn run(
    command: &PlanCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let PlanCommand::List = command;
    let plans = connection.answer(connection.client.plans().await)?;
    if output.json {
        return output.document(&plans);
    }
    let rows: Vec<_> = plans
        .into_iter()
        .map(|plan| {
            vec![
                plan.name.into(),
                limit(plan.max_students.map(|limit| limit.to_string())),
                limit(plan.max_instructors.map(|limit| limit.to_string())),
                limit(plan.max_courses.map(|limit| limit.to_string())),
                limit(plan.storage_bytes.map(when::bytes)),
                when::bytes(plan.max_upload_bytes).into(),
                plan.max_custom_domains.to_string().into(),
                format!("{} days", plan.restore_window_secs / 86_400).into(),
            ]
        })
        .collect();
    let header =
        ["plan", "students", "instructors", "courses", "storage", "one file", "domains", "restore"];
    output.table(&header, &rows, "There are no plans.")
}

fn limit(limit: Option<String>) -> Cell {
    limit.map_or_else(|| Cell::toned("unlimited", Tone::Faint), Cell::from)
}
