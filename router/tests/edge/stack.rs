//! A control database of its own, a router of its own and instances, all in one temporary directory
//! and on free ports.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command},
    sync::Mutex,
    time::{Duration, Instant},
};

use control_types::{SiteId, seal::KeyRing};
use http_body_util::Full;
use hyper::client::conn::http2::SendRequest;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustix::process::{Pid, Signal, kill_process};
use rustls_pki_types::CertificateDer;
use sqlx::{AssertSqlSafe, Connection as _};
use uuid::Uuid;

#[path = "told.rs"]
#[allow(dead_code, reason = "each test uses some of it")]
mod told;

use crate::{
    client::{Answer, Stream},
    control_database::ControlDatabase,
    instance::Instance,
};

const REGION: &str = "id-jakarta";
const PLATFORM: &str = "platform.test";
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Site {
    pub id: SiteId,
    pub instance: Instance,
}

/// Where clients connect, and whom they trust.
#[derive(Clone)]
pub struct Doors {
    pub https: SocketAddr,
    pub authority: CertificateDer<'static>,
}

impl Doors {
    pub async fn connect(&self, server_name: &str) -> Stream {
        Stream::tls(self.https, server_name, &self.authority, true).await.expect("a handshake")
    }

    pub async fn http2(&self, server_name: &str) -> SendRequest<Full<bytes::Bytes>> {
        Stream::http2(self.https, server_name, &self.authority).await
    }
}

pub struct Stack {
    pub database: ControlDatabase,
    directory: tempfile::TempDir,
    ring: KeyRing,
    issuer: CertifiedIssuer<'static, KeyPair>,
    router: Option<Child>,
    https: SocketAddr,
    http: SocketAddr,
    admin: SocketAddr,
    http3: Option<SocketAddr>,
    named: Mutex<Vec<String>>,
    settings: serde_json::Value,
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Some(mut child) = self.router.take() {
            quit(&child, Signal::KILL);
            let _ = child.wait();
        }
    }
}

pub fn quit(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("has an id");
    let _ = kill_process(id, signal);
}

impl Stack {
    pub async fn start() -> Self {
        Self::start_as(serde_json::json!({})).await
    }

    /// With `limits` in the router's configuration.
    pub async fn start_with(limits: serde_json::Value) -> Self {
        Self::start_as(serde_json::json!({ "limits": limits })).await
    }

    /// The same with HTTP/3.
    pub async fn start_with_http3(limits: serde_json::Value) -> Self {
        let settings = serde_json::json!({ "limits": limits, "http3_listen": "127.0.0.1:0" });
        Self::start_as(settings).await
    }

    /// With another time to drain, in seconds.
    pub async fn start_draining_in(drain_secs: u32) -> Self {
        Self::start_as(serde_json::json!({ "drain_secs": drain_secs })).await
    }

