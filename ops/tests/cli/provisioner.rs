//! A provisioner that speaks the real API's types over real HTTP and plays a part that a test
//! gives it. The real one is driven by the end-to-end tests.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path as Segment, Query, Request, State},
    http::{HeaderMap, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use control_types::{OperationId, state::OperationState};
use provisioner_api::{CreateSite, DeleteSite, Operation, Problem, Site, problem::CONTENT_TYPE};
use serde::Deserialize;
use serde_json::{Value, json};

pub const TOKEN: &str = "the-token-of-the-tests";
pub const OPERATION: &str = "0192f0c1-2c3d-7000-8000-000000000001";
const OTHER_OPERATION: &str = "0192f0c1-2c3e-7000-8000-000000000002";
const SITE: &str = "0192f0c1-2c3d-7000-8000-0000000000aa";
const NOW: &str = "2026-11-23T07:00:00Z";
pub const INVITATION: &str = "https://acme.localhost:8443/invitation/once";

/// What becomes of the operation.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Part {
    Succeeds,
    Fails,
    Sticks,
    WaitsForGrace,
    Hangs,
    Cancelled,
}

/// What the provisioner was asked, and how it is to answer.
pub struct Script {
    pub part: Part,
    /// Break the connection on so many changes after having taken them in.
    pub lose_answers: usize,
    /// Break the connection on so many questions for news.
    pub lose_news: usize,
    pub creates: Vec<(String, CreateSite)>,
    pub deletes: Vec<DeleteSite>,
}

#[derive(Clone)]
struct Played(Arc<Mutex<Script>>);

pub struct Provisioner {
    pub url: String,
    played: Played,
    pub data_dir: tempfile::TempDir,
    _runtime: tokio::runtime::Runtime,
}

impl Provisioner {
    pub fn start(part: Part) -> Self {
        let script = Script {
            part,
            lose_answers: 0,
            lose_news: 0,
            creates: Vec::new(),
            deletes: Vec::new(),
        };
        let played = Played(Arc::new(Mutex::new(script)));
        let runtime = tokio::runtime::Runtime::new().expect("a runtime");
        let listener =
            runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let app = routes(played.clone());
        runtime.spawn(async move { axum::serve(listener, app).await });
        let data_dir = tempfile::tempdir().expect("a directory");
        write_ready(data_dir.path(), &url);
        Self { url, played, data_dir, _runtime: runtime }
    }

    pub fn script(&self) -> MutexGuard<'_, Script> {
        self.played.0.lock().expect("not poisoned")
    }
}

pub fn write_ready(data_dir: &Path, url: &str) -> PathBuf {
    let token_file = data_dir.join("token");
    std::fs::write(&token_file, format!("{TOKEN}\n")).expect("written");
    let ready = json!({ "api": { "url": url, "token_file": token_file }, "regions": [] });
    std::fs::write(data_dir.join("ready.json"), ready.to_string()).expect("written");
    token_file
}

fn routes(played: Played) -> Router {
    Router::new()
        .route("/v1/regions", get(regions))
        .route("/v1/clusters", get(clusters))
        .route("/v1/plans", get(plans))
        .route("/v1/sites", get(sites).post(create))
        .route("/v1/sites/{site}", get(one_site).delete(delete))
        .route("/v1/sites/{site}/suspend", post(suspend))
        .route("/v1/sites/{site}/resume", post(one_site))
        .route("/v1/operations", get(operations))
        .route("/v1/operations/{id}", get(one_operation))
        .route("/v1/operations/{id}/events", get(events))
        .route("/v1/operations/{id}/cancel", post(cancel))
        .route("/v1/operations/{id}/retry", post(retry))
        .route("/v1/status", get(status))
        .layer(middleware::from_fn(authorised))
        .with_state(played)
}

fn refuse(status: u16, kind: &str, field: Option<&str>, detail: &str) -> Response {
    let problem = Problem {
        kind: format!("/problems/{kind}"),
        title: kind.replace('-', " "),
        status,
        detail: detail.to_owned(),
        field: field.map(str::to_owned),
        component: None,
    };
    let status = StatusCode::from_u16(status).expect("a status");
    (status, [(header::CONTENT_TYPE, CONTENT_TYPE)], Json(problem)).into_response()
}

async fn authorised(request: Request, next: Next) -> Response {
    let wanted = format!("Bearer {TOKEN}");
    match request.headers().get(header::AUTHORIZATION) {
        Some(given) if given.as_bytes() == wanted.as_bytes() => next.run(request).await,
        _ => refuse(401, "token", None, "the token is not known"),
    }
}

async fn regions() -> Json<Value> {
    Json(json!([
        { "name": "id-jakarta", "display_name": "Jakarta", "n_sites": 1 },
        { "name": "sg-singapore", "display_name": "Singapore", "n_sites": 0 },
    ]))
}

async fn clusters() -> Json<Value> {
    Json(json!([{
        "id": SITE, "name": "jakarta-1", "region": "id-jakarta", "app_host": "/run", "app_port": 5432,
        "max_databases": 250, "n_databases": 1, "accepts_sites": true, "template_version": 3,
        "last_seen_at": NOW, "last_error": "connection refused",
    }]))
}

