//! A provisioner that gives restore orders and hears of them, with the real API's types.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, Query, State},
    http::{StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use provisioner_api::{
    client::Client,
    problem::{self, Problem},
    restores::{RestoreOrder, RestoreProgress},
};
use tokio::time::{Instant, sleep};
use uuid::Uuid;

const PAUSE: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Orders {
    given: Vec<RestoreOrder>,
    heard: Vec<(Uuid, RestoreProgress)>,
    /// Whether it answers that something is wrong with it.
    is_broken: bool,
}

#[derive(Clone, Default)]
pub struct Provisioner(Arc<Mutex<Orders>>);

impl Provisioner {
    /// With a client for it.
    pub async fn start() -> (Self, Client) {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let provisioner = Self::default();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let app = Router::new()
            .route("/v1/keeper/restores", get(list))
            .route("/v1/keeper/restores/{order}", post(hear))
            .with_state(provisioner.clone());
        tokio::spawn(async move { axum::serve(listener, app).await });
        (provisioner, Client::new(&url, "token").expect("a client"))
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.0.lock().expect("nobody panics with it")
    }

    pub fn give(&self, order: &RestoreOrder) {
        self.orders().given.push(order.clone());
    }

    pub fn take_back(&self, order: &RestoreOrder) {
        self.orders().given.retain(|given| given.id != order.id);
    }

    pub fn break_down(&self, is_broken: bool) {
        self.orders().is_broken = is_broken;
    }

    /// What was said of an order.
    pub fn heard(&self, order: &RestoreOrder) -> Vec<RestoreProgress> {
        let orders = self.orders();
        let of_it = orders.heard.iter().filter(|(id, _)| *id == order.id);
        of_it.map(|(_, progress)| progress.clone()).collect()
    }

    /// The outcome of an order, as soon as it is told for the `nth` time.
    pub async fn outcome(&self, order: &RestoreOrder, nth: usize) -> RestoreProgress {
        let began = Instant::now();
        loop {
            let heard = self.heard(order);
            let is_outcome =
                |progress: &&RestoreProgress| !matches!(progress, RestoreProgress::Working { .. });
            if let Some(outcome) = heard.iter().filter(is_outcome).nth(nth) {
                return outcome.clone();
            }
            assert!(began.elapsed() < PATIENCE, "no outcome: {heard:?}");
            sleep(PAUSE).await;
        }
    }
}

async fn list(
    State(provisioner): State<Provisioner>,
    Query(asked): Query<HashMap<String, String>>,
) -> Response {
    let known = asked.get("known").cloned().unwrap_or_default();
    // Short, so that what is told again is told soon.
    let until = Instant::now() + Duration::from_secs(1);
    loop {
        {
            let orders = provisioner.orders();
            if orders.is_broken {
                return StatusCode::INTERNAL_SERVER_ERROR.into_response();
            }
            let ids: Vec<_> = orders.given.iter().map(|order| order.id.to_string()).collect();
            if ids.join(",") != known || Instant::now() > until {
                return Json(orders.given.clone()).into_response();
            }
        }
        sleep(PAUSE).await;
    }
}

async fn hear(
    State(provisioner): State<Provisioner>,
    Path(id): Path<Uuid>,
    Json(progress): Json<RestoreProgress>,
) -> Response {
    let mut orders = provisioner.orders();
    if orders.is_broken {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    }
    if orders.given.iter().any(|order| order.id == id) {
        orders.heard.push((id, progress.clone()));
        return Json(progress).into_response();
    }
    let problem = Problem {
        kind: "/problems/not-found".to_owned(),
        title: "Not found".to_owned(),
        status: 404,
        detail: "nobody wants it".to_owned(),
        field: None,
        component: None,
    };
    let kind = [(CONTENT_TYPE, problem::CONTENT_TYPE)];
    (StatusCode::NOT_FOUND, kind, Json(problem)).into_response()
}
