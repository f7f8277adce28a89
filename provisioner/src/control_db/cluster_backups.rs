//! `cluster_backup`: where the backups of a cluster lie, who makes them, and what that keeper said last.

use control_types::SiteId;
use provisioner_api::backups::KeeperReport;
use sqlx::{PgPool, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    control_db::clusters::PlaceError,
    secrets::{BackupSecrets, Keys, token_hash},
    site_storage::BackupPrefix,
};

/// Where the backups of a cluster lie, with what opens them.
pub struct OpenBackups {
    /// The cluster's name.
    pub cluster: String,
    /// Its region.
    pub region: String,
    /// The object store.
    pub object_store: Uuid,
    /// Where in it.
    pub prefix: BackupPrefix,
    /// Sealed as they lie in the row.
    pub sealed: Vec<u8>,
    /// What opens the prefix and what is in it.
    pub secrets: BackupSecrets,
    /// Whether the object store knows the key.
    pub is_prepared: bool,
}

/// Lets the holder of `token` speak for the cluster called `name`, and answers its id; none when there is
/// no such cluster. The first time its backups get a place in an object store of the region, and secrets.
///
/// # Errors
/// When there is no object store in its region.
pub async fn put_keeper(
    control: &PgPool,
    keys: &Keys,
    name: &str,
    token: &str,
) -> Result<Option<Uuid>, PlaceError> {
    let mut transaction = control.begin().await?;
    let cluster = sqlx::query!("select id, region from cluster where name = $1 for update", name)
        .fetch_optional(&mut *transaction)
        .await?;
    let Some(cluster) = cluster else { return Ok(None) };
    let updated = sqlx::query!(
        "update cluster_backup set keeper_token_hash = $2, prepared_at = null where cluster_id = $1",
        cluster.id,
        &token_hash(token)[..],
    )
    .execute(&mut *transaction)
    .await?;
    if updated.rows_affected() == 0 {
        let store = sqlx::query_scalar!(
            "select id from object_store where region = $1 order by accepts_sites desc, name limit 1",
            cluster.region
        )
        .fetch_optional(&mut *transaction)
        .await?;
        let Some(store) = store else {
            let reason =
                format!("is in region {}, which has no object store: register one", cluster.region);
            return Err(PlaceError::Field { field: "name", reason });
        };
        let secrets = BackupSecrets::generate()?;
        let sealed = keys.seal(&cluster.region, cluster.id, &secrets)?;
        sqlx::query!(
            "insert into cluster_backup (cluster_id, object_store_id, region, prefix,
                                         sealed_secrets, keeper_token_hash)
             values ($1, $2, $3, $4, $5, $6)",
            cluster.id,
            store,
            cluster.region,
            BackupPrefix::of(cluster.id) as _,
            sealed,
            &token_hash(token)[..],
        )
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await?;
    Ok(Some(cluster.id))
}

/// The cluster that the holder of a token speaks for, if it is a keeper's.
///
/// # Errors
/// When the database does not answer.
pub async fn kept_by(control: &PgPool, token: &str) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select cluster_id from cluster_backup where keeper_token_hash = $1",
        &token_hash(token)[..]
    )
    .fetch_optional(control)
    .await
}

/// Where the backups of a cluster lie.
///
/// # Errors
/// When nobody makes any, or the secrets do not open.
pub async fn get(control: &PgPool, keys: &Keys, cluster: Uuid) -> Result<OpenBackups, PlaceError> {
    let row = sqlx::query!(
        r#"select cluster.name as cluster, backup.region, backup.object_store_id,
                  backup.prefix as "prefix: BackupPrefix", backup.sealed_secrets,
                  backup.prepared_at is not null as "is_prepared!"
           from cluster_backup backup join cluster on cluster.id = backup.cluster_id
           where backup.cluster_id = $1"#,
        cluster
    )
    .fetch_optional(control)
    .await?;
    let row = row.ok_or(PlaceError::Absent { kind: "keeper of cluster", id: cluster })?;
    let secrets = keys.open(&row.region, cluster, &row.sealed_secrets)?;
    Ok(OpenBackups {
        cluster: row.cluster,
        region: row.region,
        object_store: row.object_store_id,
        prefix: row.prefix,
        sealed: row.sealed_secrets,
        secrets,
        is_prepared: row.is_prepared,
    })
}

/// The clusters whose keys are to be made at their object stores.
///
/// # Errors
/// When the database does not answer.
pub async fn to_prepare(control: &PgPool) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!("select cluster_id from cluster_backup where prepared_at is null")
        .fetch_all(control)
        .await
}

/// Notes that the key was made, or why it could not be.
///
/// # Errors
/// When the database does not answer.
pub async fn set_prepared(
    control: &PgPool,
    cluster: Uuid,
    error: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update cluster_backup set last_error = $2,
             prepared_at = case when $2::text is null then now() end
         where cluster_id = $1",
        cluster,
        error,
    )
    .execute(control)
    .await?;
    Ok(())
}

