//! `delete_site`: from a site to nothing, after a time in which it can be cancelled.

use std::time::Duration;

use control_types::state::{OperationKind, PlacementState, SiteState};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{
    control_db::{
        certificate_orders, certificates, domains,
        instances::{self, Whose},
        placements::{self, Placement},
        sites,
    },
    engine::{Cx, Flow, Kind, StepError, StepResult},
    operations::placed,
};

/// How long to wait inside a step for the runtime, before the operation is put aside.
const RUNTIME: Duration = Duration::from_secs(3);
/// Longest sleep in the grace period, so that a clock that was set is noticed.
const LOOK_AGAIN: Duration = Duration::from_secs(3600);

/// The kind.
pub struct DeleteSite;

/// Its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Visitors see that the site is closed.
    CloseSite,
    /// Its process ends.
    StopInstance,
    /// See [`describe`](Kind::describe): this release has none.
    TakeFinalRestorePoint,
    /// Until here it can be cancelled.
    AwaitGracePeriod,
    /// From here on there is no way back.
    DropDatabase,
    /// Login role, groups, owner.
    DropRoles,
    /// The S3 key, then everything below the prefix.
    DeleteObjects,
    /// Hostnames and slug are free again; the row stays as the record.
    ReleaseNames,
}

/// What was asked for.
#[derive(Clone, Serialize, Deserialize)]
pub struct DeleteSiteParams {
    /// Seconds in which it can be cancelled.
    pub grace_period_secs: i32,
}

/// What later steps must know.
#[derive(Default, Serialize, Deserialize)]
pub struct Progress {
    /// The end of the grace period.
    #[serde(default, with = "time::serde::rfc3339::option")]
    delete_after: Option<OffsetDateTime>,
}

impl Kind for DeleteSite {
    const KIND: OperationKind = OperationKind::DeleteSite;
    const PLAN_VERSION: i32 = 1;
    type Step = Step;
    type Params = DeleteSiteParams;
    type Progress = Progress;
    const STEPS: &'static [Step] = &[
        Step::CloseSite,
        Step::StopInstance,
        Step::TakeFinalRestorePoint,
        Step::AwaitGracePeriod,
        Step::DropDatabase,
        Step::DropRoles,
        Step::DeleteObjects,
        Step::ReleaseNames,
    ];
    const PIVOT: Option<Step> = Some(Step::DropDatabase);
    const PATIENCE: Option<Duration> = None;

    fn describe(step: Step, params: &DeleteSiteParams) -> String {
        match step {
            Step::CloseSite => "close the site: visitors see a page that says so".to_owned(),
            Step::StopInstance => "stop its instance".to_owned(),
            Step::TakeFinalRestorePoint => "nothing: this release takes no restore points, so \
                 after the grace period nothing can bring the site back"
                .to_owned(),
            Step::AwaitGracePeriod => {
                format!("wait {} s, in which it can be cancelled", params.grace_period_secs)
            }
            Step::DropDatabase => "drop its database; no way back from here".to_owned(),
            Step::DropRoles => "drop its database roles".to_owned(),
            Step::DeleteObjects => "remove its S3 key and delete all its files".to_owned(),
            Step::ReleaseNames => "release its hostnames and its slug".to_owned(),
        }
    }

    async fn forward(step: Step, cx: &mut Cx<'_, Self>) -> StepResult {
        match step {
            Step::CloseSite => close_site(cx).await,
            Step::StopInstance => stop_instance(cx).await,
            Step::TakeFinalRestorePoint => Ok(Flow::Noted(
                "no restore point was taken: this release cannot take one".to_owned(),
            )),
            Step::AwaitGracePeriod => await_grace_period(cx).await,
            Step::DropDatabase => drop_database(cx).await,
            Step::DropRoles => drop_roles(cx).await,
            Step::DeleteObjects => delete_objects(cx).await,
            Step::ReleaseNames => release_names(cx).await,
        }
    }

    async fn undo(step: Step, cx: &mut Cx<'_, Self>) -> StepResult {
        match step {
            Step::CloseSite => open_site(cx).await,
            Step::StopInstance => start_instance(cx).await,
            Step::TakeFinalRestorePoint | Step::AwaitGracePeriod => Ok(Flow::Done),
            // Reached only when the drop itself said that it cannot be done: nothing was dropped.
            Step::DropDatabase => Ok(Flow::Done),
            Step::DropRoles | Step::DeleteObjects | Step::ReleaseNames => {
                Err(StepError::fail("there is no way back from here"))
            }
        }
    }
}

