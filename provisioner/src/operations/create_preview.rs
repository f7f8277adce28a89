//! `create_preview`: a site as it was at some moment, beside the site. It is a site of its own: with a
//! database that is brought back out of the backups of the cluster where the site was then, a hostname
//! and an instance. It shares the site's files, which are never changed. Nothing can be written in it:
//! not in its database, not among the files.
//!
//! The site itself is not touched by any of this, nor is any other site of the cluster: the keeper beside
//! it brings that one database back.

use std::time::Duration;

use control_types::state::OperationKind;
use serde::{Deserialize, Serialize};

use super::{
    opening::{self, Chosen},
    placed,
    restoring::{self, Past},
};
use crate::{
    durations::second,
    engine::{Cx, Flow, Kind, StepResult},
    site_database::{Adopted, Rights},
    site_storage::SitePrefix,
};

/// The kind.
pub struct CreatePreview;

/// Its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Its name was taken with the request; this step gives it back when undone.
    ReserveNames,
    /// On the cluster in whose backups the site is.
    ChoosePlacement,
    /// Owner, groups, login role: it may read.
    CreateRoles,
    /// With nothing in it.
    CreateDatabase,
    /// By the cluster's keeper.
    RestoreDatabase,
    /// Roles, rights, schema: as those of every site.
    AdoptDatabase,
    /// It may read the site's files.
    CreateStorageKey,
    /// For its hostname.
    IssueCertificates,
    /// A socket that listens.
    StartInstance,
    /// From here on it can be looked at.
    PublishRoute,
    /// So that who waits for the operation finds it open.
    AwaitRouters,
}

/// What was asked for.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct CreatePreviewParams {
    /// The site that it shows, as it was.
    pub past: Past,
}

/// What later steps must know: nothing that is not in the control database.
#[derive(Default, Serialize, Deserialize)]
pub struct Progress {}

impl Kind for CreatePreview {
    const KIND: OperationKind = OperationKind::CreatePreview;
    const PLAN_VERSION: i32 = 1;
    type Step = Step;
    type Params = CreatePreviewParams;
    type Progress = Progress;
    const STEPS: &'static [Step] = &[
        Step::ReserveNames,
        Step::ChoosePlacement,
        Step::CreateRoles,
        Step::CreateDatabase,
        Step::RestoreDatabase,
        Step::AdoptDatabase,
        Step::CreateStorageKey,
        Step::IssueCertificates,
        Step::StartInstance,
        Step::PublishRoute,
        Step::AwaitRouters,
    ];
    const PIVOT: Option<Step> = Some(Step::PublishRoute);
    // A big database takes its time; who waits sees how far it is, and can cancel.
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(6 * 3600));

    fn describe(step: Step, params: &CreatePreviewParams) -> String {
        match step {
            Step::ReserveNames => "take a name for the preview".to_owned(),
            Step::ChoosePlacement => {
                format!(
                    "take a place on cluster {}, where the site was then",
                    params.past.cluster_name
                )
            }
            Step::CreateRoles => "create its database roles, which may only read".to_owned(),
            Step::CreateDatabase => "create an empty database".to_owned(),
            Step::RestoreDatabase => {
                format!(
                    "bring the site's database back as it was at {}",
                    second(params.past.moment)
                )
            }
            Step::AdoptDatabase => "give it to its roles".to_owned(),
            Step::CreateStorageKey => "create an S3 key that reads the site's files".to_owned(),
            Step::IssueCertificates => "issue a certificate for its hostname".to_owned(),
            Step::StartInstance => "let an instance listen".to_owned(),
            Step::PublishRoute => "publish the route: from here on it can be looked at".to_owned(),
            Step::AwaitRouters => "wait until the routers have it".to_owned(),
        }
    }

    async fn forward(step: Step, cx: &mut Cx<'_, Self>) -> StepResult {
        let region = cx.params.past.region.clone();
        match step {
            Step::ReserveNames => Ok(Flow::Done),
            Step::ChoosePlacement => choose_placement(cx).await,
            Step::CreateRoles => opening::create_roles(cx, Rights::Read).await,
            Step::CreateDatabase => {
                restoring::create_database(cx.world, &opening::placement(cx).await?).await
            }
            Step::RestoreDatabase => {
                let placement = opening::placement(cx).await?;
                restoring::restore_database(cx, &cx.params.past, &placement).await
            }
            Step::AdoptDatabase => {
                let placement = opening::placement(cx).await?;
                restoring::adopt_database(cx, &placement, Adopted::AsSite).await
            }
            Step::CreateStorageKey => create_storage_key(cx).await,
            Step::IssueCertificates => opening::issue_certificates(cx, &region).await,
            Step::StartInstance => opening::start_instance(cx).await,
            Step::PublishRoute => opening::publish_route(cx).await,
            Step::AwaitRouters => opening::await_routers(cx, &region).await,
        }
    }

    async fn undo(step: Step, cx: &mut Cx<'_, Self>) -> StepResult {
        match step {
            Step::ReserveNames => opening::release_names(cx).await,
            Step::ChoosePlacement => opening::forget_placement(cx).await,
            Step::CreateRoles => opening::drop_roles(cx).await,
            Step::CreateDatabase => opening::drop_database(cx).await,
            Step::RestoreDatabase => restoring::take_order_back(cx).await,
            // It lies in the database, which is dropped.
            Step::AdoptDatabase | Step::AwaitRouters => Ok(Flow::Done),
            Step::CreateStorageKey => remove_storage_key(cx).await,
            Step::IssueCertificates => opening::remove_certificates(cx).await,
            Step::StartInstance => opening::remove_instance(cx).await,
            Step::PublishRoute => opening::unpublish_route(cx).await,
        }
    }
}

async fn choose_placement(cx: &mut Cx<'_, CreatePreview>) -> StepResult {
    let Past { of, region, cluster, object_store, .. } = cx.params.past.clone();
    let prefix = SitePrefix::of(of);
    let mut tx = cx.begin().await?;
    let chosen = Chosen { region, cluster, object_store, prefix };
    opening::take_placement(cx, &mut tx, chosen).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

async fn create_storage_key(cx: &mut Cx<'_, CreatePreview>) -> StepResult {
    let placement = opening::placement(cx).await?;
    let secrets = placed::secrets(cx.world, &placement)?;
    let store = cx.world.object_stores.get(placement.object_store).await?;
    let files = SitePrefix::of(cx.params.past.of);
    store.ensure_read_key(&secrets.access_key, &secrets.secret_key, &files).await?;
    Ok(Flow::Done)
}

/// The key only: the files are the site's.
async fn remove_storage_key(cx: &mut Cx<'_, CreatePreview>) -> StepResult {
    if let Some(placement) = opening::find_placement(cx).await? {
        let secrets = placed::secrets(cx.world, &placement)?;
        let store = cx.world.object_stores.get(placement.object_store).await?;
        store.remove_key(&secrets.access_key).await?;
    }
    Ok(Flow::Done)
}
