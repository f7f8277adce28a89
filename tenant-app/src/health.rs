//! For the runtime: whether the process lives, and whether it could serve. Neither needs a route's
//! headers.

use std::sync::Arc;

use axum::{extract::State, http::StatusCode};

use crate::{pages, site::Site};

/// `GET /livez`
pub async fn live() -> &'static str {
    "alive\n"
}

/// `GET /readyz`: ready when the database answers and is this site's. The object store is not
/// asked: without it lessons with text still work.
///
/// Whoever asks means to send people here: what the first of them would wait for is done now, also
/// when the database does not let anybody in yet.
pub async fn ready(State(site): State<Arc<Site>>) -> (StatusCode, &'static str) {
    pages::make_ready();
    site.fence.make_ready().await;
    let answered = match site.database().await {
        Ok(database) => sqlx::query("select 1").execute(database).await.is_ok(),
        Err(_) => false,
    };
    if answered {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the database does not answer\n")
    }
}
