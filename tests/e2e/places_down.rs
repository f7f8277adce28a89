//! A cluster's server and an object store go away and come back. Who asks meanwhile is told which part
//! it is; sites elsewhere are made as always; what was recorded is finished afterwards.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use control_types::{OperationId, state::OperationState};
use rustix::process::{Pid, Signal, kill_process};
use tests::{Stack, places, stack::Start};
use uuid::Uuid;

use crate::site_life::{create, request};

const REGION: &str = "sg-singapore";
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(50);

pub async fn the_part_that_is_down_is_named() -> Result<()> {
    let stack = tokio::task::spawn_blocking(|| Stack::start(Start::default())).await??;
    cluster(&stack).await?;
    object_store(&stack).await?;
    tokio::task::spawn_blocking(|| stack.stop()).await??;
    Ok(())
}

async fn cluster(stack: &Stack) -> Result<()> {
    // Without this file the server does not start again.
    let version = stack.data_dir().join("clusters").join(REGION).join("PG_VERSION");
    let aside = version.with_extension("aside");
    std::fs::rename(&version, &aside).with_context(|| version.display().to_string())?;
    let server = stack.process(&format!("postgres-{REGION}"))?;
    kill_process(Pid::from_raw(server).context("no process")?, Signal::KILL)?;
    let asked = ask(stack, "down-cluster", "cluster singapore-1").await?;
    create(stack, "elsewhere").await?;
    std::fs::rename(&aside, &version)?;
    finished(stack, "down-cluster", asked).await
}

async fn object_store(stack: &Stack) -> Result<()> {
    let api = stack.api()?;
    let address = places::object_store_address(stack, REGION)?;
    let put = |address| places::object_store(stack, REGION, address);
    // Nobody listens at this port.
    api.put_object_store("singapore-files", &put(([127, 0, 0, 1], 1).into())?).await?;
    let asked = ask(stack, "down-store", "object store singapore-files").await?;
    api.put_object_store("singapore-files", &put(address)?).await?;
    finished(stack, "down-store", asked).await
}

/// Asks for a site in the region, and returns when somebody has named `component`: the refusal, or
/// the operation that waits.
async fn ask(stack: &Stack, slug: &str, component: &str) -> Result<Option<OperationId>> {
    let api = stack.api()?;
    let mut site = request(slug);
    site.region = REGION.to_owned();
    let id = match api.create_site(&site, &Uuid::new_v4().to_string()).await {
        Ok(accepted) => accepted.operation.id,
        Err(error) => {
            let problem = error.problem().context("no problem details")?;
            ensure!(problem.component.as_deref() == Some(component), "{problem:?}");
            return Ok(None);
        }
    };
    let began = Instant::now();
    loop {
        let operation = api.operation(id).await?;
        if operation.last_error.as_ref().is_some_and(|error| error.contains(component)) {
            ensure!(!operation.state.is_final(), "{slug} ended {}", operation.state);
            return Ok(Some(id));
        }
        ensure!(began.elapsed() < PATIENCE, "nobody says that {component} is down: {operation:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// The site is there in the end, by the operation that waited or by a new one.
async fn finished(stack: &Stack, slug: &str, asked: Option<OperationId>) -> Result<()> {
    let api = stack.api()?;
    let began = Instant::now();
    let mut site = request(slug);
    site.region = REGION.to_owned();
    let id = loop {
        if let Some(id) = asked {
            break id;
        }
        match api.create_site(&site, &Uuid::new_v4().to_string()).await {
            Ok(accepted) => break accepted.operation.id,
            Err(error) if began.elapsed() > PATIENCE => bail!("{slug}: {error}"),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    };
    let operation = api.wait_for(id).await?;
    ensure!(
        operation.state == OperationState::Succeeded,
        "{slug}: {} {:?}",
        operation.state,
        operation.last_error
    );
    let page = stack.visitor()?.read(&format!("{}/", stack.url(slug, REGION)?)).await?;
    ensure!(page.contains("Academy"), "{slug} shows something else");
    Ok(())
}