    /// With these fields in the router's configuration.
    pub async fn start_as(settings: serde_json::Value) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let ring = KeyRing::generate(REGION).expect("random bytes");
        std::fs::write(directory.path().join("ring.json"), ring.to_json()).expect("writes");
        let mut params = CertificateParams::new(Vec::new()).expect("has no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("makes a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("signs itself");
        let nowhere: SocketAddr = ([127, 0, 0, 1], 0).into();
        let mut stack = Self {
            database: ControlDatabase::make(directory.path()).await,
            directory,
            ring,
            issuer,
            router: None,
            https: nowhere,
            http: nowhere,
            admin: nowhere,
            http3: settings.get("http3_listen").map(|_| nowhere),
            named: Mutex::default(),
            settings,
        };
        stack.add_certificate(None, PLATFORM).await;
        stack.start_router().await;
        stack
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    // The control database.

    async fn run(&self, statement: &'static str, id: SiteId) {
        let done = sqlx::query(statement).bind(id.0).execute(&mut self.database.sql().await).await;
        done.expect("is done");
    }

    async fn add_certificate(&self, site: Option<SiteId>, hostname: &str) {
        let key = KeyPair::generate().expect("makes a key");
        let params = CertificateParams::new([hostname.to_owned()]).expect("has a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("is signed");
        let chain = certificate.pem() + &self.issuer.pem();
        self.database.add_certificate(site, hostname, chain, &key, &self.ring).await;
        self.named.lock().expect("not poisoned").push(hostname.to_owned());
    }

    /// A site that serves, with its instance.
    pub async fn site(&self, slug: &str, hostnames: &[&str]) -> Site {
        let id = SiteId::generate();
        let socket = self.path(&format!("{slug}.sock"));
        let instance = Instance::start(&socket, slug, &id.to_string()).await;
        for hostname in hostnames {
            self.add_certificate_after(id, slug, hostname, &socket).await;
        }
        Site { id, instance }
    }

    /// A site whose instance is whatever listens at `socket`.
    pub async fn site_at(&self, slug: &str, hostname: &str, socket: &Path) -> SiteId {
        let id = SiteId::generate();
        self.add_certificate_after(id, slug, hostname, socket).await;
        id
    }

    async fn add_certificate_after(&self, id: SiteId, slug: &str, hostname: &str, socket: &Path) {
        let mut connection = self.database.sql().await;
        let mut all = connection.begin().await.expect("begins");
        for statement in [
            "insert into site (id, slug, name, plan, state, allowed_regions)
             values ($1, $2, 'Site ' || $2, 'starter', 'active', '{id-jakarta}')
             on conflict do nothing",
            "insert into domain (id, site_id, hostname, kind, state, is_primary)
             select gen_random_uuid(), $1, $3, 'platform', 'active', $2 <> ''",
            "insert into placement (id, site_id, generation, state, region, cluster_id,
                object_store_id, database_name, prefix, sealed_secrets)
             select gen_random_uuid(), $1, 1, 'current', 'id-jakarta',
                '00000000-0000-0000-0000-000000000001', '00000000-0000-0000-0000-000000000002',
                's_' || replace($1::text, '-', ''), 'site/' || $2, ''
             on conflict do nothing",
            "insert into instance (id, site_id, placement_id, desired, address)
             select gen_random_uuid(), $1, placement.id, 'listening', 'unix:' || $4
             from placement where site_id = $1 and $2 <> '' and $3 <> ''",
        ] {
            // Each statement uses some of the four; Postgres wants to know the type of all.
            let typed = format!(
                "with given as (select $1::uuid, $2::text, $3::text, $4::text) {statement}"
            );
            sqlx::query(AssertSqlSafe(typed))
                .bind(id.0)
                .bind(slug)
                .bind(hostname)
                .bind(socket.display().to_string())
                .execute(&mut *all)
                .await
                .expect("is inserted");
        }
        all.commit().await.expect("commits");
        self.add_certificate(Some(id), hostname).await;
    }

    pub async fn raise_generation(&self, site: &Site, generation: i64) {
        sqlx::query("update placement set generation = $2 where site_id = $1")
            .bind(site.id.0)
            .bind(generation)
            .execute(&mut self.database.sql().await)
            .await
            .expect("is updated");
    }

    pub async fn add_primary(&self, site: &Site, hostname: &str) {
        self.run("update domain set is_primary = false where site_id = $1", site.id).await;
        sqlx::query(
            "insert into domain (id, site_id, hostname, kind, state, is_primary, proof, verified_at)
             values (gen_random_uuid(), $1, $2, 'custom', 'active', true, 'vouched', now())",
        )
        .bind(site.id.0)
        .bind(hostname)
        .execute(&mut self.database.sql().await)
        .await
        .expect("is inserted");
        self.add_certificate(Some(site.id), hostname).await;
    }

    pub async fn set_state(&self, site: &Site, state: &str) {
        sqlx::query("update site set state = $2::site_state where id = $1")
            .bind(site.id.0)
            .bind(state)
            .execute(&mut self.database.sql().await)
            .await
            .expect("is updated");
    }

    pub async fn release(&self, site: &Site) {
        let released = "update domain set state = 'released', is_primary = false,
                        released_at = now() where site_id = $1";
        self.run(released, site.id).await;
    }

    /// Holds a site; again with another id if it is held already.
    pub async fn hold(&self, site: &Site, seconds: f64) -> Uuid {
        let id = Uuid::now_v7();
        sqlx::query(
            "insert into site_hold (site_id, id, deadline)
             values ($1, $2, now() + make_interval(secs => $3))
             on conflict (site_id) do update set id = excluded.id, deadline = excluded.deadline",
        )
        .bind(site.id.0)
        .bind(id)
        .bind(seconds)
        .execute(&mut self.database.sql().await)
        .await
        .expect("is inserted");
        self.site_until(site, |seen| seen["hold"]["id"] == id.to_string().as_str()).await;
        id
    }

    pub async fn end_hold(&self, site: &Site) {
        self.run("delete from site_hold where site_id = $1", site.id).await;
    }

    pub async fn limit_plan(&self, per_second: i32, burst: i32, concurrent: i32) {
        sqlx::query(
            "update plan set requests_per_second = $1, request_burst = $2,
                 max_concurrent_requests = $3 where name = 'starter'",
        )
        .bind(per_second)
        .bind(burst)
        .bind(concurrent)
        .execute(&mut self.database.sql().await)
        .await
        .expect("is updated");
    }

    pub async fn raise_upload_limit(&self, bytes: u64) {
        sqlx::query("update plan set max_upload_bytes = $1 where name = 'starter'")
            .bind(i64::try_from(bytes).expect("is a size"))
            .execute(&mut self.database.sql().await)
            .await
            .expect("is updated");
    }

    /// A change of nothing: the sites of the plan get a new version.
    pub async fn touch_plan(&self) {
        sqlx::query("update plan set display_name = display_name where name = 'starter'")
            .execute(&mut self.database.sql().await)
            .await
            .expect("is updated");
    }

    /// Memory of the router, in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let id = self.router.as_ref().expect("runs").id();
        let text = std::fs::read_to_string(format!("/proc/{id}/status")).expect("runs");
        let line = text.lines().find(|line| line.starts_with("VmRSS:")).expect("has a size");
        let kilobytes = line.split_whitespace().nth(1).and_then(|size| size.parse::<u64>().ok());
        kilobytes.expect("is a number") * 1024
    }

