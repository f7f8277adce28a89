//! `region`, `router`, `plan`: what does not change by itself.

use control_types::{Hostname, SiteId};
use provisioner_api::{
    Plan,
    places::{PutRegion, Region, Router},
};
use sqlx::PgPool;

use crate::{control_db::sites::port_suffix, site_database::Limits};

/// All regions.
///
/// # Errors
/// When the database does not answer.
pub async fn regions(pool: &PgPool) -> Result<Vec<Region>, sqlx::Error> {
    sqlx::query_as!(
        Region,
        r#"select name, display_name, edge_addresses,
               (select count(*) from placement
                where placement.region = region.name and placement.state = 'current')
                   as "n_sites!"
           from region order by name"#
    )
    .fetch_all(pool)
    .await
}

/// Makes a region, or changes it.
///
/// # Errors
/// When the database does not answer, or refuses the name.
pub async fn put_region(pool: &PgPool, name: &str, region: &PutRegion) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into region (name, display_name, edge_addresses)
         values ($1, $2, coalesce($3::text[], '{}'))
         on conflict (name) do update set display_name = excluded.display_name,
             edge_addresses = coalesce($3::text[], region.edge_addresses)",
        name,
        region.display_name,
        region.edge_addresses.as_deref(),
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Where visitors arrive, as the operator registered it, and what else tells that a name leads here.
pub struct Edges {
    /// The addresses of a region.
    pub home: Vec<String>,
    /// Those of the other regions.
    pub others: Vec<String>,
    /// Whether there are addresses of the region, and of every other one that has a router.
    pub is_complete: bool,
    /// The site's name below the platform's domain: whoever is an alias of it leads where it does.
    pub platform_name: Option<String>,
}

/// What is known of where a name of `site` should lead that serves in `region`.
///
/// # Errors
/// When the database does not answer, or there is no such region.
pub async fn edges(
    pool: &PgPool,
    region: &str,
    site: Option<SiteId>,
) -> Result<Edges, sqlx::Error> {
    sqlx::query_as!(
        Edges,
        r#"select home.edge_addresses as home,
               array(select unnest(region.edge_addresses) from region
                     where region.name <> home.name) as "others!",
               home.edge_addresses <> '{}' and not exists (
                   select from region join router on router.region = region.name
                   where region.edge_addresses = '{}') as "is_complete!",
               (select hostname from domain
                where site_id = $2 and kind = 'platform' and state <> 'released' limit 1)
                   as platform_name
           from region home where home.name = $1"#,
        region,
        site.map(|site| site.0),
    )
    .fetch_one(pool)
    .await
}

/// All routers.
///
/// # Errors
/// When the database does not answer.
pub async fn routers(pool: &PgPool) -> Result<Vec<Router>, sqlx::Error> {
    sqlx::query_as!(
        Router,
        "select name, region, https_address, http_address, admin_url, passthrough_address
         from router order by name"
    )
    .fetch_all(pool)
    .await
}

/// Makes a router known, or changes it.
///
/// # Errors
/// When the database does not answer, or refuses the name or the region.
pub async fn put_router(pool: &PgPool, name: &str, router: &Router) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into router
             (name, region, https_address, http_address, admin_url, passthrough_address)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (name) do update set region = excluded.region,
             https_address = excluded.https_address, http_address = excluded.http_address,
             admin_url = excluded.admin_url,
             passthrough_address = excluded.passthrough_address",
        name,
        router.region,
        router.https_address,
        router.http_address,
        router.admin_url,
        router.passthrough_address,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Where a hostname opens whose site is in `region`.
///
/// # Errors
/// When the database does not answer.
pub async fn site_url(
    pool: &PgPool,
    region: &str,
    hostname: &Hostname,
) -> Result<String, sqlx::Error> {
    let address = sqlx::query_scalar!(
        "select https_address from router where region = $1 order by name limit 1",
        region
    )
    .fetch_optional(pool)
    .await?;
    Ok(format!("https://{hostname}{}", port_suffix(address.as_deref())))
}

/// All plans, the smallest first.
///
/// # Errors
/// When the database does not answer.
pub async fn plans(pool: &PgPool) -> Result<Vec<Plan>, sqlx::Error> {
    sqlx::query_as!(
        Plan,
        "select name, display_name, max_students, max_instructors, max_courses, storage_bytes,
             max_upload_bytes, max_custom_domains, restore_window_secs
         from plan order by storage_bytes nulls last, name"
    )
    .fetch_all(pool)
    .await
}

/// The limits of a plan as a site's database holds them; none when there is no such plan.
///
/// # Errors
/// When the database does not answer.
pub async fn limits(pool: &PgPool, plan: &str) -> Result<Option<Limits>, sqlx::Error> {
    sqlx::query_as!(
        Limits,
        "select name as plan, max_students, max_instructors, max_courses, storage_bytes,
             max_upload_bytes
         from plan where name = $1",
        plan
    )
    .fetch_optional(pool)
    .await
}

/// How long a site of this plan can be brought back after it was deleted, in seconds; none when
/// there is no such plan.
///
/// # Errors
/// When the database does not answer.
pub async fn grace_period_secs(pool: &PgPool, plan: &str) -> Result<Option<i32>, sqlx::Error> {
    sqlx::query_scalar!("select grace_period_secs from plan where name = $1", plan)
        .fetch_optional(pool)
        .await
}