async fn plans() -> Json<Value> {
    Json(json!([{
        "name": "professional", "display_name": "Professional", "max_students": 1000,
        "max_instructors": null, "max_courses": 50, "storage_bytes": 10_737_418_240_i64,
        "max_upload_bytes": 104_857_600, "max_custom_domains": 1,
        "restore_window_secs": 1_209_600,
    }]))
}

fn site(state: &str, delete_after: Option<&str>) -> Site {
    let site = json!({
        "id": SITE, "slug": "acme", "name": "Acme \u{1b}[31mAcademy", "plan": "professional",
        "state": state, "suspended_reason": null, "allowed_regions": ["id-jakarta"],
        "default_language": "id", "live_operation": OPERATION, "delete_after": delete_after,
        "created_at": NOW,
        "placement": {
            "generation": 1, "region": "id-jakarta", "cluster": "jakarta-1",
            "object_store": "jakarta-files", "database": "s_0192", "prefix": "site/0192",
        },
        "domains": [{
            "hostname": "acme.localhost", "kind": "platform", "state": "active",
            "is_primary": true, "url": "https://acme.localhost:8443",
        }],
        "instance": { "id": SITE, "observed": "sleeping", "process_id": null, "starts": 2,
            "last_error": null },
    });
    serde_json::from_value(site).expect("a site")
}

const STEPS: [&str; 3] = ["reserve_names", "create_database", "flip_route"];
const DELETE_STEPS: [&str; 3] = ["close_site", "await_grace_period", "drop_database"];
const GRACE_END: &str = "2099-01-01T00:00:00Z";

/// The operation when `seen` events have been told.
fn operation(kind: &str, part: Part, seen: usize) -> Operation {
    let all = all_events(part);
    let ended = seen >= all.len();
    let state = match part {
        Part::Succeeds if ended => "succeeded",
        Part::Fails if ended => "failed",
        Part::Sticks if ended => "stuck",
        Part::Cancelled if ended => "cancelled",
        _ => "running",
    };
    let is_final = ended && matches!(state, "succeeded" | "failed" | "cancelled");
    // It looks again before the period is over.
    let waits = (part == Part::WaitsForGrace && ended).then_some("2098-01-01T00:00:00Z");
    let error = matches!(part, Part::Fails | Part::Sticks).then_some("no space left on jakarta-1");
    let n_done = if part == Part::Succeeds && ended { STEPS.len() } else { 1 };
    let steps = if kind == "delete_site" { DELETE_STEPS } else { STEPS };
    let steps: Vec<Value> = steps
        .iter()
        .enumerate()
        .map(|(i, step)| json!({ "step": step, "done": i < n_done, "is_pivot": i == 2 }))
        .collect();
    let operation = json!({
        "id": OPERATION, "kind": kind, "site_id": SITE, "site": "acme", "state": state,
        "steps": steps, "steps_done": n_done, "can_cancel": !is_final,
        "cancel_requested_by": null, "last_error": error,
        "runbook": (part == Part::Sticks).then_some("ops/runbooks/stuck_operation.md"),
        "requested_by": "local", "reason": null, "waits_until": waits, "created_at": NOW,
        "finished_at": is_final.then_some("2026-11-23T07:00:01.2Z"),
    });
    serde_json::from_value(operation).expect("an operation")
}

fn all_events(part: Part) -> Vec<Value> {
    let mut told = vec![("reserve_names", "started", None), ("reserve_names", "succeeded", None)];
    let error = Some(json!({ "error": "no space left on jakarta-1" }));
    match part {
        Part::Succeeds => {
            told.push(("create_database", "started", None));
            told.push(("create_database", "retried", error));
            told.push(("create_database", "succeeded", None));
            told.push(("flip_route", "started", None));
            told.push(("flip_route", "succeeded", None));
        }
        Part::Fails => {
            told.push(("create_database", "started", None));
            told.push(("create_database", "failed", error));
            told.push(("reserve_names", "undo_started", None));
            told.push(("reserve_names", "undone", None));
        }
        Part::Sticks => told.push(("create_database", "failed", error)),
        Part::WaitsForGrace => {
            let reason = Some(json!({ "reason": "the grace period" }));
            told.push(("await_grace_period", "waiting", reason));
        }
        Part::Hangs => {}
        Part::Cancelled => {
            told.push(("reserve_names", "undo_started", None));
            told.push(("reserve_names", "undone", None));
        }
    }
    let event = |(i, (step, event, detail)): (usize, (&str, &str, Option<Value>))| {
        json!({
            "seq": i + 1, "step": step, "event": event, "attempt": 1, "detail": detail,
            "at": format!("2026-11-23T07:00:00.{i}Z"),
        })
    };
    told.into_iter().enumerate().map(event).collect()
}

async fn sites() -> Json<Vec<Site>> {
    Json(vec![site("active", None)])
}

