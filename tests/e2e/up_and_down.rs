//! The platform starts, stops, and starts again with its data; and leaves no process behind.

use anyhow::{Context, Result, ensure};
use control_types::state::SiteState;
use tests::{Stack, stack::Start};

use crate::site_life::create;

/// Processes whose arguments name this directory.
fn processes(directory: &std::path::Path) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path().join("cmdline");
        let text = String::from_utf8_lossy(&std::fs::read(path).unwrap_or_default()).into_owned();
        if text.contains(&directory.display().to_string()) {
            found.push(text.replace('\0', " "));
        }
    }
    Ok(found)
}

pub async fn comes_up_again_and_leaves_nothing_behind() -> Result<()> {
    let stack = tokio::task::spawn_blocking(|| Stack::start(Start::default())).await??;
    let origin = create(&stack, "lasting").await?;
    stack.visitor()?.read(&format!("{origin}/")).await?;
    let data = stack.data_dir();
    ensure!(processes(&data)?.len() >= 6, "{:#?}", processes(&data)?);

    // A second one in the same place is told who has it.
    let data_text = data.display().to_string();
    let second = stack.cli(&["up", "--data-dir", &data_text, "--no-demo"])?;
    ensure!(second.code != 0, "two platforms share one directory");
    ensure!(second.stderr.contains(&data_text) || second.stdout.contains(&data_text), "{second:?}");

    let directory = tokio::task::spawn_blocking(|| stack.stop()).await??;
    ensure!(processes(&data)?.is_empty(), "left behind: {:#?}", processes(&data)?);

    let stack =
        tokio::task::spawn_blocking(move || Stack::start_in(directory, Start::default())).await??;
    let site = stack.api()?.site("lasting").await?;
    ensure!(site.state == SiteState::Active);
    let url = &site.domains.first().context("no domain")?.url;
    stack.visitor()?.read(&format!("{url}/")).await?;
    let doctor = stack.cli(&["doctor", "--data-dir", &data_text])?;
    ensure!(doctor.code == 0, "{doctor:?}");
    let down = stack.cli(&["down", "--data-dir", &data_text])?;
    ensure!(down.code == 0, "{down:?}");
    ensure!(processes(&data)?.is_empty(), "left behind: {:#?}", processes(&data)?);
    Ok(())
}
