//! `move_site_back`: a site returns to where it was before its last move, with everything that was
//! written since. The old place has followed the new one all the time, so nothing is copied: this is
//! the second half of `move_site`, with the places exchanged. The place that is left follows in turn.

use std::time::Duration;

use control_types::{Generation, state::OperationKind};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    changeover::{self, Changeover, Content, Noted, Pace, Side, Sides, files, place, streams},
    move_site::preflight,
};
use crate::{
    control_db::placements,
    engine::{Cx, Flow, Kind, StepError, StepResult},
};

/// The kind.
pub struct MoveSiteBack;

/// Its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Whether there is a way back, and that it is whole.
    Preflight,
    /// The old place gets a generation of its own.
    TakeGeneration,
    /// Of all hostnames, sealed for its region.
    CopyCertificates,
    /// At the old place.
    StartInstance,
    /// That came since the move.
    CopyFiles,
    /// As in a move.
    Compare,
    /// For the place that is left now.
    ArmWayBack,
    /// From here on it only goes forward.
    Switch,
    /// The place that was left follows.
    TurnRound,
    /// What was proven, signed.
    Certify,
}

/// What was asked for: nothing but the site.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MoveSiteBackParams {
    /// The region that it returns to, for people.
    pub region: String,
}

/// What later steps must know.
#[derive(Default, Serialize, Deserialize)]
pub struct Progress {
    /// The placement that is left.
    source: Option<Uuid>,
    /// The placement that the site returns to.
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

impl Kind for MoveSiteBack {
    const KIND: OperationKind = OperationKind::MoveSiteBack;
    const PLAN_VERSION: i32 = 1;
    type Step = Step;
    type Params = MoveSiteBackParams;
    type Progress = Progress;
    const STEPS: &'static [Step] = &[
        Step::Preflight,
        Step::TakeGeneration,
        Step::CopyCertificates,
        Step::StartInstance,
        Step::CopyFiles,
        Step::Compare,
        Step::ArmWayBack,
        Step::Switch,
        Step::TurnRound,
        Step::Certify,
    ];
    const PIVOT: Option<Step> = Some(Step::Switch);
    const PATIENCE: Option<Duration> = None;

    fn describe(step: Step, params: &MoveSiteBackParams) -> String {
        match step {
            Step::Preflight => "check that the way back is whole".to_owned(),
            Step::TakeGeneration => format!("make the place in {} ready", params.region),
            Step::CopyCertificates => "bring the certificates of all hostnames there".to_owned(),
            Step::StartInstance => "let an instance listen there".to_owned(),
            Step::CopyFiles => "copy the files that came since the move".to_owned(),
            Step::Compare => "compare all rows, definitions and files".to_owned(),
            Step::ArmWayBack => "make another way back ready".to_owned(),
            Step::Switch => {
                "hold requests for a moment and switch: it only goes forward from here".to_owned()
            }
            Step::TurnRound => "let the place that was left follow".to_owned(),
            Step::Certify => "sign what was proven".to_owned(),
        }
    }

    async fn forward(step: Step, cx: &mut Cx<'_, Self>) -> StepResult {
        match step {
            Step::Preflight => find_way_back(cx).await,
            Step::TakeGeneration => {
                changeover::take_generation(cx, &both(cx).await?.target, |p| &mut p.generation)
                    .await
            }
            Step::CopyCertificates => place::copy_certificates(&both(cx).await?, cx).await,
            Step::StartInstance => place::start_instance(&both(cx).await?.target, cx).await,
            Step::CopyFiles => files::copy(cx, &both(cx).await?).await,
            Step::Compare => changeover::compare(cx, &both(cx).await?).await,
            Step::ArmWayBack => streams::arm_way_back(&both(cx).await?).await,
            Step::Switch => changeover::switch(cx, &both(cx).await?).await,
            Step::TurnRound => changeover::turn_round(cx, &both(cx).await?).await,
            Step::Certify => changeover::certify(cx, &both(cx).await?).await,
        }
    }

    async fn undo(step: Step, cx: &mut Cx<'_, Self>) -> StepResult {
        if cx.progress.target.is_none() {
            return Ok(Flow::Done);
        }
        match step {
            // A generation that was taken is not given back, and what follows goes on following.
            Step::Preflight
            | Step::TakeGeneration
            | Step::CopyCertificates
            | Step::StartInstance
            | Step::CopyFiles
            | Step::Compare => Ok(Flow::Done),
            Step::ArmWayBack => streams::disarm_way_back(&both(cx).await?).await,
            Step::Switch => changeover::undo_switch(cx, &both(cx).await?).await,
            Step::TurnRound | Step::Certify => {
                Err(StepError::fail("there is no way back from here; move the site again"))
            }
        }
    }
}

async fn both(cx: &Cx<'_, MoveSiteBack>) -> Result<Sides, StepError> {
    let missing = || StepError::fail("the operation did not note its two places");
    let source = Side::get(cx.world, cx.progress.source.ok_or_else(missing)?).await?;
    let target = Side::get(cx.world, cx.progress.target.ok_or_else(missing)?).await?;
    Ok(Sides { source, target, pace: Pace::Gentle, content: Content::Follows })
}

async fn find_way_back(cx: &mut Cx<'_, MoveSiteBack>) -> StepResult {
    let mut connection = cx.world.db.pool.acquire().await?;
    let following = placements::following(&mut connection, cx.site).await?;
    let kept = following.filter(|kept| kept.follows).ok_or_else(|| {
        StepError::fail("there is no way back: the site was not moved, or it was too long ago")
    })?;
    let source = Side::current(cx.world, cx.site).await?;
    let target = Side::of(cx.world, kept.placement).await?;
    let sides = Sides { source, target, pace: Pace::Gentle, content: Content::Follows };
    let problems = preflight::of_way_back(&sides).await?;
    if let Some(problem) = problems.first() {
        return Err(StepError::fail(problem));
    }
    cx.progress.source = Some(sides.source.placement.id);
    cx.progress.target = Some(sides.target.placement.id);
    Ok(Flow::Done)
}
