//! A site goes to another cluster of its own region and comes back, while people use it. Its files stay
//! where they are.

use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context, Result, ensure};
use provisioner_api::places::PutCluster;
use serde_json::Value;
use tests::{Stack, places};

use crate::moves::{FROM, SLUG, files_of, run, site, started, while_people_use_it};

#[path = "../../provisioner/tests/parts/postgres.rs"]
#[allow(
    dead_code,
    clippy::expect_used,
    clippy::panic,
    reason = "made for tests that fail by panicking, and of which each uses its own part"
)]
mod postgres;
use postgres::Server;

const CLUSTER: &str = "jakarta-2";

pub async fn a_site_changes_its_cluster_inside_its_region() -> Result<()> {
    let stack = started().await?;
    let server = another_cluster(&stack).await?;
    let site = site(&stack)?;
    while_people_use_it(&stack, &site, async |_| there_and_back(&stack).await).await?;
    ensure!(files_of(&stack, &site).await?.len() >= 2, "files are gone");
    stack.stop()?;
    drop(server);
    Ok(())
}

async fn there_and_back(stack: &Stack) -> Result<()> {
    let first = place(stack)?["cluster"].as_str().context("no cluster")?.to_owned();
    let itself = stack.cli(&["site", "move", SLUG, "--to-cluster", &first])?;
    ensure!(itself.code == 1 && itself.stderr.contains("already"), "{}", itself.stderr);
    let nowhere = stack.cli(&["site", "move", SLUG, "--to-cluster", "jakarta-9"])?;
    ensure!(nowhere.code == 4 && nowhere.stderr.contains("jakarta-9"), "{}", nowhere.stderr);
    for (command, cluster) in [
        (vec!["site", "move", SLUG, "--to-cluster", CLUSTER, "--fast"], CLUSTER),
        (vec!["site", "move-back", SLUG], first.as_str()),
        (vec!["site", "settle", SLUG, "--yes"], first.as_str()),
        (vec!["site", "move", SLUG, "--to-cluster", CLUSTER], CLUSTER),
        (vec!["site", "settle", SLUG, "--yes"], CLUSTER),
    ] {
        run(stack, command.iter().map(ToString::to_string).collect()).await?;
        let place = place(stack)?;
        ensure!(place["cluster"] == cluster && place["region"] == FROM, "{command:?}: {place}");
    }
    Ok(())
}

fn place(stack: &Stack) -> Result<Value> {
    let shown = stack.cli(&["site", "show", SLUG, "--json"])?.ok()?.json()?;
    Ok(shown["placement"].clone())
}

/// A second server in the region, as an operator adds one.
async fn another_cluster(stack: &Stack) -> Result<Server> {
    const HBA: &str = "local sameuser all scram-sha-256\nlocal all +ta3lem_mover scram-sha-256";
    const SETTINGS: &str = "wal_level = logical\nmax_replication_slots = 16\n\
        max_wal_senders = 16\nmax_logical_replication_workers = 12\nmax_worker_processes = 20";
    let server = tokio::task::spawn_blocking(|| Server::start(HBA, SETTINGS)).await?;
    std::fs::set_permissions(server.path(), std::fs::Permissions::from_mode(0o755))?;
    let api = stack.api()?;
    let put = PutCluster {
        region: FROM.to_owned(),
        admin_url: server.admin_url(),
        app_host: server.path().to_string_lossy().into_owned(),
        app_port: 5432,
        max_databases: 50,
        accepts_sites: true,
        replication_host: None,
        replication_port: None,
    };
    api.put_cluster(CLUSTER, &put).await?;
    places::ready(&api).await?;
    Ok(server)
}
