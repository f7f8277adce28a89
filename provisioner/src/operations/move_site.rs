//! `move_site`: a site goes to another cluster, mostly in another region, while people use it.
//!
//! Its database is followed by a new one, its files are copied, both are compared; then its requests
//! are held for a moment and the new place becomes the site (`switch.rs`). The old place follows the
//! new one from then on, so that the site can come back without loss (`move_site_back.rs`), until
//! its plan's time for that is over (`retire_placement.rs`).

use std::time::Duration;

use control_types::state::OperationKind;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use uuid::Uuid;

pub use super::changeover::Pace;
use super::changeover::{self, Changeover, Content, Noted, Side, Sides, files, streams};
use crate::engine::{Cx, Flow, Kind, StepError, StepResult};

mod place;
pub mod preflight;

/// How long a site must have been quiet for a switch that waits for that.
const QUIET: Duration = Duration::from_secs(5);

/// The kind.
pub struct MoveSite;

/// Its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Everything that can be known before.
    Preflight,
    /// Cluster, object store, generation, secrets.
    ChoosePlacement,
    /// Owner, groups, login role: it may read.
    CreateRoles,
    /// From the template of the same schema, standing by.
    CreateDatabase,
    /// For the site's prefix in the new object store.
    CreateStorageKey,
    /// Of all hostnames, sealed for the new region.
    CopyCertificates,
    /// Publication, slot, subscription.
    StartCopy,
    /// While people use the site.
    CopyFiles,
    /// Until the new database follows.
    AwaitCopy,
    /// At the new place, for the moment it becomes the site.
    StartInstance,
    /// The time that was asked for.
    AwaitMoment,
    /// What came meanwhile.
    CopyNewFiles,
    /// All rows at one place of the stream, everything that is no row, all files.
    Compare,
    /// The old place will follow the new one.
    ArmWayBack,
    /// From here on it only goes forward.
    Switch,
    /// The old place follows the new one.
    TurnRound,
    /// What was proven, signed.
    Certify,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MoveSiteParams {
    /// The region that it goes to.
    pub region: String,
    /// The cluster there, by its name; the emptiest one when absent.
    #[serde(default)]
    pub cluster: Option<String>,
    /// The switch happens no earlier than this.
    #[serde(default, with = "time::serde::rfc3339::option")]
    pub not_before: Option<OffsetDateTime>,
    /// The switch waits until the site is quiet.
    #[serde(default)]
    pub when_quiet: bool,
    /// How fast everything is copied.
    #[serde(default)]
    pub pace: Pace,
}

/// What later steps must know.
#[derive(Default, Serialize, Deserialize)]
pub struct Progress {
    /// The placement that is left.
    #[serde(default)]
    source: Option<Uuid>,
    /// Since when the site is quiet.
    #[serde(default, with = "time::serde::rfc3339::option")]
    quiet_since: Option<OffsetDateTime>,
    /// How far the change of place is.
    #[serde(default)]
    changeover: Changeover,
}

impl Noted for Progress {
    fn changeover(&mut self) -> &mut Changeover {
        &mut self.changeover
    }
}

