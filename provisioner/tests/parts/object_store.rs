//! An S3 endpoint with a key administration, in a folder that goes with it. The endpoint is the same
//! library as in the embedded default; the key administration keeps what it is told.

use std::{
    collections::BTreeMap,
    path::{Path as FilePath, PathBuf},
    sync::{Arc, Mutex},
};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::{get, put},
};
use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use provisioner::secrets::ObjectStoreAdmin;
use s3s::{
    auth::SimpleAuth,
    service::{S3Service, S3ServiceBuilder},
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{
    net::TcpListener,
    sync::broadcast,
    task::{JoinHandle, JoinSet},
};

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
    folder: TempDir,
    pub url: String,
    pub admin: ObjectStoreAdmin,
    pub keys: HeldKeys,
    requests: broadcast::Sender<String>,
    tasks: Vec<JoinHandle<()>>,
}

impl Endpoint {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        std::fs::create_dir(folder.path().join(BUCKET)).expect("a bucket");
        let (requests, _) = broadcast::channel(10_000);
        let (url, serve_files) = serve_files(folder.path(), requests.clone()).await;
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
        Self { folder, url, admin, keys, requests, tasks: vec![serve_files, serve_keys] }
    }

    /// Closes all connections too, whatever is under way on them.
    pub fn stop(&mut self) {
        self.tasks.drain(..).for_each(|task| task.abort());
    }

    /// Serves what it has again, at another address.
    pub async fn restart(&mut self) {
        self.stop();
        let (url, task) = serve_files(self.folder.path(), self.requests.clone()).await;
        self.url = url;
        self.tasks.push(task);
    }

    /// The requests from now on, as method, target and status, each when it is answered.
    pub fn requests(&self) -> broadcast::Receiver<String> {
        self.requests.subscribe()
    }

    /// The file with the bytes of an object.
    pub fn file(&self, key: &str) -> PathBuf {
        self.folder.path().join(BUCKET).join(key)
    }

    /// What there is of uploads that are neither complete nor ended: files, by their names.
    pub fn unfinished_uploads(&self) -> Vec<String> {
        let names = std::fs::read_dir(self.folder.path()).expect("reads").map(|entry| {
            entry.expect("an entry").file_name().into_string().expect("names are UTF-8")
        });
        names.filter(|name| name.contains(".upload")).collect()
    }
}

async fn serve_files(
    folder: &FilePath,
    requests: broadcast::Sender<String>,
) -> (String, JoinHandle<()>) {
    let files = s3s_fs::FileSystem::new(folder).expect("a file system");
    let mut service = S3ServiceBuilder::new(files);
    service.set_auth(SimpleAuth::from_single("admin", "admin-secret"));
    let service = service.build();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let task = tokio::spawn(async move {
        // Ends with the task.
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (service, requests) = (service.clone(), requests.clone());
            connections.spawn(async move {
                let answer =
                    service_fn(move |request| answer(service.clone(), requests.clone(), request));
                let server = auto::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    (url, task)
}

async fn answer(
    service: S3Service,
    requests: broadcast::Sender<String>,
    request: hyper::Request<hyper::body::Incoming>,
) -> Result<hyper::Response<s3s::Body>, s3s::HttpError> {
    let line = format!("{} {}", request.method(), request.uri());
    let answer = service.call(request.map(s3s::Body::from)).await?;
    let _ = requests.send(format!("{line} {}", answer.status().as_u16()));
    Ok(answer)
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
