//! Two regions over one control database, each with a router of its own, and sites that move between
//! them. All in one temporary directory and on free ports.

use std::{
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    process::{Child, Command},
    time::{Duration, Instant},
};

use control_types::{
    SiteId,
    seal::{KeyRing, certificate_key},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, CustomExtension, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose,
};
use rustix::process::{Pid, Signal, kill_process};
use rustls_pki_types::CertificateDer;
use sqlx::AssertSqlSafe;
use time::OffsetDateTime;
use tokio::net::{TcpSocket, TcpStream};
use uuid::Uuid;

use crate::{
    client::{Answer, Stream},
    control_database::ControlDatabase,
    instance::Instance,
    wire::Wire,
};

pub const PLATFORM: &str = "platform.test";
pub const JAKARTA: &str = "id-jakarta";
pub const SINGAPORE: &str = "sg-singapore";
const PATIENCE: Duration = Duration::from_secs(30);

pub struct Stack {
    pub database: ControlDatabase,
    pub jakarta: Router,
    pub singapore: Router,
    directory: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

pub struct Router {
    pub region: &'static str,
    pub https: SocketAddr,
    pub http: SocketAddr,
    pub passthrough: SocketAddr,
    pub http3: SocketAddr,
    admin: SocketAddr,
    ring: KeyRing,
    directory: PathBuf,
    child: Option<Child>,
    /// What it hears of the control database.
    pub news: Wire,
}

/// A site with an instance in each region.
pub struct Site {
    pub id: SiteId,
    pub hostname: String,
    pub at_jakarta: Instance,
    pub at_singapore: Instance,
}

pub fn quit(child: &Child, signal: Signal) {
    let id = i32::try_from(child.id()).ok().and_then(Pid::from_raw).expect("has an id");
    let _ = kill_process(id, signal);
}

impl Drop for Router {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            quit(&child, Signal::KILL);
            let _ = child.wait();
        }
    }
}

