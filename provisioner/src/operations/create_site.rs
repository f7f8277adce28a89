//! `create_site`: from nothing to a serving site.

use std::time::Duration;

use anyhow::Context;
use control_types::{
    Generation, Hostname, InstanceId,
    hostname::is_right_below,
    state::{OperationKind, PlacementState, SiteState},
};
use provisioner_api::sites::Role;
use serde::{Deserialize, Serialize};
use serde_json::json;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    acme::schedule::TAKE_OVER,
    control_db::{
        certificate_orders, certificates, clusters, domains,
        instances::{self, Whose},
        object_stores,
        placements::{self, Placement},
        places, sites,
    },
    engine::{Cx, Flow, Kind, StepError, StepResult},
    operations::placed,
    secrets::PlacementSecrets,
    site_database::{Authority, Rights, SiteDatabaseName},
    site_storage::SitePrefix,
};

/// How long to wait for routers to have the route before the operation ends without them: one that
/// is cut off learns it later by itself.
const ROUTERS: Duration = Duration::from_secs(5);
/// How soon to ask a router again.
const ASK_AGAIN: Duration = Duration::from_millis(10);
/// How long to wait inside a step for the runtime, before the operation is put aside.
const RUNTIME: Duration = Duration::from_secs(3);

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
            Step::CreateRoles => create_roles(cx).await,
            Step::CreateDatabase => create_database(cx).await,
            Step::CreateStorageKey => create_storage_key(cx).await,
            Step::SeedSite => seed_site(cx).await,
            Step::IssueCertificates => issue_certificates(cx).await,
            Step::StartInstance => start_instance(cx).await,
            Step::PublishRoute => publish_route(cx).await,
            Step::AwaitRouters => await_routers(cx).await,
        }
    }

    async fn undo(step: Step, cx: &mut Cx<'_, Self>) -> StepResult {
        match step {
            Step::ReserveNames => release_names(cx).await,
            Step::ChoosePlacement => forget_placement(cx).await,
            Step::CreateRoles => drop_roles(cx).await,
            Step::CreateDatabase => drop_database(cx).await,
            Step::CreateStorageKey => remove_storage_key(cx).await,
            // It lies in the database, which is dropped.
            Step::SeedSite | Step::AwaitRouters => Ok(Flow::Done),
            Step::IssueCertificates => remove_certificates(cx).await,
            Step::StartInstance => remove_instance(cx).await,
            Step::PublishRoute => unpublish_route(cx).await,
        }
    }
}

/// Everything that the operation makes bears its id, so a worker that was away too long can only
/// touch what is its own.
fn placement_id(cx: &Cx<'_, CreateSite>) -> Uuid {
    cx.operation.0
}

fn instance_id(cx: &Cx<'_, CreateSite>) -> InstanceId {
    InstanceId(cx.operation.0)
}

