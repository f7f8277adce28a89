//! What more than one kind does to the things that a placement names. Each can run twice.

use anyhow::anyhow;

use crate::{
    control_db::placements::Placement, engine::StepError, secrets::PlacementSecrets,
    site_database::SiteDatabaseName, site_storage::SitePrefix, world::World,
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

/// Drops the database.
pub async fn drop_database(world: &World, placement: &Placement) -> Result<(), StepError> {
    let cluster = world.clusters.get(placement.cluster).await?;
    Ok(cluster.drop_database(&database(placement)?).await?)
}

/// Drops the roles; the database must be gone.
pub async fn drop_roles(world: &World, placement: &Placement) -> Result<(), StepError> {
    let cluster = world.clusters.get(placement.cluster).await?;
    Ok(cluster.drop_roles(&database(placement)?).await?)
}

/// Removes the S3 key, then all files. The key first: nothing is written behind the deletion's back.
pub async fn delete_objects(world: &World, placement: &Placement) -> Result<(), StepError> {
    let store = world.object_stores.get(placement.object_store).await?;
    store.remove_key(&secrets(world, placement)?.access_key).await?;
    store.delete_prefix(&SitePrefix::of(placement.site)).await?;
    Ok(())
}
