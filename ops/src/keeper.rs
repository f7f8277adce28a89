//! `ta3lem cluster keep`: the keeper of one cluster. It runs beside the cluster's server, as the same
//! user, and lets pgBackRest make base backups and archive the write-ahead log. It says how they are, and
//! hears what it shall do, over the provisioner's API.
//!
//! The server archives by itself: its `archive_command` calls pgBackRest with the file that the keeper
//! writes. So a keeper that is gone stops no archiving, only new base backups.
//!
//! It also brings databases back from the backups, when it is told to.

mod archiving;
mod background;
pub mod config;
mod pgbackrest;
mod priority;
pub mod restores;
mod schedule;
mod server;

use std::{
    path::PathBuf,
    process::ExitCode,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use anyhow::Context as _;
use provisioner_api::{
    backups::{Backup, KeeperReport, KeeperSettings},
    client::Client,
};
use time::OffsetDateTime;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{Notify, watch},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use self::{
    archiving::Archive,
    config::KeeperConfig,
    pgbackrest::Known,
    restores::Restores,
    schedule::{Due, Pause},
};

pub use pgbackrest::{Pgbackrest, archive_command, config_file, program};

/// How often the provisioner hears of us. What changes is told at once.
const REPORT: Duration = Duration::from_secs(5);
/// How often the log's archiving is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often it is looked whether a base backup is due.
const DUE: Duration = Duration::from_secs(10);
/// The pause before the provisioner is asked again.
const AGAIN: Duration = Duration::from_millis(500);

/// Makes the backups of the cluster beside it, and brings databases back from them, until it is stopped.
#[derive(Clone, Debug, clap::Args)]
pub struct KeepArgs {
    /// What to keep, and how: see ops/runbooks/backups.md
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

/// Runs until it is asked to stop.
pub async fn run(args: KeepArgs) -> ExitCode {
    let _ = tracing_subscriber::fmt().json().try_init();
    match keep(&args).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ta3lem cluster keep: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn keep(args: &KeepArgs) -> anyhow::Result<()> {
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let config = KeeperConfig::load(&args.config)?;
    let stop = stop_on_signals()?;
    let client = Client::new(&config.api, &config.token()?)?;
    let pgbackrest = Pgbackrest::new(&config).await?;
    // What a keeper left that was killed.
    restores::clear(&config, |_| false).await;
    let Some(settings) = stop.run_until_cancelled(first_settings(&client)).await else {
        return Ok(());
    };
    tracing::info!("keeps cluster {} in {}", settings.cluster, settings.region);
    let (settings, _) = watch::channel(settings);
    let keeper = Keeper {
        config,
        client,
        pgbackrest,
        settings,
        seen: Mutex::default(),
        changed: Notify::new(),
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = keeper.work() => {}
    }
    restores::clear(&keeper.config, |_| false).await;
    Ok(())
}

/// The provisioner may be down, or may not know of us yet: both pass.
async fn first_settings(client: &Client) -> KeeperSettings {
    let mut said = String::new();
    loop {
        match client.keeper_settings().await {
            Ok(settings) => return settings,
            Err(error) => {
                let error = format!("{:#}", anyhow::Error::from(error));
                if error != said {
                    tracing::warn!("the provisioner gives no settings yet: {error}");
                    said = error;
                }
            }
        }
        sleep(AGAIN).await;
    }
}

fn stop_on_signals() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        told.cancel();
    });
    Ok(stop)
}

/// What is known by now.
#[derive(Default)]
struct Seen {
    backups: Vec<Backup>,
    archive: Archive,
    doing: Option<String>,
    /// Why the archive could not be looked at.
    archive_problems: Vec<String>,
    /// Why no base backup could be made.
    backup_problem: Option<String>,
}

struct Keeper {
    config: KeeperConfig,
    client: Client,
    pgbackrest: Pgbackrest,
    settings: watch::Sender<KeeperSettings>,
    seen: Mutex<Seen>,
    changed: Notify,
}

