//! Everything that runs, and the order in which it stops.

use std::{
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::process::Signal;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    leftovers,
    postgres::{Binaries, Cluster},
    process::ProcessRecord,
    progress,
    supervisor::{Component, Status, Supervised},
};
use crate::{data_dir::DataDir, object_store::ObjectStore};

/// How long requests under way may take at a stop.
pub const DRAIN: Duration = Duration::from_secs(10);
/// How long a component may take over its own drain.
const AFTER_DRAIN: Duration = Duration::from_secs(5);
/// The provisioner waits for its instances, which wait for their requests.
const PROVISIONER_GRACE: Duration = Duration::from_secs(40);
/// Postgres writes everything out at a fast shutdown.
const POSTGRES_GRACE: Duration = Duration::from_secs(60);

/// What has been started so far. Whatever happens, [`Platform::stop`] stops it.
pub struct Platform {
    /// Where its data is.
    pub data: DataDir,
    /// Ends what takes its time at a stop.
    pub hurry: CancellationToken,
    running: Mutex<Vec<Supervised>>,
    stores: Mutex<Vec<ObjectStore>>,
    changes: watch::Sender<()>,
}

/// A component that was launched, to wait for.
pub struct Launched {
    /// Its processes and ends.
    pub status: watch::Receiver<Status>,
    /// Its log.
    pub log: PathBuf,
}

impl Platform {
    /// Nothing runs yet.
    pub fn new(data: DataDir, hurry: CancellationToken) -> Self {
        let (changes, _) = watch::channel(());
        Self { data, hurry, running: Mutex::default(), stores: Mutex::default(), changes }
    }

    /// Starts a component and keeps it running.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn launch(&self, component: Component) -> anyhow::Result<Launched> {
        let log = component.log.clone();
        let child = Supervised::start(component, &self.data, self.hurry.clone())?;
        let status = child.status();
        self.running.lock().unwrap_or_else(PoisonError::into_inner).push(child);
        let (mut changed, changes) = (status.clone(), self.changes.clone());
        tokio::spawn(async move {
            while changed.changed().await.is_ok() {
                changes.send_replace(());
            }
        });
        Ok(Launched { status, log })
    }

    /// Keeps an object store.
    pub fn keep(&self, store: ObjectStore) {
        self.stores.lock().unwrap_or_else(PoisonError::into_inner).push(store);
    }

    /// Replaces every router by a new process, of the program as it is now, without a failed request.
    pub fn replace_routers(&self) {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running
            .iter()
            .filter(|child| child.component.name.starts_with("router-"))
            .for_each(Supervised::replace);
    }

    /// Told whenever a component ended or was started again.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// All processes of components, this one first.
    pub fn processes(&self) -> Vec<ProcessRecord> {
        let own = ProcessRecord::of("ta3lem", std::process::id(), self.data.log("ta3lem"));
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let children = running.iter().filter_map(|child| {
            let process_id = child.status().borrow().process_id?;
            Some(ProcessRecord::of(&child.component.name, process_id, child.component.log.clone()))
        });
        std::iter::once(own).chain(children).collect()
    }

    /// Stops everything that was started: routers, keepers, provisioner and instances, Postgres, object
    /// stores. These come last: a server that stops archives the end of its log.
    pub async fn stop(self) {
        let running = self.running.into_inner().unwrap_or_else(PoisonError::into_inner);
        let (routers, others): (Vec<_>, Vec<_>) =
            running.into_iter().partition(|child| child.component.name.starts_with("router-"));
        let (postgres, others): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|child| child.component.name.starts_with("postgres-"));
        let (keepers, others): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|child| child.component.name.starts_with("keeper-"));
        stop_all("routers", routers).await;
        stop_all("keepers", keepers).await;
        let had_provisioner = !others.is_empty();
        stop_all("provisioner and instances", others).await;
        if had_provisioner {
            // Only when the provisioner itself could not: it was killed.
            leftovers::stop_instances(&self.data).await;
        }
        stop_all("Postgres", postgres).await;
        let stores = self.stores.into_inner().unwrap_or_else(PoisonError::into_inner);
        if !stores.is_empty() {
            let begun = Instant::now();
            for store in stores {
                tokio::select! {
                    () = store.stop() => {}
                    () = self.hurry.cancelled() => {}
                }
            }
            progress::ok("object stores stopped", begun);
        }
    }
}

async fn stop_all(what: &str, children: Vec<Supervised>) {
    if children.is_empty() {
        return;
    }
    let begun = Instant::now();
    let stops: Vec<_> = children.into_iter().map(|child| tokio::spawn(child.stop())).collect();
    for stop in stops {
        let _ = stop.await;
    }
    progress::ok(&format!("{what} stopped"), begun);
}

/// A server of a cluster.
pub fn postgres(cluster: &Cluster, binaries: &Binaries) -> Component {
    let (program, arguments) = cluster.command(binaries);
    Component {
        name: cluster.component(),
        program,
        arguments,
        log: cluster.log.clone(),
        // Fast shutdown; immediate in a hurry, which is safe too (the next start recovers).
        stop_signal: Signal::INT,
        grace: POSTGRES_GRACE,
        hurry_signal: Signal::QUIT,
    }
}

/// One of our own binaries with its configuration file.
pub fn own(name: &str, program: PathBuf, config: &std::path::Path, log: PathBuf) -> Component {
    let grace = if name == "provisioner" { PROVISIONER_GRACE } else { DRAIN + AFTER_DRAIN };
    Component {
        name: name.to_owned(),
        program,
        arguments: vec!["--config".to_owned(), config.to_string_lossy().into_owned()],
        log,
        stop_signal: Signal::TERM,
        grace,
        hurry_signal: Signal::KILL,
    }
}
