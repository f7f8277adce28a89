//! `restore_site`: a site as it was at some moment becomes the site. Its database is brought out of the
//! backups once more, stands by beside the site's own, and becomes it by the same fence, generation and
//! hold as a move's (`changeover/switch.rs`). What was written since the moment stays in the old
//! database, which is kept for the plan's time: `undo_restore` makes that the site again.

use std::time::Duration;

use control_types::state::{OperationKind, PlacementState};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    changeover::{self, Changeover, Content, Noted, Pace, Side, Sides},
    placed,
    restoring::{self, Past},
};
use crate::{
    control_db::{
        placements::{self, Placement},
        places, sites,
    },
    durations::second,
    engine::{Cx, Flow, Kind, StepError, StepResult},
    secrets::PlacementSecrets,
    site_database::{Adopted, Rights, SiteDatabaseName},
    site_storage::SitePrefix,
    world::World,
};

/// The kind.
pub struct RestoreSite;

/// Its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Whether that state can become the site.
    Preflight,
    /// On the cluster in whose backups the site is; a generation of its own.
    ChoosePlacement,
    /// Owner, groups, login role: it may read.
    CreateRoles,
    /// With nothing in it.
    CreateDatabase,
    /// By the cluster's keeper.
    RestoreDatabase,
    /// Roles, rights, schema, limits; it stands by.
    AdoptDatabase,
    /// For the site's files.
    CreateStorageKey,
    /// At the new place, for the moment it becomes the site.
    StartInstance,
    /// What the fence needs.
    PrepareSwitch,
    /// From here on it only goes forward.
    Switch,
    /// The old place stays as it was left.
    KeepSource,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RestoreSiteParams {
    /// The site as it was.
    pub past: Past,
    /// The preview that was looked at, for people.
    pub preview: String,
}

/// What later steps must know.
#[derive(Default, Serialize, Deserialize)]
pub struct Progress {
    /// The placement that is left.
    #[serde(default)]
    source: Option<Uuid>,
    /// How far the change of place is.
    #[serde(default)]
    changeover: Changeover,
}

impl Noted for Progress {
    fn changeover(&mut self) -> &mut Changeover {
        &mut self.changeover
    }
}

impl Kind for RestoreSite {
    const KIND: OperationKind = OperationKind::RestoreSite;
    const PLAN_VERSION: i32 = 1;
    type Step = Step;
    type Params = RestoreSiteParams;
    type Progress = Progress;
    const STEPS: &'static [Step] = &[
        Step::Preflight,
        Step::ChoosePlacement,
        Step::CreateRoles,
        Step::CreateDatabase,
        Step::RestoreDatabase,
        Step::AdoptDatabase,
        Step::CreateStorageKey,
        Step::StartInstance,
        Step::PrepareSwitch,
        Step::Switch,
        Step::KeepSource,
    ];
    const PIVOT: Option<Step> = Some(Step::Switch);
    // As for a preview.
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(6 * 3600));

    fn describe(step: Step, params: &RestoreSiteParams) -> String {
        let past = &params.past;
        match step {
            Step::Preflight => "check that this state can become the site".to_owned(),
            Step::ChoosePlacement => format!("take a place on cluster {}", past.cluster_name),
            Step::CreateRoles => "create the database roles, which may only read yet".to_owned(),
            Step::CreateDatabase => "create an empty database".to_owned(),
            Step::RestoreDatabase => {
                format!("bring the site's database back as it was at {}", second(past.moment))
            }
            Step::AdoptDatabase => "give it to its roles; it stands by".to_owned(),
            Step::CreateStorageKey => "create an S3 key for the site's files".to_owned(),
            Step::StartInstance => "let an instance listen there".to_owned(),
            Step::PrepareSwitch => "make the fence ready".to_owned(),
            Step::Switch => {
                "hold requests for a moment and switch; revoked access stays revoked".to_owned()
            }
            Step::KeepSource => {
                "keep the old database with what was written since, to undo this".to_owned()
            }
        }
    }

    async fn forward(step: Step, cx: &mut Cx<'_, Self>) -> StepResult {
        if step == Step::Preflight {
            return preflight(cx).await;
        }
        if step == Step::ChoosePlacement {
            return choose_placement(cx).await;
        }
        let sides = both(cx).await?;
        let (target, placement) = (&sides.target, &sides.target.placement);
        match step {
            Step::Preflight | Step::ChoosePlacement => Ok(Flow::Done),
            Step::CreateRoles => {
                placed::ensure_roles(cx.world, placement, Rights::Read).await?;
                Ok(Flow::Done)
            }
            Step::CreateDatabase => restoring::create_database(cx.world, placement).await,
            Step::RestoreDatabase => {
                restoring::restore_database(cx, &cx.params.past, placement).await
            }
            Step::AdoptDatabase => adopt_database(cx, target).await,
            Step::CreateStorageKey => {
                let secrets = placed::secrets(cx.world, placement)?;
                let (store, prefix) = (target.store(cx.world).await?, target.prefix());
                store.ensure_key(&secrets.access_key, &secrets.secret_key, &prefix).await?;
                Ok(Flow::Done)
            }
            Step::StartInstance => changeover::place::start_instance(target, cx).await,
            Step::PrepareSwitch => changeover::publish_source(&sides).await,
            Step::Switch => changeover::switch(cx, &sides).await,
            Step::KeepSource => changeover::keep_source(cx, &sides).await,
        }
    }

    async fn undo(step: Step, cx: &mut Cx<'_, Self>) -> StepResult {
        if step == Step::RestoreDatabase {
            return restoring::take_order_back(cx).await;
        }
        let Some(sides) = begun(cx).await? else { return Ok(Flow::Done) };
        let target = &sides.target;
        match step {
            // Nothing of it lasts, or it goes with what it lies in.
            Step::Preflight | Step::RestoreDatabase | Step::AdoptDatabase => {}
            Step::ChoosePlacement => {
                let mut tx = cx.begin().await?;
                placements::set_state(&mut tx, target.placement.id, PlacementState::Retired)
                    .await?;
                tx.commit().await?;
            }
            Step::CreateRoles => placed::drop_roles(cx.world, &target.placement).await?,
            Step::CreateDatabase => placed::drop_database(cx.world, &target.placement).await?,
            Step::CreateStorageKey => {
                let others = [sides.source.placement.clone()];
                placed::leave_objects(cx.world, &target.placement, &others).await?;
            }
            Step::StartInstance => return changeover::place::remove_instance(target, cx).await,
            Step::PrepareSwitch => return changeover::unpublish_source(&sides).await,
            Step::Switch => return changeover::undo_switch(cx, &sides).await,
            Step::KeepSource => {
                return Err(StepError::fail("there is no way back from here; undo the restore"));
            }
        }
        Ok(Flow::Done)
    }
}

