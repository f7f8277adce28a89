//! A router that has its routes from a snapshot only: any number of sites, without a control database.

use std::{
    net::SocketAddr,
    path::Path,
    process::{Child, Command},
    sync::Arc,
    time::{Duration, Instant},
};

use control_types::{
    Generation, SiteId,
    seal::{KeyRing, certificate_key},
    state::{DomainKind, SiteState},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use router::{
    certificates::SealedCertificate,
    route_table::{Reading, RouteRow, Table},
    snapshot,
};
use rustix::process::{Pid, Signal, kill_process};
use time::OffsetDateTime;
use uuid::Uuid;

pub const REGION: &str = "id-jakarta";
const PATIENCE: Duration = Duration::from_secs(60);

/// What a site needs to be routed.
pub struct Named {
    pub hostname: String,
    pub upstream: String,
}

/// An authority, and the ring that seals what it issues.
pub struct Makers {
    pub issuer: CertifiedIssuer<'static, KeyPair>,
    pub ring: KeyRing,
}

impl Makers {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("has no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("makes a key");
        Self {
            issuer: CertifiedIssuer::self_signed(params, key).expect("signs itself"),
            ring: KeyRing::generate(REGION).expect("random bytes"),
        }
    }

    /// A certificate for `hostname` and its key, in PEM.
    pub fn certify(&self, hostname: &str) -> (String, String) {
        let key = KeyPair::generate().expect("makes a key");
        let params = CertificateParams::new([hostname.to_owned()]).expect("has a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("is signed");
        (certificate.pem(), key.serialize_pem())
    }
}

pub fn row(site: SiteId, named: &Named, version: i64) -> RouteRow {
    RouteRow {
        hostname: named.hostname.clone(),
        domain_kind: DomainKind::Platform,
        is_primary: true,
        primary_hostname: Some(named.hostname.clone()),
        site_id: site,
        slug: named.hostname.split('.').next().unwrap_or_default().to_owned(),
        site_name: format!("The institution of {}", named.hostname),
        default_language: "en".to_owned(),
        site_state: SiteState::Active,
        generation: Generation(1),
        region: REGION.to_owned(),
        upstream: Some(named.upstream.clone()),
        max_body_bytes: 1 << 30,
        version,
        requests_per_second: 1_000_000,
        request_burst: 1_000_000,
        max_concurrent_requests: 100_000,
        hsts_max_age_secs: 31_536_000,
        hold_id: None,
        hold_deadline: None,
    }
}

pub fn certificate(
    makers: &Makers,
    site: SiteId,
    hostname: &str,
    (chain, key): &(String, String),
) -> Arc<SealedCertificate> {
    let id = Uuid::now_v7();
    let key = makers.ring.seal(&certificate_key(id), key.as_bytes()).expect("is sealed");
    let certificate =
        SealedCertificate::from_pem(id, Some(site), hostname, chain, key, i64::MAX, 1);
    Arc::new(certificate.expect("is a certificate"))
}

/// A running router. It ends when this is dropped.
pub struct Running {
    pub child: Child,
    pub https: SocketAddr,
    #[allow(dead_code, reason = "not every benchmark asks")]
    pub admin: SocketAddr,
    /// Over UDP, where it was asked for.
    #[allow(dead_code, reason = "not every benchmark asks")]
    pub http3: Option<SocketAddr>,
}

impl Drop for Running {
    fn drop(&mut self) {
        // Not killed: a build that notes where its time goes (`ops/dist`) writes that at its end.
        if let Some(process) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(process, Signal::TERM);
        }
        let _ = self.child.wait();
    }
}

/// Starts the router's binary with the table; `before` comes in front of the command line.
#[allow(dead_code, reason = "not every benchmark asks")]
pub fn start(directory: &Path, makers: &Makers, table: &Table, before: &[&str]) -> Running {
    start_with(directory, makers, table, before, &[])
}

/// Like [`start`], with more of the configuration.
pub fn start_with(
    directory: &Path,
    makers: &Makers,
    table: &Table,
    before: &[&str],
    more: &[(&str, &str)],
) -> Running {
    let path = |name: &str| directory.join(name);
    let written = path("routes.snapshot");
    snapshot::write(&written, table, REGION, OffsetDateTime::now_utc()).expect("writes");
    std::fs::write(path("ring.json"), makers.ring.to_json()).expect("writes");
    let ready = path("ready.json");
    let _ = std::fs::remove_file(&ready);
    let mut config = serde_json::json!({
        "name": "bench", "region": REGION, "platform_domain": "localhost",
        "https_listen": "127.0.0.1:0", "http_listen": "127.0.0.1:0",
        "admin_listen": "127.0.0.1:0",
        // Nobody is there: the table stays what the snapshot said.
        "control_database_url": "postgres://router@localhost:1/none",
        "region_keys": path("ring.json"), "snapshot_file": path("routes.snapshot"),
        "ready_file": &ready, "workers": 1, "drain_secs": 1,
        // Counted like everybody's, and never reached.
        "limits": {
            "exempt": [], "connections_per_address": 100_000,
            "handshakes_per_second": 10_000_000, "handshake_burst": 10_000_000,
            "requests_per_second": 10_000_000, "request_burst": 10_000_000,
        },
    });
    for (field, value) in more {
        config[field] = (*value).into();
    }
    std::fs::write(path("router.json"), config.to_string()).expect("writes");
    let log = std::fs::File::create(path("router.log")).expect("has a log");
    let binary = env!("CARGO_BIN_EXE_router");
    let mut command = match before {
        [] => Command::new(binary),
        [program, arguments @ ..] => {
            let mut command = Command::new(program);
            command.args(arguments).arg(binary);
            command
        }
    };
    let child = command.arg("--config").arg(path("router.json")).stderr(log).spawn();
    let child = child.expect("the router runs");
    let begun = Instant::now();
    let ready: serde_json::Value = loop {
        if let Ok(text) = std::fs::read(&ready) {
            break serde_json::from_slice(&text).expect("is JSON");
        }
        assert!(begun.elapsed() < PATIENCE, "the router does not start");
        std::thread::sleep(Duration::from_millis(1));
    };
    let address = |name: &str| ready[name].as_str().and_then(|text| text.parse().ok());
    Running {
        child,
        https: address("https").expect("an address"),
        admin: address("admin").expect("an address"),
        http3: address("http3"),
    }
}

/// A table of some sites.
pub fn table(makers: &Makers, all: &[Named]) -> Table {
    let mut reading = Reading::default();
    for named in all {
        let site = SiteId::generate();
        reading.routes.push(row(site, named, 1));
        let issued = makers.certify(&named.hostname);
        reading.certificates.push(certificate(makers, site, &named.hostname, &issued));
    }
    Table::default().merge(reading, true).expect("merges").table
}

/// Memory of a process that is really there, in KiB.
#[allow(dead_code, reason = "not every benchmark asks")]
pub fn resident_kib(process: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("VmRSS:")).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}
