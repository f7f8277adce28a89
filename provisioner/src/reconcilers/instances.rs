//! Every instance is as its row says, and its row says how it is. One that has no row is removed.
//! A slow or failing instance holds up no other.

use std::{
    collections::{HashMap, HashSet},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Poll,
    time::Duration,
};

use anyhow::Context;
use control_types::{
    InstanceConfig, InstanceId,
    instance_config::{DatabaseConfig, StorageConfig},
    state::{InstanceDesired, InstanceObserved},
};
use futures_util::{future::join_all, poll};
use sqlx::PgPool;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{Nudges, Report, Schedule};
use crate::{
    control_db::instances::{self, InstanceRow, Observation},
    instances::{InstanceRuntime, InstanceSpec, ObservedInstance, RuntimeError},
    secrets::{Keys, PlacementSecrets},
};

/// How often to run without being woken.
pub const PERIOD: Duration = Duration::from_secs(5);
/// How long a run waits for what it began, before it writes what it sees. What takes longer wakes
/// the next run when it is done.
const PATIENCE: Duration = Duration::from_millis(50);
/// Changes that the runtime tells of within this time are written together.
const COLLECT: Duration = Duration::from_millis(5);

/// The reconciler.
pub struct Instances {
    control: PgPool,
    runtime: Arc<dyn InstanceRuntime>,
    keys: Keys,
    nudges: Nudges,
    written: watch::Sender<u64>,
    /// The rows of the last run, as written since.
    rows: tokio::sync::Mutex<HashMap<InstanceId, Known>>,
    work: Arc<Mutex<Work>>,
}

/// What is known of a row.
struct Known {
    desired: InstanceDesired,
    written: Observation,
}

/// What the runtime was asked and has not answered, and what it could not do.
#[derive(Default)]
struct Work {
    under_way: HashSet<InstanceId>,
    errors: HashMap<InstanceId, String>,
}

type Asked = Pin<Box<dyn Future<Output = Result<(), RuntimeError>> + Send>>;

impl Instances {
    /// The reconciler of all instances in the control database.
    pub fn new(
        control: PgPool,
        runtime: Arc<dyn InstanceRuntime>,
        keys: Keys,
        nudges: Nudges,
    ) -> Self {
        Self {
            control,
            runtime,
            keys,
            nudges,
            written: watch::channel(0).0,
            rows: tokio::sync::Mutex::default(),
            work: Arc::default(),
        }
    }

