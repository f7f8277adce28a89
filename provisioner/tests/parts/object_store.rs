//! An S3 endpoint with a key administration, in a folder that goes with it. The endpoint is the same
//! library as in the embedded default; the key administration keeps what it is told.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::{get, put},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use provisioner::secrets::ObjectStoreAdmin;
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

pub const BUCKET: &str = "files";
const TOKEN: &str = "the-token-of-the-key-administration";

#[derive(Clone, Default)]
pub struct HeldKeys(Arc<Mutex<BTreeMap<String, Value>>>);

impl HeldKeys {
    pub fn get(&self, access_key: &str) -> Option<Value> {
        self.0.lock().expect("unpoisoned").get(access_key).cloned()
    }
}

/// Stops when dropped.
pub struct Endpoint {
    _folder: TempDir,
    pub url: String,
    pub admin: ObjectStoreAdmin,
    pub keys: HeldKeys,
    tasks: Vec<JoinHandle<()>>,
}

impl Endpoint {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("a bucket");
        let files = s3s_fs::FileSystem::new(folder.path()).expect("a file system");
        let mut service = S3ServiceBuilder::new(files);
        service.set_auth(SimpleAuth::from_single("admin", "admin-secret"));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let serve_files = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                tokio::spawn(async move {
                    let server = auto::Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        let keys = HeldKeys::default();
        let routes = Router::new()
            .route("/keys", get(list))
            .route("/keys/{key}", put(put_key).delete(remove))
            .with_state(keys.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let key_admin_url = format!("http://{}/keys", listener.local_addr().expect("an address"));
        let serve_keys = tokio::spawn(async move {
            let _ = axum::serve(listener, routes).await;
        });
        let admin = ObjectStoreAdmin {
            access_key: "admin".to_owned(),
            secret_key: "admin-secret".to_owned(),
            key_admin_url,
            key_admin_token: TOKEN.to_owned(),
        };
        Self { _folder: folder, url, admin, keys, tasks: vec![serve_files, serve_keys] }
    }

    pub fn stop(&mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.stop();
    }
}

fn is_allowed(headers: &HeaderMap) -> bool {
    headers.get("authorization").is_some_and(|value| value == &format!("Bearer {TOKEN}"))
}

async fn list(State(keys): State<HeldKeys>, headers: HeaderMap) -> Result<Json<Value>, StatusCode> {
    if !is_allowed(&headers) {
        return Err(StatusCode::UNAUTHORIZED);
    }
    let keys = keys.0.lock().expect("unpoisoned");
    let told = keys.iter().map(|(access_key, key)| {
        json!({"access_key": access_key, "bucket": key["bucket"], "prefix": key["prefix"]})
    });
    Ok(Json(told.collect()))
}

async fn put_key(
    State(keys): State<HeldKeys>,
    Path(access_key): Path<String>,
    headers: HeaderMap,
    Json(key): Json<Value>,
) -> StatusCode {
    if !is_allowed(&headers) {
        return StatusCode::UNAUTHORIZED;
    }
    keys.0.lock().expect("unpoisoned").insert(access_key, key);
    StatusCode::NO_CONTENT
}

async fn remove(
    State(keys): State<HeldKeys>,
    Path(access_key): Path<String>,
    headers: HeaderMap,
) -> StatusCode {
    if !is_allowed(&headers) {
        return StatusCode::UNAUTHORIZED;
    }
    keys.0.lock().expect("unpoisoned").remove(&access_key);
    StatusCode::NO_CONTENT
}
