//! Processes as the system tells of them: which are alive, and whether one is still the same that
//! was written down (process ids are used again). What was started is written down at once, so that
//! a later `ta3lem up` or `ta3lem down` finds what a crashed one left.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::{Deserialize, Serialize};

use crate::data_dir::{DataDir, write_private};

/// A process that was started, as written down.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessRecord {
    /// As `router-id-jakarta`.
    pub component: String,
    /// Its process.
    pub process_id: u32,
    /// When that started; tells it from a later process with the same id.
    pub start_time: Option<String>,
    /// Where it logs.
    pub log: PathBuf,
}

impl ProcessRecord {
    /// Of a process that runs now.
    pub fn of(component: &str, process_id: u32, log: PathBuf) -> Self {
        let start_time = start_time(process_id);
        Self { component: component.to_owned(), process_id, start_time, log }
    }

    /// Whether it still runs, and is still the same.
    pub fn is_alive(&self) -> bool {
        is_alive(self.process_id) && self.start_time == start_time(self.process_id)
    }

    /// Writes it down.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn save(&self, data: &DataDir) -> anyhow::Result<()> {
        let directory = directory(data);
        crate::data_dir::make_directory(&directory)?;
        write_private(&directory.join(self.file_name()), &serde_json::to_vec(self)?)
    }

    /// Forgets it.
    pub fn remove(&self, data: &DataDir) {
        let _ = std::fs::remove_file(directory(data).join(self.file_name()));
    }

    /// For a moment there are two processes of a component that is replaced.
    fn file_name(&self) -> String {
        format!("{}.{}.json", self.component, self.process_id)
    }

    /// Sends a signal, if it is still the same process.
    pub fn signal(&self, signal: Signal) {
        if self.is_alive()
            && let Some(pid) = pid(self.process_id)
        {
            let _ = kill_process(pid, signal);
        }
    }

    /// Waits until it is gone. Returns whether it is.
    pub async fn wait_gone(&self, at_most: Duration) -> bool {
        let deadline = Instant::now() + at_most;
        while self.is_alive() {
            if Instant::now() >= deadline {
                return false;
            }
            // Somebody else's child: there is no event to wait for that all systems have.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        true
    }
}

/// Everything written down, whether it still runs or not.
///
/// # Errors
/// When the records cannot be read.
pub fn records(data: &DataDir) -> anyhow::Result<Vec<ProcessRecord>> {
    let entries = match std::fs::read_dir(directory(data)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error).context("cannot read the records of processes"),
    };
    let mut records = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "json")
            && let Ok(text) = std::fs::read(&path)
            && let Ok(record) = serde_json::from_slice(&text)
        {
            records.push(record);
        }
    }
    Ok(records)
}

fn directory(data: &DataDir) -> PathBuf {
    data.run().join("processes")
}

/// A process id as the system calls take it.
pub fn pid(process_id: u32) -> Option<Pid> {
    i32::try_from(process_id).ok().and_then(Pid::from_raw)
}

/// Whether a process with this id exists and has not ended (a zombie has).
pub fn is_alive(process_id: u32) -> bool {
    let Some(pid) = pid(process_id) else { return false };
    // Not permitted means that there is one.
    let exists = !matches!(test_kill_process(pid), Err(rustix::io::Errno::SRCH));
    exists && stat_field(process_id, 0).is_none_or(|state| state != "Z")
}

/// When a process started, as a text to compare; none when there is no such process.
pub fn start_time(process_id: u32) -> Option<String> {
    if cfg!(target_os = "linux") {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        return stat_field(process_id, 19).map(|ticks| format!("{}/{ticks}", boot.trim()));
    }
    let mut ps = std::process::Command::new("ps");
    let output = ps.args(["-o", "lstart=", "-p", &process_id.to_string()]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (!text.is_empty()).then_some(text)
}

/// A field of `/proc/<pid>/stat`, counted from the one after the command's name.
fn stat_field(process_id: u32, field: usize) -> Option<String> {
    let stat = std::fs::read_to_string(format!("/proc/{process_id}/stat")).ok()?;
    // The name stands in brackets and may itself contain spaces and brackets.
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_whitespace().nth(field).map(str::to_owned)
}

/// What the local runtime notes of an instance, as far as it is needed here.
#[derive(Deserialize)]
struct InstanceState {
    process: Option<InstanceProcess>,
    #[serde(default)]
    draining: Vec<InstanceProcess>,
}

#[derive(Deserialize)]
struct InstanceProcess {
    pid: u32,
    start_ticks: u64,
    boot: String,
}

/// The instances that run, by the notes of the local runtime in its directory. (Instances cannot be
/// looked into, not even by their own user, so `/proc` does not tell.)
pub fn instances(runtime_directory: &Path) -> Vec<ProcessRecord> {
    let entries = std::fs::read_dir(runtime_directory).into_iter().flatten().flatten();
    let notes = entries.filter(|entry| entry.path().extension().is_some_and(|e| e == "json"));
    let states = notes.filter_map(|note| {
        serde_json::from_slice::<InstanceState>(&std::fs::read(note.path()).ok()?).ok()
    });
    let processes = states.flat_map(|state| state.process.into_iter().chain(state.draining));
    let records = processes.map(|process| ProcessRecord {
        component: "instance".to_owned(),
        process_id: process.pid,
        start_time: Some(format!("{}/{}", process.boot, process.start_ticks)),
        log: PathBuf::new(),
    });
    records.filter(ProcessRecord::is_alive).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_record_knows_its_process() {
        let directory = tempfile::tempdir().expect("a directory");
        let data = DataDir::at(directory.path()).expect("a path");
        let mut child = tokio::process::Command::new("sleep").arg("60").spawn().expect("starts");
        let id = child.id().expect("runs");
        let record = ProcessRecord::of("sleeper", id, PathBuf::new());
        record.save(&data).expect("written");
        assert_eq!(records(&data).expect("read"), std::slice::from_ref(&record));
        assert!(record.is_alive());
        let other = ProcessRecord { start_time: Some("another".into()), ..record.clone() };
        assert!(!other.is_alive(), "the same id is not the same process");
        record.signal(Signal::TERM);
        assert!(record.wait_gone(Duration::from_secs(10)).await, "a zombie is gone");
        child.wait().await.expect("ended");
        record.remove(&data);
        assert_eq!(records(&data).expect("read"), []);
    }
}
