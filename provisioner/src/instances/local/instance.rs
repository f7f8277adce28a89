//! One instance: its socket, its process and its state file, all owned by one task. Everything
//! that happens to an instance happens here, in order.
//!
//! ```text
//! sleeping ──connection, or kept warm──> running ──exit 0──> sleeping
//!    ^                                     └─ any other end ─> failing ──waited──> sleeping
//!    └─ a new spec, at any time: the next process is started, then the old one hands over
//! ```

mod starts_and_ends;

use std::{future::pending, io, os::fd::OwnedFd, path::Path, sync::Arc, time::Duration};

use control_types::{InstanceId, Slug, Upstream, state::InstanceObserved};
use futures_util::{
    StreamExt,
    future::{BoxFuture, FutureExt},
    stream::FuturesUnordered,
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Shared,
    back_off::{BackOff, RUN_WELL},
    process::{Ended, Process},
    sockets,
    state_file::{Files, ProcessIdentity, StateFile, spec_hash},
};
use crate::instances::{InstanceSpec, ObservedInstance, RuntimeError};

/// How long an earlier provisioner's process may take to hand its socket back.
const TAKE_BACK_TIMEOUT: Duration = Duration::from_secs(2);
/// Before another try to watch a socket that could not be watched.
const WATCH_RETRY: Duration = Duration::from_secs(1);

type Reply = oneshot::Sender<Result<(), RuntimeError>>;

/// What an instance's task is asked.
pub enum Command {
    /// Be as this says.
    Ensure(Arc<InstanceSpec>, Reply),
    /// Be gone; the task ends.
    Remove(Reply),
}

/// What happened.
enum Event {
    Asked(Option<Command>),
    Ended(Ended),
    Drained(ProcessIdentity, bool),
    Start(OwnedSemaphorePermit),
    WaitedOut,
    RanWell,
}

/// The owner of an instance.
pub struct Instance {
    id: InstanceId,
    files: Files,
    shared: Arc<Shared>,
    commands: mpsc::Receiver<Command>,
    seen: watch::Sender<Option<ObservedInstance>>,
    /// None until ensured, even if an earlier provisioner's process runs.
    spec: Option<Arc<InstanceSpec>>,
    slug: Option<Slug>,
    hash: String,
    listener: Option<Arc<OwnedFd>>,
    process: Option<Process>,
    /// The process is of another spec, or has another socket.
    outdated: bool,
    /// Start without a connection, once.
    start_now: bool,
    /// No start before this.
    not_before: Option<Instant>,
    back_off: BackOff,
    draining: FuturesUnordered<BoxFuture<'static, (ProcessIdentity, bool)>>,
    draining_ids: Vec<ProcessIdentity>,
    /// Those that hand over are not waited for any more.
    hurry: CancellationToken,
    starts: u32,
    last_error: Option<String>,
}

impl Instance {
    /// The instance as an earlier provisioner left it, or a new one.
    pub fn new(
        id: InstanceId,
        shared: Arc<Shared>,
        commands: mpsc::Receiver<Command>,
        seen: watch::Sender<Option<ObservedInstance>>,
    ) -> Self {
        Self {
            id,
            files: Files::of(&shared.config.directory, id),
            shared,
            commands,
            seen,
            spec: None,
            slug: None,
            hash: String::new(),
            listener: None,
            process: None,
            outdated: false,
            start_now: false,
            not_before: None,
            back_off: BackOff::default(),
            draining: FuturesUnordered::new(),
            draining_ids: Vec::new(),
            hurry: CancellationToken::new(),
            starts: 0,
            last_error: None,
        }
    }

