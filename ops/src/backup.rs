//! `ta3lem backup`.

use clap::Subcommand;
use provisioner_api::backups::{Backup, ClusterBackups};
use time::OffsetDateTime;

use crate::{
    connection::Connection,
    failure::Failure,
    output::{Cell, Output, Tone},
    when,
};

/// What can be done with backups.
#[derive(Subcommand)]
pub enum BackupCommand {
    /// Show, for each cluster, what could be restored and what would be lost
    Status,
}

/// Does it.
pub async fn run(
    command: &BackupCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    let BackupCommand::Status = command;
    let backups = connection.answer(connection.client.backups().await)?;
    if output.json {
        return output.document(&backups);
    }
    let now = OffsetDateTime::now_utc();
    let rows: Vec<_> = backups.iter().map(|backups| row(backups, now)).collect();
    let header =
        ["cluster", "state", "since", "newest backup", "stored", "at risk", "object store"];
    output.table(&header, &rows, "There are no clusters.")?;
    for backups in &backups {
        if let Some(problem) = &backups.problem {
            output.say(&format!("{}: {}", backups.cluster, crate::output::printable(problem)));
        }
    }
    Ok(())
}

fn row(backups: &ClusterBackups, now: OffsetDateTime) -> Vec<Cell> {
    let report = backups.report.as_ref();
    let all: &[Backup] = report.map_or(&[], |report| &report.backups);
    let doing = report.and_then(|report| report.doing.as_deref());
    let state = match (&backups.problem, doing) {
        (Some(_), _) => Cell::toned("see below", Tone::Bad),
        (None, Some(doing)) => Cell::toned(doing, Tone::Busy),
        (None, None) => Cell::toned("complete", Tone::Good),
    };
    let newest = all
        .last()
        .map(|backup| format!("{}, {}", backup.kind, when::relative(backup.finished_at, now)));
    let stored: u64 = all.iter().map(|backup| backup.stored_bytes).sum();
    vec![
        backups.cluster.as_str().into(),
        state,
        Cell::or_dash(all.first().map(|backup| when::relative(backup.finished_at, now))),
        Cell::or_dash(newest),
        when::bytes(i64::try_from(stored).unwrap_or(i64::MAX)).into(),
        Cell::or_dash(backups.at_risk_secs.map(|secs| format!("the last {secs} s"))),
        Cell::or_dash(backups.object_store.clone()),
    ]
}
