//! A local runtime in a directory of its own, and what tests do with it.

use std::{
    fs::{self, OpenOptions},
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::Duration,
};

use control_types::{
    Generation, InstanceConfig, InstanceId, SiteId,
    instance_config::{DatabaseConfig, StorageConfig},
};
use provisioner::instances::{
    InstanceRuntime, InstanceSpec, ObservedInstance, RuntimeError,
    local::{LocalConfig, LocalRuntime},
};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

/// In each secret of a specification.
pub const SECRET: &str = "9f3c1b5ec237";
/// Nothing that a test waits for takes longer on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// What an instance answers.
#[derive(Debug)]
pub struct Answer {
    pub pid: i32,
    pub generation: i64,
}

pub struct Rig {
    directory: TempDir,
    runtime: Option<LocalRuntime>,
}

impl Rig {
    pub fn new() -> Self {
        let mut rig = Self { directory: TempDir::new().expect("a directory"), runtime: None };
        // A link of its own, so that one test can take its program away.
        std::os::unix::fs::symlink(script(), rig.program()).expect("links");
        rig.open();
        rig
    }

    pub fn open(&mut self) {
        self.runtime = Some(self.try_open().expect("opens"));
    }

    pub fn try_open(&self) -> Result<LocalRuntime, RuntimeError> {
        self.try_open_at("run")
    }

    pub fn try_open_at(&self, name: &str) -> Result<LocalRuntime, RuntimeError> {
        let directory = self.directory.path();
        LocalRuntime::open(LocalConfig {
            directory: directory.join(name),
            logs: directory.join("logs"),
            tenant_app: self.program(),
            log: "info".to_owned(),
        })
    }

    pub fn runtime(&self) -> &LocalRuntime {
        self.runtime.as_ref().expect("is open")
    }

    /// As when the provisioner is killed: nothing is told to any process.
    pub async fn lose_runtime(&mut self) {
        self.runtime = None;
        // Its tasks end when they are next polled.
        tokio::task::yield_now().await;
    }

    pub fn program(&self) -> PathBuf {
        self.directory.path().join("tenant-app")
    }

    /// An instance whose process behaves as `behaviour` says (see `double.rs`).
    pub fn spec(&self, behaviour: &str) -> InstanceSpec {
        let secret = |name: &str| format!("{name}-{SECRET}");
        let config = InstanceConfig {
            site_id: SiteId::generate(),
            slug: "acme".parse().expect("a slug"),
            generation: Generation::FIRST,
            instance_id: InstanceId::generate(),
            database: DatabaseConfig {
                host: "localhost".to_owned(),
                port: 5432,
                database: "d".to_owned(),
                user: "d".to_owned(),
                password: secret("password"),
            },
            storage: StorageConfig {
                endpoint: "http://localhost".to_owned(),
                region: "r".to_owned(),
                bucket: behaviour.to_owned(),
                prefix: "0".to_owned(),
                access_key: secret("access"),
                secret_key: secret("key"),
            },
            idle_exit_secs: 0,
            max_database_connections: 1,
            preview: None,
        };
        InstanceSpec { config, keep_warm: false }
    }

    pub fn file(&self, spec: &InstanceSpec, ending: &str) -> PathBuf {
        self.directory.path().join("run").join(format!("{}.{ending}", spec.config.instance_id))
    }

    pub fn log(&self, spec: &InstanceSpec) -> PathBuf {
        let logs = fs::canonicalize(self.directory.path().join("logs")).expect("exists");
        logs.join(format!("{}.log", spec.config.slug))
    }

    /// The names in the runtime's directory.
    pub fn left(&self) -> Vec<String> {
        let entries = fs::read_dir(self.directory.path().join("run")).expect("reads");
        let name = |entry: std::io::Result<fs::DirEntry>| {
            entry.expect("reads").file_name().to_string_lossy().into_owned()
        };
        entries.map(name).collect()
    }

    pub async fn connect(&self, spec: &InstanceSpec) -> UnixStream {
        UnixStream::connect(self.file(spec, "sock")).await.expect("connects")
    }

    pub async fn ask(&self, spec: &InstanceSpec) -> Answer {
        exchange(self.connect(spec).await, "hello").await
    }

    pub async fn seen(&self, spec: &InstanceSpec) -> Option<ObservedInstance> {
        let seen = self.runtime().observe().await.expect("observes");
        seen.into_iter().find(|seen| seen.id == spec.config.instance_id)
    }

    /// Waits until the instance is seen to be so.
    pub async fn await_seen(
        &self,
        spec: &InstanceSpec,
        is_so: impl Fn(&ObservedInstance) -> bool,
    ) -> ObservedInstance {
        let mut changed = self.runtime().changed();
        let waiting = async {
            loop {
                changed.mark_unchanged();
                if let Some(seen) = self.seen(spec).await.filter(|seen| is_so(seen)) {
                    return seen;
                }
                changed.changed().await.expect("the runtime is there");
            }
        };
        timeout(PATIENCE, waiting).await.expect("is seen so in time")
    }

    /// Waits until another process than this one takes the connections.
    pub async fn await_successor(&self, spec: &InstanceSpec, of: i32) {
        self.await_seen(spec, |seen| seen.process_id.is_some_and(|pid| pid != of)).await;
    }
}

/// Sends one line and reads the answer.
pub async fn exchange(stream: UnixStream, line: &str) -> Answer {
    let mut stream = BufReader::new(stream);
    let talking = async {
        stream.write_all(format!("{line}\n").as_bytes()).await.expect("writes");
        let mut answer = String::new();
        stream.read_line(&mut answer).await.expect("reads");
        answer
    };
    let answer = timeout(PATIENCE, talking).await.expect("is answered in time");
    let (pid, generation) = answer.trim().split_once(' ').expect("is answered");
    Answer {
        pid: pid.parse().expect("a number"),
        generation: generation.parse().expect("a number"),
    }
}

/// Waits for something that nothing tells of.
pub async fn until(is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("is so in time");
}

/// Whether the process has ended. Its status may wait to be read, since a lost runtime's processes
/// are still children of the test.
pub fn is_gone(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.is_err() || stat.is_ok_and(|stat| stat.contains(") Z "))
}

pub fn kill(pid: i32) {
    kill_process(Pid::from_raw(pid).expect("a process"), Signal::KILL).expect("kills");
}

/// A program that becomes the double when started without arguments, as a runtime does.
fn script() -> &'static Path {
    static SCRIPT: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = SCRIPT.get_or_init(|| {
        let directory = TempDir::new().expect("a directory");
        let path = directory.path().join("double");
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create(true).mode(0o700).open(&path).expect("creates");
        let this = std::env::current_exe().expect("is known");
        let arguments = "--exact instance_process --ignored --nocapture";
        write!(file, "#!/bin/sh\nexec '{}' {arguments}\n", this.display()).expect("writes");
        (directory, path)
    });
    path
}