async fn one_site(State(played): State<Played>, Segment(name): Segment<String>) -> Response {
    if name != "acme" && name != SITE {
        return refuse(404, "no-such-site", None, &format!("there is no site {name}"));
    }
    let part = played.0.lock().expect("not poisoned").part;
    let site = match part {
        Part::WaitsForGrace => site("deleting", Some(GRACE_END)),
        _ => site("active", None),
    };
    Json(site).into_response()
}

async fn suspend(Segment(name): Segment<String>) -> Response {
    if name == "acme" {
        return Json(site("suspended", None)).into_response();
    }
    refuse(409, "operation-in-progress", None, "an operation is in progress on the site")
}

/// The connection breaks without an answer, as when a process is killed.
fn break_off() -> ! {
    std::panic::resume_unwind(Box::new("the test breaks this connection"))
}

async fn create(
    State(played): State<Played>,
    headers: HeaderMap,
    Json(wanted): Json<CreateSite>,
) -> Response {
    if wanted.region != "id-jakarta" {
        return refuse(422, "unknown-region", Some("region"), "there is no such region");
    }
    if wanted.slug == "taken" {
        return refuse(409, "slug-taken", Some("slug"), "the slug taken is in use");
    }
    if wanted.dry_run {
        let steps: Vec<Value> = STEPS
            .iter()
            .map(|step| json!({ "step": step, "description": format!("would {step}") }))
            .collect();
        return Json(json!({ "steps": steps, "pivot": "flip_route", "estimated_ms": 800 }))
            .into_response();
    }
    let key = headers.get("idempotency-key").map(|key| key.to_str().expect("text").to_owned());
    let (part, lose) = {
        let mut script = played.0.lock().expect("not poisoned");
        script.creates.push((key.expect("a key"), wanted));
        let lose = script.lose_answers > 0;
        script.lose_answers = script.lose_answers.saturating_sub(1);
        (script.part, lose)
    };
    if lose {
        break_off();
    }
    let operation = operation("create_site", part, 0);
    let site = site("creating", None);
    Json(json!({ "operation": operation, "site": site, "invitation_url": INVITATION }))
        .into_response()
}

async fn delete(State(played): State<Played>, Json(wanted): Json<DeleteSite>) -> Response {
    let mut script = played.0.lock().expect("not poisoned");
    script.deletes.push(wanted);
    let operation = operation("delete_site", script.part, 0);
    Json(json!({ "operation": operation, "site": site("deleting", Some(GRACE_END)) }))
        .into_response()
}

async fn operations(State(played): State<Played>) -> Json<Vec<Operation>> {
    let first = operation("create_site", played.0.lock().expect("not poisoned").part, usize::MAX);
    let other = Operation { id: OTHER_OPERATION.parse().expect("an id"), ..first.clone() };
    Json(vec![other, first])
}

async fn one_operation(
    State(played): State<Played>,
    Segment(id): Segment<OperationId>,
) -> Response {
    if id.to_string() != OPERATION {
        return refuse(404, "no-such-operation", None, &format!("there is no operation {id}"));
    }
    let script = played.0.lock().expect("not poisoned");
    let kind = if script.deletes.is_empty() { "create_site" } else { "delete_site" };
    Json(operation(kind, script.part, usize::MAX)).into_response()
}

#[derive(Deserialize)]
struct Since {
    after_seq: usize,
    wait_secs: u64,
}

async fn events(State(played): State<Played>, Query(since): Query<Since>) -> Json<Value> {
    let (part, kind, lose) = {
        let mut script = played.0.lock().expect("not poisoned");
        let kind = if script.deletes.is_empty() { "create_site" } else { "delete_site" };
        let lose = script.lose_news > 0;
        script.lose_news = script.lose_news.saturating_sub(1);
        (script.part, kind, lose)
    };
    if lose {
        break_off();
    }
    let all = all_events(part);
    // Two at a time, so that a watcher has to ask again; all at once for who does not wait.
    let many = if since.wait_secs == 0 { all.len() } else { 2 };
    let news: Vec<Value> = all.iter().skip(since.after_seq).take(many).cloned().collect();
    let operation = operation(kind, part, since.after_seq + news.len());
    if news.is_empty() && operation.state == OperationState::Running {
        tokio::time::sleep(Duration::from_secs(since.wait_secs)).await;
    }
    Json(json!({ "operation": operation, "events": news }))
}

async fn cancel(State(played): State<Played>) -> Json<Operation> {
    let mut script = played.0.lock().expect("not poisoned");
    script.part = Part::Cancelled;
    Json(operation("create_site", Part::Cancelled, 0))
}

/// The cause is mended.
async fn retry(State(played): State<Played>) -> Json<Operation> {
    let mut script = played.0.lock().expect("not poisoned");
    script.part = Part::Succeeds;
    Json(operation("create_site", Part::Succeeds, 0))
}

async fn status() -> Json<Value> {
    Json(json!({
        "components": [
            { "name": "control database", "problem": null },
            { "name": "cluster jakarta-1", "problem": "connection refused" },
        ],
        "reconcilers": [{ "name": "instances", "last_run_at": NOW, "last_error": null }],
        "n_live_operations": 2, "n_stuck_operations": 1,
    }))
}
