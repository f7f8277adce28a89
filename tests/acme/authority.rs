//! A small authority for what pebble lacks: renewal information, and hearing what is replaced. It
//! finds every name proven already, and checks no signature.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode},
    response::{IntoResponse, Response},
    routing::{get, head, post},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use provisioner::acme::{schedule::Allowance, settings::AuthoritySettings};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, IsCa, Issuer, KeyPair,
};
use rustls_pki_types::CertificateSigningRequestDer;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::tls_server::TlsServer;

#[derive(Default)]
struct Said {
    asked: Vec<String>,
    replaced: Vec<String>,
    orders: HashMap<usize, Value>,
    chains: HashMap<usize, String>,
    window: Option<(OffsetDateTime, OffsetDateTime)>,
    nonce: u64,
}

struct Shared {
    url: String,
    said: Mutex<Said>,
    issuer: Issuer<'static, KeyPair>,
    issuer_pem: String,
}

type Mock = State<Arc<Shared>>;

pub struct MockAuthority {
    shared: Arc<Shared>,
    root: Vec<u8>,
}

impl MockAuthority {
    pub async fn start() -> Self {
        let server = TlsServer::bind().await;
        let (issuer, issuer_pem) = issuer();
        let url = server.url();
        let shared = Arc::new(Shared { url, said: Mutex::default(), issuer, issuer_pem });
        let app = Router::new()
            .route("/dir", get(directory))
            .route("/nonce", head(nonce))
            .route("/account", post(new_account))
            .route("/order", post(new_order))
            .route("/order/{id}", post(show_order))
            .route("/order/{id}/finalize", post(finalize))
            .route("/certificate/{id}", post(certificate))
            .route("/renewal/{id}", get(renewal))
            .with_state(Arc::clone(&shared));
        let root = server.root_der();
        server.serve(app);
        Self { shared, root }
    }

    pub fn settings(&self, name: &str) -> AuthoritySettings {
        AuthoritySettings {
            name: name.to_owned(),
            directory_url: format!("{}/dir", self.shared.url),
            contact: Vec::new(),
            roots: vec![self.root.clone()],
            external_account: None,
            profile: None,
            allowance: Allowance::in_three_hours(300),
        }
    }

    /// A window of a day that begins in so long.
    pub fn suggest(&self, from_now: Duration) {
        let start = OffsetDateTime::now_utc() + from_now;
        self.said().window = Some((start, start + time::Duration::DAY));
    }

    pub fn suggest_past(&self) {
        let end = OffsetDateTime::now_utc() - time::Duration::HOUR;
        self.said().window = Some((end - time::Duration::DAY, end));
    }

    pub fn was_asked_for(&self, id: &str) -> bool {
        self.said().asked.iter().any(|asked| asked == id)
    }

    pub fn replaced(&self) -> Vec<String> {
        self.said().replaced.clone()
    }

    fn said(&self) -> std::sync::MutexGuard<'_, Said> {
        self.shared.said.lock().expect("not poisoned")
    }
}

fn issuer() -> (Issuer<'static, KeyPair>, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("no names");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.distinguished_name.push(rcgen::DnType::CommonName, "Mock Authority");
    let certificate = params.self_signed(&key).expect("signs");
    (Issuer::new(params, key), certificate.pem())
}

fn payload(body: &Bytes) -> Value {
    let jws: Value = serde_json::from_slice(body).expect("a JWS");
    let payload = URL_SAFE_NO_PAD.decode(jws["payload"].as_str().expect("has one"));
    serde_json::from_slice(&payload.expect("base64")).unwrap_or_default()
}

impl Shared {
    fn answer(&self, status: StatusCode, location: Option<String>, body: String) -> Response {
        let mut said = self.said.lock().expect("not poisoned");
        said.nonce += 1;
        let mut headers = HeaderMap::new();
        let mut put = |name: &'static str, value: String| {
            headers.insert(name, HeaderValue::from_str(&value).expect("plain"));
        };
        put("replay-nonce", format!("nonce{}", said.nonce));
        if let Some(location) = location {
            put("location", location);
        }
        (status, headers, body).into_response()
    }
}

async fn directory(State(mock): Mock) -> Json<Value> {
    let url = &mock.url;
    Json(json!({
        "newNonce": format!("{url}/nonce"),
        "newAccount": format!("{url}/account"),
        "newOrder": format!("{url}/order"),
        "renewalInfo": format!("{url}/renewal"),
    }))
}

async fn nonce(State(mock): Mock) -> Response {
    mock.answer(StatusCode::OK, None, String::new())
}

async fn new_account(State(mock): Mock) -> Response {
    let location = format!("{}/account/1", mock.url);
    mock.answer(StatusCode::CREATED, Some(location), json!({ "status": "valid" }).to_string())
}

async fn new_order(State(mock): Mock, body: Bytes) -> Response {
    let asked = payload(&body);
    let (location, order) = {
        let mut said = mock.said.lock().expect("not poisoned");
        if let Some(replaced) = asked["replaces"].as_str() {
            said.replaced.push(replaced.to_owned());
        }
        let id = said.orders.len();
        let location = format!("{}/order/{id}", mock.url);
        // Nothing is left to be proven: such orders have no authorization that is pending.
        let order = json!({
            "status": "ready",
            "identifiers": asked["identifiers"],
            "authorizations": [],
            "finalize": format!("{location}/finalize"),
            "replaces": asked["replaces"],
        });
        said.orders.insert(id, order.clone());
        (location, order)
    };
    mock.answer(StatusCode::CREATED, Some(location), order.to_string())
}

async fn show_order(State(mock): Mock, Path(id): Path<usize>) -> Response {
    let order = mock.said.lock().expect("not poisoned").orders[&id].clone();
    mock.answer(StatusCode::OK, None, order.to_string())
}

async fn finalize(State(mock): Mock, Path(id): Path<usize>, body: Bytes) -> Response {
    let csr = URL_SAFE_NO_PAD.decode(payload(&body)["csr"].as_str().expect("has one"));
    let csr = CertificateSigningRequestDer::from(csr.expect("base64"));
    let mut request = CertificateSigningRequestParams::from_der(&csr).expect("a request");
    request.params.use_authority_key_identifier_extension = true;
    // The first one is not new any more, all others are.
    let age = if mock.said.lock().expect("not poisoned").chains.is_empty() { 2 } else { 0 };
    request.params.not_before = OffsetDateTime::now_utc() - time::Duration::days(age);
    request.params.not_after = request.params.not_before + time::Duration::days(90);
    let leaf = request.signed_by(&mock.issuer).expect("signs");
    let order = {
        let mut said = mock.said.lock().expect("not poisoned");
        said.chains.insert(id, leaf.pem() + &mock.issuer_pem);
        let order = said.orders.get_mut(&id).expect("there is one");
        order["status"] = json!("valid");
        order["certificate"] = json!(format!("{}/certificate/{id}", mock.url));
        order.clone()
    };
    mock.answer(StatusCode::OK, None, order.to_string())
}

async fn certificate(State(mock): Mock, Path(id): Path<usize>) -> Response {
    let chain = mock.said.lock().expect("not poisoned").chains[&id].clone();
    mock.answer(StatusCode::OK, None, chain)
}

async fn renewal(State(mock): Mock, Path(id): Path<String>) -> Json<Value> {
    let mut said = mock.said.lock().expect("not poisoned");
    said.asked.push(id);
    let (start, end) = said.window.expect("the test suggested one");
    let text = |at: OffsetDateTime| at.format(&Rfc3339).expect("formats");
    Json(json!({ "suggestedWindow": { "start": text(start), "end": text(end) } }))
}
