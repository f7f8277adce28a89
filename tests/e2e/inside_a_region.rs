//! A site goes to another cluster of its own region and comes back, while people use it. Its files stay
//! where they are.

use std::{os::unix::fs::PermissionsExt as _, time::Duration};

use anyhow::{Context, Result, ensure};
use control_types::state::OperationState;
use provisioner_api::{places::PutCluster, sites::MoveSite};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tests::{Stack, places};
use uuid::Uuid;

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
    while_people_use_it(&stack, &site, async |_| there_and_back(&stack, &server).await).await?;
    ensure!(files_of(&stack, &site).await?.len() >= 2, "files are gone");
    stack.stop()?;
    drop(server);
    Ok(())
}

async fn there_and_back(stack: &Stack, server: &Server) -> Result<()> {
    let first = place(stack)?["cluster"].as_str().context("no cluster")?.to_owned();
    let itself = stack.cli(&["site", "move", SLUG, "--to-cluster", &first])?;
    ensure!(itself.code == 1 && itself.stderr.contains("already"), "{}", itself.stderr);
    let nowhere = stack.cli(&["site", "move", SLUG, "--to-cluster", "jakarta-9"])?;
    ensure!(nowhere.code == 4 && nowhere.stderr.contains("jakarta-9"), "{}", nowhere.stderr);
    waits_for_others(stack, server).await?;
    ensure!(place(stack)?["cluster"] == CLUSTER, "it did not move");
    for (command, cluster) in [
        (vec!["site", "move-back", SLUG], first.as_str()),
        (vec!["site", "settle", SLUG, "--yes"], first.as_str()),
        (vec!["site", "move", SLUG, "--to-cluster", CLUSTER, "--fast"], CLUSTER),
        (vec!["site", "settle", SLUG, "--yes"], CLUSTER),
    ] {
        run(stack, command.iter().map(ToString::to_string).collect()).await?;
        let place = place(stack)?;
        ensure!(place["cluster"] == cluster && place["region"] == FROM, "{command:?}: {place}");
    }
    Ok(())
}

/// Others use the slots that it needs: it says so before and while it waits, and goes when they give them
/// back.
async fn waits_for_others(stack: &Stack, server: &Server) -> Result<()> {
    const SHORT: &str = "cluster jakarta-2 has 5 of its 16 max_replication_slots left";
    const OTHERS: &str = "from generate_series(1, 11) n";
    let mut admin = PgConnection::connect(&server.admin_url()).await?;
    let take = format!("select pg_create_physical_replication_slot('other_' || n) {OTHERS}");
    sqlx::raw_sql(AssertSqlSafe(take)).execute(&mut admin).await?;
    let plan = stack.cli(&["site", "move", SLUG, "--to-cluster", CLUSTER, "--dry-run"])?.ok()?;
    ensure!(plan.stderr.contains(&format!("would wait: {SHORT}")), "{}", plan.stderr);
    let (api, key) = (stack.api()?, Uuid::new_v4().to_string());
    let wanted = MoveSite { cluster: Some(CLUSTER.to_owned()), ..MoveSite::default() };
    let operation = api.move_site(SLUG, &wanted, &key).await?.operation.id;
    let mut after = 0;
    loop {
        let news = api.operation_news(operation, after, Duration::from_secs(20)).await?;
        ensure!(!news.operation.state.is_final(), "it did not wait: {:?}", news.operation);
        let reasons =
            news.events.iter().filter_map(|event| event.detail.as_ref()?["reason"].as_str());
        if reasons.into_iter().any(|reason| reason.contains(SHORT)) {
            break;
        }
        after = news.events.last().map_or(after, |event| event.seq);
    }
    let give_back = format!("select pg_drop_replication_slot('other_' || n) {OTHERS}");
    sqlx::raw_sql(AssertSqlSafe(give_back)).execute(&mut admin).await?;
    admin.close().await?;
    let ended = api.wait_for(operation).await?;
    ensure!(ended.state == OperationState::Succeeded, "{:?}", ended.last_error);
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
