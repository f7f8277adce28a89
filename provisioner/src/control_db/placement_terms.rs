//! `placement_term`: which placement was a site, and since when. Written by a trigger.

use control_types::SiteId;
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

/// Where a site was at some moment.
pub struct Term {
    /// The placement.
    pub placement: Uuid,
    /// Its region.
    pub region: String,
    /// Its cluster: in whose backups the site's database is.
    pub cluster: Uuid,
    /// That cluster's name.
    pub cluster_name: String,
    /// The database there.
    pub database: String,
    /// Where its files are.
    pub object_store: Uuid,
    /// Since when it was there.
    pub began_at: OffsetDateTime,
    /// Whether what it had is removed since.
    pub is_retired: bool,
    /// How far back the site's plan promises to reach, in seconds.
    pub window_secs: i32,
}

/// Where a site was at a moment; none when it was nowhere yet.
///
/// # Errors
/// When the database does not answer.
pub async fn at(
    control: &PgPool,
    site: SiteId,
    moment: OffsetDateTime,
) -> Result<Option<Term>, sqlx::Error> {
    sqlx::query_as!(
        Term,
        r#"select term.placement_id as placement, placement.region,
               placement.cluster_id as cluster, cluster.name as cluster_name,
               placement.database_name as database, placement.object_store_id as object_store,
               term.began_at, placement.state = 'retired' as "is_retired!",
               plan.restore_window_secs as window_secs
           from placement_term term
           join placement on placement.id = term.placement_id
           join cluster on cluster.id = placement.cluster_id
           join site on site.id = term.site_id
           join plan on plan.name = site.plan
           where term.site_id = $1 and term.began_at <= $2
           order by term.began_at desc, term.generation desc limit 1"#,
        site.0,
        moment,
    )
    .fetch_optional(control)
    .await
}
