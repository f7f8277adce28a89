//! `/v1/regions`, `/v1/clusters`, `/v1/object-stores`, `/v1/routers`, `/v1/plans`.

use axum::{
    Json,
    extract::{Path, State},
};
use provisioner_api::places::{
    Cluster, ObjectStore, Plan, PutCluster, PutObjectStore, PutRegion, Region, Router,
};

use crate::{
    control_db::{broken_constraint, clusters, object_stores, places},
    http::{
        Api,
        refusal::Refusal,
        validate::{self, Body},
    },
};

/// All regions.
pub async fn list_regions(State(api): State<Api>) -> Result<Json<Vec<Region>>, Refusal> {
    Ok(Json(places::regions(&api.world.db.pool).await?))
}

/// Makes a region, or changes it.
pub async fn put_region(
    State(api): State<Api>,
    Path(name): Path<String>,
    Body(mut region): Body<PutRegion>,
) -> Result<Json<Region>, Refusal> {
    region.display_name = validate::name("display_name", &region.display_name)?;
    if let Some(addresses) = &mut region.edge_addresses {
        validate::ip_addresses("edge_addresses", addresses)?;
    }
    if api.world.keys.ring(&name).is_err() {
        return Err(Refusal::invalid(
            "name",
            format!(
                "the provisioner has no keys for region '{name}'; add them to its configuration"
            ),
        ));
    }
    let pool = &api.world.db.pool;
    places::put_region(pool, &name, &region).await.map_err(|error| refused(error, &name))?;
    api.nudges.all();
    let regions = places::regions(pool).await?;
    one(regions, |region| region.name == name, "region", &name)
}

/// All clusters.
pub async fn list_clusters(State(api): State<Api>) -> Result<Json<Vec<Cluster>>, Refusal> {
    Ok(Json(clusters::list(&api.world.db.pool).await?))
}

/// Makes a cluster known, or changes it.
pub async fn put_cluster(
    State(api): State<Api>,
    Path(name): Path<String>,
    Body(cluster): Body<PutCluster>,
) -> Result<Json<Cluster>, Refusal> {
    let pool = &api.world.db.pool;
    let cluster = clusters::put(pool, &api.world.keys, &name, &cluster).await?;
    api.nudges.all();
    Ok(Json(cluster))
}

/// All object stores.
pub async fn list_object_stores(State(api): State<Api>) -> Result<Json<Vec<ObjectStore>>, Refusal> {
    Ok(Json(object_stores::list(&api.world.db.pool).await?))
}

/// Makes an object store known, or changes it.
pub async fn put_object_store(
    State(api): State<Api>,
    Path(name): Path<String>,
    Body(store): Body<PutObjectStore>,
) -> Result<Json<ObjectStore>, Refusal> {
    let pool = &api.world.db.pool;
    let store = object_stores::put(pool, &api.world.keys, &name, &store).await?;
    api.nudges.all();
    Ok(Json(store))
}

/// All routers.
pub async fn list_routers(State(api): State<Api>) -> Result<Json<Vec<Router>>, Refusal> {
    Ok(Json(places::routers(&api.world.db.pool).await?))
}

/// Makes a router known, or changes it.
pub async fn put_router(
    State(api): State<Api>,
    Path(name): Path<String>,
    Body(router): Body<Router>,
) -> Result<Json<Router>, Refusal> {
    if router.passthrough_address.as_deref().is_some_and(|address| !names_port(address)) {
        let wanted = "must be address:port, as in 10.1.0.5:8444";
        return Err(Refusal::invalid("passthrough_address", wanted));
    }
    let pool = &api.world.db.pool;
    places::put_router(pool, &name, &router).await.map_err(|error| refused(error, &name))?;
    let routers = places::routers(pool).await?;
    one(routers, |router| router.name == name, "router", &name)
}

/// All plans.
pub async fn list_plans(State(api): State<Api>) -> Result<Json<Vec<Plan>>, Refusal> {
    Ok(Json(places::plans(&api.world.db.pool).await?))
}

fn names_port(address: &str) -> bool {
    address.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

fn refused(error: sqlx::Error, name: &str) -> Refusal {
    match broken_constraint(&error) {
        Some("region_name_check" | "router_name_check") => {
            Refusal::invalid("name", format!("'{name}' is not a name for this"))
        }
        Some("router_region_fkey") => Refusal::invalid("region", "there is no such region"),
        _ => error.into(),
    }
}

fn one<T>(
    rows: Vec<T>,
    is_it: impl Fn(&T) -> bool,
    what: &str,
    name: &str,
) -> Result<Json<T>, Refusal> {
    rows.into_iter().find(is_it).map(Json).ok_or_else(|| Refusal::not_found(what, name))
}
