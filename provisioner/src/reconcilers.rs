//! Conditions that must hold, made true again and again. A reconciler takes no input: it reads
//! what shall be, looks at what is, and brings the two together. It runs periodically; a nudge only
//! lets it run sooner, so a lost one costs time and nothing else.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use provisioner_api::status;
use time::OffsetDateTime;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub mod backups;
pub mod certificates;
pub mod clusters;
pub mod domains;
pub mod instances;
pub mod placements;
pub mod previews;
pub mod proofs;
mod recording;

/// The pause after a failed run, doubled with every further one.
const FIRST_RETRY: Duration = Duration::from_secs(1);
/// The longest pause after a failed run.
const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// Wakes reconcilers. To be called after the transaction that changed something was committed.
#[derive(Clone, Debug)]
pub struct Nudges(watch::Sender<u64>);

impl Nudges {
    /// Nobody listens yet.
    pub fn new() -> Self {
        Self(watch::channel(0).0)
    }

    /// Hears of every nudge from now on.
    pub fn listen(&self) -> watch::Receiver<u64> {
        self.0.subscribe()
    }

    /// Lets all of them run now.
    pub fn all(&self) {
        self.0.send_modify(|count| *count += 1);
    }
}

impl Default for Nudges {
    fn default() -> Self {
        Self::new()
    }
}

/// What a reconciler says of itself.
#[derive(Clone, Debug)]
pub struct Report {
    name: &'static str,
    last: Arc<Mutex<LastRun>>,
}

#[derive(Clone, Debug, Default)]
struct LastRun {
    at: Option<OffsetDateTime>,
    error: Option<String>,
}

impl Report {
    fn new(name: &'static str) -> Self {
        Self { name, last: Arc::default() }
    }

    /// As it is now.
    pub fn now(&self) -> status::Reconciler {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        status::Reconciler {
            name: self.name.to_owned(),
            last_run_at: last.at,
            last_error: last.error,
        }
    }

    fn note(&self, outcome: &anyhow::Result<()>) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.at = Some(OffsetDateTime::now_utc());
        last.error = outcome.as_ref().err().map(|error| format!("{error:#}"));
    }
}

/// When a reconciler runs, and until when.
#[derive(Clone, Debug)]
pub struct Schedule {
    /// How often it runs without being woken.
    pub period: Duration,
    /// What wakes it.
    pub nudges: Nudges,
    /// What ends it, after the run that it is in.
    pub stop: CancellationToken,
    /// Who waits for its end.
    pub tasks: TaskTracker,
}

/// Runs `run` at once and then by the schedule, in a task of its own.
pub fn spawn<Run, Running>(name: &'static str, schedule: Schedule, run: Run) -> Report
where
    Run: Fn() -> Running + Send + 'static,
    Running: Future<Output = anyhow::Result<()>> + Send + 'static,
{
    let report = Report::new(name);
    let tasks = schedule.tasks.clone();
    tasks.spawn(drive(report.clone(), schedule, run));
    report
}

async fn drive<Run, Running>(report: Report, schedule: Schedule, run: Run)
where
    Run: Fn() -> Running,
    Running: Future<Output = anyhow::Result<()>>,
{
    let mut nudged = schedule.nudges.0.subscribe();
    let mut failures = 0;
    loop {
        // First listen, then look: what changes during the run wakes the next one.
        nudged.mark_unchanged();
        let outcome = run().await;
        report.note(&outcome);
        let begun = Instant::now();
        let mut pause = schedule.period;
        match outcome {
            Ok(()) => failures = 0,
            Err(error) => {
                tracing::warn!(reconciler = report.name, "a run failed: {error:#}");
                pause = FIRST_RETRY.saturating_mul(1 << failures.min(8)).min(LONGEST_RETRY);
                failures += 1;
            }
        }
        let wake = async {
            if failures > 0 {
                sleep_until(begun + FIRST_RETRY).await;
            }
            let _ = timeout_at(begun + pause, nudged.changed()).await;
        };
        tokio::select! {
            () = schedule.stop.cancelled() => return,
            () = wake => {}
        }
    }
}
