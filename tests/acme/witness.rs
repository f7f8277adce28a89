//! Stands in front of an authority and sees what it is asked for: what it took is counted here, not
//! in a database of ours.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
};

use axum::{
    Router,
    body::Bytes,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use provisioner::acme::settings::AuthoritySettings;
use reqwest::{Certificate, Client};
use serde_json::Value;
use tests::pebble::Pebble;
use tokio::sync::watch;

use crate::tls_server::TlsServer;

/// Largest request.
const MAX_BYTES: usize = 64 * 1024;

/// An order that the authority took.
#[derive(Clone, Debug)]
pub struct Order {
    pub hostname: String,
    path: String,
    authorization: String,
    challenges: Vec<String>,
    finalize: String,
    /// Whether anybody came back to it, or to what it needs.
    pub is_used: bool,
    /// Whether the authority said that nothing can come of it.
    pub is_refused: bool,
    /// How often the authority agreed to issue.
    pub n_issued: u32,
}

impl Order {
    /// From what the authority says of it, of its authorization or of a challenge.
    fn learn(&mut self, said: &Value, path_of: impl Fn(&str) -> String) {
        self.is_refused |= said["status"] == "invalid";
        if let Some(challenges) = said["challenges"].as_array() {
            let urls = challenges.iter().filter_map(|challenge| challenge["url"].as_str());
            self.challenges = urls.map(path_of).collect();
        }
    }
}

/// What the authority did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deed {
    TookOrder,
    LooksAtChallenge,
    Issues,
    GaveCertificate,
}

#[derive(Default)]
struct Seen {
    /// Where the authority does what, from its directory.
    paths: BTreeMap<String, String>,
    orders: Vec<Order>,
    n_accounts: usize,
    deeds: Vec<Deed>,
}

struct Shared {
    seen: Mutex<Seen>,
    authority: String,
    host: String,
    http: Client,
    /// Raised by every deed.
    n_deeds: watch::Sender<usize>,
    /// Whether answers to orders are kept back.
    holds: watch::Sender<bool>,
}

pub struct Witness {
    shared: Arc<Shared>,
    settings: AuthoritySettings,
    pub url: String,
    pub root_pem: String,
}

impl Witness {
    /// Before `pebble`.
    pub async fn start(pebble: &Pebble) -> Self {
        let server = TlsServer::bind().await;
        let (url, root_pem) = (server.url(), server.root_pem.clone());
        let settings = AuthoritySettings {
            directory_url: format!("{url}/dir"),
            roots: vec![server.root_der()],
            ..pebble.settings("pebble").expect("a root")
        };
        let shared = Arc::new(Shared {
            seen: Mutex::default(),
            authority: pebble.directory_url.trim_end_matches("/dir").to_owned(),
            host: url.trim_start_matches("https://").to_owned(),
            http: client(&pebble.server_root),
            n_deeds: watch::channel(0).0,
            holds: watch::channel(false).0,
        });
        server.serve(Router::new().fallback(pass_on).with_state(Arc::clone(&shared)));
        Self { shared, settings, url, root_pem }
    }

    pub fn settings(&self) -> AuthoritySettings {
        self.settings.clone()
    }

    pub fn orders(&self) -> Vec<Order> {
        self.seen().orders.clone()
    }

    pub fn n_accounts(&self) -> usize {
        self.seen().n_accounts
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.shared.seen.lock().expect("not poisoned")
    }

    /// Keeps answers to orders back, or lets all of them go.
    pub fn hold_orders(&self, holds: bool) {
        self.shared.holds.send_replace(holds);
    }

    /// Waits until the authority has done something for the `n`th time.
    pub async fn until(&self, deed: Deed, n: usize) {
        let mut n_deeds = self.shared.n_deeds.subscribe();
        let count = |_: &usize| self.n(deed) >= n;
        n_deeds.wait_for(count).await.expect("its sender is here");
    }

    /// How often the authority did something.
    pub fn n(&self, deed: Deed) -> usize {
        self.seen().deeds.iter().filter(|done| **done == deed).count()
    }
}

fn client(root: &Path) -> Client {
    let root = std::fs::read(root).expect("a root");
    let root = Certificate::from_pem(&root).expect("a certificate");
    // The authority makes URLs from the name that it is called by, which HTTP/2 would not pass on.
    let builder = Client::builder().no_proxy().http1_only().add_root_certificate(root);
    builder.build().expect("a client")
}

async fn pass_on(State(shared): State<Arc<Shared>>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, MAX_BYTES).await else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    // What the authority does is seen also when nobody waits for the answer any more.
    tokio::spawn(ask(shared, parts, body)).await.expect("no panic")
}