async fn close_site(cx: &mut Cx<'_, DeleteSite>) -> StepResult {
    let grace = time::Duration::seconds(cx.params.grace_period_secs.into());
    let delete_after =
        *cx.progress.delete_after.get_or_insert_with(|| OffsetDateTime::now_utc() + grace);
    let mut tx = cx.begin().await?;
    cx.save_progress(&mut tx).await?;
    sites::begin_deletion(&mut tx, cx.site, delete_after).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

async fn open_site(cx: &mut Cx<'_, DeleteSite>) -> StepResult {
    let mut tx = cx.begin().await?;
    sites::cancel_deletion(&mut tx, cx.site).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

async fn stop_instance(cx: &mut Cx<'_, DeleteSite>) -> StepResult {
    let mut tx = cx.begin().await?;
    instances::want_absent(&mut tx, Whose::Site(cx.site)).await?;
    tx.commit().await?;
    cx.world.await_instances(Whose::Site(cx.site), instances::Awaited::Absent, RUNTIME).await
}

async fn start_instance(cx: &mut Cx<'_, DeleteSite>) -> StepResult {
    let mut tx = cx.begin().await?;
    // A site that was suspended before stays so, without an instance.
    if !sites::was_suspended(&mut tx, cx.site).await? {
        instances::want_listening(&mut tx, Whose::Site(cx.site)).await?;
    }
    tx.commit().await?;
    cx.world.await_instances(Whose::Site(cx.site), instances::Awaited::AsDesired, RUNTIME).await
}

async fn await_grace_period(cx: &mut Cx<'_, DeleteSite>) -> StepResult {
    let left = match cx.progress.delete_after {
        Some(until) => until - OffsetDateTime::now_utc(),
        None => return Err(StepError::fail("the end of the grace period was not noted")),
    };
    match Duration::try_from(left) {
        Ok(left) if !left.is_zero() => {
            Ok(Flow::Wait { pause: left.min(LOOK_AGAIN), reason: "the grace period".to_owned() })
        }
        _ => Ok(Flow::Done),
    }
}

/// Every place of the site: the one that serves it, and those that it left and may have come back to.
/// None when they were retired already.
async fn kept(cx: &Cx<'_, DeleteSite>) -> Result<Vec<Placement>, StepError> {
    let mut connection = cx.world.db.pool.acquire().await?;
    Ok(placements::kept(&mut connection, cx.site).await?)
}

async fn drop_database(cx: &mut Cx<'_, DeleteSite>) -> StepResult {
    for placement in kept(cx).await? {
        placed::drop_database(cx.world, &placement).await?;
    }
    Ok(Flow::Done)
}

async fn drop_roles(cx: &mut Cx<'_, DeleteSite>) -> StepResult {
    for placement in kept(cx).await? {
        placed::drop_roles(cx.world, &placement).await?;
    }
    Ok(Flow::Done)
}

async fn delete_objects(cx: &mut Cx<'_, DeleteSite>) -> StepResult {
    for placement in kept(cx).await? {
        placed::delete_objects(cx.world, &placement).await?;
    }
    Ok(Flow::Done)
}

async fn release_names(cx: &mut Cx<'_, DeleteSite>) -> StepResult {
    let mut tx = cx.begin().await?;
    instances::delete(&mut tx, Whose::Site(cx.site)).await?;
    for placement in placements::kept(&mut tx, cx.site).await? {
        placements::set_state(&mut tx, placement.id, PlacementState::Retired).await?;
    }
    certificate_orders::delete(&mut tx, cx.site, None).await?;
    certificates::delete(&mut tx, cx.site, None).await?;
    domains::release(&mut tx, cx.site).await?;
    sites::set_state(&mut tx, cx.site, &[SiteState::Deleting], SiteState::Deleted).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}
