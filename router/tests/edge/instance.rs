//! An instance on a unix socket that keeps the contract with routers: it refuses what is not its site
//! or its generation, and answers a few paths that show what a router did.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixListener,
};
use tokio_util::sync::CancellationToken;

type Body = UnsyncBoxBody<Bytes, hyper::Error>;

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
    fenced: AtomicBool,
    gone: Mutex<Option<(i64, String)>>,
    writes: Mutex<Vec<String>>,
    sunk_bytes: AtomicU64,
    babbles: AtomicBool,
    events: tokio::sync::broadcast::Sender<&'static str>,
}

impl Instance {
    pub async fn start(path: &Path, slug: &str, site: &str) -> Self {
        let shared = Shared {
            slug: slug.to_owned(),
            site: Mutex::new(site.to_owned()),
            generation: AtomicI64::new(1),
            requests: Mutex::default(),
            fenced: AtomicBool::new(false),
            gone: Mutex::default(),
            writes: Mutex::default(),
            sunk_bytes: AtomicU64::new(0),
            babbles: AtomicBool::new(false),
            events: tokio::sync::broadcast::Sender::new(16),
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
                if shared.babbles.load(Ordering::SeqCst) {
                    tokio::spawn(babble(stream));
                    continue;
                }
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

    /// Refuses to write, or does so no more.
    pub fn fence(&self, fenced: bool) {
        self.shared.fenced.store(fenced, Ordering::SeqCst);
    }

    /// Says that the site has gone to a region as that generation, or that it has not.
    pub fn has_gone(&self, to: Option<(i64, &str)>) {
        let to = to.map(|(generation, region)| (generation, region.to_owned()));
        *self.shared.gone.lock().expect("not poisoned") = to;
    }

    /// What was posted to `/write`, in the order in which it was taken.
    pub fn writes(&self) -> Vec<String> {
        self.shared.writes.lock().expect("not poisoned").clone()
    }

    /// Says more than it was asked on new connections, or does so no more.
    pub fn babble(&self, babbles: bool) {
        self.shared.babbles.store(babbles, Ordering::SeqCst);
    }

    /// How much was posted to `/sink`.
    pub fn sunk_bytes(&self) -> u64 {
        self.shared.sunk_bytes.load(Ordering::SeqCst)
    }

    /// Sends a piece to everybody at `/events`.
    pub fn tell(&self, piece: &'static str) {
        let _ = self.shared.events.send(piece);
    }

    /// The paths of all requests that came, also of refused ones.
    pub fn requests(&self) -> Vec<String> {
        self.shared.requests.lock().expect("not poisoned").clone()
    }
}

fn text(status: StatusCode, text: impl Into<Bytes>) -> Response<Body> {
    let body = Full::new(text.into()).map_err(|never| match never {}).boxed_unsync();
    let mut response = Response::new(body);
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

/// The answer of an instance whose site has gone.
fn gone(shared: &Shared) -> Option<Response<Body>> {
    let (generation, region) = shared.gone.lock().expect("not poisoned").clone()?;
    let mut response = text(StatusCode::MISDIRECTED_REQUEST, "gone");
    let headers = response.headers_mut();
    headers.insert("ta3lem-refused", http::HeaderValue::from_static("moved"));
    headers.insert("ta3lem-moved-generation", generation.into());
    headers.insert("ta3lem-moved-region", region.parse().expect("is a value"));
    Some(response)
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
    // Who writes is told by the database, when everything was read.
    if path != "/write"
        && let Some(response) = gone(&shared)
    {
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
        "/echo" => Response::new(request.into_body().boxed_unsync()),
        "/write" => write(&shared, request).await,
        "/trailers" => trailers(request).await,
        "/events" => events(&shared),
        "/sink" => {
            while let Some(Ok(frame)) = request.body_mut().frame().await {
                let length = frame.data_ref().map_or(0, |data| data.len() as u64);
                shared.sunk_bytes.fetch_add(length, Ordering::SeqCst);
            }
            text(StatusCode::OK, shared.sunk_bytes.load(Ordering::SeqCst).to_string())
        }
        "/large" => large(request.uri().query().and_then(|n| n.parse().ok()).unwrap_or(0)),
        "/slow" => {
            tokio::time::sleep(std::time::Duration::from_millis(300)).await;
            text(StatusCode::OK, "slow")
        }
        "/early" => {
            let _ = request.body_mut().frame().await;
            text(StatusCode::OK, "early")
        }
        "/socket" => socket(request),
        _ => text(StatusCode::NOT_FOUND, "no such page"),
    })
}

/// Answers each request, and then once more without having been asked.
async fn babble(mut stream: tokio::net::UnixStream) {
    let mut buffer = [0; 16 * 1024];
    while let Ok(1..) = stream.read(&mut buffer).await {
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nalpha";
        let _ = stream.write_all(answer.as_bytes()).await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        let unasked = "HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil";
        let _ = stream.write_all(unasked.as_bytes()).await;
    }
}

/// The trailers that came, as text.
async fn trailers(request: Request<Incoming>) -> Response<Body> {
    let Ok(body) = request.into_body().collect().await else {
        return text(StatusCode::BAD_REQUEST, "");
    };
    let lines: Vec<String> = body
        .trailers()
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}: {}", value.to_str().unwrap_or("?")))
        .collect();
    text(StatusCode::OK, lines.join("\n"))
}

/// Takes what is posted, unless it is fenced.
async fn write(shared: &Shared, request: Request<Incoming>) -> Response<Body> {
    let Ok(body) = request.into_body().collect().await else {
        return text(StatusCode::BAD_REQUEST, "");
    };
    if let Some(response) = gone(shared) {
        return response;
    }
    if shared.fenced.load(Ordering::SeqCst) {
        let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "fenced");
        let value = http::HeaderValue::from_static("fenced");
        response.headers_mut().insert("ta3lem-refused", value);
        return response;
    }
    let written = String::from_utf8_lossy(&body.to_bytes()).into_owned();
    shared.writes.lock().expect("not poisoned").push(written);
    text(StatusCode::OK, "written")
}

/// So many bytes, in pieces.
fn large(bytes: u64) -> Response<Body> {
    const PIECE: Bytes = Bytes::from_static(&[b'x'; 64 * 1024]);
    let pieces = futures_util::stream::unfold(bytes, |left| async move {
        let piece = PIECE.slice(..PIECE.len().min(usize::try_from(left).unwrap_or(usize::MAX)));
        let rest = left - piece.len() as u64;
        (left > 0).then(|| (Ok(Frame::data(piece)), rest))
    });
    let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
    response.headers_mut().insert("content-length", bytes.into());
    response
}

/// A stream without an end.
fn events(shared: &Shared) -> Response<Body> {
    let receiver = shared.events.subscribe();
    let pieces = futures_util::stream::unfold(receiver, |mut receiver| async {
        let piece = receiver.recv().await.ok()?;
        Some((Ok(Frame::data(Bytes::from_static(piece.as_bytes()))), receiver))
    });
    let mut response = Response::new(StreamBody::new(pieces).boxed_unsync());
    let value = http::HeaderValue::from_static("text/event-stream; charset=utf-8");
    response.headers_mut().insert("content-type", value);
    response
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
