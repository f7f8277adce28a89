//! `ta3lem down`: stops a running `ta3lem up`, and what a killed one left running.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, ensure};
use rustix::process::Signal;

use crate::{
    config,
    data_dir::DataDir,
    up::{leftovers, process::ProcessRecord, progress::line},
};

/// Longer than everything together takes to stop.
const PATIENCE: Duration = Duration::from_secs(180);

/// Stops what `ta3lem up` runs.
#[derive(Clone, Debug, clap::Args)]
pub struct DownArgs {
    /// The data directory of what is to be stopped
    #[arg(long, value_name = "DIR", env = "TA3LEM_DATA_DIR", hide_env_values = true)]
    pub data_dir: Option<PathBuf>,
}

/// Stops it and waits until it is stopped.
pub async fn run(args: DownArgs) -> ExitCode {
    match stop(args).await {
        Ok(said) => {
            line(&said);
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("ta3lem down: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn stop(args: DownArgs) -> anyhow::Result<String> {
    let directory = args.data_dir.map_or_else(config::default_data_dir, Ok)?;
    let data = DataDir::at(&directory)?;
    let root = data.root().display().to_string();
    ensure!(
        data.is_ours()?,
        "{root} is no data directory of `ta3lem up`: say which one with --data-dir"
    );
    let Some(holder) = data.holder()? else {
        let _lock = data.lock()?;
        let left = leftovers::stop(&data).await?;
        return Ok(match left {
            0 => format!("nothing runs in {root}"),
            n => format!("stopped {n} processes that an earlier run had left in {root}"),
        });
    };
    let up = ProcessRecord {
        component: "ta3lem".to_owned(),
        process_id: holder.process_id,
        start_time: holder.start_time,
        log: data.log("ta3lem"),
    };
    let pid = crate::up::process::pid(up.process_id).context("the lock names no process")?;
    if up.is_alive() {
        rustix::process::kill_process(pid, Signal::TERM).with_context(|| {
            format!("process {} cannot be asked to stop (another user's?)", up.process_id)
        })?;
    }
    ensure!(
        up.wait_gone(PATIENCE).await,
        "process {} does not stop; its log: {}",
        up.process_id,
        up.log.display()
    );
    Ok(format!("stopped (process {}, {root})", up.process_id))
}
