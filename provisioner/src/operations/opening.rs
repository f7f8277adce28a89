//! What every site is made with, whatever comes into it: its placement's row, roles, certificates,
//! instance and route. `create_site` and `create_preview` are made of these.

use std::time::Duration;

use anyhow::Context as _;
use control_types::{
    Generation, Hostname, InstanceId,
    hostname::is_right_below,
    state::{PlacementState, SiteState},
};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::placed;
use crate::{
    acme::schedule::TAKE_OVER,
    control_db::{
        certificate_orders, certificates, domains,
        instances::{self, Whose},
        placements::{self, Placement},
        sites,
    },
    engine::{Cx, Flow, Kind, StepError, StepResult},
    secrets::PlacementSecrets,
    site_database::{Rights, SiteDatabaseName},
    site_storage::SitePrefix,
};

/// How long to wait for routers to have the route before the operation ends without them: one that
/// is cut off learns it later by itself.
const ROUTERS: Duration = Duration::from_secs(5);
/// How soon to ask a router again.
const ASK_AGAIN: Duration = Duration::from_millis(10);
/// How long to wait inside a step for the runtime, before the operation is put aside.
const RUNTIME: Duration = Duration::from_secs(3);

/// Everything that the operation makes bears its id, so a worker that was away too long can only
/// touch what is its own.
fn placement_id<K: Kind>(cx: &Cx<'_, K>) -> Uuid {
    cx.operation.0
}

fn instance_id<K: Kind>(cx: &Cx<'_, K>) -> InstanceId {
    InstanceId(cx.operation.0)
}

/// Where a new site shall be.
pub struct Chosen {
    /// The region.
    pub region: String,
    /// The cluster.
    pub cluster: Uuid,
    /// The object store.
    pub object_store: Uuid,
    /// Where its files are in it.
    pub prefix: SitePrefix,
}

/// Takes the place. Part of `connection`'s transaction.
pub async fn take_placement<K: Kind>(
    cx: &Cx<'_, K>,
    connection: &mut PgConnection,
    chosen: Chosen,
) -> Result<(), StepError> {
    let id = placement_id(cx);
    let sealed_secrets = cx.world.keys.seal(&chosen.region, id, &PlacementSecrets::generate()?)?;
    let placement = Placement {
        id,
        site: cx.site,
        generation: Generation::FIRST,
        state: PlacementState::Preparing,
        region: chosen.region,
        cluster: chosen.cluster,
        object_store: chosen.object_store,
        database_name: SiteDatabaseName::of_placement(id).to_string(),
        prefix: chosen.prefix.to_string(),
        sealed_secrets,
    };
    Ok(placements::insert(connection, &placement).await?)
}

