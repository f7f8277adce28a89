//! The private listener: whether the router lives and is ready, its metrics, and what it knows of one
//! hostname or challenge, of one site and of all. It changes nothing. What is counted of sites is
//! counted over all processes of the router.

use std::{convert::Infallible, pin::pin, sync::Arc};

use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    time::{Duration, sleep},
};

use crate::{Edge, challenge::Challenge, limits::HEADER_TIMEOUT};

mod status;

const TEXT: &str = "text/plain; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";
const JSON: &str = "application/json";
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Answers for ever, also while the router stops.
pub async fn serve(edge: Arc<Edge>, listener: TcpListener, metrics: PrometheusHandle) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            // The router that follows answers here.
            () = edge.replaced.cancelled() => return std::future::pending().await,
        };
        let Ok((stream, _)) = accepted else {
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (edge, metrics) = (Arc::clone(&edge), metrics.clone());
        // Not among the tasks that stopping waits for: a probe may keep its connection.
        tokio::spawn(connection(edge, stream, metrics, Scope::Router));
    }
}

/// Whose numbers are told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All processes of this router.
    Router,
    /// This process alone.
    Process,
}

/// Answers on one connection. Once another router has taken over, whoever keeps one comes to that.
pub async fn connection<S>(edge: Arc<Edge>, stream: S, metrics: PrometheusHandle, scope: Scope)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let service = service_fn(async |request| {
        Ok::<_, Infallible>(answer(&edge, &metrics, scope, &request).await)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let outcome = tokio::select! {
        outcome = &mut connection => outcome,
        () = edge.replaced.cancelled(), if scope == Scope::Router => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "a connection to the admin listener ended");
    }
}

async fn answer(
    edge: &Edge,
    metrics: &PrometheusHandle,
    scope: Scope,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    }
    match request.uri().path() {
        "/livez" => text(StatusCode::OK, "live\n"),
        "/readyz" => match unready(edge) {
            None => text(StatusCode::OK, "ready\n"),
            Some(why) => text(StatusCode::SERVICE_UNAVAILABLE, format!("not ready: {why}\n")),
        },
        "/metrics" => {
            measure(edge);
            respond(StatusCode::OK, PROMETHEUS, metrics.render())
        }
        "/status" => document(&status::status(edge, scope).await),
        path => match path.strip_prefix("/sites/") {
            Some(id) => site(edge, scope, id).await,
            None => detail(edge, path)
                .unwrap_or_else(|| text(StatusCode::NOT_FOUND, "there is no such page\n")),
        },
    }
}

/// What is known of one thing.
fn detail(edge: &Edge, path: &str) -> Option<Response<Full<Bytes>>> {
    if let Some(hostname) = path.strip_prefix("/routes/") {
        return Some(route(edge, hostname));
    }
    let challenge = path.strip_prefix("/challenges/")?;
    let table = edge.routes.load();
    Some(match challenge.strip_prefix("tls-alpn-01/") {
        Some(hostname) => shown(table.challenges.tls_alpn(hostname)),
        None => shown(table.challenges.http(challenge)),
    })
}

/// Whether this router would answer a challenge now, without asking anybody.
fn shown(challenge: Option<&Arc<Challenge>>) -> Response<Full<Bytes>> {
    let Some(challenge) = challenge else {
        return respond(StatusCode::NOT_FOUND, JSON, "{\"title\":\"no such challenge is known\"}");
    };
    let body = serde_json::json!({
        "id": challenge.id,
        "site_id": challenge.site_id,
        "hostname": &*challenge.hostname,
        "expires_at": challenge.expires_at.unix_timestamp(),
    });
    respond(StatusCode::OK, JSON, body.to_string())
}

/// Why the router should get no requests; none when it should.
pub fn unready(edge: &Edge) -> Option<String> {
    if edge.is_stopping() {
        return Some("the router is stopping".to_owned());
    }
    if edge.routes.is_loaded() && edge.freshness.was_asked() {
        return None;
    }
    let problem = edge.freshness.problem();
    Some(problem.map_or_else(
        || "the routes are being read".to_owned(),
        |problem| format!("there is no snapshot of routes, and {problem}"),
    ))
}

/// What is only measured when asked for.
fn measure(edge: &Edge) {
    if let Some(age) = edge.freshness.age_seconds() {
        edge.metrics.table_age_seconds.set(age);
    }
    #[allow(clippy::cast_precision_loss, reason = "there are not that many certificates")]
    edge.metrics.open_certificates.set(edge.certificates.len() as f64);
}

fn route(edge: &Edge, hostname: &str) -> Response<Full<Bytes>> {
    let mut scratch = String::new();
    let Ok(hostname) = control_types::hostname::canonical(hostname, &mut scratch) else {
        return respond(StatusCode::NOT_FOUND, JSON, "{\"title\":\"this is no hostname\"}");
    };
    let table = edge.routes.load();
    let Some(route) = table.route(hostname) else {
        return respond(StatusCode::NOT_FOUND, JSON, "{\"title\":\"no site has this hostname\"}");
    };
    let site = &route.site;
    let body = serde_json::json!({
        "hostname": &*route.hostname,
        "site_id": site.id,
        "site_state": site.state,
        "region": &*site.region,
        "generation": site.generation,
        "gone_to": edge.routes.gone(site).map(|home| home.region.to_string()),
        "version": site.version,
        "upstream": site.upstream.as_ref().map(|pool| pool.address().to_string()),
        "requests_in_flight": site.traffic.counts().in_flight,
    });
    respond(StatusCode::OK, JSON, body.to_string())
}

async fn site(edge: &Edge, scope: Scope, id: &str) -> Response<Full<Bytes>> {
    let known = match id.parse() {
        Ok(id) => status::site(edge, scope, id).await,
        Err(_) => None,
    };
    match known {
        Some(site) => document(&site),
        None => respond(StatusCode::NOT_FOUND, JSON, "{\"title\":\"no such site is routed here\"}"),
    }
}

fn document(contents: &impl Serialize) -> Response<Full<Bytes>> {
    match serde_json::to_vec(contents) {
        Ok(body) => respond(StatusCode::OK, JSON, body),
        Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")),
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Full<Bytes>> {
    respond(status, TEXT, text)
}

fn respond(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
