//! The HTTP API. A handler validates and records; it never does the work. Whoever asks for work
//! gets 202 and an operation.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    middleware,
    routing::{get, post, put},
    serve::ListenerExt as _,
};
use metrics_exporter_prometheus::PrometheusHandle;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tower_http::{catch_panic::CatchPanicLayer, trace::TraceLayer};

use crate::{
    engine::Engine,
    reconcilers::{Nudges, Report},
    world::World,
};

mod asked;
mod auth;
mod backups;
mod certificates;
mod description;
mod domains;
mod holds;
mod moves;
mod operations;
mod places;
mod previews;
mod refusal;
mod regions;
mod restores;
mod sites;
mod status;
mod validate;

/// Largest body of a request, in bytes.
const MAX_BODY_BYTES: usize = 256 * 1024;
/// How long connections may go on after a shutdown began.
const DRAIN: Duration = Duration::from_secs(5);

/// What handlers share.
#[derive(Clone)]
pub struct Api {
    /// Everything that is known.
    pub world: Arc<World>,
    /// What drives operations.
    pub engine: Arc<Engine>,
    /// What to wake after a change.
    pub nudges: Nudges,
    /// What the reconcilers say of themselves.
    pub reconcilers: Arc<[Report]>,
    /// Numbers for Prometheus.
    pub metrics: PrometheusHandle,
    /// Ends long polls when the provisioner stops.
    pub shutdown: CancellationToken,
}

/// The whole table of URLs.
pub fn routes(api: Api) -> Router {
    let v1 = Router::new()
        .route("/regions", get(places::list_regions))
        .route("/regions/{name}", put(places::put_region))
        .route("/clusters", get(places::list_clusters))
        .route("/clusters/{name}", put(places::put_cluster))
        .route("/clusters/{name}/keeper", put(backups::put_keeper))
        .route("/backups", get(backups::list))
        .route("/object-stores", get(places::list_object_stores))
        .route("/object-stores/{name}", put(places::put_object_store))
        .route("/routers", get(places::list_routers))
        .route("/routers/{name}", put(places::put_router))
        .route("/routers/{name}/status", get(holds::router_status))
        .route("/plans", get(places::list_plans))
        .route("/sites", get(sites::list).post(sites::create))
        .route("/sites/{site}", get(sites::show).delete(sites::delete))
        .route("/sites/{site}/suspend", post(sites::suspend))
        .route("/sites/{site}/resume", post(sites::resume))
        .route("/certificates", get(certificates::list_all))
        .route(
            "/platform/certificate",
            get(certificates::show_wildcard).put(certificates::put_wildcard),
        )
        .route("/sites/{site}/certificates", get(certificates::list).post(certificates::upload))
        .route("/sites/{site}/certificates/{hostname}/renew", post(certificates::renew))
        .route("/sites/{site}/domains", get(domains::list).post(domains::add))
        .route("/sites/{site}/domains/{hostname}", get(domains::show).delete(domains::remove))
        .route("/sites/{site}/domains/{hostname}/check", post(domains::check))
        .route("/sites/{site}/domains/{hostname}/primary", post(domains::make_primary))
        .route("/sites/{site}/hold", post(holds::hold).delete(holds::release))
        .route("/sites/{site}/move", post(moves::begin))
        .route("/sites/{site}/move-back", post(moves::back))
        .route("/sites/{site}/settle", post(moves::settle))
        .route("/sites/{site}/records", get(moves::records))
        .route("/sites/{site}/regions", post(regions::change))
        .route("/sites/{site}/previews", get(previews::list).post(previews::create))
        .route("/previews", get(previews::list_all))
        .route("/previews/{preview}/comparison", get(previews::compare))
        .route("/previews/{preview}/promote", post(previews::promote))
        .route("/sites/{site}/undo-restore", post(previews::undo))
        .route("/operations", get(operations::list))
        .route("/operations/{id}", get(operations::show))
        .route("/operations/{id}/events", get(operations::events))
        .route("/operations/{id}/cancel", post(operations::cancel))
        .route("/operations/{id}/retry", post(operations::retry))
        .route("/status", get(status::show))
        .route_layer(middleware::from_fn_with_state(api.clone(), auth::require_token));
    let keepers = Router::new()
        .route("/keeper", get(backups::settings))
        .route("/keeper/report", post(backups::report))
        .route("/keeper/restores", get(restores::list))
        .route("/keeper/restores/{order}", post(restores::progress))
        .route_layer(middleware::from_fn_with_state(api.clone(), auth::require_keeper));
    Router::new()
        .nest("/v1", v1.merge(keepers))
        .route("/openapi.json", get(description::show))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(status::ready))
        .route("/metrics", get(status::metrics))
        .fallback(refusal::no_such_path)
        .method_not_allowed_fallback(refusal::no_such_method)
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(CatchPanicLayer::custom(refusal::panicked))
        .layer(TraceLayer::new_for_http())
        .with_state(api)
}

/// Serves the API until `shutdown`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    api: Api,
    shutdown: CancellationToken,
) -> std::io::Result<()> {
    let stop = shutdown.clone();
    // Answers in two parts do not wait for the first one to be acknowledged.
    let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
    let server = axum::serve(listener, routes(api))
        .with_graceful_shutdown(async move { stop.cancelled().await });
    tokio::select! {
        served = async { server.await } => served,
        () = async { shutdown.cancelled().await; tokio::time::sleep(DRAIN).await } => Ok(()),
    }
}