/// How far back the sites of a cluster must be restorable, in seconds: as their plans say, also those
/// that were deleted and can be brought back. None for a cluster without sites.
///
/// # Errors
/// When the database does not answer.
pub async fn longest_window_secs(
    control: &PgPool,
    cluster: Uuid,
) -> Result<Option<i32>, sqlx::Error> {
    sqlx::query_scalar!(
        "select max(plan.restore_window_secs)
         from placement
         join site on site.id = placement.site_id
         join plan on plan.name = site.plan
         where placement.cluster_id = $1
             and (placement.state <> 'retired'
                  or site.deleted_at > now() - make_interval(secs => plan.restore_window_secs))",
        cluster
    )
    .fetch_one(control)
    .await
}

/// Notes what a keeper said.
///
/// # Errors
/// When the database does not answer.
pub async fn put_report(
    control: &PgPool,
    cluster: Uuid,
    report: &KeeperReport,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update cluster_backup set reported_at = now(), report = $2 where cluster_id = $1",
        cluster,
        Json(report) as _,
    )
    .execute(control)
    .await?;
    Ok(())
}

/// What is known of the backups of one cluster.
#[derive(Clone, Debug)]
pub struct Known {
    /// The cluster's name.
    pub cluster: String,
    /// Its region.
    pub region: String,
    /// The object store's name; none when nobody makes backups.
    pub object_store: Option<String>,
    /// Why the object store did not take the key.
    pub last_error: Option<String>,
    /// What the keeper said last, and when.
    pub report: Option<(OffsetDateTime, KeeperReport)>,
    /// Sites of which it is not proved that they can be put back, with why, if it was tried.
    pub unproved: Vec<String>,
}

struct KnownRow {
    cluster: String,
    region: String,
    object_store: Option<String>,
    last_error: Option<String>,
    reported_at: Option<OffsetDateTime>,
    report: Option<Json<KeeperReport>>,
    unproved: Vec<String>,
}

impl KnownRow {
    fn into_known(self) -> Known {
        Known {
            cluster: self.cluster,
            region: self.region,
            object_store: self.object_store,
            last_error: self.last_error,
            report: self.reported_at.zip(self.report.map(|report| report.0)),
            unproved: self.unproved,
        }
    }
}

/// All clusters, by region and name; those too whose backups nobody makes.
///
/// # Errors
/// When the database does not answer.
pub async fn list(control: &PgPool) -> Result<Vec<Known>, sqlx::Error> {
    select(control, None).await
}

/// What is known of the backups of the cluster with this id; none when there is no such cluster.
///
/// # Errors
/// When the database does not answer.
pub async fn known(control: &PgPool, cluster: Uuid) -> Result<Option<Known>, sqlx::Error> {
    Ok(select(control, Some(cluster)).await?.pop())
}

async fn select(control: &PgPool, cluster: Option<Uuid>) -> Result<Vec<Known>, sqlx::Error> {
    let rows = sqlx::query_as!(
        KnownRow,
        r#"select cluster.name as cluster, cluster.region, object_store.name as "object_store?",
                  backup.last_error as "last_error?", backup.reported_at as "reported_at?",
                  backup.report as "report?: Json<KeeperReport>",
                  -- Each has its turn within seven days.
                  (select coalesce(array_agg(site.slug || coalesce(': ' || proof.problem, '')
                                             order by site.slug), '{}')
                   from placement
                   join site on site.id = placement.site_id and site.state = 'active'
                   left join restore_proof proof on proof.site_id = site.id
                   where placement.cluster_id = cluster.id and placement.state = 'current'
                       and not exists (select from preview where preview.site_id = site.id)
                       and (proof.problem is not null
                            or coalesce(proof.proved_at, site.created_at)
                                < now() - interval '8 days')) as "unproved!"
           from cluster
           left join cluster_backup backup on backup.cluster_id = cluster.id
           left join object_store on object_store.id = backup.object_store_id
           where $1::uuid is null or cluster.id = $1
           order by cluster.region, cluster.name"#,
        cluster
    )
    .fetch_all(control)
    .await?;
    Ok(rows.into_iter().map(KnownRow::into_known).collect())
}

/// Where a site is now, and how far back it can be put.
pub struct Reach {
    /// The cluster.
    pub cluster: Uuid,
    /// Since when all places where it was are kept.
    pub since: OffsetDateTime,
    /// As its plan says.
    pub window_secs: i32,
}

/// Of a site; none when it has no place.
///
/// # Errors
/// When the database does not answer.
pub async fn reach(control: &PgPool, site: SiteId) -> Result<Option<Reach>, sqlx::Error> {
    sqlx::query_as!(
        Reach,
        r#"select placement.cluster_id as cluster,
               -- Since it is where something of it is kept still.
               (select min(term.began_at) from placement_term term
                where term.site_id = site.id and not exists (
                    select from placement_term lost join placement gone on gone.id = lost.placement_id
                    where lost.site_id = site.id and gone.state = 'retired'
                        and lost.began_at >= term.began_at)) as "since!",
               plan.restore_window_secs as window_secs
           from placement
           join site on site.id = placement.site_id
           join plan on plan.name = site.plan
           where placement.site_id = $1 and placement.state = 'current'"#,
        site.0
    )
    .fetch_optional(control)
    .await
}
