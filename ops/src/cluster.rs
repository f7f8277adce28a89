//! `ta3lem cluster`.

use clap::Subcommand;
use provisioner_api::Cluster;
use time::OffsetDateTime;

use crate::{
    connection::Connection,
    failure::Failure,
    output::{Cell, Output, Tone},
    when,
};

/// What can be done with clusters.
#[derive(Subcommand)]
pub enum ClusterCommand {
    /// List the clusters
    List,
    /// Make the backups of a cluster beside it, until stopped
    Keep(ops::keeper::KeepArgs),
}

/// Lists them.
pub async fn list(connection: &Connection, output: &Output) -> Result<(), Failure> {
    let clusters = connection.answer(connection.client.clusters().await)?;
    if output.json {
        return output.document(&clusters);
    }
    let now = OffsetDateTime::now_utc();
    let rows: Vec<_> = clusters
        .iter()
        .map(|cluster| {
            vec![
                cluster.name.as_str().into(),
                cluster.region.as_str().into(),
                state(cluster),
                format!("{} of {}", cluster.n_databases, cluster.max_databases).into(),
                Cell::or_dash(cluster.template_version.map(|version| format!("V{version}"))),
                Cell::or_dash(cluster.last_seen_at.map(|at| when::relative(at, now))),
            ]
        })
        .collect();
    let header = ["cluster", "region", "state", "databases", "template", "last seen"];
    output.table(&header, &rows, "There are no clusters.")?;
    for cluster in &clusters {
        if let Some(error) = &cluster.last_error {
            let error = crate::output::printable(error);
            output.say(&format!("{} cannot be reached: {error}", cluster.name));
        }
    }
    Ok(())
}

/// Whether it would take a new site, and if not, why.
fn state(cluster: &Cluster) -> Cell {
    if cluster.last_error.is_some() {
        Cell::toned("unreachable", Tone::Bad)
    } else if cluster.n_databases >= i64::from(cluster.max_databases) {
        Cell::toned("full", Tone::Busy)
    } else if !cluster.accepts_sites {
        Cell::toned("closed", Tone::Faint)
    } else if cluster.template_version.is_none() {
        Cell::toned("preparing", Tone::Busy)
    } else {
        Cell::toned("open", Tone::Good)
    }
}
