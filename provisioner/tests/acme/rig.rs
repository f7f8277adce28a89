//! A control database, a DNS server and a responder, for workers that a test starts.

use std::{
    net::{SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::{Path, Request, State},
    http::StatusCode,
    routing::get,
};
use control_types::{
    seal::KeyRing,
    state::{AcmeChallengeKind, CertificateOrderState},
};
use provisioner::{
    acme::{
        Acme, AcmeOptions, AcmeParts,
        settings::{AcmeSettings, AuthoritySettings},
    },
    control_db::certificates::{self, Held},
    dns::{Dns, DnsConfig},
    secrets::Keys,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::{Value, json};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    pebble::{Pebble, PebbleOptions},
    postgres::{SAME_USER, Server, execute},
};

const REGION: &str = "id-jakarta";
const PATIENCE: Duration = Duration::from_secs(120);

/// What vouches for the servers of authorities.
pub struct Ca {
    pub authority: provisioner::certificate_authority::CertificateAuthority,
    pub pem: String,
}

impl Ca {
    pub fn der(&self) -> Vec<u8> {
        CertificateDer::from_pem_slice(self.pem.as_bytes()).expect("PEM").as_ref().to_vec()
    }
}

pub struct Rig {
    pub pool: PgPool,
    pub keys: Keys,
    pub dns: DnsServer,
    pub ca: Ca,
    url: String,
    pub http_port: u16,
    pub tls_port: u16,
    _server: Server,
}

/// Quick, so that a killed worker's names are soon free.
pub fn options(worker: &str) -> AcmeOptions {
    AcmeOptions {
        worker: worker.to_owned(),
        lease: Duration::from_secs(3),
        poll: Duration::from_millis(200),
        ..AcmeOptions::default()
    }
}

pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").expect("binds").local_addr().expect("bound").port()
}

fn make(
    pool: PgPool,
    keys: Keys,
    dns: SocketAddr,
    authorities: &[AuthoritySettings],
    options: AcmeOptions,
) -> Arc<Acme> {
    let settings = AcmeSettings {
        authorities: authorities.to_vec(),
        challenges: vec![AcmeChallengeKind::Http01, AcmeChallengeKind::TlsAlpn01],
    };
    let parts = AcmeParts {
        pool,
        keys,
        dns: Dns::new(&DnsConfig { servers: vec![dns] }).expect("servers"),
        http: reqwest::Client::builder().no_proxy().build().expect("a client"),
        nudges: provisioner::reconcilers::Nudges::new(),
    };
    Acme::new(settings, parts, options).expect("roots")
}

impl Rig {
    pub async fn start() -> Self {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter("info").try_init();
        let server = Server::start(SAME_USER, "");
        let mut admin = server.admin("postgres").await;
        execute(&mut admin, "create database control").await.expect("makes");
        let mut admin = server.admin("control").await;
        migrations::Schema::Control.migrate(&mut admin).await.expect("applies");
        execute(
            &mut admin,
            "insert into region (name, display_name) values ('id-jakarta', 'Jakarta')",
        )
        .await
        .expect("puts");
        let url = server.admin_url().replace("/postgres?", "/control?");
        let pool = PgPoolOptions::new().max_connections(20).connect(&url).await.expect("connects");
        let keys = Keys::from_rings([KeyRing::generate(REGION).expect("random bytes")]);
        let (http_port, tls_port) = respond(&pool, &keys).await;
        sqlx::query("insert into router (name, region, https_address, http_address, admin_url) values ('r', $1, '-', '-', $2)")
            .bind(REGION)
            .bind(format!("http://127.0.0.1:{http_port}"))
            .execute(&pool)
            .await
            .expect("puts");
        let generated = provisioner::certificate_authority::CertificateAuthority::generate();
        let (pem, key) = generated.expect("an authority");
        let authority =
            provisioner::certificate_authority::CertificateAuthority::from_pem(&pem, &key);
        let ca = Ca { authority: authority.expect("loads"), pem };
        let dns = DnsServer::start().await;
        Self { pool, keys, dns, ca, url, http_port, tls_port, _server: server }
    }

    pub async fn pebble(&self, options: PebbleOptions) -> Pebble {
        Pebble::start(self, options).await
    }

    pub fn acme(&self, authorities: &[AuthoritySettings], options: AcmeOptions) -> Arc<Acme> {
        make(self.pool.clone(), self.keys.clone(), self.dns.address, authorities, options)
    }

    pub fn run(&self, acme: &Arc<Acme>) -> Running {
        let stop = CancellationToken::new();
        let task = tokio::spawn(Arc::clone(acme).run(stop.clone()));
        Running { stop, task }
    }

    /// With threads and connections of its own.
    pub fn run_doomed(&self, authority: AuthoritySettings, options: AcmeOptions) -> Doomed {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let (url, keys, dns) = (self.url.clone(), self.keys.clone(), self.dns.address);
        runtime.spawn(async move {
            let pool = PgPoolOptions::new().connect(&url).await.expect("connects");
            let acme = make(pool, keys, dns, &[authority], options);
            acme.run(CancellationToken::new()).await;
        });
        Doomed(runtime)
    }