    /// A number that goes up whenever rows were written, for those who wait for what they say.
    pub fn written(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// Runs it by the schedule, and writes what the runtime tells of in between.
    pub fn spawn(self: Arc<Self>, schedule: Schedule) -> Report {
        let follower = Arc::clone(&self);
        let stop = schedule.stop.clone();
        schedule.tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = follower.follow() => {}
            }
        });
        super::spawn("instances", schedule, move || {
            let reconciler = Arc::clone(&self);
            async move { reconciler.run_once().await }
        })
    }

    /// Brings the runtime to what the rows say, and the rows to what the runtime sees. What goes
    /// wrong with one instance is noted in its row and is no error.
    ///
    /// # Errors
    /// When the control database or the runtime as a whole does not answer; what runs goes on.
    pub async fn run_once(&self) -> anyhow::Result<()> {
        let mut rows = self.rows.lock().await;
        let loaded = instances::load_all(&self.control).await;
        let loaded = loaded.context("cannot read the instances from the control database")?;
        let mut begun = Vec::new();
        for row in loaded.iter().filter(|row| row.desired == InstanceDesired::Listening) {
            begun.extend(self.ensure(row).await);
        }
        let unwanted: HashSet<_> = {
            let wanted = |row: &&InstanceRow| row.desired == InstanceDesired::Listening;
            let wanted: HashSet<_> = loaded.iter().filter(wanted).map(|row| row.id).collect();
            let seen = self.runtime.observe().await?;
            seen.iter().map(|seen| seen.id).filter(|id| !wanted.contains(id)).collect()
        };
        for id in unwanted {
            let runtime = Arc::clone(&self.runtime);
            begun.extend(self.ask(id, Box::pin(async move { runtime.remove(id).await })).await);
        }
        self.work().forget_errors(&loaded);
        let _ = timeout(PATIENCE, join_all(begun)).await;
        *rows = loaded
            .iter()
            .map(|row| (row.id, Known { desired: row.desired, written: row.observation() }))
            .collect();
        self.write(&mut rows).await
    }

    /// Writes what the runtime tells of, for ever.
    async fn follow(&self) {
        let mut changed = self.runtime.changed();
        while changed.changed().await.is_ok() {
            sleep(COLLECT).await;
            changed.mark_unchanged();
            let mut rows = self.rows.lock().await;
            // The next run tries again, and reports it.
            let _ = self.write(&mut rows).await;
        }
    }

    async fn ensure(&self, row: &InstanceRow) -> Option<JoinHandle<()>> {
        let spec = match self.spec(row) {
            Ok(spec) => spec,
            Err(error) => {
                self.work().failed(row.id, format!("{error:#}"));
                return None;
            }
        };
        let runtime = Arc::clone(&self.runtime);
        self.ask(row.id, Box::pin(async move { runtime.ensure(&spec).await })).await
    }

    /// Asks the runtime for something, unless it is at work on this instance. What is not done at
    /// once goes on in a task.
    async fn ask(&self, id: InstanceId, mut asked: Asked) -> Option<JoinHandle<()>> {
        if self.work().under_way.contains(&id) {
            return None;
        }
        if let Poll::Ready(outcome) = poll!(&mut asked) {
            self.work().done(id, outcome);
            return None;
        }
        self.work().under_way.insert(id);
        let work = Arc::clone(&self.work);
        let nudges = self.nudges.clone();
        Some(tokio::spawn(async move {
            let outcome = asked.await;
            let succeeded = outcome.is_ok();
            lock(&work).done(id, outcome);
            // A failure waits for the next period.
            if succeeded {
                nudges.all();
            }
        }))
    }

    fn spec(&self, row: &InstanceRow) -> anyhow::Result<InstanceSpec> {
        let secrets: PlacementSecrets =
            self.keys.open(&row.region, row.placement_id, &row.sealed_secrets)?;
        // What a process is told goes by the plan alone: a place that becomes the site, or is left,
        // must not get another process for that.
        let stays = row.min_instances > 0;
        let config = InstanceConfig {
            site_id: row.site_id,
            slug: row.slug.parse().context("the site's slug")?,
            generation: row.generation,
            instance_id: row.id,
            database: DatabaseConfig {
                host: row.app_host.clone(),
                port: row.app_port.try_into().context("the cluster's app_port")?,
                database: row.database_name.clone(),
                user: row.database_name.clone(),
                password: secrets.database_password,
            },
            storage: StorageConfig {
                endpoint: row.endpoint.clone(),
                region: row.region.clone(),
                bucket: row.bucket.clone(),
                prefix: row.prefix.clone(),
                access_key: secrets.access_key,
                secret_key: secrets.secret_key,
            },
            idle_exit_secs: if stays {
                0
            } else {
                row.idle_exit_secs.try_into().context("the plan's idle_exit_secs")?
            },
            max_database_connections: row
                .max_database_connections
                .try_into()
                .context("the plan's max_database_connections")?,
            preview: row.preview(),
        };
        Ok(InstanceSpec { config, keep_warm: stays && !row.follows })
    }

    /// Writes what differs from what is written.
    async fn write(&self, rows: &mut HashMap<InstanceId, Known>) -> anyhow::Result<()> {
        let seen = self.runtime.observe().await?;
        let mut seen: HashMap<_, _> = seen.into_iter().map(|seen| (seen.id, seen)).collect();
        let (moved, changed): (Vec<_>, Vec<_>) = {
            let work = self.work();
            rows.values()
                .filter_map(|known| {
                    let now = work.observation(known, seen.remove(&known.written.id));
                    Some(now).filter(|now| *now != known.written)
                })
                .partition(|now| rows[&now.id].written.address != now.address)
        };
        if moved.is_empty() && changed.is_empty() {
            return Ok(());
        }
        let (writes_moved, wrote_changed) = tokio::join!(
            join_all(moved.iter().map(|now| instances::write_address(&self.control, now))),
            instances::write_observed(&self.control, &changed),
        );
        let wrote_moved = moved.into_iter().zip(writes_moved);
        let mut first_error = wrote_changed.as_ref().err().map(ToString::to_string);
        let mut wrote = if wrote_changed.is_ok() { changed } else { Vec::new() };
        for (now, outcome) in wrote_moved {
            match outcome {
                Ok(()) => wrote.push(now),
                Err(error) => first_error = Some(error.to_string()),
            }
        }
        for now in wrote {
            if let Some(known) = rows.get_mut(&now.id) {
                known.written = now;
            }
        }
        self.written.send_modify(|count| *count += 1);
        match first_error {
            None => Ok(()),
            Some(error) => anyhow::bail!("cannot write what was seen of instances: {error}"),
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        lock(&self.work)
    }
}

impl Work {
    fn done(&mut self, id: InstanceId, outcome: Result<(), RuntimeError>) {
        self.under_way.remove(&id);
        match outcome {
            Ok(()) => drop(self.errors.remove(&id)),
            Err(error) => self.failed(id, format!("{:#}", anyhow::Error::from(error))),
        }
    }

    fn failed(&mut self, id: InstanceId, error: String) {
        if self.errors.get(&id) != Some(&error) {
            tracing::warn!(instance.id = %id, "an instance cannot be made as it shall be: {error}");
        }
        self.errors.insert(id, error);
    }

    /// Of instances without a row.
    fn forget_errors(&mut self, rows: &[InstanceRow]) {
        let ids: HashSet<_> = rows.iter().map(|row| row.id).collect();
        self.errors.retain(|id, _| ids.contains(id));
    }

    /// What the row shall say.
    fn observation(&self, known: &Known, seen: Option<ObservedInstance>) -> Observation {
        let id = known.written.id;
        let error = self.errors.get(&id).cloned();
        let before = &known.written;
        match seen {
            Some(seen) => Observation {
                id,
                observed: seen.state,
                address: match seen.state {
                    // Not listening yet; the address of before may be true again in a moment.
                    InstanceObserved::Unknown => before.address.clone(),
                    _ => Some(seen.address.to_string()),
                },
                process_id: seen.process_id,
                starts: i32::try_from(seen.starts).unwrap_or(i32::MAX),
                last_error: error.or(seen.last_error),
            },
            None if self.under_way.contains(&id) => before.clone(),
            None => Observation {
                id,
                observed: match known.desired {
                    InstanceDesired::Absent => InstanceObserved::Absent,
                    InstanceDesired::Listening => InstanceObserved::Unknown,
                },
                address: None,
                process_id: None,
                starts: before.starts,
                last_error: error,
            },
        }
    }
}

fn lock(work: &Mutex<Work>) -> MutexGuard<'_, Work> {
    work.lock().unwrap_or_else(PoisonError::into_inner)
}
