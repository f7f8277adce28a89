//! The provisioner is killed with SIGKILL again and again while sites are created. Every site ends
//! finished or cleanly unwound, and nothing is left behind.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use control_types::state::{OperationState, SiteState};
use provisioner_api::{client::Client, operations::OperationFilter};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::PgPool;
use tests::{Stack, stack::Start};
use uuid::Uuid;

use crate::site_life::request;

/// Sites created, and kills among them.
const ROUNDS: usize = 8;

pub async fn the_provisioner_is_killed_during_creates() -> Result<()> {
    let stack = tokio::task::spawn_blocking(|| Stack::start(Start::default())).await??;
    let mut killed = 0;
    for round in 0..ROUNDS {
        let slug = format!("hit-{round}");
        let key = Uuid::new_v4().to_string();
        let mut site = request(&slug);
        site.domain = Some(format!("learn.{slug}.localhost"));
        record(&stack, &site, &key).await?;
        // A little later each time, so that over the rounds every step is hit.
        tokio::time::sleep(Duration::from_millis(60 * round as u64)).await;
        let process = stack.process("provisioner")?;
        let pid = Pid::from_raw(process).context("no process")?;
        killed += usize::from(kill_process(pid, Signal::KILL).is_ok());
    }
    ensure!(killed >= ROUNDS / 2, "only {killed} kills");
    let api = ready(&stack).await?;
    let began = Instant::now();
    let operations = loop {
        let operations = api.operations(&OperationFilter::default()).await?;
        if operations.len() == ROUNDS && operations.iter().all(|o| o.state.is_final()) {
            break operations;
        }
        if began.elapsed() > Duration::from_secs(120) {
            bail!("not all ended: {operations:#?}");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let mut alive = BTreeSet::new();
    for operation in &operations {
        match operation.state {
            OperationState::Succeeded => {
                let site = api.site(&operation.site_id.to_string()).await?;
                ensure!(site.state == SiteState::Active, "{} is {}", site.slug, site.state);
                let url = &site.domains[0].url;
                let home = stack.visitor()?.read(&format!("{url}/")).await?;
                ensure!(home.contains("Academy"), "{url} shows something else");
                alive.insert(site.placement.context("no placement")?.database);
            }
            OperationState::Failed => {}
            other => bail!("{} ended {other}", operation.site),
        }
    }
    // Databases and roles are those of the sites that live, and no others.
    let pool = PgPool::connect(&stack.admin_url("id-jakarta", "postgres")?).await?;
    let names = |sql: &'static str| {
        let pool = pool.clone();
        async move {
            let names: Vec<String> = sqlx::query_scalar(sql).fetch_all(&pool).await?;
            anyhow::Ok(names.into_iter().collect::<BTreeSet<_>>())
        }
    };
    let databases =
        names("select datname::text from pg_database where datname like 's\\_%'").await?;
    ensure!(databases == alive, "databases {databases:?}, sites {alive:?}");
    let roles =
        names("select rolname::text from pg_roles where rolname ~ '^s_[0-9a-f]{32}$'").await?;
    ensure!(roles == alive, "roles {roles:?}, sites {alive:?}");
    tokio::task::spawn_blocking(|| stack.stop()).await??;
    Ok(())
}

/// Asks for a site until the provisioner has recorded it, with one key.
async fn record(stack: &Stack, site: &provisioner_api::sites::CreateSite, key: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        match ready(stack).await?.create_site(site, key).await {
            Ok(_) => return Ok(()),
            Err(error) if began.elapsed() > Duration::from_secs(60) => return Err(error.into()),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// The API, once it answers.
async fn ready(stack: &Stack) -> Result<Client> {
    let api = stack.api()?;
    let began = Instant::now();
    while let Err(error) = api.ready().await {
        ensure!(began.elapsed() < Duration::from_secs(60), "the provisioner is not back: {error}");
        tokio::time::sleep(Duration::from_millis(30)).await;
    }
    Ok(api)
}
