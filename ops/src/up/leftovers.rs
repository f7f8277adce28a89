//! What a killed `ta3lem up` left running. It is found by the records of processes and stopped in
//! the order of a normal stop. The caller holds the lock, so nothing of it belongs to a living `up`.

use std::time::Duration;

use rustix::process::Signal;

use super::{
    process::{self, ProcessRecord},
    progress,
    start::REGIONS,
};
use crate::{data_dir::DataDir, keeper};

/// How long a process may take to end in good order, and then at all.
const GRACE: Duration = Duration::from_secs(45);
const LAST_GRACE: Duration = Duration::from_secs(10);

/// In which order components stop: routers take no more requests, then nothing works on databases,
/// then the databases go.
fn rank(component: &str) -> u8 {
    match component {
        name if name.starts_with("router-") => 0,
        name if name.starts_with("keeper-") => 1,
        "provisioner" => 2,
        name if name.starts_with("postgres-") => 4,
        _ => 3,
    }
}

/// The object stores went with the `up` that was killed. A server that stops would try for long to bring
/// the end of its log there; without this file it keeps it for the next start.
fn forget_archives(data: &DataDir) {
    for region in REGIONS {
        let _ = std::fs::remove_file(keeper::config_file(&data.keeper(region.name)));
    }
}

/// Stops everything that was left, and says so. Returns how many processes there were.
///
/// # Errors
/// When the records cannot be read, or something does not end.
pub async fn stop(data: &DataDir) -> anyhow::Result<usize> {
    let (mut alive, gone): (Vec<_>, Vec<_>) =
        process::records(data)?.into_iter().partition(ProcessRecord::is_alive);
    for record in gone {
        record.remove(data);
    }
    alive.sort_by_key(|record| rank(&record.component));
    forget_archives(data);
    let mut stopped = alive.len();
    let mut instances_stopped = false;
    for record in alive {
        if rank(&record.component) > rank("provisioner") && !instances_stopped {
            stopped += stop_instances(data).await;
            instances_stopped = true;
        }
        end(&record).await?;
        record.remove(data);
        progress::note(format!("{} was left by an earlier run; stopped", record.component));
    }
    if !instances_stopped {
        stopped += stop_instances(data).await;
    }
    let _ = std::fs::remove_file(data.ready_file());
    Ok(stopped)
}

/// Stops instances that no provisioner looks after any more. Returns how many there were.
pub async fn stop_instances(data: &DataDir) -> usize {
    let records = process::instances(&data.instances());
    for record in &records {
        record.signal(Signal::TERM);
    }
    for record in &records {
        if !record.wait_gone(LAST_GRACE).await {
            record.signal(Signal::KILL);
            record.wait_gone(LAST_GRACE).await;
        }
    }
    records.len()
}

async fn end(record: &ProcessRecord) -> anyhow::Result<()> {
    let is_postgres = record.component.starts_with("postgres-");
    let signals = if is_postgres {
        // Fast, then immediate shutdown.
        [Signal::INT, Signal::QUIT, Signal::KILL]
    } else {
        [Signal::TERM, Signal::TERM, Signal::KILL]
    };
    for (signal, grace) in signals.into_iter().zip([GRACE, LAST_GRACE, LAST_GRACE]) {
        record.signal(signal);
        if record.wait_gone(grace).await {
            return Ok(());
        }
    }
    anyhow::bail!("{} (process {}) does not end", record.component, record.process_id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_is_that_of_a_stop() {
        let mut names =
            ["postgres-control", "provisioner", "other", "keeper-id-jakarta", "router-id-jakarta"];
        names.sort_by_key(|name| rank(name));
        assert_eq!(
            names,
            ["router-id-jakarta", "keeper-id-jakarta", "provisioner", "other", "postgres-control"]
        );
    }

    #[tokio::test]
    async fn a_record_of_a_process_that_is_gone_is_forgotten() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = DataDir::at(directory.path()).expect("a path");
        data.prepare().expect("made");
        let mut child = tokio::process::Command::new("sleep").arg("60").spawn().expect("starts");
        let id = child.id().expect("runs");
        ProcessRecord::of("router-x", id, data.log("x")).save(&data).expect("written");
        let wait = tokio::spawn(async move { child.wait().await });
        assert_eq!(stop(&data).await.expect("stops"), 1);
        wait.await.expect("joined").expect("ended");
        assert_eq!(stop(&data).await.expect("stops"), 0);
        assert!(process::records(&data).expect("read").is_empty());
    }
}
