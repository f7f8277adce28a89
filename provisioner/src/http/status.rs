//! `/v1/status`, `/readyz`, `/metrics`: how the platform is.

use axum::{Json, extract::State};
use provisioner_api::status::{Component, Status};
use time::OffsetDateTime;

use crate::{
    backups,
    control_db::{certificate_orders, cluster_backups, clusters, object_stores, operations},
    http::{Api, refusal::Refusal},
};

/// How the platform is.
pub async fn show(State(api): State<Api>) -> Result<Json<Status>, Refusal> {
    let pool = &api.world.db.pool;
    let mut components = vec![Component { name: "control database".to_owned(), problem: None }];
    for cluster in clusters::list(pool).await? {
        let problem = match (cluster.last_error, cluster.template_version) {
            (Some(error), _) => Some(error),
            (None, None) => Some("its template is not ready yet".to_owned()),
            (None, Some(_)) => None,
        };
        components.push(Component { name: format!("cluster {}", cluster.name), problem });
    }
    for store in object_stores::list(pool).await? {
        let name = format!("object store {}", store.name);
        components.push(Component { name, problem: store.last_error });
    }
    let now = OffsetDateTime::now_utc();
    for known in cluster_backups::list(pool).await? {
        let shown = backups::shown(known, now);
        let name = format!("backups of {}", shown.cluster);
        components.push(Component { name, problem: shown.problem });
    }
    let platform = api.world.platform_domain.as_str();
    let problem = certificate_orders::health(pool, platform).await?.problem();
    components.push(Component { name: "certificates".to_owned(), problem });
    let (live, stuck) = operations::count_live(pool).await?;
    Ok(Json(Status {
        components,
        reconcilers: api.reconcilers.iter().map(|report| report.now()).collect(),
        n_live_operations: live,
        n_stuck_operations: stuck,
    }))
}

/// Whether work can be taken.
pub async fn ready(State(api): State<Api>) -> Result<&'static str, Refusal> {
    if api.shutdown.is_cancelled() {
        return Err(Refusal::unavailable("provisioner", "the provisioner is stopping"));
    }
    sqlx::query!("select 1 as one").fetch_one(&api.world.db.pool).await?;
    Ok("ok\n")
}

/// Numbers for Prometheus.
pub async fn metrics(State(api): State<Api>) -> String {
    api.metrics.render()
}
