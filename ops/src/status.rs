//! `ta3lem status`: how the platform is, as the provisioner sees it.

use time::OffsetDateTime;

use crate::{
    connection::Connection,
    failure::Failure,
    output::{Cell, Output, Tone},
    when,
};

/// Shows it.
pub async fn run(connection: &Connection, output: &Output) -> Result<(), Failure> {
    let status = connection.answer(connection.client.status().await)?;
    if output.json {
        return output.document(&status);
    }
    let parts: Vec<_> = status
        .components
        .into_iter()
        .map(|component| vec![component.name.into(), health(component.problem)])
        .collect();
    output.table(&["part", "state"], &parts, "The provisioner knows of no parts.")?;
    output.print("")?;
    let now = OffsetDateTime::now_utc();
    let loops: Vec<_> = status
        .reconcilers
        .into_iter()
        .map(|reconciler| {
            let ran = reconciler.last_run_at.map(|at| when::relative(at, now));
            vec![reconciler.name.into(), health(reconciler.last_error), Cell::or_dash(ran)]
        })
        .collect();
    output.table(&["reconciler", "state", "last run"], &loops, "There are no reconcilers.")?;
    let (live, stuck) = (status.n_live_operations, status.n_stuck_operations);
    let stuck_tone = if stuck > 0 { Tone::Bad } else { Tone::Plain };
    let stuck = output.paint(&format!("{stuck} stuck"), stuck_tone);
    output.print(&format!("\n{live} unfinished operations, {stuck}"))?;
    if live > 0 {
        output.say("See them: ta3lem operation list --live");
    }
    Ok(())
}

/// Fine, or what is wrong.
fn health(problem: Option<String>) -> Cell {
    problem
        .map_or_else(|| Cell::toned("fine", Tone::Good), |problem| Cell::toned(problem, Tone::Bad))
}
