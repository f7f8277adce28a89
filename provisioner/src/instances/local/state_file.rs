//! What the local runtime writes down of an instance, so that its successor finds the process
//! again. No secrets: the specification is there as a hash only.

use std::{
    collections::HashMap,
    fs, io,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use control_types::{InstanceId, Slug};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::LocalConfig;
use crate::instances::InstanceSpec;

/// Ends the names of files that are being made.
pub const UNFINISHED: &str = "new";

/// A process, told from every other one since the machine was started.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProcessIdentity {
    /// The process id.
    pub pid: i32,
    /// When it started, in clock ticks since `boot` (`/proc/<pid>/stat`, field 22).
    pub start_ticks: u64,
    /// The kernel's id of this run of the machine.
    pub boot: String,
}

impl ProcessIdentity {
    /// Of the process that has this number now, if any. Its exit status may wait to be read.
    pub fn read(pid: i32) -> Option<Self> {
        Self::read_with_state(pid).map(|(identity, _)| identity)
    }

    /// Whether this process still runs.
    pub fn is_alive(&self) -> bool {
        Self::read_with_state(self.pid)
            .is_some_and(|(now, state)| now == *self && !matches!(&*state, "Z" | "X"))
    }

    fn read_with_state(pid: i32) -> Option<(Self, String)> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the program's name in parentheses, and may hold anything.
        let (_, rest) = stat.rsplit_once(')')?;
        let mut fields = rest.split_ascii_whitespace();
        let state = fields.next()?.to_owned();
        let start_ticks = fields.nth(18)?.parse().ok()?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        Some((Self { pid, start_ticks, boot: boot.trim().to_owned() }, state))
    }
}

/// The state file of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateFile {
    /// The site, for people who look.
    pub slug: Slug,
    /// Of the specification that `process` was started with.
    pub spec_hash: String,
    /// The inode of the socket's file, to notice when another one took its name.
    pub socket_inode: u64,
    /// The process that takes new connections.
    pub process: Option<ProcessIdentity>,
    /// Processes that were told to end.
    pub draining: Vec<ProcessIdentity>,
    /// How often a process was started.
    pub starts: u32,
}

/// The names of an instance's files.
#[derive(Clone, Debug)]
pub struct Files {
    /// The socket that takes its connections.
    pub socket: PathBuf,
    /// The control socket of its process.
    pub control: PathBuf,
    /// The state file.
    pub state: PathBuf,
    /// A socket that is being made.
    pub unfinished: PathBuf,
}

impl Files {
    /// Those of this instance.
    pub fn of(directory: &Path, id: InstanceId) -> Self {
        let name = |ending: &str| directory.join(format!("{id}.{ending}"));
        Self {
            socket: name("sock"),
            control: name("ctl"),
            state: name("json"),
            unfinished: name(UNFINISHED),
        }
    }

    /// The state, if one is written down and can be read.
    pub fn read_state(&self) -> Option<StateFile> {
        let text = fs::read(&self.state).ok()?;
        match serde_json::from_slice(&text) {
            Ok(state) => Some(state),
            Err(error) => {
                tracing::warn!(file = %self.state.display(), %error, "unreadable state file");
                None
            }
        }
    }

    /// Writes the state down, whole or not at all.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn write_state(&self, state: &StateFile) -> io::Result<()> {
        let unfinished = self.state.with_extension(format!("json.{UNFINISHED}"));
        let mut options = fs::OpenOptions::new();
        let mut file =
            options.write(true).create(true).truncate(true).mode(0o600).open(&unfinished)?;
        file.write_all(&serde_json::to_vec(state).map_err(io::Error::other)?)?;
        fs::rename(&unfinished, &self.state)
    }

    /// Removes all of them; those that do not exist are fine.
    ///
    /// # Errors
    /// When the file system refuses.
    pub fn remove(&self) -> io::Result<()> {
        [&self.socket, &self.control, &self.unfinished, &self.state].into_iter().try_for_each(
            |path| match fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                _ => Ok(()),
            },
        )
    }
}

/// The instances that an earlier provisioner left files of.
///
/// # Errors
/// When the directory cannot be read.
pub fn left_behind(directory: &Path) -> io::Result<HashMap<InstanceId, Option<StateFile>>> {
    let mut found = HashMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let id = path.file_name().and_then(|name| name.to_str()?.split('.').next()?.parse().ok());
        let Some(id) = id else { continue };
        if path.extension().is_some_and(|ending| ending == UNFINISHED) {
            fs::remove_file(&path)?;
        }
        found.entry(id).or_insert_with(|| Files::of(directory, id).read_state());
    }
    Ok(found)
}

/// What tells whether a running process was started as a spec wants it. `keep_warm` is no part of
/// it, since it says nothing about the process itself.
pub fn spec_hash(spec: &InstanceSpec, config: &LocalConfig) -> String {
    let mut hash = Sha256::new();
    hash.update(serde_json::to_vec(&spec.config).unwrap_or_default());
    hash.update(config.tenant_app.as_os_str().as_encoded_bytes());
    hex::encode(hash.finalize())
}