    // The router.

    pub async fn start_router(&mut self) {
        let _ = std::fs::remove_file(self.path("ready.json"));
        self.router = Some(self.spawn_router(([127, 0, 0, 1], 0).into()));
        self.read_ready(None).await;
    }

    /// Kills the router as the system would, and starts one anew.
    pub async fn router_dies(&mut self) {
        let mut child = self.router.take().expect("runs");
        quit(&child, Signal::KILL);
        child.wait().expect("ends");
        self.start_router().await;
    }

    /// Starts another router in the place of the one that runs. Returns the old one.
    pub async fn replace_router(&mut self) -> Child {
        let new = self.spawn_router(self.https);
        let id = new.id();
        let old = self.router.replace(new).expect("runs");
        self.read_ready(Some(id)).await;
        old
    }

    fn spawn_router(&self, https: SocketAddr) -> Child {
        let mut config = serde_json::json!({
            "name": "router-test",
            "region": REGION,
            "platform_domain": PLATFORM,
            "https_listen": https,
            "http_listen": "127.0.0.1:0",
            "admin_listen": "127.0.0.1:0",
            "control_database_url": self.database.url(),
            "region_keys": self.path("ring.json"),
            "snapshot_file": self.path("routes.snapshot"),
            "ready_file": self.path("ready.json"),
            "handover_socket": self.path("handover"),
            "log": "info",
            "drain_secs": 10,
            "workers": 2,
        });
        for (name, value) in self.settings.as_object().expect("is an object") {
            config[name] = value.clone();
        }
        // Also the next router listens where the last one did.
        if let Some(http3) = self.http3 {
            config["http3_listen"] = http3.to_string().into();
        }
        std::fs::write(self.path("router.json"), config.to_string()).expect("writes");
        let log = std::fs::File::options().create(true).append(true).open(self.path("router.log"));
        Command::new(env!("CARGO_BIN_EXE_router"))
            .arg("--config")
            .arg(self.path("router.json"))
            .stderr(log.expect("has a log"))
            .spawn()
            .expect("the router runs")
    }

    async fn read_ready(&mut self, process: Option<u32>) {
        let begun = Instant::now();
        let ready: serde_json::Value = loop {
            if let Ok(text) = std::fs::read(self.path("ready.json")) {
                let ready: serde_json::Value = serde_json::from_slice(&text).expect("is JSON");
                if process.is_none_or(|process| ready["process_id"] == process) {
                    break ready;
                }
            }
            assert!(begun.elapsed() < PATIENCE, "the router does not start: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let address = |name: &str| {
            ready[name].as_str().and_then(|text| text.parse().ok()).expect("is an address")
        };
        (self.https, self.http, self.admin) = (address("https"), address("http"), address("admin"));
        assert_eq!(ready["http3"].is_string(), self.http3.is_some(), "{ready}");
        self.http3 = self.http3.map(|_| address("http3"));
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("router.log")).unwrap_or_default()
    }

