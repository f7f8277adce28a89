//! How sites are shown over the API.

use control_types::{
    Generation, Hostname, InstanceId, OperationId, SiteId,
    state::{DomainKind, DomainState, InstanceObserved, SiteState},
};
use provisioner_api::sites::{Domain, Instance, Placement, Site, WayBack};
use serde::Deserialize;
use sqlx::{PgPool, types::Json};
use time::OffsetDateTime;

/// One site.
///
/// # Errors
/// When the database does not answer.
pub async fn get(pool: &PgPool, id: SiteId) -> Result<Option<Site>, sqlx::Error> {
    Ok(select(pool, Some(id)).await?.pop())
}

/// All sites that are not deleted, by slug; without previews.
///
/// # Errors
/// When the database does not answer.
pub async fn list(pool: &PgPool) -> Result<Vec<Site>, sqlx::Error> {
    select(pool, None).await
}

/// `:8443` for a router at port 8443, nothing for 443.
pub(in crate::control_db) fn port_suffix(https_address: Option<&str>) -> String {
    let port = https_address.and_then(|address| address.rsplit_once(':')).map(|(_, port)| port);
    match port {
        None | Some("443") => String::new(),
        Some(port) => format!(":{port}"),
    }
}

/// A domain as the query aggregates it.
#[derive(Debug, Deserialize)]
struct DomainRow {
    hostname: Hostname,
    kind: DomainKind,
    state: DomainState,
    is_primary: bool,
}

/// A site with what belongs to it, in one row.
struct SiteRow {
    id: SiteId,
    slug: String,
    name: String,
    plan: String,
    state: SiteState,
    suspended_reason: Option<String>,
    allowed_regions: Vec<String>,
    default_language: String,
    delete_after: Option<OffsetDateTime>,
    created_at: OffsetDateTime,
    generation: Option<Generation>,
    region: Option<String>,
    database: Option<String>,
    prefix: Option<String>,
    cluster: Option<String>,
    object_store: Option<String>,
    instance_id: Option<InstanceId>,
    observed: Option<InstanceObserved>,
    process_id: Option<i32>,
    starts: Option<i32>,
    instance_error: Option<String>,
    live_operation: Option<OperationId>,
    https_address: Option<String>,
    back_region: Option<String>,
    back_cluster: Option<String>,
    back_until: Option<OffsetDateTime>,
    back_follows: Option<bool>,
    preview_of: Option<SiteId>,
    domains: Json<Vec<DomainRow>>,
}

async fn select(pool: &PgPool, id: Option<SiteId>) -> Result<Vec<Site>, sqlx::Error> {
    let rows = sqlx::query_as!(
        SiteRow,
        r#"select site.id as "id: SiteId", site.slug, site.name, site.plan,
               site.state as "state: SiteState", site.suspended_reason, site.allowed_regions,
               site.default_language, site.delete_after, site.created_at,
               placement.generation as "generation?: Generation",
               placement.region as "region?", placement.database_name as "database?",
               placement.prefix as "prefix?",
               cluster.name as "cluster?", object_store.name as "object_store?",
               instance.id as "instance_id?: InstanceId",
               instance.observed as "observed?: InstanceObserved",
               instance.process_id as "process_id?", instance.starts as "starts?",
               instance.last_error as "instance_error?",
               (select operation.id from operation where operation.site_id = site.id
                    and operation.state in ('queued', 'running', 'unwinding', 'stuck'))
                   as "live_operation: OperationId",
               (select router.https_address from router
                where router.region = placement.region order by router.name limit 1)
                   as https_address,
               back.region as "back_region?", back.cluster as "back_cluster?",
               back.until as "back_until?", back.follows as "back_follows?",
               (select preview.of_site_id from preview where preview.site_id = site.id)
                   as "preview_of: SiteId",
               coalesce((select jsonb_agg(jsonb_build_object(
                        'hostname', domain.hostname, 'kind', domain.kind, 'state', domain.state,
                        'is_primary', domain.is_primary)
                        order by domain.is_primary desc, domain.kind, domain.hostname)
                    from domain where domain.site_id = site.id and domain.state <> 'released'),
                    '[]') as "domains!: Json<Vec<DomainRow>>"
           from site
           left join lateral (
               select * from placement
               where placement.site_id = site.id and placement.state <> 'retired'
               order by placement.state = 'current' desc, placement.generation
               limit 1) placement on true
           left join cluster on cluster.id = placement.cluster_id
           left join object_store on object_store.id = placement.object_store_id
           left join lateral (
               select * from instance where instance.placement_id = placement.id
               order by instance.created_at desc limit 1) instance on true
           left join lateral (
               select place.region, cluster.name as cluster, place.follows_until as until,
                   place.follows
               from placement place join cluster on cluster.id = place.cluster_id
               where place.site_id = site.id and place.state = 'following'
               order by place.generation desc limit 1) back on true
           where case when $1::uuid is not null then site.id = $1
               else site.state <> 'deleted'
                   and not exists (select from preview where preview.site_id = site.id) end
           order by site.slug"#,
        id.map(|id| id.0)
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(SiteRow::into_site).collect()
}

impl SiteRow {
    fn into_site(self) -> Result<Site, sqlx::Error> {
        let port = port_suffix(self.https_address.as_deref());
        let domains = self.domains.0.into_iter().map(|domain| Domain {
            url: format!("https://{}{port}", domain.hostname),
            hostname: domain.hostname,
            kind: domain.kind,
            state: domain.state,
            is_primary: domain.is_primary,
        });
        let slug = self.slug.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
        Ok(Site {
            id: self.id,
            slug,
            name: self.name,
            plan: self.plan,
            state: self.state,
            suspended_reason: self.suspended_reason,
            allowed_regions: self.allowed_regions,
            default_language: self.default_language,
            placement: self.generation.map(|generation| Placement {
                generation,
                region: self.region.unwrap_or_default(),
                cluster: self.cluster.unwrap_or_default(),
                object_store: self.object_store.unwrap_or_default(),
                database: self.database.unwrap_or_default(),
                prefix: self.prefix.unwrap_or_default(),
            }),
            undo_restore_until: self.back_until.filter(|_| self.back_follows == Some(false)),
            way_back: match (self.back_region, self.back_cluster, self.back_until) {
                (Some(region), Some(cluster), Some(until)) if self.back_follows == Some(true) => {
                    Some(WayBack { region, cluster, until })
                }
                _ => None,
            },
            restorable: None,
            preview_of: self.preview_of,
            domains: domains.collect(),
            instance: self.instance_id.map(|id| Instance {
                id,
                observed: self.observed.unwrap_or(InstanceObserved::Unknown),
                process_id: self.process_id,
                starts: self.starts.unwrap_or(0),
                last_error: self.instance_error,
            }),
            live_operation: self.live_operation,
            delete_after: self.delete_after,
            created_at: self.created_at,
        })
    }
}