impl Stack {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let mut params = CertificateParams::new(Vec::new()).expect("has no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Authority of the tests");
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("makes a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("signs itself");
        std::fs::write(directory.path().join("authority.pem"), issuer.pem()).expect("writes");
        let database = ControlDatabase::make(directory.path()).await;
        let [jakarta, singapore] =
            [JAKARTA, SINGAPORE].map(|region| Router::of(region, directory.path()));
        let mut stack = Self { database, jakarta, singapore, directory, issuer };
        stack
            .sql(
                "insert into region (name, display_name) values ('sg-singapore', 'Singapore');
                 insert into cluster (id, name, region, sealed_admin_url, app_host, app_port)
                     select '00000000-0000-0000-0000-000000000011', 'd', 'sg-singapore', '', 'h', 1;
                 insert into object_store (id, name, region, endpoint, bucket, sealed_admin) values
                     ('00000000-0000-0000-0000-000000000012', 'p', 'sg-singapore', 'e', 'b', '')"
                    .to_owned(),
            )
            .await;
        for region in [JAKARTA, SINGAPORE] {
            stack.add_certificate(None, PLATFORM, region).await;
        }
        for region in [JAKARTA, SINGAPORE] {
            let url = stack.database.url();
            let router = stack.router_mut(region);
            let url = router.news.laid_to(&url);
            router.start(&url).await;
            let registered = format!(
                "insert into router (name, region, https_address, http_address, admin_url,
                     passthrough_address) values ('r-{region}', '{region}', '', '', '', '{}')",
                router.passthrough
            );
            stack.sql(registered).await;
        }
        stack
    }

    fn router_mut(&mut self, region: &str) -> &mut Router {
        if region == JAKARTA { &mut self.jakarta } else { &mut self.singapore }
    }

    pub fn router(&self, region: &str) -> &Router {
        if region == JAKARTA { &self.jakarta } else { &self.singapore }
    }

    pub fn authority_file(&self) -> PathBuf {
        self.directory.path().join("authority.pem")
    }

    pub fn authority(&self) -> &CertificateDer<'static> {
        self.issuer.der()
    }

    pub async fn sql(&self, statements: String) {
        let mut connection = self.database.sql().await;
        let done = sqlx::raw_sql(AssertSqlSafe(statements)).execute(&mut connection).await;
        done.expect("is done");
    }

    async fn add_certificate(&self, site: Option<SiteId>, hostname: &str, region: &str) {
        let key = KeyPair::generate().expect("makes a key");
        let mut params = CertificateParams::new([hostname.to_owned()]).expect("has a name");
        params.distinguished_name.push(DnType::CommonName, hostname);
        params.not_before = OffsetDateTime::now_utc() - time::Duration::DAY;
        params.not_after = OffsetDateTime::now_utc() + 80 * time::Duration::DAY;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).expect("is signed");
        let ring = &self.router(region).ring;
        self.database.add_certificate(site, hostname, certificate.pem(), &key, ring).await;
    }

    /// A site at home in Jakarta, and ready to serve in Singapore. The instances answer `/who` with
    /// the slug and the first letter of the region.
    pub async fn site(&self, slug: &str) -> Site {
        let id = SiteId::generate();
        let hostname = format!("{slug}.{PLATFORM}");
        let instance = async |letter: &str, generation| {
            let socket = self.directory.path().join(format!("{slug}-{letter}.sock"));
            let name = format!("{slug}-{letter}");
            let instance = Instance::start(&socket, &name, &id.to_string()).await;
            instance.serve_generation(generation);
            instance
        };
        let (at_jakarta, at_singapore) = (instance("j", 1).await, instance("s", 2).await);
        self.sql(format!(
            "begin;
             insert into site (id, slug, name, plan, state, allowed_regions, hsts_max_age_secs)
             values ('{id}', '{slug}', 'Site {slug}', 'starter', 'active',
                 '{{id-jakarta,sg-singapore}}', 31536001);
             insert into domain (id, site_id, hostname, kind, state, is_primary)
             values (gen_random_uuid(), '{id}', '{hostname}', 'platform', 'active', true);
             {};
             {};
             commit",
            self.placement(id, slug, JAKARTA, 1),
            self.placement(id, slug, SINGAPORE, 2),
        ))
        .await;
        for region in [JAKARTA, SINGAPORE] {
            self.add_certificate(Some(id), &hostname, region).await;
        }
        self.sql(format!(
            "update placement set state = 'current' where site_id = '{id}' and generation = 1"
        ))
        .await;
        let site = Site { id, hostname, at_jakarta, at_singapore };
        for router in [&self.jakarta, &self.singapore] {
            self.arrived(router, &site.hostname, JAKARTA).await;
        }
        site
    }

    fn placement(&self, id: SiteId, slug: &str, region: &str, generation: i64) -> String {
        let (digit, letter) = if region == JAKARTA { ("0", "j") } else { ("1", "s") };
        let socket = self.directory.path().join(format!("{slug}-{letter}.sock"));
        format!(
            "with placed as (
                 insert into placement (id, site_id, generation, state, region, cluster_id,
                     object_store_id, database_name, prefix, sealed_secrets)
                 values (gen_random_uuid(), '{id}', {generation}, 'preparing', '{region}',
                     '00000000-0000-0000-0000-0000000000{digit}1',
                     '00000000-0000-0000-0000-0000000000{digit}2',
                     's_' || replace('{id}', '-', ''), 'site/{slug}', '')
                 returning id)
             insert into instance (id, site_id, placement_id, desired, address)
             select gen_random_uuid(), '{id}', id, 'listening', 'unix:{}' from placed",
            socket.display()
        )
    }

    /// The site is at home in Singapore from now on; nothing waits for the routers to hear of it.
    pub async fn move_to_singapore(&self, site: &Site) {
        let id = site.id;
        self.sql(format!(
            "begin;
             update placement set state = 'retired', retired_at = now()
                 where site_id = '{id}' and generation = 1;
             update placement set state = 'current' where site_id = '{id}' and generation = 2;
             commit"
        ))
        .await;
    }

    /// Waits until the router knows the hostname as one of that region.
    pub async fn arrived(&self, router: &Router, hostname: &str, region: &str) {
        let wanted = format!("\"region\":\"{region}\"");
        router.shows(&format!("/routes/{hostname}"), &wanted).await;
        let begun = Instant::now();
        // Its certificate comes with another reading.
        while Stream::tls(self.router(region).https, hostname, self.authority(), true)
            .await
            .is_err()
        {
            assert!(begun.elapsed() < PATIENCE, "{hostname} has no certificate");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn connect(&self, router: &Router, hostname: &str) -> Stream {
        let stream = Stream::tls(router.https, hostname, self.authority(), true).await;
        stream.expect("a handshake")
    }

    pub async fn ask(&self, router: &Router, hostname: &str, path: &str) -> Answer {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {hostname}\r\nConnection: close\r\n\r\n");
        self.connect(router, hostname).await.exchange(request.as_bytes()).await
    }

    /// A challenge of TLS-ALPN-01, its certificate of `region`.
    pub async fn add_tls_challenge(&self, hostname: &str, region: &str) {
        let key = KeyPair::generate().expect("makes a key");
        let mut params = CertificateParams::new([hostname.to_owned()]).expect("has a name");
        params.custom_extensions = vec![CustomExtension::new_acme_identifier(&[7; 32])];
        let certificate = params.self_signed(&key).expect("signs itself");
        let id = Uuid::now_v7();
        let sealed = self.router(region).ring.seal(&certificate_key(id), &key.serialize_der());
        sqlx::query(
            "insert into acme_challenge (id, hostname, kind, region, chain_pem, sealed_key,
                                         expires_at)
             values ($1, $2, 'tls_alpn_01', $3, $4, $5, now() + interval '1 hour')",
        )
        .bind(id)
        .bind(hostname)
        .bind(region)
        .bind(certificate.pem())
        .bind(sealed.expect("is sealed"))
        .execute(&mut self.database.sql().await)
        .await
        .expect("is inserted");
    }
}