/// Forgets the placement that was chosen.
pub async fn forget_placement<K: Kind>(cx: &mut Cx<'_, K>) -> StepResult {
    let mut tx = cx.begin().await?;
    placements::delete(&mut tx, placement_id(cx)).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

/// The placement that this operation chose; none when it was undone already.
pub async fn find_placement<K: Kind>(cx: &Cx<'_, K>) -> Result<Option<Placement>, StepError> {
    let mut connection = cx.world.db.pool.acquire().await?;
    Ok(placements::get(&mut connection, placement_id(cx)).await?)
}

/// The same, which must be there.
pub async fn placement<K: Kind>(cx: &Cx<'_, K>) -> Result<Placement, StepError> {
    find_placement(cx).await?.ok_or_else(|| StepError::fail("the placement's row is gone"))
}

/// Makes the roles of the site's database.
pub async fn create_roles<K: Kind>(cx: &mut Cx<'_, K>, rights: Rights) -> StepResult {
    placed::ensure_roles(cx.world, &placement(cx).await?, rights).await?;
    Ok(Flow::Done)
}

/// Drops them; the database must be gone.
pub async fn drop_roles<K: Kind>(cx: &mut Cx<'_, K>) -> StepResult {
    if let Some(placement) = find_placement(cx).await? {
        placed::drop_roles(cx.world, &placement).await?;
    }
    Ok(Flow::Done)
}

/// Drops the site's database.
pub async fn drop_database<K: Kind>(cx: &mut Cx<'_, K>) -> StepResult {
    if let Some(placement) = find_placement(cx).await? {
        placed::drop_database(cx.world, &placement).await?;
    }
    Ok(Flow::Done)
}

/// The local authority issues at once. Public ones are waited for as far as the site's name below
/// the platform's domain needs them: the site opens with that, and custom domains follow when their
/// DNS leads here and their certificates have come.
pub async fn issue_certificates<K: Kind>(cx: &mut Cx<'_, K>, region: &str) -> StepResult {
    let platform = cx.world.platform_domain.as_str();
    let site = cx.site;
    let mut tx = cx.begin().await?;
    let soon = OffsetDateTime::now_utc() + TAKE_OVER;
    let has_wildcard = certificates::has_wildcard(&mut tx, platform, region, soon).await?;
    let mut awaited = None;
    for hostname in domains::of_site(&mut tx, site).await? {
        let hostname: Hostname = hostname.parse().map_err(StepError::fail)?;
        let is_platform_name = is_right_below(hostname.as_str(), platform);
        if is_platform_name && has_wildcard {
            continue;
        }
        if cx.world.acme_for(hostname.as_str()).is_some() {
            certificate_orders::want(&mut tx, site, hostname.as_str(), region).await?;
            if is_platform_name {
                awaited = Some(hostname);
            }
            continue;
        }
        let certified = cx.world.certify(&mut tx, &hostname, Some(site), region).await;
        certified
            .with_context(|| format!("certificate for {hostname}"))
            .map_err(StepError::Retry)?;
    }
    tx.commit().await?;
    if let Some(acme) = &cx.world.acme {
        acme.nudge();
    }
    match awaited {
        Some(hostname) => await_certificate(cx, &hostname, region).await,
        None => Ok(Flow::Done),
    }
}

async fn await_certificate<K: Kind>(
    cx: &Cx<'_, K>,
    hostname: &Hostname,
    region: &str,
) -> StepResult {
    let pool = &cx.world.db.pool;
    let until = tokio::time::Instant::now() + RUNTIME;
    loop {
        if certificates::get(pool, hostname.as_str(), region).await?.is_some() {
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

/// Forgets the certificates of its hostnames, and what was ordered.
pub async fn remove_certificates<K: Kind>(cx: &mut Cx<'_, K>) -> StepResult {
    let mut tx = cx.begin().await?;
    certificate_orders::delete(&mut tx, cx.site, None).await?;
    certificates::delete(&mut tx, cx.site, None).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

/// Lets an instance listen.
pub async fn start_instance<K: Kind>(cx: &mut Cx<'_, K>) -> StepResult {
    let id = instance_id(cx);
    let mut tx = cx.begin().await?;
    instances::insert(&mut tx, id, cx.site, placement_id(cx)).await?;
    tx.commit().await?;
    cx.world.await_instances(Whose::Site(cx.site), instances::Awaited::Listening, RUNTIME).await
}

/// Ends it, and forgets it.
pub async fn remove_instance<K: Kind>(cx: &mut Cx<'_, K>) -> StepResult {
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

/// Opens the site.
pub async fn publish_route<K: Kind>(cx: &mut Cx<'_, K>) -> StepResult {
    let mut tx = cx.begin().await?;
    placements::set_state(&mut tx, placement_id(cx), PlacementState::Current).await?;
    domains::activate(&mut tx, cx.site).await?;
    sites::set_state(&mut tx, cx.site, &[SiteState::Creating], SiteState::Active).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

/// Closes it again.
pub async fn unpublish_route<K: Kind>(cx: &mut Cx<'_, K>) -> StepResult {
    let mut tx = cx.begin().await?;
    sites::set_state(&mut tx, cx.site, &[SiteState::Active], SiteState::Creating).await?;
    domains::deactivate(&mut tx, cx.site).await?;
    placements::set_state(&mut tx, placement_id(cx), PlacementState::Preparing).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

/// Waits until the routers have its route.
pub async fn await_routers<K: Kind>(cx: &mut Cx<'_, K>, region: &str) -> StepResult {
    let asked_at = tokio::time::Instant::now();
    loop {
        let Some(router) = cx.world.routers_behind(cx.site, region).await? else {
            return Ok(Flow::Done);
        };
        if asked_at.elapsed() > ROUTERS {
            return Ok(Flow::Noted(format!("{router} did not tell that it has the route")));
        }
        // A router tells when it is asked; it needs a few milliseconds.
        tokio::time::sleep(ASK_AGAIN).await;
    }
}

/// Gives its hostnames and its short name back.
pub async fn release_names<K: Kind>(cx: &mut Cx<'_, K>) -> StepResult {
    let mut tx = cx.begin().await?;
    domains::release(&mut tx, cx.site).await?;
    sites::set_state(&mut tx, cx.site, &[SiteState::Creating], SiteState::Deleted).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}
