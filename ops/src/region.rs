//! `ta3lem region`.

mod drain;

use clap::Subcommand;

use crate::{
    connection::Connection,
    failure::Failure,
    output::{Cell, Output},
};

/// What can be done with regions.
#[derive(Subcommand)]
pub enum RegionCommand {
    /// List the regions
    List,
    /// Move all sites of a region to another one, some at a time
    Drain(drain::DrainArgs),
}

/// Does it.
pub async fn run(
    command: &RegionCommand,
    connection: &Connection,
    output: &Output,
) -> Result<(), Failure> {
    match command {
        RegionCommand::List => list(connection, output).await,
        RegionCommand::Drain(args) => drain::run(args, connection, output).await,
    }
}

async fn list(connection: &Connection, output: &Output) -> Result<(), Failure> {
    let regions = connection.answer(connection.client.regions().await)?;
    if output.json {
        return output.document(&regions);
    }
    let rows: Vec<_> = regions
        .into_iter()
        .map(|region| {
            let sites = region.n_sites.to_string();
            let edge = region.edge_addresses.join(", ");
            let edge = Cell::or_dash((!edge.is_empty()).then_some(edge));
            vec![region.name.into(), region.display_name.into(), sites.into(), edge]
        })
        .collect();
    output.table(&["region", "name", "sites", "edge addresses"], &rows, "There are no regions.")
}