    /// Until it is removed, or nobody is left to ask.
    pub async fn run(mut self) {
        self.adopt().await;
        self.publish();
        loop {
            match self.next_event().await {
                Event::Asked(None) => return,
                Event::Asked(Some(Command::Ensure(spec, reply))) => {
                    let _ = reply.send(self.ensure(spec));
                }
                Event::Asked(Some(Command::Remove(reply))) => {
                    let outcome = self.remove().await;
                    // Whoever asked for something else meanwhile asks again, a new task.
                    self.commands.close();
                    let _ = reply.send(outcome);
                    return;
                }
                Event::Ended(ended) => self.on_end(ended),
                Event::Drained(identity, ended) => self.on_drained(&identity, ended),
                Event::Start(permit) => self.start(permit),
                Event::WaitedOut => self.not_before = None,
                Event::RanWell => {
                    self.back_off = BackOff::default();
                    self.last_error = None;
                }
            }
            self.publish();
        }
    }

    async fn next_event(&mut self) -> Event {
        let wants_start = self.process.is_none() || self.outdated;
        let waiting = self.not_before.is_some();
        let at_once = self.start_now || self.outdated || self.is_warm();
        let listener = self.listener.clone().filter(|_| wants_start && !waiting);
        let starts = Arc::clone(&self.shared.starts);
        let id = self.id;
        let well_at = self
            .process
            .as_ref()
            .filter(|_| self.last_error.is_some() && !self.outdated)
            .map(|process| process.since + RUN_WELL);
        tokio::select! {
            command = self.commands.recv() => Event::Asked(command),
            ended = async {
                match &mut self.process {
                    Some(process) => process.ended().await,
                    None => pending().await,
                }
            } => Event::Ended(ended),
            Some((identity, ended)) = self.draining.next() => Event::Drained(identity, ended),
            permit = wait_for_turn(listener, at_once, starts, id) => Event::Start(permit),
            () = at(self.not_before) => Event::WaitedOut,
            () = at(well_at) => Event::RanWell,
        }
    }

    /// Finds the processes that an earlier provisioner started.
    async fn adopt(&mut self) {
        let Some(state) = self.files.read_state() else { return };
        self.starts = state.starts;
        self.hash = state.spec_hash;
        self.slug = Some(state.slug);
        for process in state.draining.iter().filter_map(Process::find) {
            self.let_go(process, false);
        }
        let Some(process) = state.process.as_ref().and_then(Process::find) else { return };
        let named = state.socket_inode == sockets::inode(&self.files.socket);
        let taken = timeout(TAKE_BACK_TIMEOUT, sockets::take_back(&self.files.control)).await;
        match taken {
            Ok(Ok(listener)) if named => self.listener = Some(Arc::new(listener)),
            other => {
                let reason = match other {
                    Ok(Ok(_)) => "the socket's file is gone".to_owned(),
                    Ok(Err(error)) => error.to_string(),
                    Err(_) => "no answer".to_owned(),
                };
                tracing::warn!(
                    instance.id = %self.id, process.id = process.identity.pid, reason,
                    "the socket of a running instance cannot be had back; it will be replaced"
                );
                self.outdated = true;
            }
        }
        tracing::info!(
            instance.id = %self.id, site.slug = self.slug(), process.id = process.identity.pid,
            "found a running instance again"
        );
        self.process = Some(process);
    }

    fn ensure(&mut self, spec: Arc<InstanceSpec>) -> Result<(), RuntimeError> {
        let hash = spec_hash(&spec, &self.shared.config);
        if self.listener.is_none() {
            let socket = sockets::listen_at(&self.files.socket, &self.files)
                .map_err(self.io_error("listen at", &self.files.socket))?;
            self.listener = Some(Arc::new(socket));
        }
        if self.hash != hash {
            self.outdated = self.process.is_some();
            self.back_off = BackOff::default();
            self.not_before = None;
        } else if let Some(process) = &mut self.process {
            process.generation = Some(spec.config.generation);
        }
        self.hash = hash;
        self.slug = Some(spec.config.slug.clone());
        self.spec = Some(spec);
        self.write_state(None).map_err(self.io_error("write", &self.files.state))?;
        self.publish();
        Ok(())
    }