    pub fn tell_router_to_stop(&self) {
        quit(self.router.as_ref().expect("runs"), Signal::TERM);
    }

    pub async fn kill_router(&mut self) {
        let mut child = self.router.take().expect("runs");
        quit(&child, Signal::KILL);
        let _ = tokio::task::spawn_blocking(move || child.wait()).await;
    }

    /// Whether the router ended well, and what it logged.
    pub async fn stop_router(&mut self) -> (bool, String) {
        self.tell_router_to_stop();
        let mut child = self.router.take().expect("runs");
        let status =
            tokio::task::spawn_blocking(move || child.wait()).await.expect("is waited for");
        (status.expect("ends").success(), self.log())
    }

    pub fn http3(&self) -> SocketAddr {
        self.http3.expect("speaks HTTP/3")
    }

    pub fn authority_pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn authority(&self) -> &CertificateDer<'static> {
        self.issuer.der()
    }

    pub fn https_port(&self) -> u16 {
        self.https.port()
    }

    pub async fn connect(&self, server_name: &str) -> Stream {
        let known = self.named.lock().expect("not poisoned").iter().any(|name| name == server_name);
        let stream = Stream::tls(self.https, server_name, self.issuer.der(), known).await;
        stream.expect("a handshake")
    }

    /// For clients that are tasks of their own.
    pub fn doors(&self) -> Doors {
        Doors { https: self.https, authority: self.issuer.der().clone() }
    }

    /// A client with this address.
    pub async fn connect_from(&self, source: &str, server_name: &str) -> Stream {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        let source = SocketAddr::new(source.parse().expect("an address"), 0);
        socket.bind(source).expect("binds");
        let tcp = socket.connect(self.https).await.expect("connects");
        Stream::tls_over(tcp, server_name, self.issuer.der()).await.expect("a handshake")
    }

    pub async fn try_connect(&self, server_name: &str) -> std::io::Result<Stream> {
        Stream::tls(self.https, server_name, self.issuer.der(), true).await
    }

    pub async fn https(&self, server_name: &str, request: &[u8]) -> Answer {
        self.connect(server_name).await.exchange(request).await
    }

    pub async fn http2(&self, server_name: &str) -> SendRequest<Full<bytes::Bytes>> {
        Stream::http2(self.https, server_name, self.issuer.der()).await
    }

    pub async fn raw_http2(&self, server_name: &str) -> Stream {
        Stream::raw_http2(self.https, server_name, self.issuer.der()).await
    }

    /// An open connection without TLS.
    pub async fn plain(&self) -> Stream {
        Stream::plain(self.http).await
    }

    pub async fn http(&self, request: &[u8]) -> Answer {
        Stream::plain(self.http).await.exchange(request).await
    }

    pub async fn admin(&self, path: &str) -> String {
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        Stream::plain(self.admin).await.exchange(request.as_bytes()).await.body
    }

    /// Waits until the router knows the hostname, with a certificate of its own.
    pub async fn arrived(&self, hostname: &str) {
        let begun = Instant::now();
        loop {
            let known =
                self.admin(&format!("/routes/{hostname}")).await.contains("\"upstream\":\"unix");
            let secured = Stream::tls(self.https, hostname, self.issuer.der(), true).await.is_ok();
            if known && secured {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{hostname} does not arrive: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Asks again and again until the answer is as wished.
    pub async fn until(&self, hostname: &str, wished: impl Fn(&Answer) -> bool, request: &str) {
        let begun = Instant::now();
        loop {
            let answer = match Stream::tls(self.https, hostname, self.issuer.der(), true).await {
                Ok(stream) => Some(stream.exchange(request.as_bytes()).await),
                // Its certificate may not be there yet.
                Err(_) => None,
            };
            if answer.as_ref().is_some_and(&wished) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "still {answer:?}: {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn forget_snapshot(&self) {
        for name in ["routes.snapshot", "routes.snapshot.previous"] {
            let _ = std::fs::remove_file(self.path(name));
        }
    }

    /// Waits until the snapshot on disk has the hostname.
    pub async fn snapshot_with(&self, hostname: &str) {
        let begun = Instant::now();
        let path = self.path("routes.snapshot");
        while router::snapshot::load(&path, REGION)
            .is_none_or(|read| read.table.certificate(hostname).is_none())
        {
            assert!(begun.elapsed() < PATIENCE, "no snapshot with {hostname}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}
