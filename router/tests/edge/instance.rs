//! An instance on a unix socket that keeps the contract with routers: it refuses what is not its site
//! or its generation, and answers a few paths that show what a router did.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Either, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};
use tokio_util::sync::CancellationToken;

type Body = Either<Incoming, Full<Bytes>>;

pub struct Instance {
    path: PathBuf,
    shared: Arc<Shared>,
    closing: Mutex<CancellationToken>,
}

struct Shared {
    slug: String,
    site: Mutex<String>,
    generation: AtomicI64,
    requests: Mutex<Vec<String>>,
}

impl Instance {
    pub async fn start(path: &Path, slug: &str, site: &str) -> Self {
        let shared = Shared {
            slug: slug.to_owned(),
            site: Mutex::new(site.to_owned()),
            generation: AtomicI64::new(1),
            requests: Mutex::default(),
        };
        let instance =
            Self { path: path.to_owned(), shared: Arc::new(shared), closing: Mutex::default() };
        instance.open().await;
        instance
    }

    /// Listens (again).
    pub async fn open(&self) {
        let listener = UnixListener::bind(&self.path).expect("binds");
        let closing = CancellationToken::new();
        *self.closing.lock().expect("not poisoned") = closing.clone();
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            loop {
                let (stream, _) = tokio::select! {
                    accepted = listener.accept() => accepted.expect("accepts"),
                    () = closing.cancelled() => return,
                };
                let (shared, closing) = (Arc::clone(&shared), closing.clone());
                tokio::spawn(async move {
                    let service = service_fn(|request| answer(Arc::clone(&shared), request));
                    let connection = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .with_upgrades();
                    tokio::select! {
                        _ = connection => {}
                        () = closing.cancelled() => {}
                    }
                });
            }
        });
    }

    /// Ends all connections and takes the socket away.
    pub async fn close(&self) {
        self.closing.lock().expect("not poisoned").cancel();
        std::fs::remove_file(&self.path).expect("removes the socket");
        while tokio::net::UnixStream::connect(&self.path).await.is_ok() {
            tokio::task::yield_now().await;
        }
    }

    pub fn serve_generation(&self, generation: i64) {
        self.shared.generation.store(generation, Ordering::SeqCst);
    }

    pub fn serve_site(&self, site: &str) {
        site.clone_into(&mut self.shared.site.lock().expect("not poisoned"));
    }

    /// The paths of all requests that came, also of refused ones.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().expect("not poisoned").clone()
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::new(text.into())));
    *response.status_mut() = status;
    response
}

fn refusal(shared: &Shared, headers: &HeaderMap) -> Option<&'static str> {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or("");
    let generation = shared.generation.load(Ordering::SeqCst).to_string();
    if value("ta3lem-site") != *shared.site.lock().expect("not poisoned") {
        return Some("site");
    }
    (value("ta3lem-generation") != generation).then_some("generation")
}

async fn answer(
    shared: Arc<Shared>,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let path = request.uri().path().to_owned();
    shared.requests.lock().expect("not poisoned").push(path.clone());
    if let Some(refused) = refusal(&shared, request.headers()) {
        let mut response = text(StatusCode::MISDIRECTED_REQUEST, "");
        let value = http::HeaderValue::from_static(refused);
        response.headers_mut().insert("ta3lem-refused", value);
        return Ok(response);
    }
    Ok(match path.as_str() {
        "/who" => text(StatusCode::OK, shared.slug.clone()),
        "/head" => {
            let lines: Vec<String> = request
                .headers()
                .iter()
                .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?")))
                .collect();
            let mut response = text(StatusCode::OK, lines.join("\n"));
            let headers = response.headers_mut();
            headers.insert("ta3lem-secret", http::HeaderValue::from_static("1"));
            headers.insert("alt-svc", http::HeaderValue::from_static("h3"));
            response
        }
        "/echo" => Response::new(Either::Left(request.into_body())),
        "/early" => {
            let _ = request.body_mut().frame().await;
            text(StatusCode::OK, "early")
        }
        "/socket" => socket(request),
        _ => text(StatusCode::NOT_FOUND, "no such page"),
    })
}

/// Switches protocols and then sends back what comes.
fn socket(mut request: Request<Incoming>) -> Response<Body> {
    let upgrade = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let Ok(upgraded) = upgrade.await else { return };
        let mut stream = TokioIo::new(upgraded);
        let mut buffer = [0; 1024];
        while let Ok(length @ 1..) = stream.read(&mut buffer).await {
            if stream.write_all(&buffer[..length]).await.is_err() {
                return;
            }
        }
    });
    let mut response = text(StatusCode::SWITCHING_PROTOCOLS, "");
    let headers = response.headers_mut();
    headers.insert("connection", http::HeaderValue::from_static("upgrade"));
    headers.insert("upgrade", http::HeaderValue::from_static("websocket"));
    response
}