    async fn remove(&mut self) -> Result<(), RuntimeError> {
        self.listener = None;
        // The state file stays until the processes have ended.
        for path in [&self.files.socket, &self.files.control] {
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(self.io_error("remove", path)(error));
                }
                _ => {}
            }
        }
        if let Some(process) = self.process.take() {
            self.let_go(process, true);
        }
        self.hurry.cancel();
        let mut left = None;
        while let Some((identity, ended)) = self.draining.next().await {
            self.draining_ids.retain(|draining| *draining != identity);
            left = left.or((!ended).then_some(identity.pid));
        }
        if let Some(process_id) = left {
            return Err(RuntimeError::DoesNotEnd { instance: self.id, process_id });
        }
        let left = self.files.remove();
        left.map_err(self.io_error("remove the files beside", &self.files.state))?;
        if self.seen.send_replace(None).is_some() {
            tracing::info!(instance.id = %self.id, site.slug = self.slug(), "removed an instance");
        }
        self.shared.tick();
        Ok(())
    }

    fn let_go(&mut self, process: Process, at_once: bool) {
        self.draining_ids.push(process.identity.clone());
        self.draining.push(match at_once {
            true => process.drain().boxed(),
            false => process.hand_over(self.hurry.clone()).boxed(),
        });
    }

    /// Writes the state down; `next` is a process that is about to become the one.
    fn write_state(&self, next: Option<&ProcessIdentity>) -> io::Result<()> {
        let Some(slug) = &self.slug else { return Ok(()) };
        let current = self.process.as_ref().map(|process| &process.identity);
        let replaced = current.filter(|_| next.is_some());
        // An outdated process counts as one of another spec, also for a successor.
        let of_spec = next.is_some() || !self.outdated;
        self.files.write_state(&StateFile {
            slug: slug.clone(),
            spec_hash: if of_spec { self.hash.clone() } else { String::new() },
            socket_inode: sockets::inode(&self.files.socket),
            process: next.or(current).cloned(),
            draining: self.draining_ids.iter().chain(replaced).cloned().collect(),
            starts: self.starts,
        })
    }

    fn publish(&self) {
        if self.slug.is_none() {
            return;
        }
        let now = ObservedInstance {
            id: self.id,
            state: match (&self.process, self.not_before) {
                (Some(_), _) => InstanceObserved::Running,
                (None, Some(_)) => InstanceObserved::Failing,
                (None, None) if self.listener.is_none() => InstanceObserved::Unknown,
                (None, None) => InstanceObserved::Sleeping,
            },
            address: Upstream::Unix(self.files.socket.clone()),
            process_id: self.process.as_ref().map(|process| process.identity.pid),
            starts: self.starts,
            last_error: self.last_error.clone(),
        };
        let differs = self.seen.send_if_modified(|seen| {
            let differs = seen.as_ref() != Some(&now);
            *seen = Some(now);
            differs
        });
        if differs {
            self.shared.tick();
        }
    }

    fn slug(&self) -> Option<&str> {
        self.slug.as_ref().map(Slug::as_str)
    }

    fn is_warm(&self) -> bool {
        self.spec.as_ref().is_some_and(|spec| spec.keep_warm)
    }

    fn io_error<'a>(
        &self,
        action: &'static str,
        path: &'a Path,
    ) -> impl FnOnce(io::Error) -> RuntimeError + use<'a> {
        move |source| RuntimeError::Io { action, path: path.to_owned(), source }
    }
}

/// Returns when a process is wanted and may be started.
async fn wait_for_turn(
    listener: Option<Arc<OwnedFd>>,
    at_once: bool,
    starts: Arc<tokio::sync::Semaphore>,
    id: InstanceId,
) -> OwnedSemaphorePermit {
    let Some(listener) = listener else { return pending().await };
    while !at_once && let Err(error) = sockets::connection_comes(Arc::clone(&listener)).await {
        tracing::error!(instance.id = %id, %error, "cannot watch a sleeping instance's socket");
        sleep(WATCH_RETRY).await;
    }
    match starts.acquire_owned().await {
        Ok(permit) => permit,
        Err(_) => pending().await,
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => pending().await,
    }
}
