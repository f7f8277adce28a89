//! `placement`: which cluster, database, object store and prefix serve a site.

use control_types::{Generation, OperationId, SiteId, state::PlacementState};
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
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

/// The generation that a new place of a site gets: no other ever had it.
///
/// # Errors
/// When the database does not answer.
pub async fn next_generation(
    connection: &mut PgConnection,
    site: SiteId,
) -> Result<Generation, sqlx::Error> {
    let last = sqlx::query_scalar!(
        r#"select coalesce(max(generation), 0) as "last!" from placement where site_id = $1"#,
        site.0
    )
    .fetch_one(connection)
    .await?;
    Ok(Generation(last + 1))
}

/// Gives a placement that does not serve a newer generation. One that has it stays as it is.
///
/// # Errors
/// When the database does not answer.
pub async fn set_generation(
    connection: &mut PgConnection,
    id: Uuid,
    generation: Generation,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update placement set generation = $2
         where id = $1 and state <> 'current' and generation < $2",
        id,
        generation.0
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// All places of a site where something of it may be: the one that serves it first.
///
/// # Errors
/// When the database does not answer.
pub async fn kept(
    connection: &mut PgConnection,
    site: SiteId,
) -> Result<Vec<Placement>, sqlx::Error> {
    sqlx::query_as!(
        Placement,
        r#"select id, site_id as "site: SiteId", generation as "generation: Generation",
               state as "state: PlacementState", region, cluster_id as cluster,
               object_store_id as object_store, database_name, prefix, sealed_secrets
           from placement where site_id = $1 and state <> 'retired'
           order by state = 'current' desc, generation desc"#,
        site.0
    )
    .fetch_all(connection)
    .await
}

/// The place where the site was before.
pub struct Kept {
    /// The place.
    pub placement: Placement,
    /// Until when it is kept.
    pub until: OffsetDateTime,
    /// Whether it follows the site; else it is as it was when the site was put back to an earlier
    /// moment.
    pub follows: bool,
}

/// The place where the site was before its last move, or before it was put back to an earlier moment.
///
/// # Errors
/// When the database does not answer.
pub async fn following(
    connection: &mut PgConnection,
    site: SiteId,
) -> Result<Option<Kept>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select id, site_id as "site: SiteId", generation as "generation: Generation",
               state as "state: PlacementState", region, cluster_id as cluster,
               object_store_id as object_store, database_name, prefix, sealed_secrets,
               coalesce(follows_until, now()) as "until!", follows
           from placement where site_id = $1 and state = 'following'
           order by generation desc limit 1"#,
        site.0
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| {
        let placement = Placement {
            id: row.id,
            site: row.site,
            generation: row.generation,
            state: row.state,
            region: row.region,
            cluster: row.cluster,
            object_store: row.object_store,
            database_name: row.database_name,
            prefix: row.prefix,
            sealed_secrets: row.sealed_secrets,
        };
        Kept { placement, until: row.until, follows: row.follows }
    }))
}

/// Gives the site from the placement that serves it to another one. The first is kept from now on, for
/// as long as the site's plan says: it follows, or it stays as it was left. The same again changes
/// nothing.
///
/// # Errors
/// When the database does not answer.
pub async fn hand_over(
    connection: &mut PgConnection,
    from: Uuid,
    to: Uuid,
    operation: OperationId,
    follows: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update placement set state = 'following', moved_by = $2, follows = $3,
             follows_until = now() + make_interval(secs => (
                 select plan.way_back_secs from site join plan on plan.name = site.plan
                 where site.id = placement.site_id))
         where id = $1 and state = 'current'",
        from,
        operation.0,
        follows,
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "update placement set state = 'current', moved_by = $2, follows_until = null
         where id = $1 and state in ('preparing', 'following')",
        to,
        operation.0
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Following placements whose time is over, with their sites, of sites that no operation is on.
///
/// # Errors
/// When the database does not answer.
pub async fn overdue(pool: &PgPool) -> Result<Vec<(Uuid, SiteId)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select id, site_id as "site: SiteId" from placement
           where state = 'following' and follows_until < now()
               and not exists (select from operation where operation.site_id = placement.site_id
                   and operation.state in ('queued', 'running', 'unwinding', 'stuck'))
           order by follows_until limit 20"#
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.site)).collect())
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