impl Kind for MoveSite {
    const KIND: OperationKind = OperationKind::MoveSite;
    const PLAN_VERSION: i32 = 1;
    type Step = Step;
    type Params = MoveSiteParams;
    type Progress = Progress;
    const STEPS: &'static [Step] = &[
        Step::Preflight,
        Step::ChoosePlacement,
        Step::CreateRoles,
        Step::CreateDatabase,
        Step::CreateStorageKey,
        Step::CopyCertificates,
        Step::StartCopy,
        Step::CopyFiles,
        Step::AwaitCopy,
        Step::StartInstance,
        Step::AwaitMoment,
        Step::CopyNewFiles,
        Step::Compare,
        Step::ArmWayBack,
        Step::Switch,
        Step::TurnRound,
        Step::Certify,
    ];
    const PIVOT: Option<Step> = Some(Step::Switch);
    // A copy takes as long as it takes, and a moment may have been asked for.
    const PATIENCE: Option<Duration> = None;

    fn describe(step: Step, params: &MoveSiteParams) -> String {
        match step {
            Step::Preflight => "check everything that can be known before".to_owned(),
            Step::ChoosePlacement => match &params.cluster {
                Some(cluster) => format!("take a place on cluster {cluster} in {}", params.region),
                None => format!("choose a cluster and an object store in {}", params.region),
            },
            Step::CreateRoles => "create the site's database roles there".to_owned(),
            Step::CreateDatabase => "clone an empty database that stands by".to_owned(),
            Step::CreateStorageKey => "create an S3 key for the site's prefix there".to_owned(),
            Step::CopyCertificates => "bring the certificates of all hostnames there".to_owned(),
            Step::StartCopy => "let the new database follow the site's".to_owned(),
            Step::CopyFiles => match params.pace {
                Pace::Gentle => "copy the files, so that other sites do not notice".to_owned(),
                Pace::Fast => "copy the files as fast as it goes".to_owned(),
            },
            Step::AwaitCopy => "wait until all rows are there".to_owned(),
            Step::StartInstance => "let an instance listen there".to_owned(),
            Step::AwaitMoment => match (params.not_before, params.when_quiet) {
                (Some(at), true) => format!("wait for {at}, then for a quiet moment"),
                (Some(at), false) => format!("wait for {at}"),
                (None, true) => "wait for a quiet moment".to_owned(),
                (None, false) => "wait for nothing: no time was asked for".to_owned(),
            },
            Step::CopyNewFiles => "copy the files that came meanwhile".to_owned(),
            Step::Compare => "compare all rows, definitions and files".to_owned(),
            Step::ArmWayBack => "make the way back ready".to_owned(),
            Step::Switch => {
                "hold requests for a moment and switch: it only goes forward from here".to_owned()
            }
            Step::TurnRound => "let the old database follow the new one".to_owned(),
            Step::Certify => "sign what was proven".to_owned(),
        }
    }

    async fn forward(step: Step, cx: &mut Cx<'_, Self>) -> StepResult {
        match step {
            Step::Preflight => preflight::run(cx).await,
            Step::ChoosePlacement => place::choose(cx).await,
            Step::CreateRoles => place::create_roles(&both(cx).await?, cx).await,
            Step::CreateDatabase => place::create_database(&both(cx).await?, cx).await,
            Step::CreateStorageKey => place::create_storage_key(&both(cx).await?, cx).await,
            Step::CopyCertificates => {
                changeover::place::copy_certificates(&both(cx).await?, cx).await
            }
            Step::StartCopy => {
                let sides = both(cx).await?;
                streams::start_copy(cx, &sides).await
            }
            Step::CopyFiles | Step::CopyNewFiles => files::copy(cx, &both(cx).await?).await,
            Step::AwaitCopy => {
                let sides = both(cx).await?;
                streams::await_copy(cx, &sides).await
            }
            Step::StartInstance => {
                changeover::place::start_instance(&both(cx).await?.target, cx).await
            }
            Step::AwaitMoment => await_moment(cx).await,
            Step::Compare => changeover::compare(cx, &both(cx).await?).await,
            Step::ArmWayBack => streams::arm_way_back(&both(cx).await?).await,
            Step::Switch => changeover::switch(cx, &both(cx).await?).await,
            Step::TurnRound => changeover::turn_round(cx, &both(cx).await?).await,
            Step::Certify => changeover::certify(cx, &both(cx).await?).await,
        }
    }

    async fn undo(step: Step, cx: &mut Cx<'_, Self>) -> StepResult {
        let Some(sides) = begun(cx).await? else { return Ok(Flow::Done) };
        match step {
            // Nothing of it lasts, or what it made goes with what it lies in.
            Step::Preflight
            | Step::CopyFiles
            | Step::CopyNewFiles
            | Step::AwaitCopy
            | Step::AwaitMoment
            | Step::Compare => Ok(Flow::Done),
            Step::ChoosePlacement => place::give_back(&sides.target, cx).await,
            Step::CreateRoles => place::drop_roles(&sides.target, cx).await,
            Step::CreateDatabase => place::drop_database(&sides.target, cx).await,
            Step::CreateStorageKey => place::remove_objects(&sides, cx).await,
            Step::CopyCertificates => place::remove_certificates(&sides, cx).await,
            Step::StartCopy => streams::stop_copy(&sides).await,
            Step::StartInstance => changeover::place::remove_instance(&sides.target, cx).await,
            Step::ArmWayBack => streams::disarm_way_back(&sides).await,
            Step::Switch => changeover::undo_switch(cx, &sides).await,
            Step::TurnRound | Step::Certify => {
                Err(StepError::fail("there is no way back from here; move the site back"))
            }
        }
    }
}

/// Everything that the operation makes bears its id.
const fn target_id(cx: &Cx<'_, MoveSite>) -> Uuid {
    cx.operation.0
}

async fn both(cx: &Cx<'_, MoveSite>) -> Result<Sides, StepError> {
    let missing = || StepError::fail("the move did not note where the site is");
    let source = cx.progress.source.ok_or_else(missing)?;
    Ok(Sides {
        source: Side::get(cx.world, source).await?,
        target: Side::get(cx.world, target_id(cx)).await?,
        pace: cx.params.pace,
        content: Content::Follows,
    })
}

/// The two places, if the move came so far.
async fn begun(cx: &Cx<'_, MoveSite>) -> Result<Option<Sides>, StepError> {
    match cx.progress.source {
        Some(_) if Side::find(cx.world, target_id(cx)).await?.is_some() => both(cx).await.map(Some),
        _ => Ok(None),
    }
}

async fn await_moment(cx: &mut Cx<'_, MoveSite>) -> StepResult {
    let now = OffsetDateTime::now_utc();
    if let Some(at) = cx.params.not_before
        && let Ok(left) = Duration::try_from(at - now)
        && !left.is_zero()
    {
        let pause = left.min(Duration::from_secs(60));
        return Ok(Flow::Wait { pause, reason: format!("the switch is asked for at {at}") });
    }
    if !cx.params.when_quiet {
        return Ok(Flow::Done);
    }
    let routers = cx.world.drained(cx.site).await?;
    let is_quiet =
        routers.iter().all(|router| router.problem.is_none() && router.requests_in_flight == 0);
    if !is_quiet {
        cx.progress.quiet_since = None;
    } else if now - *cx.progress.quiet_since.get_or_insert(now) >= QUIET {
        return Ok(Flow::Done);
    }
    let reason = "the site is not quiet".to_owned();
    Ok(Flow::Wait { pause: Duration::from_millis(250), reason })
}
