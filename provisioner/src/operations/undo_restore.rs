//! `undo_restore`: a site that was put back to an earlier moment becomes again what it was before that,
//! with everything that was written until then. What was written since stays in the database that is left,
//! which is kept in turn: the same again takes this back.

use std::time::Duration;

use control_types::{Generation, state::OperationKind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::changeover::{self, Changeover, Content, Noted, Pace, Side, Sides};
use crate::{
    control_db::placements,
    engine::{Cx, Flow, Kind, StepError, StepResult},
};

/// The kind.
pub struct UndoRestore;

/// Its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Whether what was before is kept.
    Preflight,
    /// The kept place gets a generation of its own.
    TakeGeneration,
    /// There.
    StartInstance,
    /// What the fence needs.
    PrepareSwitch,
    /// From here on it only goes forward.
    Switch,
    /// The place that is left stays as it was left.
    KeepSource,
}

/// What was asked for: nothing but the site.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct UndoRestoreParams {}

/// What later steps must know.
#[derive(Default, Serialize, Deserialize)]
pub struct Progress {
    /// The placement that is left.
    source: Option<Uuid>,
    /// The placement that becomes the site again.
    target: Option<Uuid>,
    /// Its new generation.
    generation: Option<Generation>,
    /// How far the change of place is.
    #[serde(default)]
    changeover: Changeover,
}

impl Noted for Progress {
    fn changeover(&mut self) -> &mut Changeover {
        &mut self.changeover
    }
}

impl Kind for UndoRestore {
    const KIND: OperationKind = OperationKind::UndoRestore;
    const PLAN_VERSION: i32 = 1;
    type Step = Step;
    type Params = UndoRestoreParams;
    type Progress = Progress;
    const STEPS: &'static [Step] = &[
        Step::Preflight,
        Step::TakeGeneration,
        Step::StartInstance,
        Step::PrepareSwitch,
        Step::Switch,
        Step::KeepSource,
    ];
    const PIVOT: Option<Step> = Some(Step::Switch);
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(3600));

    fn describe(step: Step, _: &UndoRestoreParams) -> String {
        match step {
            Step::Preflight => "check that what was before the restore is kept".to_owned(),
            Step::TakeGeneration => "make its place ready".to_owned(),
            Step::StartInstance => "let an instance listen there".to_owned(),
            Step::PrepareSwitch => "make the fence ready".to_owned(),
            Step::Switch => {
                "hold requests for a moment and switch; revoked access stays revoked".to_owned()
            }
            Step::KeepSource => "keep the database that is left, to take this back".to_owned(),
        }
    }

    async fn forward(step: Step, cx: &mut Cx<'_, Self>) -> StepResult {
        match step {
            Step::Preflight => find_kept(cx).await,
            Step::TakeGeneration => {
                changeover::take_generation(cx, &both(cx).await?.target, |p| &mut p.generation)
                    .await
            }
            Step::StartInstance => {
                changeover::place::start_instance(&both(cx).await?.target, cx).await
            }
            Step::PrepareSwitch => changeover::publish_source(&both(cx).await?).await,
            Step::Switch => changeover::switch(cx, &both(cx).await?).await,
            Step::KeepSource => changeover::keep_source(cx, &both(cx).await?).await,
        }
    }

    async fn undo(step: Step, cx: &mut Cx<'_, Self>) -> StepResult {
        if cx.progress.target.is_none() {
            return Ok(Flow::Done);
        }
        match step {
            // A generation that was taken is not given back, and what is kept stays kept.
            Step::Preflight | Step::TakeGeneration | Step::StartInstance => Ok(Flow::Done),
            Step::PrepareSwitch => changeover::unpublish_source(&both(cx).await?).await,
            Step::Switch => changeover::undo_switch(cx, &both(cx).await?).await,
            Step::KeepSource => {
                Err(StepError::fail("there is no way back from here; undo it once more"))
            }
        }
    }
}

async fn both(cx: &Cx<'_, UndoRestore>) -> Result<Sides, StepError> {
    let missing = || StepError::fail("the operation did not note its two places");
    let source = Side::get(cx.world, cx.progress.source.ok_or_else(missing)?).await?;
    let target = Side::get(cx.world, cx.progress.target.ok_or_else(missing)?).await?;
    Ok(Sides { source, target, pace: Pace::Gentle, content: Content::Past })
}

async fn find_kept(cx: &mut Cx<'_, UndoRestore>) -> StepResult {
    let mut connection = cx.world.db.pool.acquire().await?;
    let kept = placements::following(&mut connection, cx.site).await?;
    let kept = kept.filter(|kept| !kept.follows).ok_or_else(|| {
        StepError::fail("the site was not put back to an earlier moment, or it was too long ago")
    })?;
    let source = Side::current(cx.world, cx.site).await?;
    let target = Side::of(cx.world, kept.placement).await?;
    let versions = [
        source.cluster.schema_version(&source.database).await?,
        target.cluster.schema_version(&target.database).await?,
    ];
    if versions[0] != versions[1] {
        return Err(StepError::fail("the schema was changed since the site was put back"));
    }
    cx.progress.source = Some(source.placement.id);
    cx.progress.target = Some(target.placement.id);
    Ok(Flow::Done)
}
