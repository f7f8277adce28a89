//! `retire_placement`: what a site left at its old place is removed, when nobody may want it back any
//! more: database, roles, files, keys, certificates. A signed record says what there was.

use std::time::Duration;

use control_types::state::{OperationKind, PlacementState, RecordKind};
use futures_util::TryStreamExt as _;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    changeover::{self, Side, place},
    placed,
};
use crate::{
    control_db::{certificate_orders, certificates, placements},
    engine::{Cx, Flow, Kind, StepError, StepResult},
};

/// The kind.
pub struct RetirePlacement;

/// Its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// From here on there is no way back.
    StopFollowing,
    /// That told where the site went.
    StopInstance,
    /// Of the old place.
    DropDatabase,
    /// Login role, groups, owner.
    DropRoles,
    /// The S3 key; the files, unless the site has them in the same store.
    DeleteObjects,
    /// Of the region that was left.
    RemoveCertificates,
    /// What was removed, signed.
    Record,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RetirePlacementParams {
    /// The placement that follows.
    pub placement: Uuid,
    /// Its region, for people.
    pub region: String,
}

/// What later steps must know.
#[derive(Default, Serialize, Deserialize)]
pub struct Progress {
    /// The place as it was.
    #[serde(default)]
    place: Option<Value>,
    /// Removed objects of the object store.
    #[serde(default)]
    objects: Option<u64>,
    /// Removed certificates' hostnames.
    #[serde(default)]
    certificates: Vec<String>,
}

impl Kind for RetirePlacement {
    const KIND: OperationKind = OperationKind::RetirePlacement;
    const PLAN_VERSION: i32 = 1;
    type Step = Step;
    type Params = RetirePlacementParams;
    type Progress = Progress;
    const STEPS: &'static [Step] = &[
        Step::StopFollowing,
        Step::StopInstance,
        Step::DropDatabase,
        Step::DropRoles,
        Step::DeleteObjects,
        Step::RemoveCertificates,
        Step::Record,
    ];
    const PIVOT: Option<Step> = Some(Step::StopFollowing);
    const PATIENCE: Option<Duration> = None;

    fn describe(step: Step, params: &RetirePlacementParams) -> String {
        let region = &params.region;
        match step {
            Step::StopFollowing => "end the way back: none from here".to_owned(),
            Step::StopInstance => format!("stop the instance in {region}"),
            Step::DropDatabase => format!("drop the database in {region}"),
            Step::DropRoles => "drop its database roles".to_owned(),
            Step::DeleteObjects => {
                "remove its S3 key and the files that nobody else has".to_owned()
            }
            Step::RemoveCertificates => format!("remove the certificates sealed for {region}"),
            Step::Record => "sign what was removed".to_owned(),
        }
    }

    async fn forward(step: Step, cx: &mut Cx<'_, Self>) -> StepResult {
        let old = Side::get(cx.world, cx.params.placement).await?;
        if step == Step::StopFollowing {
            refuse_if_it_serves(&old)?;
            cx.progress.place = Some(changeover::described(&old));
        }
        match step {
            Step::StopFollowing => stop_following(&old, cx).await,
            Step::StopInstance => place::remove_instance(&old, cx).await,
            Step::DropDatabase => {
                placed::drop_database(cx.world, &old.placement).await?;
                Ok(Flow::Done)
            }
            Step::DropRoles => {
                placed::drop_roles(cx.world, &old.placement).await?;
                Ok(Flow::Done)
            }
            Step::DeleteObjects => delete_objects(&old, cx).await,
            Step::RemoveCertificates => remove_certificates(&old, cx).await,
            Step::Record => record(&old, cx).await,
        }
    }

    async fn undo(step: Step, _: &mut Cx<'_, Self>) -> StepResult {
        match step {
            // Reached only when the step itself said that it cannot be done. The way back may be broken
            // then: the next retirement removes what is left of it.
            Step::StopFollowing => Ok(Flow::Done),
            _ => Err(StepError::fail("there is no way back from here")),
        }
    }
}

/// Nothing of the place that serves a site is ever removed here.
fn refuse_if_it_serves(old: &Side) -> Result<(), StepError> {
    match old.placement.state {
        PlacementState::Following => Ok(()),
        state => Err(StepError::fail(format!("the placement is {state}, not following"))),
    }
}

async fn stop_following(old: &Side, cx: &mut Cx<'_, RetirePlacement>) -> StepResult {
    let current = Side::current(cx.world, cx.site).await?;
    old.cluster.unsubscribe(&old.database).await?;
    current.cluster.unpublish(&current.database).await?;
    Ok(Flow::Done)
}

async fn delete_objects(old: &Side, cx: &mut Cx<'_, RetirePlacement>) -> StepResult {
    let mut connection = cx.world.db.pool.acquire().await?;
    let kept = placements::kept(&mut connection, cx.site).await?;
    drop(connection);
    let there = match cx.progress.objects {
        Some(there) => there,
        None if placed::shares_objects(&old.placement, &kept) => 0,
        None => {
            let (store, prefix) = (old.store(cx.world).await?, old.prefix());
            store.blob_sizes(&prefix).try_fold(0, |sum, _| std::future::ready(Ok(sum + 1))).await?
        }
    };
    // Noted before they are removed: whoever comes after a crash finds none, and signs what was.
    cx.progress.objects = Some(there);
    let mut tx = cx.begin().await?;
    cx.save_progress(&mut tx).await?;
    tx.commit().await?;
    let removed = placed::leave_objects(cx.world, &old.placement, &kept).await?;
    // Other things than files may have been there too.
    cx.progress.objects = Some(there.max(removed));
    Ok(Flow::Done)
}

/// Unless the site is in the same region still.
async fn remove_certificates(old: &Side, cx: &mut Cx<'_, RetirePlacement>) -> StepResult {
    let current = Side::current(cx.world, cx.site).await?;
    let region = &old.placement.region;
    if *region == current.placement.region {
        return Ok(Flow::Done);
    }
    let mut tx = cx.begin().await?;
    certificate_orders::delete(&mut tx, cx.site, Some(region)).await?;
    let removed = certificates::delete(&mut tx, cx.site, Some(region)).await?;
    cx.progress.certificates.extend(removed);
    cx.save_progress(&mut tx).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

async fn record(old: &Side, cx: &mut Cx<'_, RetirePlacement>) -> StepResult {
    let document = json!({
        "record": RecordKind::DeletionRecord,
        "operation": cx.operation,
        "site": cx.site,
        "at": OffsetDateTime::now_utc().unix_timestamp(),
        "place": cx.progress.place,
        "removed": {
            "database": old.database,
            "roles": [old.database.login(), old.database.owner(), old.database.rw(),
                      old.database.ro(), old.database.mover()],
            "objects": cx.progress.objects,
            "certificates": cx.progress.certificates,
        },
        // What no statement of ours reaches: said, since an auditor asks.
        "remains": "the cluster's own log and backups hold bytes of the database until their \
                    retention is over",
    });
    let flow = changeover::sign(cx, RecordKind::DeletionRecord, &document).await?;
    let mut tx = cx.begin().await?;
    placements::set_state(&mut tx, old.placement.id, PlacementState::Retired).await?;
    tx.commit().await?;
    Ok(flow)
}
