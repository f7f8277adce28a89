//! Routers that have always heard already, and that nobody visits: what an operation waits for them is
//! not what is looked at here. They read holds as routers do.

use anyhow::Result;
use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::get,
};
use provisioner::control_db::{ControlDb, places};
use provisioner_api::{places::Router as RouterRow, routers::RouterStatus};
use serde_json::{Value, json};
use sqlx::PgPool;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Makes one known in each region, all of them the same. They answer as long as this runs.
pub async fn serve<const N: usize>(
    db: &ControlDb,
    stop: CancellationToken,
    regions: [&str; N],
) -> Result<impl Future<Output = ()> + Send + use<N>> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    for region in regions {
        let row = RouterRow {
            name: format!("router-{region}"),
            region: region.to_owned(),
            https_address: "127.0.0.1:443".to_owned(),
            http_address: "127.0.0.1:80".to_owned(),
            admin_url: format!("http://{address}"),
            passthrough_address: Some("127.0.0.1:444".to_owned()),
        };
        places::put_router(&db.pool, &row.name, &row).await?;
    }
    let routes = Router::new()
        .route("/status", get(status))
        .route("/routes/{hostname}", get(async || Json(json!({ "version": i64::MAX }))))
        .route("/sites/{site}", get(site))
        .with_state(db.pool.clone());
    Ok(async move {
        let serving = axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned());
        if let Err(error) = serving.await {
            eprintln!("the routers ended: {error}");
        }
    })
}

async fn status() -> Json<RouterStatus> {
    Json(RouterStatus {
        region: String::new(),
        version: String::new(),
        process_id: std::process::id(),
        uptime_secs: 0,
        stopping: false,
        table: provisioner_api::routers::RouterTable {
            age_secs: Some(0.0),
            problem: None,
            publications: 0,
            hostnames: 0,
            sites: 0,
            certificates: 0,
        },
        connections: 0,
        max_connections: 0,
        requests_in_flight: 0,
        held: 0,
        tunnels: 0,
        requests_last_minute: 0,
        busy_sites: 0,
        top_sites: Vec::new(),
        other_processes: Vec::new(),
    })
}

async fn site(
    State(pool): State<PgPool>,
    Path(site): Path<Uuid>,
) -> Result<Json<Value>, StatusCode> {
    let hold: Option<Uuid> = sqlx::query_scalar("select id from site_hold where site_id = $1")
        .bind(site)
        .fetch_optional(&pool)
        .await
        .map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let hold = hold.map(|id| json!({ "id": id, "in_force": true }));
    Ok(Json(json!({
        "version": i64::MAX, "generation": 0, "hold": hold,
        "requests_in_flight": 0, "held": 0, "tunnels": 0,
    })))
}
