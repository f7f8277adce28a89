//! The directory that holds everything of one embedded platform: what lies where in it, whose it
//! is, and the lock that keeps a second `ta3lem up` out.

use std::{
    fs::{DirBuilder, File, OpenOptions},
    io::{Read as _, Seek as _, Write as _},
    os::unix::fs::{
        DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
    },
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail, ensure};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// The layout that this version writes and understands.
const LAYOUT: u32 = 1;
const MARKER: &str = "ta3lem.json";
const LOCK: &str = "lock";
/// Longest path of a unix socket in bytes (`sun_path` less its end), on Linux and, with less room,
/// on macOS.
const MAX_SOCKET_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// The longest path of a socket below the directory for sockets:
/// `instances/<site uuid>-<instance uuid>.control.sock` and the like.
const SOCKET_NAME_ROOM: usize = 64;

/// What marks a directory as ours.
#[derive(Serialize, Deserialize)]
struct Marker {
    layout: u32,
    version: String,
}

/// Who holds the lock.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Holder {
    /// The process.
    pub process_id: u32,
    /// Its start, as [`crate::up::process::start_time`] tells it.
    pub start_time: Option<String>,
}

/// A data directory.
#[derive(Clone, Debug)]
pub struct DataDir {
    root: PathBuf,
}

/// The right to change what is in a data directory; given back when dropped.
pub struct Lock {
    _file: File,
}

impl DataDir {
    /// The directory `root`, as an absolute path; nothing is read or made yet.
    ///
    /// # Errors
    /// When the path cannot be made absolute.
    pub fn at(root: &Path) -> anyhow::Result<Self> {
        let root = std::path::absolute(root)
            .with_context(|| format!("not a usable path: {}", root.display()))?;
        ensure!(root.to_str().is_some(), "--data-dir: the path must be valid UTF-8");
        ensure!(root.parent().is_some(), "--data-dir: the root directory cannot be used");
        Ok(Self { root })
    }

    /// Makes the directory when absent, and checks that it is ours, this user's and of this layout.
    ///
    /// # Errors
    /// When it is somebody else's, holds other things, or was made by another version.
    pub fn prepare(&self) -> anyhow::Result<()> {
        make_directory(&self.root)?;
        let owner = std::fs::metadata(&self.root)?.uid();
        let me = rustix::process::geteuid().as_raw();
        ensure!(
            owner == me,
            "the data directory {} belongs to user id {owner}, and this runs as user id {me}; \
             run as that user (see --run-as), or choose another --data-dir",
            self.root.display()
        );
        match self.marker()? {
            Some(marker) if marker.layout == LAYOUT => {}
            Some(marker) => bail!(
                "the data directory {} was made by Ta3lem {} with layout {}, and this is {} with \
                 layout {LAYOUT}; use that version, or `ta3lem up --reset` to start anew",
                self.root.display(),
                marker.version,
                marker.layout,
                env!("CARGO_PKG_VERSION"),
            ),
            None => {
                ensure!(
                    self.is_empty_but_lock()?,
                    "the directory {} is not empty and was not made by `ta3lem up`; \
                     choose another --data-dir",
                    self.root.display()
                );
                self.mark()?;
            }
        }
        // Others may pass through to the authority's certificate, which browsers need, and see
        // nothing else: what is in here is private each for itself.
        std::fs::set_permissions(&self.root, std::fs::Permissions::from_mode(0o711))?;
        for directory in [self.run(), self.logs(), self.secrets(), self.config(), self.bin()] {
            make_directory(&directory)?;
        }
        make_directory(&self.logs().join("instances"))?;
        Ok(())
    }

    /// Whether `ta3lem up` made this directory.
    ///
    /// # Errors
    /// When its marker cannot be read.
    pub fn is_ours(&self) -> anyhow::Result<bool> {
        Ok(self.marker()?.is_some())
    }

