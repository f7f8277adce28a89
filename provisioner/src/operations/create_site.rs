//! `create_site`: from nothing to a serving site.

use std::time::Duration;

use control_types::state::OperationKind;
use provisioner_api::sites::Role;
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    opening::{self, Chosen},
    placed,
};
use crate::{
    control_db::{clusters, object_stores, places},
    engine::{Cx, Flow, Kind, StepError, StepResult},
    site_database::{Authority, Rights},
    site_storage::SitePrefix,
};

/// The kind.
pub struct CreateSite;

/// Its steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Step {
    /// Slug and hostnames were taken with the request; this step gives them back when undone.
    ReserveNames,
    /// Cluster, object store, secrets.
    ChoosePlacement,
    /// Owner, groups, login role.
    CreateRoles,
    /// From the template.
    CreateDatabase,
    /// For the site's prefix only.
    CreateStorageKey,
    /// Authority, limits, settings, first accounts.
    SeedSite,
    /// For each hostname.
    IssueCertificates,
    /// A socket that listens.
    StartInstance,
    /// From here on people can come.
    PublishRoute,
    /// So that who waits for the operation finds the site open.
    AwaitRouters,
}

/// What was asked for.
#[derive(Clone, Serialize, Deserialize)]
pub struct CreateSiteParams {
    /// Where.
    pub region: String,
    /// Which limits.
    pub plan: String,
    /// The institution's name.
    pub name: String,
    /// `id` or `en`.
    pub default_language: String,
    /// The first accounts.
    pub accounts: Vec<SeedAccount>,
    /// The token of the administrator's invitation, sealed, in hexadecimal.
    #[serde(default)]
    pub sealed_invitation: Option<String>,
}

/// An account as `platform.seed_site` takes it. Hashes only.
#[derive(Clone, Serialize, Deserialize)]
pub struct SeedAccount {
    /// Its id.
    pub id: Uuid,
    /// Its mail address.
    pub email: String,
    /// The person's name.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// Argon2id, if there is a password.
    pub password_hash: Option<String>,
    /// SHA-256 in hexadecimal, if there is an invitation.
    pub invitation_token_hash: Option<String>,
    /// Until when the invitation is good.
    #[serde(with = "time::serde::rfc3339::option")]
    pub invitation_expires_at: Option<OffsetDateTime>,
}

/// What later steps must know: nothing that is not in the control database.
#[derive(Default, Serialize, Deserialize)]
pub struct Progress {}