/// Everything that the operation makes bears its id.
const fn target_id(cx: &Cx<'_, RestoreSite>) -> Uuid {
    cx.operation.0
}

async fn both(cx: &Cx<'_, RestoreSite>) -> Result<Sides, StepError> {
    let missing = || StepError::fail("the operation did not note where the site is");
    let source = cx.progress.source.ok_or_else(missing)?;
    Ok(Sides {
        source: Side::get(cx.world, source).await?,
        target: Side::get(cx.world, target_id(cx)).await?,
        pace: Pace::Gentle,
        content: Content::Past,
    })
}

/// The two places, if the operation came so far.
async fn begun(cx: &Cx<'_, RestoreSite>) -> Result<Option<Sides>, StepError> {
    match cx.progress.source {
        Some(_) if Side::find(cx.world, target_id(cx)).await?.is_some() => both(cx).await.map(Some),
        _ => Ok(None),
    }
}

/// Why that state cannot become the site, in words; nothing when it can.
///
/// # Errors
/// When the control database does not answer.
pub async fn obstacle(world: &World, past: &Past) -> Result<Option<String>, sqlx::Error> {
    let mut connection = world.db.pool.acquire().await?;
    let Some(current) = placements::current(&mut connection, past.of).await? else {
        return Ok(Some("the site is nowhere".to_owned()));
    };
    if let Some(kept) = placements::following(&mut connection, past.of).await? {
        let region = kept.placement.region;
        return Ok(Some(format!(
            "another place of the site is kept in {region}, to which it could return: remove that \
             first with `ta3lem site settle`"
        )));
    }
    Ok((current.object_store != past.object_store).then(|| {
        format!(
            "the site was in {} then and is in {} now: its files are elsewhere",
            past.region, current.region
        )
    }))
}

async fn preflight(cx: &mut Cx<'_, RestoreSite>) -> StepResult {
    match obstacle(cx.world, &cx.params.past).await? {
        None => Ok(Flow::Done),
        Some(problem) => Err(StepError::fail(problem)),
    }
}

async fn choose_placement(cx: &mut Cx<'_, RestoreSite>) -> StepResult {
    let Past { region, cluster, object_store, .. } = cx.params.past.clone();
    let mut tx = cx.begin().await?;
    let source = placements::current(&mut tx, cx.site).await?;
    let source = source.ok_or_else(|| StepError::fail("the site is nowhere"))?;
    let id = target_id(cx);
    if placements::get(&mut tx, id).await?.is_none() {
        let placement = Placement {
            id,
            site: cx.site,
            generation: placements::next_generation(&mut tx, cx.site).await?,
            state: PlacementState::Preparing,
            cluster,
            object_store,
            database_name: SiteDatabaseName::of_placement(id).to_string(),
            prefix: SitePrefix::of(cx.site).to_string(),
            sealed_secrets: cx.world.keys.seal(&region, id, &PlacementSecrets::generate()?)?,
            region,
        };
        placements::insert(&mut tx, &placement).await?;
    }
    cx.progress.source = Some(source.id);
    cx.save_progress(&mut tx).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

/// With the limits of the plan that the site has now.
async fn adopt_database(cx: &Cx<'_, RestoreSite>, target: &Side) -> StepResult {
    let flow = restoring::adopt_database(cx, &target.placement, Adopted::StandingBy).await?;
    let plan = sites::plan(&cx.world.db.pool, cx.site).await?;
    let limits = places::limits(&cx.world.db.pool, &plan).await?;
    let limits = limits.ok_or_else(|| StepError::fail("the plan is gone"))?;
    target.cluster.set_limits(&target.database, &limits).await?;
    Ok(flow)
}
