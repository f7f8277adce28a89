//! What more than one kind does to the things that a placement names. Each can run twice.

use anyhow::anyhow;

use crate::{
    control_db::{instances, placements::Placement},
    engine::StepError,
    secrets::{PlacementSecrets, ScramVerifier},
    site_database::{Rights, SiteDatabaseName},
    site_storage::SitePrefix,
    world::World,
};

/// The placement's database, by its checked name.
pub fn database(placement: &Placement) -> Result<SiteDatabaseName, StepError> {
    let name = &placement.database_name;
    name.parse().map_err(|_| StepError::Fail(anyhow!("'{name}' is no site database")))
}

/// The placement's secrets.
pub fn secrets(world: &World, placement: &Placement) -> Result<PlacementSecrets, StepError> {
    Ok(world.keys.open(&placement.region, placement.id, &placement.sealed_secrets)?)
}

/// Makes the roles of the placement's database.
pub async fn ensure_roles(
    world: &World,
    placement: &Placement,
    rights: Rights,
) -> Result<(), StepError> {
    let verifier = ScramVerifier::of_password(&secrets(world, placement)?.database_password)?;
    let limit = instances::connection_limit(&world.db.pool, placement.site).await?;
    // Twice the pool's size: for a moment an old and a new process of the site run side by side.
    let limit = u32::try_from(limit).unwrap_or(1) * 2;
    let cluster = world.clusters.get(placement.cluster).await?;
    Ok(cluster.ensure_roles(&database(placement)?, &verifier, limit, rights).await?)
}

/// Drops the database, and whatever it follows or lets follow.
pub async fn drop_database(world: &World, placement: &Placement) -> Result<(), StepError> {
    let cluster = world.clusters.get(placement.cluster).await?;
    let name = database(placement)?;
    cluster.unsubscribe(&name).await?;
    cluster.unpublish(&name).await?;
    Ok(cluster.drop_database(&name).await?)
}

/// Drops the roles; the database must be gone.
pub async fn drop_roles(world: &World, placement: &Placement) -> Result<(), StepError> {
    let cluster = world.clusters.get(placement.cluster).await?;
    Ok(cluster.drop_roles(&database(placement)?).await?)
}

/// Removes the S3 key, then all files. The key first: nothing is written behind the deletion's back.
/// How many objects there were.
pub async fn delete_objects(world: &World, placement: &Placement) -> Result<u64, StepError> {
    let store = world.object_stores.get(placement.object_store).await?;
    store.remove_key(&secrets(world, placement)?.access_key).await?;
    Ok(store.delete_prefix(&SitePrefix::of(placement.site)).await?)
}

/// Removes the S3 key of a placement, and the files if no other place of the site has them in the same
/// store.
pub async fn leave_objects(
    world: &World,
    placement: &Placement,
    others: &[Placement],
) -> Result<u64, StepError> {
    if !shares_objects(placement, others) {
        return delete_objects(world, placement).await;
    }
    let store = world.object_stores.get(placement.object_store).await?;
    store.remove_key(&secrets(world, placement)?.access_key).await?;
    Ok(0)
}

/// Whether another place of the site has its files in the same store.
pub fn shares_objects(placement: &Placement, others: &[Placement]) -> bool {
    let is_same = |other: &Placement| other.object_store == placement.object_store;
    others.iter().any(|other| other.id != placement.id && is_same(other))
}