impl Kind for CreateSite {
    const KIND: OperationKind = OperationKind::CreateSite;
    const PLAN_VERSION: i32 = 1;
    type Step = Step;
    type Params = CreateSiteParams;
    type Progress = Progress;
    const STEPS: &'static [Step] = &[
        Step::ReserveNames,
        Step::ChoosePlacement,
        Step::CreateRoles,
        Step::CreateDatabase,
        Step::CreateStorageKey,
        Step::SeedSite,
        Step::IssueCertificates,
        Step::StartInstance,
        Step::PublishRoute,
        Step::AwaitRouters,
    ];
    const PIVOT: Option<Step> = Some(Step::PublishRoute);
    // Who creates a site waits for it: better told after a while than never.
    const PATIENCE: Option<Duration> = Some(Duration::from_secs(300));

    fn describe(step: Step, params: &CreateSiteParams) -> String {
        match step {
            Step::ReserveNames => "take the slug and its hostnames".to_owned(),
            Step::ChoosePlacement => {
                format!("choose a cluster and an object store in {}", params.region)
            }
            Step::CreateRoles => "create the site's database roles".to_owned(),
            Step::CreateDatabase => "clone the site's database from the template".to_owned(),
            Step::CreateStorageKey => "create an S3 key for the site's prefix only".to_owned(),
            Step::SeedSite => format!(
                "write the limits of plan {}, the settings and {} account(s)",
                params.plan,
                params.accounts.len()
            ),
            Step::IssueCertificates => "issue a certificate for each hostname".to_owned(),
            Step::StartInstance => "let an instance listen".to_owned(),
            Step::PublishRoute => "publish the route: from here on the site is open".to_owned(),
            Step::AwaitRouters => "wait until the routers have it".to_owned(),
        }
    }

    async fn forward(step: Step, cx: &mut Cx<'_, Self>) -> StepResult {
        match step {
            Step::ReserveNames => Ok(Flow::Done),
            Step::ChoosePlacement => choose_placement(cx).await,
            Step::CreateRoles => opening::create_roles(cx, Rights::Write).await,
            Step::CreateDatabase => create_database(cx).await,
            Step::CreateStorageKey => create_storage_key(cx).await,
            Step::SeedSite => seed_site(cx).await,
            Step::IssueCertificates => {
                let region = cx.params.region.clone();
                opening::issue_certificates(cx, &region).await
            }
            Step::StartInstance => opening::start_instance(cx).await,
            Step::PublishRoute => opening::publish_route(cx).await,
            Step::AwaitRouters => {
                let region = cx.params.region.clone();
                opening::await_routers(cx, &region).await
            }
        }
    }

    async fn undo(step: Step, cx: &mut Cx<'_, Self>) -> StepResult {
        match step {
            Step::ReserveNames => opening::release_names(cx).await,
            Step::ChoosePlacement => opening::forget_placement(cx).await,
            Step::CreateRoles => opening::drop_roles(cx).await,
            Step::CreateDatabase => opening::drop_database(cx).await,
            Step::CreateStorageKey => remove_storage_key(cx).await,
            // It lies in the database, which is dropped.
            Step::SeedSite | Step::AwaitRouters => Ok(Flow::Done),
            Step::IssueCertificates => opening::remove_certificates(cx).await,
            Step::StartInstance => opening::remove_instance(cx).await,
            Step::PublishRoute => opening::unpublish_route(cx).await,
        }
    }
}

async fn choose_placement(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    let region = &cx.params.region;
    // The choice holds the clusters' rows, so that two sites do not take the same last place.
    let mut tx = cx.begin().await?;
    let chosen = Chosen {
        region: region.clone(),
        cluster: clusters::choose_for_site(&mut tx, region).await??.id,
        object_store: object_stores::choose_for_site(&mut tx, region).await??.id,
        prefix: SitePrefix::of(cx.site),
    };
    opening::take_placement(cx, &mut tx, chosen).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

async fn create_database(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    let placement = opening::placement(cx).await?;
    let cluster = cx.world.clusters.get(placement.cluster).await?;
    let template = cluster.ensure_template().await?;
    cluster.create_database(&placed::database(&placement)?, &template).await?;
    Ok(Flow::Done)
}

async fn create_storage_key(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    let placement = opening::placement(cx).await?;
    let secrets = placed::secrets(cx.world, &placement)?;
    let store = cx.world.object_stores.get(placement.object_store).await?;
    store.ensure_key(&secrets.access_key, &secrets.secret_key, &SitePrefix::of(cx.site)).await?;
    Ok(Flow::Done)
}

async fn remove_storage_key(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    if let Some(placement) = opening::find_placement(cx).await? {
        placed::delete_objects(cx.world, &placement).await?;
    }
    Ok(Flow::Done)
}

async fn seed_site(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    let placement = opening::placement(cx).await?;
    let cluster = cx.world.clusters.get(placement.cluster).await?;
    let limits = places::limits(&cx.world.db.pool, &cx.params.plan).await?;
    let limits = limits.ok_or_else(|| StepError::fail("the plan is gone"))?;
    let authority = Authority {
        site_id: cx.site,
        generation: placement.generation,
        cluster: cluster.cluster().to_owned(),
    };
    let seed = json!({
        "name": cx.params.name,
        "default_language": cx.params.default_language,
        "accounts": cx.params.accounts,
    });
    cluster.seed(&placed::database(&placement)?, &authority, &limits, &seed).await?;
    Ok(Flow::Done)
}
