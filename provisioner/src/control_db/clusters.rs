//! Rows of `cluster`, and which of them takes a new site.

use provisioner_api::places::{Cluster, PutCluster};
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    secrets::{ClusterAdminUrl, Keys, SealedValue, SecretError},
    site_database::SiteDatabaseError,
    site_storage::SiteStorageError,
};

mod choice;

pub use choice::NoCluster;

/// Why a cluster or object store cannot be read, written or used.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    /// No such row.
    #[error("there is no {kind} {id}")]
    Absent {
        /// `cluster` or `object store`.
        kind: &'static str,
        /// The id.
        id: Uuid,
    },
    /// A region that is not registered.
    #[error("there is no region {0}; register it first")]
    NoRegion(String),
    /// Something that holds sites, or backups, was to get another region.
    #[error("{kind} {name} holds sites or backups, so its region cannot change")]
    InUse {
        /// `cluster` or `object store`.
        kind: &'static str,
        /// Its name.
        name: String,
    },
    /// A field that the database refuses.
    #[error("{field} {reason}")]
    Field {
        /// The field of the request.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// Secrets of it do not open or seal.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// Its administration URL is none.
    #[error(transparent)]
    SiteDatabase(#[from] SiteDatabaseError),
    /// Its endpoint is none.
    #[error(transparent)]
    SiteStorage(#[from] SiteStorageError),
    /// The control database refused.
    #[error("the control database refused")]
    Control(#[from] sqlx::Error),
}

impl PlaceError {
    /// What a refused write of a place means to whoever asked for it.
    pub(super) fn of_write(
        kind: &'static str,
        name: &str,
        region: &str,
        error: sqlx::Error,
    ) -> Self {
        let constraint = error.as_database_error().and_then(|e| e.constraint()).unwrap_or_default();
        match constraint {
            "cluster_region_fkey" | "object_store_region_fkey" => Self::NoRegion(region.to_owned()),
            "placement_cluster_id_region_fkey"
            | "placement_object_store_id_region_fkey"
            | "cluster_backup_cluster_id_region_fkey"
            | "cluster_backup_object_store_id_region_fkey" => {
                Self::InUse { kind, name: name.to_owned() }
            }
            "cluster_name_check" | "object_store_name_check" => Self::Field {
                field: "name",
                reason: format!("'{name}' is not a name: small letters, digits and hyphens"),
            },
            "cluster_app_port_check" => {
                Self::Field { field: "app_port", reason: "must be 1 to 65535".to_owned() }
            }
            "replication_has_both" | "cluster_replication_port_check" => Self::Field {
                field: "replication_port",
                reason: "must be 1 to 65535, and come with replication_host".to_owned(),
            },
            "cluster_max_databases_check" => {
                Self::Field { field: "max_databases", reason: "must be at least 1".to_owned() }
            }
            _ => Self::Control(error),
        }
    }
}

/// A cluster with the URL of its administration.
#[derive(Clone)]
pub struct OpenCluster {
    /// What everybody may know.
    pub cluster: Cluster,
    /// Secret.
    pub admin_url: ClusterAdminUrl,
}

/// Makes the cluster called `name`, or brings it to what is asked. Putting the same again writes
/// nothing.
///
/// # Errors
/// When the region is unknown, a field is out of range, or the cluster holds sites of its region.
pub async fn put(
    control: &PgPool,
    keys: &Keys,
    name: &str,
    put: &PutCluster,
) -> Result<Cluster, PlaceError> {
    // The same check as at use, so that a bad URL is refused where it was given.
    if crate::site_database::SiteDatabases::new(name, &put.admin_url).is_err() {
        let reason = "is no Postgres URL (postgres://user@host/database)".to_owned();
        return Err(PlaceError::Field { field: "admin_url", reason });
    }
    let mut transaction = control.begin().await?;
    sqlx::query!("select pg_advisory_xact_lock(hashtext('put cluster'), hashtext($1))", name)
        .execute(&mut *transaction)
        .await?;
    let known =
        sqlx::query!("select id, region, sealed_admin_url from cluster where name = $1", name)
            .fetch_optional(&mut *transaction)
            .await?;
    let id = known.as_ref().map_or_else(Uuid::now_v7, |row| row.id);
    let admin_url = ClusterAdminUrl(put.admin_url.clone());
    // A value sealed twice differs, so an unchanged one is kept. One that no longer opens (its key
    // is gone) is replaced.
    let kept = known.filter(|row| {
        keys.open::<ClusterAdminUrl>(&row.region, id, &row.sealed_admin_url)
            .is_ok_and(|known| known == admin_url && row.region == put.region)
    });
    let sealed = match kept {
        Some(row) => row.sealed_admin_url,
        None => seal_for(&mut transaction, keys, &put.region, id, &admin_url).await?,
    };
    sqlx::query!(
        "insert into cluster (id, name, region, sealed_admin_url, app_host, app_port,
                              max_databases, accepts_sites, replication_host, replication_port)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         on conflict (name) do update set
             region = excluded.region, sealed_admin_url = excluded.sealed_admin_url,
             app_host = excluded.app_host, app_port = excluded.app_port,
             max_databases = excluded.max_databases, accepts_sites = excluded.accepts_sites,
             replication_host = excluded.replication_host,
             replication_port = excluded.replication_port,
             -- Another server is not observed yet.
             template_version = case when cluster.sealed_admin_url = excluded.sealed_admin_url
                                     then cluster.template_version end,
             last_seen_at = case when cluster.sealed_admin_url = excluded.sealed_admin_url
                                 then cluster.last_seen_at end
         where (cluster.region, cluster.sealed_admin_url, cluster.app_host, cluster.app_port,
                cluster.max_databases, cluster.accepts_sites, cluster.replication_host,
                cluster.replication_port)
             is distinct from (excluded.region, excluded.sealed_admin_url, excluded.app_host,
                excluded.app_port, excluded.max_databases, excluded.accepts_sites,
                excluded.replication_host, excluded.replication_port)",
        id,
        name,
        put.region,
        sealed,
        put.app_host,
        i32::from(put.app_port),
        put.max_databases,
        put.accepts_sites,
        put.replication_host,
        put.replication_port.map(i32::from),
    )
    .execute(&mut *transaction)
    .await
    .map_err(|error| PlaceError::of_write("cluster", name, &put.region, error))?;
    transaction.commit().await?;
    Ok(get(control, keys, id).await?.cluster)
}

/// Seals a secret of a place in `region`. That a region is unknown says more than that it has no
/// keys, so it is looked at first.
pub(super) async fn seal_for<T: SealedValue>(
    connection: &mut PgConnection,
    keys: &Keys,
    region: &str,
    id: Uuid,
    value: &T,
) -> Result<Vec<u8>, PlaceError> {
    let known = sqlx::query_scalar!("select name from region where name = $1", region)
        .fetch_optional(connection)
        .await?;
    if known.is_none() {
        return Err(PlaceError::NoRegion(region.to_owned()));
    }
    Ok(keys.seal(region, id, value)?)
}

/// What was seen of a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Observation {
    /// It answered, and has the template of this version.
    Ready {
        /// Of the site schema.
        template_version: u32,
    },
    /// It cannot be used.
    Failing {
        /// Why, as a sentence for operators.
        error: String,
    },
}

/// Notes what was seen of a cluster.
///
/// # Errors
/// When the control database refuses.
pub async fn set_observed(
    control: &PgPool,
    id: Uuid,
    observation: &Observation,
) -> Result<(), sqlx::Error> {
    let (template_version, error) = match observation {
        Observation::Ready { template_version } => (i32::try_from(*template_version).ok(), None),
        Observation::Failing { error } => (None, Some(error.as_str())),
    };
    sqlx::query!(
        "update cluster set last_error = $3,
             template_version = case when $3::text is null then $2 else template_version end,
             last_seen_at = case when $3::text is null then now() else last_seen_at end
         where id = $1",
        id,
        template_version,
        error,
    )
    .execute(control)
    .await?;
    Ok(())
}

/// All clusters, by region and name.
///
/// # Errors
/// When the control database refuses.
pub async fn list(control: &PgPool) -> Result<Vec<Cluster>, sqlx::Error> {
    let mut connection = control.acquire().await?;
    let rows = rows(&mut connection, None, None).await?;
    Ok(rows.into_iter().map(|row| row.into_cluster().0).collect())
}

/// The cluster with this id and its secret.
///
/// # Errors
/// When there is none, or its secret does not open.
pub async fn get(control: &PgPool, keys: &Keys, id: Uuid) -> Result<OpenCluster, PlaceError> {
    let mut connection = control.acquire().await?;
    let row = rows(&mut connection, Some(id), None).await?.pop();
    let (cluster, sealed) = row.ok_or(PlaceError::Absent { kind: "cluster", id })?.into_cluster();
    let admin_url = keys.open(&cluster.region, id, &sealed)?;
    Ok(OpenCluster { cluster, admin_url })
}

/// The cluster of `region` that takes a new site: reachable, with the current template, and with
/// the fewest databases. The region's clusters stay locked until the transaction of `connection`
/// ends, so that two callers do not fill one beyond its limit: insert the placement in it.
///
/// # Errors
/// When the control database refuses. Inside: why none takes it.
pub async fn choose_for_site(
    connection: &mut PgConnection,
    region: &str,
) -> Result<Result<Cluster, NoCluster>, sqlx::Error> {
    choose(connection, region, None, None).await
}

/// Like [`choose_for_site`] for a site that comes from elsewhere: on the cluster called `wanted` if
/// that is said, and not on `left`.
///
/// # Errors
/// As [`choose_for_site`].
pub async fn choose(
    connection: &mut PgConnection,
    region: &str,
    wanted: Option<&str>,
    left: Option<Uuid>,
) -> Result<Result<Cluster, NoCluster>, sqlx::Error> {
    sqlx::query!("select id from cluster where region = $1 order by id for no key update", region)
        .fetch_all(&mut *connection)
        .await?;
    let rows = rows(connection, None, Some(region)).await?;
    let clusters = rows
        .into_iter()
        .map(|row| row.into_cluster().0)
        .filter(|cluster| wanted.is_none_or(|wanted| cluster.name == wanted))
        .filter(|cluster| Some(cluster.id) != left)
        .collect();
    let version = i32::try_from(migrations::Schema::Site.latest_version()).unwrap_or(i32::MAX);
    Ok(choice::choose(region, version, clusters))
}

struct ClusterRow {
    id: Uuid,
    name: String,
    region: String,
    sealed_admin_url: Vec<u8>,
    app_host: String,
    app_port: i32,
    max_databases: i32,
    n_databases: i64,
    accepts_sites: bool,
    template_version: Option<i32>,
    last_seen_at: Option<OffsetDateTime>,
    last_error: Option<String>,
    replication_host: Option<String>,
    replication_port: Option<i32>,
}

impl ClusterRow {
    fn into_cluster(self) -> (Cluster, Vec<u8>) {
        let cluster = Cluster {
            id: self.id,
            name: self.name,
            region: self.region,
            app_host: self.app_host,
            // Held to 1 to 65535 by the database.
            app_port: u16::try_from(self.app_port).unwrap_or(0),
            max_databases: self.max_databases,
            n_databases: self.n_databases,
            accepts_sites: self.accepts_sites,
            template_version: self.template_version,
            last_seen_at: self.last_seen_at,
            last_error: self.last_error,
            replication_host: self.replication_host,
            replication_port: self.replication_port.and_then(|port| u16::try_from(port).ok()),
        };
        (cluster, self.sealed_admin_url)
    }
}

async fn rows(
    connection: &mut PgConnection,
    id: Option<Uuid>,
    region: Option<&str>,
) -> Result<Vec<ClusterRow>, sqlx::Error> {
    sqlx::query_as!(
        ClusterRow,
        r#"select id, name, region, sealed_admin_url, app_host, app_port, max_databases,
                  accepts_sites, template_version, last_seen_at, last_error,
                  replication_host, replication_port,
                  (select count(*) from placement
                   where cluster_id = cluster.id and state <> 'retired') as "n_databases!"
           from cluster
           where ($1::uuid is null or id = $1) and ($2::text is null or region = $2)
           order by region, name"#,
        id,
        region,
    )
    .fetch_all(connection)
    .await
}
