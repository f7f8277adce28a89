//! Stands in for a router: answers challenges from what routers read.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::StatusCode,
    routing::get,
};
use provisioner::secrets::Keys;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use sqlx::PgPool;
use uuid::Uuid;

use crate::control::REGION;

/// Answers challenges as routers do, from what they read.
pub async fn respond(pool: &PgPool, keys: &Keys) -> (u16, u16) {
    let app = Router::new()
        .route("/.well-known/acme-challenge/{token}", get(answer))
        .route("/challenges/{token}", get(seen))
        .route(
            "/challenges/tls-alpn-01/{host}",
            get(|state: State<PgPool>, path: Path<String>| seen(state, path)),
        )
        .with_state(pool.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let http = listener.local_addr().expect("bound").port();
    tokio::spawn(async move { axum::serve(listener, app).await });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
    let tls = listener.local_addr().expect("bound").port();
    let (pool, keys) = (pool.clone(), keys.clone());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (pool, keys) = (pool.clone(), keys.clone());
            tokio::spawn(async move { handshake(stream, &pool, &keys).await });
        }
    });
    (http, tls)
}

async fn answer(
    State(pool): State<PgPool>,
    Path(token): Path<String>,
    request: Request,
) -> Result<String, StatusCode> {
    let host = request.headers().get("host").and_then(|host| host.to_str().ok());
    let host = host.unwrap_or_default();
    if host.starts_with("unreachable") || host.starts_with("tlsonly") {
        return Err(StatusCode::NOT_FOUND);
    }
    sqlx::query_scalar("select key_authorization from routing.challenge where token = $1")
        .bind(token)
        .fetch_optional(&pool)
        .await
        .expect("reads")
        .ok_or(StatusCode::NOT_FOUND)
}

async fn seen(
    State(pool): State<PgPool>,
    Path(what): Path<String>,
) -> Result<Json<Value>, StatusCode> {
    let id: Option<Uuid> = sqlx::query_scalar(
        "select id from routing.challenge where token = $1 or (token is null and hostname = $1)",
    )
    .bind(what)
    .fetch_optional(&pool)
    .await
    .expect("reads");
    id.map(|id| Json(json!({ "id": id }))).ok_or(StatusCode::NOT_FOUND)
}

async fn handshake(stream: tokio::net::TcpStream, pool: &PgPool, keys: &Keys) -> Option<()> {
    let acceptor =
        tokio_rustls::LazyConfigAcceptor::new(rustls::server::Acceptor::default(), stream);
    let start = acceptor.await.ok()?;
    let hostname = start.client_hello().server_name()?.to_owned();
    let (id, chain, sealed): (Uuid, String, Vec<u8>) = sqlx::query_as(
        "select id, chain_pem, sealed_key from routing.challenge
         where hostname = $1 and kind = 'tls_alpn_01'",
    )
    .bind(&hostname)
    .fetch_optional(pool)
    .await
    .expect("reads")?;
    if hostname.starts_with("unreachable") {
        return None;
    }
    let key = keys.open_certificate_key(REGION, id, &sealed).expect("sealed as routers open it");
    let chain = CertificateDer::from_pem_slice(chain.as_bytes()).expect("PEM");
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
    // The extension is critical and unknown to rustls, so nothing may be checked here.
    let key = rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).expect("a key");
    let certified = rustls::sign::CertifiedKey::new(vec![chain], key);
    let mut config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
    config.alpn_protocols = vec![b"acme-tls/1".to_vec()];
    start.into_stream(Arc::new(config)).await.ok().map(drop)
}
