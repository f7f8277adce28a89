//! Instances: what the reconciler reads to run them, and what it writes of what it saw.

pub mod desired;

pub use desired::{
    Awaited, Whose, are, connection_limit, delete, insert, want_absent, want_listening,
};

use control_types::{
    Generation, InstanceId, SiteId,
    instance_config::PreviewConfig,
    state::{InstanceDesired, InstanceObserved, SiteState},
};
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

/// An instance with all that its specification is made of.
#[derive(Clone)]
pub struct InstanceRow {
    /// The instance.
    pub id: InstanceId,
    /// Its site.
    pub site_id: SiteId,
    /// The site's slug.
    pub slug: String,
    /// What the site is to its people.
    pub site_state: SiteState,
    /// What shall be.
    pub desired: InstanceDesired,
    /// What was written last of what was seen.
    pub observed: InstanceObserved,
    /// Where it listens, if that is written.
    pub address: Option<String>,
    /// Its process.
    pub process_id: Option<i32>,
    /// How often a process was started.
    pub starts: i32,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// The placement that it serves.
    pub placement_id: Uuid,
    /// The placement's generation.
    pub generation: Generation,
    /// The placement's region.
    pub region: String,
    /// Where instances reach the cluster.
    pub app_host: String,
    /// Its port.
    pub app_port: i32,
    /// The database, and the login role.
    pub database_name: String,
    /// The object store.
    pub endpoint: String,
    /// Its bucket.
    pub bucket: String,
    /// The site's prefix in it.
    pub prefix: String,
    /// The placement's secrets, sealed with the region's key.
    pub sealed_secrets: Vec<u8>,
    /// The placement was left and follows: nobody asks it but for where the site went.
    pub follows: bool,
    /// The moment that a preview is of.
    pub preview_moment: Option<OffsetDateTime>,
    /// SHA-256 of what opens a preview.
    pub preview_key_hash: Option<Vec<u8>>,
    /// When a preview goes.
    pub preview_expires_at: Option<OffsetDateTime>,
    /// Processes that are kept without a request.
    pub min_instances: i32,
    /// Seconds without a connection after which a process ends.
    pub idle_exit_secs: i32,
    /// Most connections to the database.
    pub max_database_connections: i32,
}

/// What was seen of an instance, to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// The instance.
    pub id: InstanceId,
    /// How it is doing.
    pub observed: InstanceObserved,
    /// Where it listens.
    pub address: Option<String>,
    /// Its process.
    pub process_id: Option<i32>,
    /// How often a process was started.
    pub starts: i32,
    /// What went wrong last.
    pub last_error: Option<String>,
}

impl InstanceRow {
    /// What makes it a preview, if it is one.
    pub fn preview(&self) -> Option<PreviewConfig> {
        Some(PreviewConfig {
            moment: self.preview_moment?,
            key_hash: hex::encode(self.preview_key_hash.as_ref()?),
            expires_at: self.preview_expires_at?,
        })
    }

    /// What is written of it.
    pub fn observation(&self) -> Observation {
        Observation {
            id: self.id,
            observed: self.observed,
            address: self.address.clone(),
            process_id: self.process_id,
            starts: self.starts,
            last_error: self.last_error.clone(),
        }
    }
}

/// All instances that shall be or may be there still.
///
/// # Errors
/// When the database does not answer.
pub async fn load_all(pool: &PgPool) -> Result<Vec<InstanceRow>, sqlx::Error> {
    sqlx::query_as!(
        InstanceRow,
        r#"select
            instance.id as "id: InstanceId",
            instance.site_id as "site_id: SiteId",
            site.slug,
            site.state as "site_state: SiteState",
            instance.desired as "desired: InstanceDesired",
            instance.observed as "observed: InstanceObserved",
            instance.address,
            instance.process_id,
            instance.starts,
            instance.last_error,
            placement.id as placement_id,
            placement.generation as "generation: Generation",
            placement.region,
            cluster.app_host,
            cluster.app_port,
            placement.database_name,
            object_store.endpoint,
            object_store.bucket,
            placement.prefix,
            placement.sealed_secrets,
            placement.state = 'following' as "follows!",
            preview.moment as "preview_moment?",
            preview.key_hash as "preview_key_hash?",
            preview.expires_at as "preview_expires_at?",
            plan.min_instances,
            plan.idle_exit_secs,
            plan.max_database_connections
        from instance
        join site on site.id = instance.site_id
        join plan on plan.name = site.plan
        join placement on placement.id = instance.placement_id
        join cluster on cluster.id = placement.cluster_id
        join object_store on object_store.id = placement.object_store_id
        left join preview on preview.site_id = site.id
        where instance.desired = 'listening' or instance.observed <> 'absent'"#
    )
    .fetch_all(pool)
    .await
}

/// Where the newest instance of a placement listens.
///
/// # Errors
/// When the database does not answer.
pub async fn address(pool: &PgPool, placement: Uuid) -> Result<Option<String>, sqlx::Error> {
    let address = sqlx::query_scalar!(
        "select address from instance
         where placement_id = $1 and desired = 'listening' and address is not null
         order by created_at desc limit 1",
        placement
    )
    .fetch_optional(pool)
    .await?;
    Ok(address.flatten())
}

/// Writes what was seen, except addresses: routers need not hear of it.
///
/// # Errors
/// When the database does not answer.
pub async fn write_observed(pool: &PgPool, seen: &[Observation]) -> Result<(), sqlx::Error> {
    let ids: Vec<Uuid> = seen.iter().map(|one| one.id.0).collect();
    let observed: Vec<String> = seen.iter().map(|one| one.observed.to_string()).collect();
    let process_ids: Vec<Option<i32>> = seen.iter().map(|one| one.process_id).collect();
    let starts: Vec<i32> = seen.iter().map(|one| one.starts).collect();
    let errors: Vec<Option<String>> = seen.iter().map(|one| one.last_error.clone()).collect();
    sqlx::query!(
        "update instance set
             observed = seen.observed::instance_observed,
             observed_at = now(),
             process_id = seen.process_id,
             starts = seen.starts,
             last_error = seen.last_error
         from unnest($1::uuid[], $2::text[], $3::int[], $4::int[], $5::text[])
             as seen (id, observed, process_id, starts, last_error)
         where instance.id = seen.id",
        &ids,
        &observed,
        &process_ids as &[Option<i32>],
        &starts,
        &errors as &[Option<String>],
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Writes what was seen of one instance with its address, which raises the site's version so that
/// routers hear of it.
///
/// # Errors
/// When the database does not answer.
pub async fn write_address(pool: &PgPool, seen: &Observation) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update instance set observed = $2, observed_at = now(), address = $3, process_id = $4,
             starts = $5, last_error = $6
         where id = $1",
        seen.id.0,
        seen.observed as InstanceObserved,
        seen.address.as_deref(),
        seen.process_id,
        seen.starts,
        seen.last_error.as_deref(),
    )
    .execute(pool)
    .await?;
    Ok(())
}