    /// Takes the lock.
    ///
    /// # Errors
    /// When another process holds it: the message says which.
    pub fn lock(&self) -> anyhow::Result<Lock> {
        let path = self.root.join(LOCK);
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut text = String::new();
            file.read_to_string(&mut text)?;
            let who = serde_json::from_str::<Holder>(&text).map_or_else(
                |_| "another process".to_owned(),
                |holder| format!("process {}", holder.process_id),
            );
            bail!(
                "the data directory {} is in use by {who}: stop it with `ta3lem down{}`, or choose \
                 another --data-dir",
                self.root.display(),
                self.as_option()
            );
        }
        let holder = Holder {
            process_id: std::process::id(),
            start_time: crate::up::process::start_time(std::process::id()),
        };
        file.set_len(0)?;
        file.rewind()?;
        file.write_all(&serde_json::to_vec(&holder)?)?;
        Ok(Lock { _file: file })
    }

    /// Who holds the lock, if somebody does.
    ///
    /// # Errors
    /// When the lock file cannot be read.
    pub fn holder(&self) -> anyhow::Result<Option<Holder>> {
        let path = self.root.join(LOCK);
        let mut file = match OpenOptions::new().read(true).write(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot open {}", path.display()));
            }
        };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            return Ok(None);
        }
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        serde_json::from_str(&text)
            .map(Some)
            .with_context(|| format!("{} does not say who holds it", path.display()))
    }

    /// Removes everything in the directory. The caller holds the lock.
    ///
    /// # Errors
    /// When the directory is not ours, or something in it cannot be removed.
    pub fn empty(&self, _lock: &Lock) -> anyhow::Result<()> {
        ensure!(
            self.is_ours()?,
            "{} was not made by `ta3lem up`; nothing was removed",
            self.root.display()
        );
        // The marker goes last, so that an interrupted reset can be repeated.
        let last = [LOCK, MARKER];
        for entry in std::fs::read_dir(&self.root)? {
            let entry = entry?;
            if last.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            let path = entry.path();
            let removed = if entry.file_type()?.is_dir() {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.with_context(|| format!("cannot remove {}", path.display()))?;
        }
        std::fs::remove_file(self.root.join(MARKER))?;
        Ok(())
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// ` --data-dir …`, as it must be given to other commands; empty for the default directory.
    pub fn as_option(&self) -> String {
        if crate::config::default_data_dir().is_ok_and(|default| default == self.root) {
            return String::new();
        }
        format!(" --data-dir {}", self.root.display())
    }

    /// A Postgres cluster's files.
    pub fn cluster(&self, name: &str) -> PathBuf {
        self.root.join("clusters").join(name)
    }

    /// An object store's files.
    pub fn object_store(&self, region: &str) -> PathBuf {
        self.root.join("object-stores").join(region)
    }

    /// The files of the keeper of a region's cluster.
    pub fn keeper(&self, region: &str) -> PathBuf {
        self.root.join("keepers").join(region)
    }

    /// What is made anew at every start: process records, ready files.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// One log per component.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// The log of a component.
    pub fn log(&self, component: &str) -> PathBuf {
        self.logs().join(format!("{component}.log"))
    }

    /// Passwords, keys, tokens.
    pub fn secrets(&self) -> PathBuf {
        self.root.join("secrets")
    }

    /// The configuration files of the processes.
    pub fn config(&self) -> PathBuf {
        self.root.join("config")
    }

    /// Copies of the binaries, where those of the build cannot be reached.
    pub fn bin(&self) -> PathBuf {
        self.root.join("bin")
    }

    /// What scripts read to find everything.
    pub fn ready_file(&self) -> PathBuf {
        self.root.join("ready.json")
    }

    /// Where unix sockets go: below the data directory if their paths are short enough there, else
    /// in a private directory under `/tmp`.
    pub fn socket_directory(&self) -> PathBuf {
        let own = self.root.join("run");
        if own.as_os_str().len() + 1 + SOCKET_NAME_ROOM <= MAX_SOCKET_PATH {
            return own;
        }
        let hash = Sha256::digest(self.root.as_os_str().as_encoded_bytes());
        PathBuf::from(format!("/tmp/ta3lem-{}", &hex::encode(hash)[..12]))
    }

    /// The directory of the provisioner's local runtime: the sockets of instances, and its notes.
    pub fn instances(&self) -> PathBuf {
        self.socket_directory().join("instances")
    }

    fn marker(&self) -> anyhow::Result<Option<Marker>> {
        let path = self.root.join(MARKER);
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map(Some)
                .with_context(|| format!("{} is malformed", path.display())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
        }
    }

    fn mark(&self) -> anyhow::Result<()> {
        let marker = Marker { layout: LAYOUT, version: env!("CARGO_PKG_VERSION").to_owned() };
        write_private(&self.root.join(MARKER), &serde_json::to_vec(&marker)?)
    }

    fn is_empty_but_lock(&self) -> anyhow::Result<bool> {
        for entry in std::fs::read_dir(&self.root)? {
            let name = entry?.file_name();
            if name != LOCK && name != "bin" {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Makes a directory that only its owner can enter, with those above it, if it is not there.
///
/// # Errors
/// When it cannot be made.
pub fn make_directory(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the directory {}", path.display()))
}

/// Makes a directory for sockets and checks that nobody else can put anything into it: it may lie
/// under `/tmp`, where another user could have made it first.
///
/// # Errors
/// When it is not a private directory of this user.
pub fn make_socket_directory(path: &Path) -> anyhow::Result<()> {
    make_directory(path)?;
    let metadata = std::fs::symlink_metadata(path)?;
    let me = rustix::process::geteuid().as_raw();
    ensure!(
        metadata.is_dir() && metadata.uid() == me && metadata.mode() & 0o077 == 0,
        "{} must be a directory of user id {me} that nobody else can enter; remove it",
        path.display()
    );
    Ok(())
}

/// Writes a file that only its owner can read, whole or not at all, and on the disk on return.
///
/// # Errors
/// When it cannot be written.
pub fn write_private(path: &Path, content: &[u8]) -> anyhow::Result<()> {
    let directory = path.parent().context("a file has a directory")?;
    let name = path.file_name().context("a file has a name")?.to_string_lossy();
    let temporary = directory.join(format!(".{name}.{}.new", &random_secret()[..8]));
    let write = || -> std::io::Result<()> {
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        std::fs::rename(&temporary, path)?;
        File::open(directory)?.sync_all()
    };
    write().with_context(|| {
        let _ = std::fs::remove_file(&temporary);
        format!("cannot write {}", path.display())
    })
}

/// The secret in a file that must be there.
///
/// # Errors
/// When it cannot be read.
pub fn existing_secret(path: &Path) -> anyhow::Result<String> {
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// The secret in a file; made when absent.
///
/// # Errors
/// When the file can be neither read nor written.
pub fn secret_in(path: &Path) -> anyhow::Result<String> {
    match std::fs::read_to_string(path) {
        Ok(secret) if !secret.trim().is_empty() => Ok(secret.trim().to_owned()),
        Ok(_) => bail!("the secret in {} is empty", path.display()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let secret = random_secret();
            write_private(path, secret.as_bytes())?;
            Ok(secret)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// 256 random bits as hexadecimal digits: safe in URLs, SQL and file names.
pub fn random_secret() -> String {
    hex::encode(rand::random::<[u8; 32]>())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_ours_or_refused() {
        let parent = tempfile::tempdir().expect("a directory");
        let data = DataDir::at(&parent.path().join("data")).expect("a path");
        data.prepare().expect("made");
        data.prepare().expect("known again");
        let other = DataDir::at(parent.path()).expect("a path");
        assert!(other.prepare().expect_err("not empty").to_string().contains("is not empty"));
        let newer = br#"{"layout":99,"version":"9.0"}"#;
        write_private(&data.root().join(MARKER), newer).expect("written");
        assert!(data.prepare().expect_err("newer").to_string().contains("9.0"));
    }

    #[test]
    fn the_lock_names_its_holder() {
        let parent = tempfile::tempdir().expect("a directory");
        let data = DataDir::at(parent.path()).expect("a path");
        data.prepare().expect("made");
        assert!(data.holder().expect("readable").is_none());
        let lock = data.lock().expect("free");
        let holder = data.holder().expect("readable").expect("held");
        assert_eq!(holder.process_id, std::process::id());
        let message = data.lock().err().expect("held").to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        drop(lock);
        data.lock().expect("free again");
    }

    #[test]
    fn a_reset_removes_what_is_ours_only() {
        let parent = tempfile::tempdir().expect("a directory");
        let data = DataDir::at(parent.path()).expect("a path");
        let lock = data.lock().expect("free");
        std::fs::write(parent.path().join("thesis.txt"), b"x").expect("written");
        assert!(data.empty(&lock).is_err());
        assert!(parent.path().join("thesis.txt").exists());
        std::fs::remove_file(parent.path().join("thesis.txt")).expect("removed");
        data.prepare().expect("made");
        data.empty(&lock).expect("emptied");
        assert!(!data.logs().exists());
        data.prepare().expect("made again");
    }

    #[test]
    fn sockets_have_short_paths() {
        let long = DataDir::at(Path::new(&format!("/{}", "x".repeat(120)))).expect("a path");
        assert!(long.socket_directory().as_os_str().len() < 40);
        let short = DataDir::at(Path::new("/var/lib/ta3lem")).expect("a path");
        assert_eq!(short.socket_directory(), Path::new("/var/lib/ta3lem/run"));
    }
}
