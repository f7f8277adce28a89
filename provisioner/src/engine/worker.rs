//! The loop: claim, decide, do one thing, note it.

use std::{sync::Arc, time::Duration};

use control_types::state::OperationKind;
use tokio::sync::{Notify, Semaphore, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, error, info, info_span, warn};

use crate::{
    engine::{
        Claim, Cx, Faults, Kind, NoFaults,
        claim::{self, Claimed},
        decide::Journal,
        signs::Signs,
    },
    operations::{
        create_preview::CreatePreview, create_site::CreateSite, delete_site::DeleteSite,
        move_site::MoveSite, move_site_back::MoveSiteBack, restore_site::RestoreSite,
        retire_placement::RetirePlacement, undo_restore::UndoRestore,
    },
    world::World,
};

mod note;
mod step;

/// How an engine works.
pub struct EngineOptions {
    /// Names this provisioner in claims. Never that of another one that runs.
    pub worker: String,
    /// How long a claim holds without a heartbeat: so long an operation rests when its provisioner
    /// was killed.
    pub lease: Duration,
    /// Operations driven at once.
    pub parallel: usize,
    /// How often to look for work that nobody told of.
    pub poll: Duration,
    /// Where tests make operations fail.
    pub faults: Arc<dyn Faults>,
}

impl Default for EngineOptions {
    fn default() -> Self {
        Self {
            worker: format!("provisioner-{}", std::process::id()),
            lease: Duration::from_secs(10),
            parallel: 8,
            poll: Duration::from_secs(1),
            faults: Arc::new(NoFaults),
        }
    }
}

/// Drives operations.
pub struct Engine {
    world: Arc<World>,
    options: EngineOptions,
    work: Notify,
    news: watch::Sender<u64>,
}

/// What became of one thing done.
enum After {
    /// Look at the operation again at once.
    GoOn(Journal),
    /// Nothing more now.
    LetGo,
    /// Nothing was done, since a cancel came before it.
    Cancelled,
}

/// The worker vanished where a test told it to.
struct Vanished;

impl Engine {
    /// An engine that does not run yet.
    pub fn new(world: Arc<World>, options: EngineOptions) -> Arc<Self> {
        let (news, _) = watch::channel(0);
        Arc::new(Self { world, options, work: Notify::new(), news })
    }

    /// Tells the engine that there may be work.
    pub fn nudge(&self) {
        self.work.notify_one();
        self.tell();
    }

    /// Ticks whenever something was noted of any operation.
    pub fn news(&self) -> watch::Receiver<u64> {
        self.news.subscribe()
    }

    fn tell(&self) {
        self.news.send_modify(|tick| *tick += 1);
    }

    /// Goes on at once with what an earlier process of this name was driving when it was killed,
    /// instead of after its lease. One that still runs against all expectation loses its claims: then
    /// nothing that it does counts any more.
    ///
    /// # Errors
    /// When the control database does not answer.
    pub async fn release_own(&self) -> Result<(), sqlx::Error> {
        let released = claim::release_own(&self.world.db.pool, &self.options.worker).await?;
        if released > 0 {
            info!("{released} operations of an earlier process are driven again");
        }
        Ok(())
    }

