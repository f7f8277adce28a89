//! The directory of an order. Everything that works for the order names it or works in it, so whatever
//! an earlier keeper left is found by it.

use std::{
    collections::HashSet,
    io::ErrorKind,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use rustix::process::Signal;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    data_dir::{DataDir, make_directory, make_socket_directory},
    keeper::config::KeeperConfig,
    up::process::ProcessRecord,
};

/// What works for an order; nothing else is ended, whatever it does in the directory.
const PROGRAMS: &[&str] = &["nice", "setpriv", "pgbackrest", "postgres", "pg_dump", "pg_restore"];
/// How long a program may take to end in order, and then at all.
const GRACE: Duration = Duration::from_secs(10);
/// How often the directory is tried to be removed: a program may start another one while it is ended.
const TRIES: u32 = 5;
/// The pause before the next try.
const PAUSE: Duration = Duration::from_millis(100);

/// Where the files of an order lie.
#[derive(Clone, Debug)]
pub struct Place {
    root: PathBuf,
}

impl Place {
    /// Of an order of a keeper.
    pub fn of(config: &KeeperConfig, order: Uuid) -> Self {
        Self { root: all(config).join(order.to_string()) }
    }

    /// Those that there are, with the orders they belong to.
    ///
    /// # Errors
    /// When the directory of the keeper cannot be read.
    pub fn list(config: &KeeperConfig) -> anyhow::Result<Vec<(Uuid, Self)>> {
        let entries = match std::fs::read_dir(all(config)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error).context("cannot read the directory of the restores"),
        };
        let mut places = Vec::new();
        for entry in entries {
            let entry = entry?;
            if let Some(order) = entry.file_name().to_str().and_then(|name| name.parse().ok()) {
                places.push((order, Self { root: entry.path() }));
            }
        }
        Ok(places)
    }

    /// Makes it, empty. Whatever was there is ended and removed.
    ///
    /// # Errors
    /// When that cannot be done.
    pub async fn make(&self) -> anyhow::Result<()> {
        self.clear().await?;
        make_directory(&self.root)?;
        make_socket_directory(&self.sockets()?)
    }

    /// The data directory of the server that replays the log.
    pub fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    /// For pgBackRest's locks.
    pub fn locks(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// For segments of the log that are fetched before the server asks for them.
    pub fn ahead(&self) -> PathBuf {
        self.root.join("ahead")
    }

    /// For the tablespaces of the cluster, if it has any.
    pub fn tablespaces(&self) -> PathBuf {
        self.root.join("tablespaces")
    }

    /// The configuration of the server.
    pub fn settings(&self) -> PathBuf {
        self.root.join("postgresql.conf")
    }

    /// Who may connect to the server.
    pub fn access(&self) -> PathBuf {
        self.root.join("pg_hba.conf")
    }

    /// What the server says.
    pub fn log(&self) -> PathBuf {
        self.root.join("server.log")
    }

    /// For the server's socket: elsewhere when its path would be too long here.
    ///
    /// # Errors
    /// When the path is not one that can be used.
    pub fn sockets(&self) -> anyhow::Result<PathBuf> {
        Ok(DataDir::at(&self.root)?.socket_directory())
    }

    /// How many bytes can be written here.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn free_bytes(&self) -> anyhow::Result<u64> {
        let system = rustix::fs::statvfs(&self.root).context("the disk does not tell its room")?;
        Ok(system.f_bavail.saturating_mul(system.f_frsize))
    }

    /// Ends whatever works for the order, and removes the directory. It need not be there.
    ///
    /// # Errors
    /// When something does not end, or cannot be removed.
    pub async fn clear(&self) -> anyhow::Result<()> {
        // The sockets first: they are only found by the other.
        let directories = [self.sockets()?, self.root.clone()];
        let mut tries = 0..TRIES;
        loop {
            self.end_programs().await?;
            let directories = directories.clone();
            let remove = move || directories.iter().try_for_each(|directory| remove(directory));
            let removed = tokio::task::spawn_blocking(remove).await?;
            match (removed, tries.next()) {
                (Ok(()), _) => return Ok(()),
                (Err(error), None) => return Err(error),
                (Err(_), Some(_)) => sleep(PAUSE).await,
            }
        }
    }

    async fn end_programs(&self) -> anyhow::Result<()> {
        for signal in [Signal::QUIT, Signal::KILL] {
            let programs = self.programs();
            if programs.is_empty() {
                return Ok(());
            }
            for program in &programs {
                // Only a server has to give something back.
                let is_server = program.component == "postgres";
                program.signal(if is_server { signal } else { Signal::KILL });
            }
            for program in &programs {
                program.wait_gone(GRACE).await;
            }
        }
        match self.programs().first() {
            Some(program) => bail!("process {} does not end", program.process_id),
            None => Ok(()),
        }
    }

    /// What works for the order.
    fn programs(&self) -> Vec<ProcessRecord> {
        let records: Vec<_> = self
            .seen()
            .into_iter()
            .map(|seen| ProcessRecord::of(&seen.program, seen.id, self.log()))
            .collect();
        if records.is_empty() {
            return records;
        }
        // Whoever got the id of one that ended since the first look is not one of them.
        let again: HashSet<u32> = self.seen().into_iter().map(|seen| seen.id).collect();
        records.into_iter().filter(|record| again.contains(&record.process_id)).collect()
    }

    fn seen(&self) -> Vec<Seen> {
        let within = format!("{}/", self.root.display());
        let mut all = seen();
        all.retain(|seen| {
            PROGRAMS.contains(&seen.program.as_str()) && seen.traces.contains(&within)
        });
        all
    }
}

/// Where the places are.
fn all(config: &KeeperConfig) -> PathBuf {
    config.directory.join("restores")
}

fn remove(directory: &Path) -> anyhow::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", directory.display()))
        }
        _ => Ok(()),
    }
}

/// A process.
struct Seen {
    id: u32,
    program: String,
    /// Its arguments, and the directory that it works in.
    traces: String,
}

/// Every process that can be looked into.
fn seen() -> Vec<Seen> {
    if cfg!(target_os = "linux") {
        let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
        let ids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        return ids.filter_map(seen_by_proc).collect();
    }
    let mut ps = std::process::Command::new("ps");
    let output = ps.args(["-axww", "-o", "pid=", "-o", "args="]).output();
    let text = output.map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines = text.lines().filter_map(|line| {
        let (id, arguments) = line.trim().split_once(' ')?;
        let program = Path::new(arguments.split_whitespace().next()?).file_name()?;
        let program = program.to_string_lossy().into_owned();
        Some(Seen { id: id.parse().ok()?, program, traces: arguments.to_owned() })
    });
    lines.collect()
}

fn seen_by_proc(id: u32) -> Option<Seen> {
    let process = PathBuf::from(format!("/proc/{id}"));
    let program = std::fs::read_to_string(process.join("comm")).ok()?.trim_end().to_owned();
    let arguments = std::fs::read(process.join("cmdline")).ok()?;
    let arguments = String::from_utf8_lossy(&arguments);
    let works_in = std::fs::read_link(process.join("cwd")).unwrap_or_default();
    Some(Seen { id, program, traces: format!("{arguments}\0{}/", works_in.display()) })
}