    pub async fn want(&self, names: &[&str]) {
        for name in names {
            sqlx::query("insert into certificate_order (id, hostname, region) values ($1, $2, $3)")
                .bind(Uuid::now_v7())
                .bind(name)
                .bind(REGION)
                .execute(&self.pool)
                .await
                .expect("puts");
        }
    }

    async fn change(&self, set: &str, name: &str) {
        let sql =
            format!("update certificate_order set {set}, next_at = now() where hostname = $1");
        sqlx::query(sqlx::AssertSqlSafe(sql)).bind(name).execute(&self.pool).await.expect("writes");
    }

    pub async fn renew(&self, name: &str) {
        self.change("renew_requested = true", name).await;
    }

    pub async fn ask_now(&self, name: &str) {
        self.change("window_check_at = now()", name).await;
    }

    pub async fn forget_accounts(&self) {
        sqlx::query("delete from acme_account").execute(&self.pool).await.expect("deletes");
    }

    /// Waits until `look` finds something.
    async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
        let looked = tokio::time::timeout(PATIENCE, async {
            loop {
                if let Some(found) = look().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        match looked.await {
            Ok(found) => found,
            Err(_) => {
                let rows: Vec<(String, Option<String>)> = sqlx::query_as(
                    "select hostname || ' ' || state::text, last_error from certificate_order",
                )
                .fetch_all(&self.pool)
                .await
                .expect("reads");
                panic!("{what} in vain: {rows:#?}")
            }
        }
    }

    pub async fn held(&self, name: &str) -> Option<Held> {
        certificates::get(&self.pool, name, REGION).await.expect("reads")
    }

    pub async fn issued(&self, name: &str) -> Held {
        self.until(&format!("a certificate for {name}"), async || self.held(name).await).await
    }

    pub async fn replaced(&self, name: &str, old: &str) -> Held {
        let look = async || self.held(name).await.filter(|held| held.chain_pem != old);
        self.until(&format!("a new certificate for {name}"), look).await
    }

    pub async fn ordered(&self, name: &str) -> String {
        self.column::<String>("order_url", "order_url is not null", name).await
    }

    pub async fn failed(&self, name: &str) -> String {
        let failing = CertificateOrderState::Failing.as_str();
        let is_failing = format!("state = '{failing}' and failures > 0");
        self.column::<String>("last_error", &is_failing, name).await
    }

    /// What the authority calls the certificate, once it said when to renew it.
    pub async fn window_of(&self, name: &str) -> String {
        let column = self.column::<bool>("true", "window_start is not null", name).await;
        assert!(column);
        let held = self.held(name).await.expect("there is one");
        let leaf = CertificateDer::from_pem_slice(held.chain_pem.as_bytes()).expect("PEM");
        instant_acme::CertificateIdentifier::try_from(&leaf).expect("has one").to_string()
    }

    async fn column<T>(&self, column: &str, condition: &str, name: &str) -> T
    where
        T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    {
        let sql =
            format!("select {column} from certificate_order where {condition} and hostname = $1");
        self.until(&format!("{condition} of {name}"), async || {
            sqlx::query_scalar::<_, T>(sqlx::AssertSqlSafe(sql.clone()))
                .bind(name)
                .fetch_optional(&self.pool)
                .await
                .expect("reads")
        })
        .await
    }

    pub async fn challenge(&self, name: &str) -> Option<AcmeChallengeKind> {
        sqlx::query_scalar("select challenge from certificate_order where hostname = $1")
            .bind(name)
            .fetch_one(&self.pool)
            .await
            .expect("reads")
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.pool).await.expect("counts")
    }

    pub async fn n_challenges(&self) -> i64 {
        self.count("select count(*) from acme_challenge").await
    }

    pub async fn n_accounts(&self) -> i64 {
        self.count("select count(*) from acme_account").await
    }
}

pub struct Running {
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    pub async fn stop(self) {
        self.stop.cancel();
        self.task.await.expect("no panic");
    }
}

/// A provisioner that is killed when told: it lets go of nothing.
pub struct Doomed(tokio::runtime::Runtime);

impl Doomed {
    pub fn kill(self) {
        self.0.shutdown_background();
    }
}

/// Answers challenges as routers do, from what they read.
async fn respond(pool: &PgPool, keys: &Keys) -> (u16, u16) {
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

/// `pebble-challtestsrv`, which leads every name to this machine unless told otherwise.
pub struct DnsServer {
    pub address: SocketAddr,
    management: String,
    process: Child,
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl DnsServer {
    async fn start() -> Self {
        let address: SocketAddr = ([127, 0, 0, 1], free_port()).into();
        let management = format!("127.0.0.1:{}", free_port());
        let process = Command::new("pebble-challtestsrv")
            .args(["-dns01", &address.to_string(), "-management", &management])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
            .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", ""])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("the Debian package pebble is installed");
        while tokio::net::TcpStream::connect(address).await.is_err()
            || tokio::net::TcpStream::connect(&management).await.is_err()
        {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Self { address, management: format!("http://{management}"), process }
    }

    pub async fn servfail(&self, name: &str) {
        self.tell("set-servfail", json!({ "host": format!("{name}.") })).await;
    }

    async fn tell(&self, what: &str, body: Value) {
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let url = format!("{}/{what}", self.management);
        let answer = http.post(url).json(&body).send().await.expect("answers");
        assert!(answer.status().is_success());
    }
}