    /// Drives operations until `shutdown`; then lets go of what it drives, so that another
    /// provisioner, or the next one, goes on at once.
    pub async fn run(self: Arc<Self>, shutdown: CancellationToken) {
        let permits = Arc::new(Semaphore::new(self.options.parallel));
        let drives = TaskTracker::new();
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&permits).acquire_owned() => permit,
                () = shutdown.cancelled() => break,
            };
            let pool = &self.world.db.pool;
            let mut pause = self.options.poll;
            match claim::next(pool, &self.options.worker, self.options.lease).await {
                Ok(Some(claimed)) => {
                    let engine = Arc::clone(&self);
                    let shutdown = shutdown.clone();
                    drives.spawn(async move {
                        engine.hold_and_drive(claimed, shutdown).await;
                        drop(permit);
                    });
                    continue;
                }
                Ok(None) => {
                    let due = claim::next_due(pool).await.ok().flatten();
                    // A moment more, so that it is due by the database's clock too.
                    pause = due.map_or(pause, |due| pause.min(due + Duration::from_millis(1)));
                }
                Err(error) => warn!(error = %chain(&error), "cannot look for operations"),
            }
            drop(permit);
            tokio::select! {
                () = self.work.notified() => {}
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => break,
            }
        }
        drives.close();
        drives.wait().await;
    }

    async fn hold_and_drive(&self, claimed: Claimed, shutdown: CancellationToken) {
        let claim = claimed.claim.clone();
        let span = info_span!(
            "operation", operation.id = %claim.operation, operation.kind = %claimed.kind,
            site.id = %claimed.site, operation.claim = claim.token
        );
        let drive = async {
            tokio::select! {
                done = self.drive(claimed) => {
                    if let Ok(()) = done {
                        self.let_go(&claim).await;
                    }
                }
                lost = claim.hold(&self.world.db.pool) => {
                    warn!(error = %chain(&lost), "operation {} was lost", claim.operation);
                }
                () = shutdown.cancelled() => self.let_go(&claim).await,
            }
        };
        drive.instrument(span).await;
        self.nudge();
    }

    async fn let_go(&self, claim: &Claim) {
        let outcome = sqlx::query!(
            "update operation set claimed_by = null, claim_expires_at = null
             where id = $1 and claim_token = $2",
            claim.operation.0,
            claim.token
        )
        .execute(&self.world.db.pool)
        .await;
        if let Err(error) = outcome {
            // The claim expires by itself.
            warn!(error = %chain(&error), "could not let go of operation {}", claim.operation);
        }
    }

    async fn drive(&self, claimed: Claimed) -> Result<(), Vanished> {
        match claimed.kind {
            OperationKind::CreateSite => self.drive_kind::<CreateSite>(claimed).await,
            OperationKind::DeleteSite => self.drive_kind::<DeleteSite>(claimed).await,
            OperationKind::MoveSite => self.drive_kind::<MoveSite>(claimed).await,
            OperationKind::MoveSiteBack => self.drive_kind::<MoveSiteBack>(claimed).await,
            OperationKind::RetirePlacement => self.drive_kind::<RetirePlacement>(claimed).await,
            OperationKind::CreatePreview => self.drive_kind::<CreatePreview>(claimed).await,
            OperationKind::RestoreSite => self.drive_kind::<RestoreSite>(claimed).await,
            OperationKind::UndoRestore => self.drive_kind::<UndoRestore>(claimed).await,
        }
    }

    async fn drive_kind<K: Kind>(&self, claimed: Claimed) -> Result<(), Vanished> {
        let id = claimed.claim.operation;
        if claimed.plan_version != K::PLAN_VERSION {
            error!(
                "operation {id} was made with version {} of its steps; this provisioner has {}",
                claimed.plan_version,
                K::PLAN_VERSION
            );
            self.rest(&claimed.claim).await;
            return Ok(());
        }
        let parsed = serde_json::from_value(claimed.params)
            .and_then(|params| Ok((params, serde_json::from_value(claimed.progress)?)));
        let (params, progress) = match parsed {
            Ok(parsed) => parsed,
            Err(error) => {
                error!(error = %error, "operation {id} cannot be read");
                self.rest(&claimed.claim).await;
                return Ok(());
            }
        };
        let mut cx = Cx::<K> {
            world: &self.world,
            operation: id,
            site: claimed.site,
            params,
            progress,
            claim: &claimed.claim,
            signs: Signs::new(),
        };
        let mut journal = claimed.journal;
        let mut since = claimed.step_since;
        loop {
            match claimed.claim.cancel_requested(&self.world.db.pool).await {
                Ok(requested) => journal.cancel_requested = requested,
                Err(error) => {
                    warn!(error = %chain(&error), "operation {id} waits for the control database");
                    return Ok(());
                }
            }
            let before = journal.steps_done;
            match self.one_thing::<K>(&mut cx, journal, since).await? {
                Ok(After::GoOn(next)) => journal = next,
                Ok(After::LetGo | After::Cancelled) => return Ok(()),
                Err(error) => {
                    warn!(error = %chain(&error), "operation {id} could not be noted");
                    return Ok(());
                }
            }
            if journal.steps_done != before {
                since = None;
            }
        }
    }

    /// Leaves an operation that this provisioner cannot drive to another one.
    async fn rest(&self, claim: &Claim) {
        let outcome = sqlx::query!(
            "update operation set wake_at = now() + interval '30 s'
             where id = $1 and claim_token = $2",
            claim.operation.0,
            claim.token
        )
        .execute(&self.world.db.pool)
        .await;
        if let Err(error) = outcome {
            warn!(error = %chain(&error), "operation {} could not be put off", claim.operation);
        }
    }
}

/// An error with all its causes, as one line.
pub fn chain(error: &(impl std::error::Error + ?Sized)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}
