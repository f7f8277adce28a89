//! An S3 endpoint over HTTP inside the test: s3s on a directory.

use std::net::SocketAddr;

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto::Builder,
};
use s3s::{auth::SimpleAuth, service::S3ServiceBuilder};
use tempfile::TempDir;
use tokio::{net::TcpListener, task::JoinHandle};

pub const BUCKET: &str = "files";
pub const ACCESS_KEY: &str = "test-access";
pub const SECRET_KEY: &str = "test-secret";

pub struct ObjectStore {
    directory: TempDir,
    address: SocketAddr,
    server: JoinHandle<()>,
}

impl ObjectStore {
    pub async fn start() -> Self {
        let directory = TempDir::new().expect("a directory");
        std::fs::create_dir(directory.path().join(BUCKET)).expect("the bucket");
        let store = s3s_fs::FileSystem::new(directory.path()).expect("the store");
        let mut service = S3ServiceBuilder::new(store);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = tokio::spawn(async move {
            // Dropped with the task, so that a stopped endpoint also drops its connections.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                connections.spawn(async move {
                    let server = Builder::new(TokioExecutor::new());
                    let _ = server.serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { directory, address, server }
    }

    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The keys of all objects.
    pub fn keys(&self) -> Vec<String> {
        let bucket = self.directory.path().join(BUCKET);
        let mut keys = Vec::new();
        let mut open = vec![bucket.clone()];
        while let Some(directory) = open.pop() {
            for entry in std::fs::read_dir(directory).expect("a directory") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    open.push(path);
                } else if let Ok(key) = path.strip_prefix(&bucket) {
                    keys.push(key.to_string_lossy().into_owned());
                }
            }
        }
        keys.retain(|key| !key.rsplit('/').next().is_some_and(|name| name.starts_with('.')));
        keys.sort();
        keys
    }

    /// From now on nobody answers.
    pub async fn stop(&mut self) {
        self.server.abort();
        let _ = (&mut self.server).await;
    }
}