async fn choose_placement(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    let region = &cx.params.region;
    // The choice holds the clusters' rows, so that two sites do not take the same last place.
    let mut tx = cx.begin().await?;
    let cluster = clusters::choose_for_site(&mut tx, region).await??;
    let store = object_stores::choose_for_site(&mut tx, region).await??;
    let id = placement_id(cx);
    let secrets = PlacementSecrets::generate()?;
    let placement = Placement {
        id,
        site: cx.site,
        generation: Generation::FIRST,
        state: PlacementState::Preparing,
        region: region.clone(),
        cluster: cluster.id,
        object_store: store.id,
        database_name: SiteDatabaseName::of_placement(id).to_string(),
        prefix: SitePrefix::of(cx.site).to_string(),
        sealed_secrets: cx.world.keys.seal(region, id, &secrets)?,
    };
    placements::insert(&mut tx, &placement).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

async fn forget_placement(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    let mut tx = cx.begin().await?;
    placements::delete(&mut tx, placement_id(cx)).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

/// The placement that this operation chose; none when it was undone already.
async fn find_placement(cx: &Cx<'_, CreateSite>) -> Result<Option<Placement>, StepError> {
    let mut connection = cx.world.db.pool.acquire().await?;
    Ok(placements::get(&mut connection, placement_id(cx)).await?)
}

async fn placement(cx: &Cx<'_, CreateSite>) -> Result<Placement, StepError> {
    find_placement(cx).await?.ok_or_else(|| StepError::fail("the placement's row is gone"))
}

async fn create_roles(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    placed::ensure_roles(cx.world, &placement(cx).await?, Rights::Write).await?;
    Ok(Flow::Done)
}

async fn drop_roles(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    if let Some(placement) = find_placement(cx).await? {
        placed::drop_roles(cx.world, &placement).await?;
    }
    Ok(Flow::Done)
}

async fn create_database(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    let placement = placement(cx).await?;
    let cluster = cx.world.clusters.get(placement.cluster).await?;
    let template = cluster.ensure_template().await?;
    cluster.create_database(&placed::database(&placement)?, &template).await?;
    Ok(Flow::Done)
}

async fn drop_database(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    if let Some(placement) = find_placement(cx).await? {
        placed::drop_database(cx.world, &placement).await?;
    }
    Ok(Flow::Done)
}

async fn create_storage_key(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    let placement = placement(cx).await?;
    let secrets = placed::secrets(cx.world, &placement)?;
    let store = cx.world.object_stores.get(placement.object_store).await?;
    store.ensure_key(&secrets.access_key, &secrets.secret_key, &SitePrefix::of(cx.site)).await?;
    Ok(Flow::Done)
}

async fn remove_storage_key(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    if let Some(placement) = find_placement(cx).await? {
        placed::delete_objects(cx.world, &placement).await?;
    }
    Ok(Flow::Done)
}

async fn seed_site(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    let placement = placement(cx).await?;
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

/// The local authority issues at once. Public ones are waited for as far as the site's name below
/// the platform's domain needs them: the site opens with that, and custom domains follow when their
/// DNS leads here and their certificates have come.
async fn issue_certificates(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    let platform = cx.world.platform_domain.as_str();
    let (site, region) = (cx.site, cx.params.region.clone());
    let mut tx = cx.begin().await?;
    let soon = OffsetDateTime::now_utc() + TAKE_OVER;
    let has_wildcard = certificates::has_wildcard(&mut tx, platform, &region, soon).await?;
    let mut awaited = None;
    for hostname in domains::of_site(&mut tx, site).await? {
        let hostname: Hostname = hostname.parse().map_err(StepError::fail)?;
        let is_platform_name = is_right_below(hostname.as_str(), platform);
        if is_platform_name && has_wildcard {
            continue;
        }
        if cx.world.acme_for(hostname.as_str()).is_some() {
            certificate_orders::want(&mut tx, site, hostname.as_str(), &region).await?;
            if is_platform_name {
                awaited = Some(hostname);
            }
            continue;
        }
        let certified = cx.world.certify(&mut tx, &hostname, Some(site), &region).await;
        certified
            .with_context(|| format!("certificate for {hostname}"))
            .map_err(StepError::Retry)?;
    }
    tx.commit().await?;
    if let Some(acme) = &cx.world.acme {
        acme.nudge();
    }
    match awaited {
        Some(hostname) => await_certificate(cx, &hostname).await,
        None => Ok(Flow::Done),
    }
}

async fn await_certificate(cx: &Cx<'_, CreateSite>, hostname: &Hostname) -> StepResult {
    let pool = &cx.world.db.pool;
    let until = tokio::time::Instant::now() + RUNTIME;
    loop {
        if certificates::get(pool, hostname.as_str(), &cx.params.region).await?.is_some() {
            return Ok(Flow::Done);
        }
        if tokio::time::Instant::now() > until {
            let reason = certificate_orders::explain(pool, hostname.as_str()).await?;
            let reason = reason.unwrap_or_else(|| "the certificate is being ordered".to_owned());
            let pause = Duration::from_secs(1);
            return Ok(Flow::Wait { pause, reason: format!("{hostname}: {reason}") });
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn remove_certificates(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    let mut tx = cx.begin().await?;
    certificate_orders::delete(&mut tx, cx.site, None).await?;
    certificates::delete(&mut tx, cx.site, None).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

async fn start_instance(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    let id = instance_id(cx);
    let mut tx = cx.begin().await?;
    instances::insert(&mut tx, id, cx.site, placement_id(cx)).await?;
    tx.commit().await?;
    cx.world.await_instances(Whose::Site(cx.site), instances::Awaited::Listening, RUNTIME).await
}

async fn remove_instance(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    let mut tx = cx.begin().await?;
    instances::want_absent(&mut tx, Whose::Site(cx.site)).await?;
    tx.commit().await?;
    let flow =
        cx.world.await_instances(Whose::Site(cx.site), instances::Awaited::Absent, RUNTIME).await?;
    if matches!(flow, Flow::Done) {
        let mut tx = cx.begin().await?;
        instances::delete(&mut tx, Whose::Site(cx.site)).await?;
        tx.commit().await?;
    }
    Ok(flow)
}

async fn publish_route(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    let mut tx = cx.begin().await?;
    placements::set_state(&mut tx, placement_id(cx), PlacementState::Current).await?;
    domains::activate(&mut tx, cx.site).await?;
    sites::set_state(&mut tx, cx.site, &[SiteState::Creating], SiteState::Active).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

async fn unpublish_route(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    let mut tx = cx.begin().await?;
    sites::set_state(&mut tx, cx.site, &[SiteState::Active], SiteState::Creating).await?;
    domains::deactivate(&mut tx, cx.site).await?;
    placements::set_state(&mut tx, placement_id(cx), PlacementState::Preparing).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

async fn await_routers(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    let asked_at = tokio::time::Instant::now();
    loop {
        let Some(router) = cx.world.routers_behind(cx.site, &cx.params.region).await? else {
            return Ok(Flow::Done);
        };
        if asked_at.elapsed() > ROUTERS {
            return Ok(Flow::Noted(format!("{router} did not tell that it has the route")));
        }
        // A router tells when it is asked; it needs a few milliseconds.
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

async fn release_names(cx: &mut Cx<'_, CreateSite>) -> StepResult {
    let mut tx = cx.begin().await?;
    domains::release(&mut tx, cx.site).await?;
    sites::set_state(&mut tx, cx.site, &[SiteState::Creating], SiteState::Deleted).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}