impl Router {
    fn of(region: &'static str, directory: &Path) -> Self {
        let nowhere = SocketAddr::from(([127, 0, 0, 1], 0));
        let directory = directory.join(region);
        std::fs::create_dir(&directory).expect("makes a directory");
        let ring = KeyRing::generate(region).expect("random bytes");
        std::fs::write(directory.join("ring.json"), ring.to_json()).expect("writes");
        let news = Wire::of(&directory);
        Self {
            region,
            news,
            https: nowhere,
            http: nowhere,
            passthrough: nowhere,
            http3: nowhere,
            admin: nowhere,
            ring,
            directory,
            child: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub async fn start(&mut self, control_database_url: &str) {
        let ready = self.path("ready.json");
        let _ = std::fs::remove_file(&ready);
        let config = serde_json::json!({
            "name": format!("r-{}", self.region),
            "region": self.region,
            "platform_domain": PLATFORM,
            "https_listen": self.https,
            "http3_listen": self.http3,
            "http_listen": self.http,
            "admin_listen": self.admin,
            "passthrough_listen": self.passthrough,
            "passthrough_from": ["127.0.0.0/8"],
            "proxy_protocol_from": ["127.0.0.77"],
            "trusted_roots": self.directory.join("../authority.pem"),
            "control_database_url": control_database_url,
            "region_keys": self.path("ring.json"),
            "snapshot_file": self.path("routes.snapshot"),
            "ready_file": &ready,
            "log": "info,router=debug",
            "drain_secs": 20,
        });
        std::fs::write(self.path("router.json"), config.to_string()).expect("writes");
        let log = std::fs::File::options().create(true).append(true).open(self.path("router.log"));
        let child = Command::new(env!("CARGO_BIN_EXE_router"))
            .arg("--config")
            .arg(self.path("router.json"))
            .stderr(log.expect("has a log"))
            .spawn()
            .expect("the router runs");
        self.child = Some(child);
        let begun = Instant::now();
        let ready: serde_json::Value = loop {
            if let Ok(text) = std::fs::read(&ready) {
                break serde_json::from_slice(&text).expect("is JSON");
            }
            assert!(begun.elapsed() < PATIENCE, "the router does not start: {}", self.log());
            tokio::time::sleep(Duration::from_millis(10)).await;
        };
        let address = |name: &str| {
            ready[name].as_str().and_then(|text| text.parse().ok()).expect("is an address")
        };
        self.https = address("https");
        self.http = address("http");
        self.admin = address("admin");
        self.passthrough = address("passthrough");
        self.http3 = address("http3");
    }

    pub fn tell_to_stop(&self) {
        quit(self.child.as_ref().expect("runs"), Signal::TERM);
    }

    /// Waits for its end; whether it ended well.
    pub async fn ended(&mut self) -> bool {
        let mut child = self.child.take().expect("runs");
        let ended = tokio::task::spawn_blocking(move || child.wait()).await;
        ended.expect("is waited for").expect("ends").success()
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("router.log")).unwrap_or_default()
    }

    /// Waits until the log has a line with all of these.
    pub async fn logs(&self, parts: &[&str]) -> String {
        let begun = Instant::now();
        loop {
            let log = self.log();
            if let Some(line) =
                log.lines().find(|line| parts.iter().all(|part| line.contains(part)))
            {
                return line.to_owned();
            }
            assert!(begun.elapsed() < PATIENCE, "no {parts:?} in {log}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn admin(&self, path: &str) -> Answer {
        let request = format!("GET {path} HTTP/1.1\r\nHost: admin\r\nConnection: close\r\n\r\n");
        Stream::plain(self.admin).await.exchange(request.as_bytes()).await
    }

    /// Waits until a page of the private listener has the text.
    pub async fn shows(&self, path: &str, text: &str) {
        let begun = Instant::now();
        loop {
            let page = self.admin(path).await.raw;
            if page.contains(text) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{path} has no {text}: {page} {}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The value of a metric; 0 when it has none yet.
    pub async fn metric(&self, name: &str) -> f64 {
        let page = self.admin("/metrics").await.body;
        let line = page.lines().find(|line| line.starts_with(name));
        let value = line.and_then(|line| line.rsplit_once(' '));
        value.and_then(|(_, value)| value.parse().ok()).unwrap_or(0.0)
    }

    /// Waits until a counter passed `before`: a closed connection may be seen before it is counted.
    pub async fn counted(&self, name: &str, before: f64) {
        let begun = Instant::now();
        while self.metric(name).await <= before {
            assert!(begun.elapsed() < PATIENCE, "{name} stays at {before}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub async fn plain(&self, request: &str) -> Answer {
        Stream::plain(self.http).await.exchange(request.as_bytes()).await
    }
}

/// A connection from another of this machine's addresses.
pub async fn tcp_from(source: &str, to: SocketAddr) -> TcpStream {
    let source: IpAddr = source.parse().expect("an address");
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.bind(SocketAddr::new(source, 0)).expect("binds");
    socket.connect(to).await.expect("connects")
}
