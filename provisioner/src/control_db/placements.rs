//! `placement`: which cluster, database, object store and prefix serve a site.

use control_types::{Generation, SiteId, state::PlacementState};
use sqlx::PgConnection;
use uuid::Uuid;

/// A placement as stored.
#[derive(Clone, Debug)]
pub struct Placement {
    /// Its id.
    pub id: Uuid,
    /// Whose.
    pub site: SiteId,
    /// Which in the site's life.
    pub generation: Generation,
    /// What it is to the site.
    pub state: PlacementState,
    /// Where.
    pub region: String,
    /// On which cluster.
    pub cluster: Uuid,
    /// In which object store.
    pub object_store: Uuid,
    /// Also the login role's name.
    pub database_name: String,
    /// In the object store's bucket.
    pub prefix: String,
    /// The secrets, sealed with the region's key.
    pub sealed_secrets: Vec<u8>,
}

/// Stores a placement that an operation begins to build. The same again changes nothing.
///
/// # Errors
/// When the database does not answer, or refuses the region.
pub async fn insert(
    connection: &mut PgConnection,
    placement: &Placement,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into placement (id, site_id, generation, state, region, cluster_id,
             object_store_id, database_name, prefix, sealed_secrets)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         on conflict (id) do nothing",
        placement.id,
        placement.site.0,
        placement.generation.0,
        placement.state as PlacementState,
        placement.region,
        placement.cluster,
        placement.object_store,
        placement.database_name,
        placement.prefix,
        placement.sealed_secrets,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// One placement.
///
/// # Errors
/// When the database does not answer.
pub async fn get(
    connection: &mut PgConnection,
    id: Uuid,
) -> Result<Option<Placement>, sqlx::Error> {
    sqlx::query_as!(
        Placement,
        r#"select id, site_id as "site: SiteId", generation as "generation: Generation",
               state as "state: PlacementState", region, cluster_id as cluster,
               object_store_id as object_store, database_name, prefix, sealed_secrets
           from placement where id = $1"#,
        id
    )
    .fetch_optional(connection)
    .await
}

/// The placement that serves a site.
///
/// # Errors
/// When the database does not answer.
pub async fn current(
    connection: &mut PgConnection,
    site: SiteId,
) -> Result<Option<Placement>, sqlx::Error> {
    sqlx::query_as!(
        Placement,
        r#"select id, site_id as "site: SiteId", generation as "generation: Generation",
               state as "state: PlacementState", region, cluster_id as cluster,
               object_store_id as object_store, database_name, prefix, sealed_secrets
           from placement where site_id = $1 and state = 'current'"#,
        site.0
    )
    .fetch_optional(connection)
    .await
}

/// Makes a placement the one that serves its site, or puts it back to being prepared.
///
/// # Errors
/// When the database does not answer.
pub async fn set_state(
    connection: &mut PgConnection,
    id: Uuid,
    state: PlacementState,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update placement set state = $2,
             retired_at = case when $2 = 'retired'::placement_state
                 then coalesce(retired_at, now()) end
         where id = $1 and state <> $2",
        id,
        state as PlacementState,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets a placement that was never current.
///
/// # Errors
/// When the database does not answer.
pub async fn delete(connection: &mut PgConnection, id: Uuid) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from placement where id = $1", id).execute(connection).await?;
    Ok(())
}