impl Keeper {
    fn note<T>(&self, change: impl FnOnce(&mut Seen) -> T) -> T {
        change(&mut self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does everything, for ever.
    async fn work(&self) {
        let restores =
            Restores { config: &self.config, pgbackrest: &self.pgbackrest, client: &self.client };
        tokio::join!(self.watch_server(), self.make_backups(), self.report(), restores.work());
    }

    /// Looks at the archiving of the log and at what runs beside people's requests, for ever.
    async fn watch_server(&self) {
        let mut server = None;
        let mut said = String::new();
        loop {
            let looked = archiving::look(&self.config, &mut server).await;
            if let Some(server) = &mut server
                && let Err(error) = priority::put_back(server).await
                && said != error.to_string()
            {
                said = error.to_string();
                tracing::warn!("{said}");
            }
            self.note(|seen| match looked {
                Ok((at, look)) => {
                    seen.archive_problems = look.problems(&self.config);
                    seen.archive.take(at, &look);
                }
                Err(error) => {
                    server = None;
                    seen.archive_problems = vec![format!("the server does not answer: {error:#}")];
                }
            });
            sleep(LOOK).await;
        }
    }

    fn take(&self, known: Known) {
        self.note(|seen| {
            seen.archive.archived_before(known.archived_until.as_deref());
            seen.archive.known_since(known.backups.last());
            seen.backups = known.backups;
        });
        self.changed.notify_one();
    }

    /// Makes base backups when they are due, for ever.
    async fn make_backups(&self) {
        let mut settings = self.settings.subscribe();
        let mut prepared = None;
        let mut pause = Pause::new();
        loop {
            let wanted = settings.borrow_and_update().clone();
            let made = async {
                // The first time, and when the store is elsewhere or keeps backups longer.
                if prepared.as_ref() != Some(&wanted) {
                    self.pgbackrest.configure(&wanted)?;
                    // What there is, before all is looked at: a keeper that comes again must not say
                    // that there are no backups.
                    self.take(self.pgbackrest.info().await?);
                    self.pgbackrest.prepare().await?;
                    prepared = Some(wanted);
                }
                self.make_what_is_due().await
            };
            let next = match made.await {
                Ok(()) => {
                    pause = Pause::new();
                    self.note(|seen| seen.backup_problem = None);
                    DUE
                }
                Err(error) => {
                    let error = format!("{error:#}");
                    tracing::warn!("{error}");
                    self.note(|seen| (seen.doing, seen.backup_problem) = (None, Some(error)));
                    pause.next()
                }
            };
            self.changed.notify_one();
            let _ = timeout(next, settings.changed()).await;
        }
    }

    async fn make_what_is_due(&self) -> anyhow::Result<()> {
        loop {
            let known = self.pgbackrest.info().await?;
            let last_stop = known.last_stop;
            self.take(known);
            let due = self.note(|seen| {
                let (written, now) = (seen.archive.written(), OffsetDateTime::now_utc());
                schedule::due(&seen.backups, last_stop, written, now)
            });
            match due {
                Some(due) => self.make_backup(due).await?,
                None => return Ok(()),
            }
        }
    }

    async fn make_backup(&self, due: Due) -> anyhow::Result<()> {
        self.note(|seen| seen.doing = Some(format!("makes a backup ({})", due.kind)));
        self.changed.notify_one();
        let made = self.pgbackrest.backup(due).await;
        self.note(|seen| seen.doing = None);
        made.with_context(|| format!("no backup ({}) could be made", due.kind))?;
        tracing::info!("made a backup ({})", due.kind);
        Ok(())
    }

    /// Tells the provisioner, for ever.
    async fn report(&self) {
        let mut silent = false;
        loop {
            let _ = timeout(REPORT, self.changed.notified()).await;
            let report = self.note(|seen| {
                let problems = seen.archive_problems.iter().cloned();
                KeeperReport {
                    at: OffsetDateTime::now_utc(),
                    backups: seen.backups.clone(),
                    recoverable_until: seen.archive.recoverable_until(),
                    waiting_segments: seen.archive.waiting_segments(),
                    doing: seen.doing.clone(),
                    problems: problems.chain(seen.backup_problem.clone()).collect(),
                }
            });
            match self.client.keeper_report(&report).await {
                Ok(settings) => {
                    silent = false;
                    self.settings.send_if_modified(|known| {
                        let changed = *known != settings;
                        *known = settings;
                        changed
                    });
                }
                Err(error) if !silent => {
                    silent = true;
                    tracing::warn!(
                        "the provisioner takes no report: {:#}",
                        anyhow::Error::from(error)
                    );
                }
                Err(_) => {}
            }
        }
    }
}
