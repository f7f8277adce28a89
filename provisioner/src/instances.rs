//! Where instances run: the trait that a runtime implements, and what it is asked and answers.
//! Only the reconciler `reconcilers::instances` calls it; operations change the desired row and
//! wait for the observed one to agree.

use std::path::PathBuf;

use control_types::{InstanceConfig, InstanceId, Upstream, state::InstanceObserved};
use futures_util::future::BoxFuture;
use tokio::sync::watch;

pub mod local;

/// Runs instances. The verbs are level-triggered: each says what shall be, may be called at any
/// time, any number of times, and concurrently for different instances.
///
/// What a caller may rely on:
///
/// - [`ensure`](Self::ensure) is idempotent and cheap when nothing changed. It returns when
///   connections to the instance's address are taken in, not when they are answered: how the
///   process is doing is told by [`observe`](Self::observe).
/// - [`remove`](Self::remove) leaves neither process nor address behind, also when there was none.
/// - [`observe`](Self::observe) tells what is there, also what an earlier provisioner left behind
///   and nobody has ensured since.
/// - Each change of what is observed ticks [`changed`](Self::changed).
///
/// What a caller must not rely on: that there is at most one process. Two live processes with one
/// identity can exist (while one replaces the other; when a machine is cut off and the instance is
/// started elsewhere). The generation in each request and the fence in the site's database protect
/// the data, not the runtime.
pub trait InstanceRuntime: Send + Sync {
    /// Makes the instance be as the spec says: from nothing, or from another spec. A running
    /// process of another spec is replaced, and answers what comes on the connections that it has
    /// until their other ends close them, except when it is of another generation.
    fn ensure<'a>(&'a self, spec: &'a InstanceSpec) -> BoxFuture<'a, Result<(), RuntimeError>>;

    /// Takes the instance away; returns when its process has ended. The process has
    /// [`STOP_TIMEOUT`](local::STOP_TIMEOUT) to finish its requests.
    fn remove(&self, instance: InstanceId) -> BoxFuture<'_, Result<(), RuntimeError>>;

    /// All instances that are there, in no particular order. What is not listed is absent.
    fn observe(&self) -> BoxFuture<'_, Result<Vec<ObservedInstance>, RuntimeError>>;

    /// A number that goes up whenever [`observe`](Self::observe) would answer something new.
    fn changed(&self) -> watch::Receiver<u64>;

    /// Stops every instance, also those of earlier provisioners, and takes no new ones
    /// ([`RuntimeError::Stopping`]). For an end of the whole installation: a provisioner that only
    /// makes place for its successor leaves its instances running.
    fn stop_all(&self) -> BoxFuture<'_, ()>;
}

/// What an instance shall be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceSpec {
    /// What the process is told at its start. Holds secrets; its `Debug` does not show them.
    pub config: InstanceConfig,
    /// Whether the process is started at once and again after each end, instead of by the first
    /// connection.
    pub keep_warm: bool,
}

/// What an instance was seen to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObservedInstance {
    /// The instance.
    pub id: InstanceId,
    /// How it is doing.
    pub state: InstanceObserved,
    /// Where it takes connections, or did before its provisioner ended.
    pub address: Upstream,
    /// The process that takes new connections, if one runs.
    pub process_id: Option<i32>,
    /// How often a process was started for it.
    pub starts: u32,
    /// Why the last process ended that should not have, until one runs well.
    pub last_error: Option<String>,
}

/// Why a runtime could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum RuntimeError {
    /// The runtime's directory cannot be used.
    #[error("the instance runtime's directory {path}: {what}")]
    Directory {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        what: &'static str,
    },
    /// Something in the file system refused.
    #[error("instance runtime: cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The process did not end, not even when killed.
    #[error("process {process_id} of instance {instance} does not end")]
    DoesNotEnd {
        /// The instance.
        instance: InstanceId,
        /// Its process.
        process_id: i32,
    },
    /// [`InstanceRuntime::stop_all`] was called.
    #[error("the instance runtime is stopping and takes no instances")]
    Stopping,
}
