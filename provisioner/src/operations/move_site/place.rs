//! The new place of a site: everything there but its content, and how that is taken away again.

use control_types::state::PlacementState;

use super::MoveSite;
use crate::{
    control_db::{
        certificate_orders, certificates, clusters, object_stores,
        placements::{self, Placement},
        places, sites,
    },
    engine::{Cx, Flow, StepError, StepResult},
    operations::{
        changeover::{Side, Sides},
        placed,
    },
    secrets::PlacementSecrets,
    site_database::{Authority, Rights, SiteDatabaseName},
    site_storage::SitePrefix,
};

/// Chooses cluster, object store and generation, and notes the place that is left.
pub async fn choose(cx: &mut Cx<'_, MoveSite>) -> StepResult {
    let mut tx = cx.begin().await?;
    let source = placements::current(&mut tx, cx.site).await?;
    let source = source.ok_or_else(|| StepError::fail("the site is nowhere"))?;
    let region = cx.params.region.clone();
    let wanted = cx.params.cluster.as_deref();
    let cluster = clusters::choose(&mut tx, &region, wanted, Some(source.cluster)).await??;
    // The files of a site that stays in its region stay where they are.
    let object_store = if region == source.region {
        source.object_store
    } else {
        object_stores::choose_for_site(&mut tx, &region).await??.id
    };
    let id = cx.operation.0;
    if placements::get(&mut tx, id).await?.is_none() {
        let placement = Placement {
            id,
            site: cx.site,
            generation: placements::next_generation(&mut tx, cx.site).await?,
            state: PlacementState::Preparing,
            region: region.clone(),
            cluster: cluster.id,
            object_store,
            database_name: SiteDatabaseName::of_placement(id).to_string(),
            prefix: SitePrefix::of(cx.site).to_string(),
            sealed_secrets: cx.world.keys.seal(&region, id, &PlacementSecrets::generate()?)?,
        };
        placements::insert(&mut tx, &placement).await?;
    }
    cx.progress.source = Some(source.id);
    cx.save_progress(&mut tx).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

/// The place is nobody's again; its generation is not used a second time.
pub async fn give_back(target: &Side, cx: &Cx<'_, MoveSite>) -> StepResult {
    let mut tx = cx.begin().await?;
    placements::set_state(&mut tx, target.placement.id, PlacementState::Retired).await?;
    tx.commit().await?;
    Ok(Flow::Done)
}

/// The login role may read until the switch.
pub async fn create_roles(sides: &Sides, cx: &Cx<'_, MoveSite>) -> StepResult {
    placed::ensure_roles(cx.world, &sides.target.placement, Rights::Read).await?;
    Ok(Flow::Done)
}

/// Takes them away.
pub async fn drop_roles(target: &Side, cx: &Cx<'_, MoveSite>) -> StepResult {
    placed::drop_roles(cx.world, &target.placement).await?;
    Ok(Flow::Done)
}

/// From the template, which has the schema of the source: the preflight has looked.
pub async fn create_database(sides: &Sides, cx: &Cx<'_, MoveSite>) -> StepResult {
    let target = &sides.target;
    let template = target.cluster.ensure_template().await?;
    target.cluster.create_database(&target.database, &template).await?;
    let plan = sites::plan(&cx.world.db.pool, cx.site).await?;
    let limits = places::limits(&cx.world.db.pool, &plan).await?;
    let limits = limits.ok_or_else(|| StepError::fail("the plan is gone"))?;
    let authority = Authority {
        site_id: cx.site,
        generation: target.placement.generation,
        cluster: target.cluster.cluster().to_owned(),
    };
    target.cluster.prepare_standby(&target.database, &authority, &limits).await?;
    Ok(Flow::Done)
}

/// Drops it, with whatever it follows.
pub async fn drop_database(target: &Side, cx: &Cx<'_, MoveSite>) -> StepResult {
    placed::drop_database(cx.world, &target.placement).await?;
    Ok(Flow::Done)
}

/// For the instance at the new place.
pub async fn create_storage_key(sides: &Sides, cx: &Cx<'_, MoveSite>) -> StepResult {
    let target = &sides.target;
    let secrets = placed::secrets(cx.world, &target.placement)?;
    let store = target.store(cx.world).await?;
    store.ensure_key(&secrets.access_key, &secrets.secret_key, &target.prefix()).await?;
    Ok(Flow::Done)
}

/// The key, and the files that were copied; those of the source stay.
pub async fn remove_objects(sides: &Sides, cx: &Cx<'_, MoveSite>) -> StepResult {
    let others = [sides.source.placement.clone()];
    placed::leave_objects(cx.world, &sides.target.placement, &others).await?;
    Ok(Flow::Done)
}

/// Of the new region. Those that serve stay.
pub async fn remove_certificates(sides: &Sides, cx: &Cx<'_, MoveSite>) -> StepResult {
    let (from, to) = (&sides.source.placement.region, &sides.target.placement.region);
    if from != to {
        let mut tx = cx.begin().await?;
        certificate_orders::delete(&mut tx, cx.site, Some(to)).await?;
        certificates::delete(&mut tx, cx.site, Some(to)).await?;
        tx.commit().await?;
    }
    Ok(Flow::Done)
}