async fn ask(shared: Arc<Shared>, parts: Parts, body: Bytes) -> Response {
    let path = parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default();
    let mut asked = shared
        .http
        .request(parts.method.clone(), format!("{}{path}", shared.authority))
        .header(header::HOST, &shared.host)
        .body(body.clone());
    for name in [header::CONTENT_TYPE, header::USER_AGENT, header::ACCEPT] {
        if let Some(value) = parts.headers.get(&name) {
            asked = asked.header(name, value);
        }
    }
    let Ok(answer) = asked.send().await else { return StatusCode::BAD_GATEWAY.into_response() };
    let (status, headers) = (answer.status(), answer.headers().clone());
    let Ok(said) = answer.bytes().await else { return StatusCode::BAD_GATEWAY.into_response() };
    if status.is_success() {
        let deed = shared.note(&parts.method, &path, status, &headers, (&body, &said));
        if let Some(deed) = deed {
            shared.seen.lock().expect("not poisoned").deeds.push(deed);
            shared.n_deeds.send_modify(|n| *n += 1);
        }
        if deed == Some(Deed::TookOrder) {
            let mut holds = shared.holds.subscribe();
            holds.wait_for(|holds| !holds).await.expect("its sender is here");
        }
    }
    let mut response = (status, said).into_response();
    let connection = [header::CONNECTION, header::CONTENT_LENGTH, header::TRANSFER_ENCODING];
    response.headers_mut().extend(
        headers
            .into_iter()
            .filter(|(name, _)| name.as_ref().is_none_or(|name| !connection.contains(name)))
            .filter_map(|(name, value)| Some((name?, value))),
    );
    response
}

impl Shared {
    fn note(
        &self,
        method: &Method,
        path: &str,
        status: StatusCode,
        headers: &HeaderMap,
        (asked, said): (&Bytes, &Bytes),
    ) -> Option<Deed> {
        let mut seen = self.seen.lock().expect("not poisoned");
        let json = || serde_json::from_slice::<Value>(said).unwrap_or_default();
        if method == Method::GET && path == "/dir" {
            let directory = json();
            for name in ["newOrder", "newAccount"] {
                let url = directory[name].as_str().expect("is in a directory");
                seen.paths.insert(name.to_owned(), self.path_of(url));
            }
        }
        if method != Method::POST {
            return None;
        }
        let is = |name: &str| seen.paths.get(name).is_some_and(|known| known == path);
        if is("newAccount") && status == StatusCode::CREATED {
            seen.n_accounts += 1;
            return None;
        }
        if is("newOrder") {
            let location = headers.get(header::LOCATION).expect("an order has a URL");
            let (order, asked) = (json(), payload(asked));
            let identifiers = asked["identifiers"].as_array().expect("has some");
            assert_eq!(identifiers.len(), 1, "one name each");
            let authorization = order["authorizations"][0].as_str().expect("has one");
            seen.orders.push(Order {
                authorization: self.path_of(authorization),
                hostname: identifiers[0]["value"].as_str().expect("a name").to_owned(),
                path: self.path_of(location.to_str().expect("plain")),
                finalize: self.path_of(order["finalize"].as_str().expect("has one")),
                challenges: Vec::new(),
                is_used: false,
                is_refused: false,
                n_issued: 0,
            });
            return Some(Deed::TookOrder);
        }
        let is_of = |order: &&mut Order| {
            [&order.path, &order.authorization, &order.finalize].into_iter().any(|own| own == path)
        };
        // An authorization that is used again is that of the last order.
        if let Some(order) = seen.orders.iter_mut().rev().find(is_of) {
            order.is_used = true;
            order.learn(&json(), |url| self.path_of(url));
            if order.finalize == path {
                order.n_issued += 1;
                return Some(Deed::Issues);
            }
            return None;
        }
        let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        if kind.is_some_and(|kind| kind.starts_with("application/pem-certificate-chain")) {
            return Some(Deed::GaveCertificate);
        }
        // A challenge has a token, and its request says that it can be looked at.
        let answer = json();
        let is_of = |order: &&mut Order| order.challenges.iter().any(|own| own == path);
        if let Some(order) = seen.orders.iter_mut().rev().find(is_of) {
            order.learn(&answer, |url| self.path_of(url));
        }
        let looks = answer["token"].is_string() && payload(asked).is_object();
        looks.then_some(Deed::LooksAtChallenge)
    }

    fn path_of(&self, url: &str) -> String {
        let start = format!("https://{}", self.host);
        url.strip_prefix(&start).unwrap_or_else(|| panic!("{url} leads elsewhere")).to_owned()
    }
}

/// What a request says; nothing when it only asks.
fn payload(body: &Bytes) -> Value {
    let jws: Value = serde_json::from_slice(body).unwrap_or_default();
    let payload = jws["payload"].as_str().unwrap_or_default();
    let payload = URL_SAFE_NO_PAD.decode(payload).expect("base64");
    serde_json::from_slice(&payload).unwrap_or_default()
}
