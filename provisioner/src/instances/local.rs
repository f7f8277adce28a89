//! The local runtime: child processes with socket activation, for an installation on one machine
//! (Linux). The runtime owns the listening sockets and starts a process when a connection comes;
//! the process ends by itself when idle. So an idle instance costs a descriptor and a sleeping
//! task, nothing is lost between exiting and a new request, and a provisioner that starts finds
//! again what its predecessor left running.

pub mod back_off;
mod instance;
mod log_file;
mod process;
mod sockets;
mod state_file;

use std::{
    collections::HashMap,
    fs::{self, DirBuilder, File},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::available_parallelism,
    time::{Duration, Instant},
};

use control_types::{InstanceId, Upstream, state::InstanceObserved};
use futures_util::future::{BoxFuture, FutureExt, join_all};
use rustix::{
    fs::{FlockOperation, flock},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use tokio::{
    sync::{Semaphore, mpsc, oneshot, watch},
    task::AbortHandle,
};

use self::{
    instance::{Command, Instance},
    state_file::{Files, StateFile},
};
use crate::instances::{InstanceRuntime, InstanceSpec, ObservedInstance, RuntimeError};

/// How long a process has to finish its requests after SIGTERM, before it is killed.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(35);
/// Longest path of the runtime's directory in bytes: a unix socket's path has at most 107, and
/// `/<instance id>.sock` is added.
const MAX_DIRECTORY_BYTES: usize = 107 - 42;
/// How long the directory's lock is tried for, and how soon again.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
const LOCK_AGAIN: Duration = Duration::from_millis(10);
/// Requests to one instance that wait for its task; more wait for these.
const COMMANDS: usize = 4;

/// Where the local runtime keeps its things, and what it starts.
#[derive(Clone, Debug)]
pub struct LocalConfig {
    /// For sockets and state files; belongs to the runtime alone. The path has at most 65 bytes,
    /// since a unix socket's path has at most 107.
    pub directory: PathBuf,
    /// For one log file per site.
    pub logs: PathBuf,
    /// The `tenant-app` binary.
    pub tenant_app: PathBuf,
    /// The instances' log filter (their `RUST_LOG`).
    pub log: String,
}

/// Child processes of this machine. Dropping it leaves the processes running.
pub struct LocalRuntime {
    shared: Arc<Shared>,
    instances: Mutex<Instances>,
    /// Held as long as the runtime lives, so that two never work in one directory.
    _lock: File,
}

/// What the tasks of all instances share.
struct Shared {
    config: LocalConfig,
    starts: Arc<Semaphore>,
    changed: watch::Sender<u64>,
}

#[derive(Default)]
struct Instances {
    tasks: HashMap<InstanceId, Task>,
    /// Found at the start, not asked for since.
    left_behind: HashMap<InstanceId, Option<StateFile>>,
    stopping: bool,
}

/// How the runtime reaches the task of an instance.
struct Task {
    commands: mpsc::Sender<Command>,
    seen: watch::Receiver<Option<ObservedInstance>>,
    /// What was ensured last, with success.
    spec: Option<Arc<InstanceSpec>>,
    abort: AbortHandle,
}

impl Shared {
    fn tick(&self) {
        self.changed.send_modify(|count| *count += 1);
    }
}

impl LocalRuntime {
    /// Takes the directory over, and finds what an earlier provisioner left in it. To be called
    /// within a tokio runtime. Makes the directories that do not exist, and raises the limit of open
    /// descriptors of this process as far as it may.
    ///
    /// # Errors
    /// When a directory cannot be used, another runtime uses it, or there is no binary to start.
    pub fn open(mut config: LocalConfig) -> Result<Self, RuntimeError> {
        for directory in [&mut config.directory, &mut config.logs] {
            make_private(directory)
                .map_err(|source| io_error("make or use the directory", directory, source))?;
            *directory = fs::canonicalize(&*directory)
                .map_err(|source| io_error("find", directory, source))?;
        }
        // Not resolved: a link may lead to another release tomorrow.
        config.tenant_app = std::path::absolute(&config.tenant_app)
            .and_then(|path| fs::metadata(&path).map(|_| path))
            .map_err(|source| io_error("find the program", &config.tenant_app, source))?;
        let directory = &config.directory;
        if directory.as_os_str().len() > MAX_DIRECTORY_BYTES {
            let what = "its path is too long for unix sockets in it (at most 65 bytes)";
            return Err(RuntimeError::Directory { path: directory.clone(), what });
        }
        let lock = lock(directory)?;
        allow_many_descriptors();
        let left_behind = state_file::left_behind(directory)
            .map_err(|source| io_error("read the directory", directory, source))?;
        let starts = 2 * available_parallelism().map_or(1, usize::from);
        let shared = Shared {
            config,
            starts: Arc::new(Semaphore::new(starts)),
            changed: watch::channel(0).0,
        };
        let instances = Instances { left_behind, ..Instances::default() };
        Ok(Self { shared: Arc::new(shared), instances: Mutex::new(instances), _lock: lock })
    }

    fn instances(&self) -> MutexGuard<'_, Instances> {
        self.instances.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends a command to the instance's task, which is made if there is none. None when the task
    /// ended before it answered.
    async fn ask(
        &self,
        id: InstanceId,
        command: impl FnOnce(oneshot::Sender<Result<(), RuntimeError>>) -> Command,
    ) -> Option<Result<(), RuntimeError>> {
        let commands = {
            let mut instances = self.instances();
            instances.left_behind.remove(&id);
            let task = instances.tasks.get(&id).filter(|task| !task.commands.is_closed());
            match task {
                Some(task) => task.commands.clone(),
                None => {
                    let task = self.spawn(id);
                    let commands = task.commands.clone();
                    instances.tasks.insert(id, task);
                    commands
                }
            }
        };
        let (reply, answer) = oneshot::channel();
        commands.send(command(reply)).await.ok()?;
        answer.await.ok()
    }

    fn spawn(&self, id: InstanceId) -> Task {
        let (commands, receiver) = mpsc::channel(COMMANDS);
        let (sender, seen) = watch::channel(None);
        let instance = Instance::new(id, Arc::clone(&self.shared), receiver, sender);
        let abort = tokio::spawn(instance.run()).abort_handle();
        Task { commands, seen, spec: None, abort }
    }

    async fn ensure_now(&self, spec: &InstanceSpec) -> Result<(), RuntimeError> {
        let id = spec.config.instance_id;
        let wanted = loop {
            {
                let instances = self.instances();
                if instances.stopping {
                    return Err(RuntimeError::Stopping);
                }
                let task = instances.tasks.get(&id).filter(|task| !task.commands.is_closed());
                if task.is_some_and(|task| task.spec.as_deref() == Some(spec)) {
                    return Ok(());
                }
            }
            let wanted = Arc::new(spec.clone());
            let answer = self.ask(id, |reply| Command::Ensure(Arc::clone(&wanted), reply)).await;
            // No answer: it was removed at the same time. The next task makes it anew.
            if let Some(outcome) = answer {
                outcome?;
                break wanted;
            }
        };
        if let Some(task) = self.instances().tasks.get_mut(&id) {
            task.spec = Some(wanted);
        }
        Ok(())
    }

    async fn remove_now(&self, id: InstanceId) -> Result<(), RuntimeError> {
        let outcome = loop {
            if let Some(outcome) = self.ask(id, Command::Remove).await {
                break outcome;
            }
        };
        // A failed one stays listed, so that it is tried again.
        outcome?;
        let mut instances = self.instances();
        if instances.tasks.get(&id).is_some_and(|task| task.commands.is_closed()) {
            instances.tasks.remove(&id);
        }
        Ok(())
    }

    fn observe_now(&self) -> Vec<ObservedInstance> {
        let instances = self.instances();
        let seen = instances.tasks.values().filter_map(|task| task.seen.borrow().clone());
        let left_behind = instances.left_behind.iter();
        let left_behind = left_behind.map(|(id, state)| self.observe_left(*id, state.as_ref()));
        seen.chain(left_behind).collect()
    }

    fn observe_left(&self, id: InstanceId, state: Option<&StateFile>) -> ObservedInstance {
        let process = state.and_then(|state| state.process.as_ref());
        let process_id = process.filter(|process| process.is_alive()).map(|process| process.pid);
        let state_seen = match process_id {
            Some(_) => InstanceObserved::Running,
            None => InstanceObserved::Unknown,
        };
        ObservedInstance {
            id,
            state: state_seen,
            address: Upstream::Unix(Files::of(&self.shared.config.directory, id).socket),
            process_id,
            starts: state.map_or(0, |state| state.starts),
            last_error: None,
        }
    }
}

impl InstanceRuntime for LocalRuntime {
    fn ensure<'a>(&'a self, spec: &'a InstanceSpec) -> BoxFuture<'a, Result<(), RuntimeError>> {
        self.ensure_now(spec).boxed()
    }

    fn remove(&self, instance: InstanceId) -> BoxFuture<'_, Result<(), RuntimeError>> {
        self.remove_now(instance).boxed()
    }

    fn observe(&self) -> BoxFuture<'_, Result<Vec<ObservedInstance>, RuntimeError>> {
        async { Ok(self.observe_now()) }.boxed()
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.shared.changed.subscribe()
    }

    fn stop_all(&self) -> BoxFuture<'_, ()> {
        async {
            self.instances().stopping = true;
            let all = self.observe_now();
            join_all(all.iter().map(async |seen| {
                if let Err(error) = self.remove_now(seen.id).await {
                    tracing::error!(
                        instance.id = %seen.id, error = &error as &dyn std::error::Error,
                        "cannot stop an instance"
                    );
                }
            }))
            .await;
        }
        .boxed()
    }
}

impl Drop for LocalRuntime {
    fn drop(&mut self) {
        for task in self.instances().tasks.values() {
            task.abort.abort();
        }
    }
}

/// Makes the directory, for its owner alone; leaves one that exists as it is.
fn make_private(directory: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

/// Each sleeping instance has a descriptor, and the usual limit is 1024.
fn allow_many_descriptors() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::warn!(%error, "cannot raise the limit of open descriptors");
    }
}

/// A predecessor that was killed may have left a child between its fork and its program's start: it has
/// the lock for that moment too.
fn lock(directory: &Path) -> Result<File, RuntimeError> {
    let path = directory.join("lock");
    let file = File::options().write(true).create(true).truncate(false).open(&path);
    let file = file.map_err(|source| io_error("open", &path, source))?;
    let until = Instant::now() + LOCK_PATIENCE;
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        if Instant::now() > until {
            let what = "another provisioner uses it";
            return Err(RuntimeError::Directory { path: directory.to_owned(), what });
        }
        // At the start, when nothing else is done.
        std::thread::sleep(LOCK_AGAIN);
    }
    Ok(file)
}

fn io_error(action: &'static str, path: &Path, source: io::Error) -> RuntimeError {
    RuntimeError::Io { action, path: path.to_owned(), source }
}
