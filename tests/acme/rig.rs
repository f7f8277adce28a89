//! A control database, a DNS server and a responder, for workers that a test starts in its process.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use control_types::state::{AcmeChallengeKind, CertificateOrderState};
use provisioner::{
    acme::{
        Acme, AcmeOptions, AcmeParts,
        settings::{AcmeSettings, AuthoritySettings},
    },
    control_db::certificates::{self, Held},
    dns::{Dns, DnsConfig},
    secrets::Keys,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tests::pebble::{Pebble, PebbleOptions};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    control::{Control, REGION},
    responder::respond,
};

const PATIENCE: Duration = Duration::from_secs(120);

pub struct Rig {
    pub control: Control,
    http_port: u16,
    tls_port: u16,
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
        claim: options.lease,
        checks_addresses: options.checks_addresses,
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
        let control = Control::start("").await;
        let (http_port, tls_port) = respond(&control.pool, &control.keys).await;
        sqlx::query("insert into router (name, region, https_address, http_address, admin_url) values ('r', $1, '-', '-', $2)")
            .bind(REGION)
            .bind(format!("http://127.0.0.1:{http_port}"))
            .execute(&control.pool)
            .await
            .expect("puts");
        Self { control, http_port, tls_port }
    }

    pub async fn pebble(&self, options: PebbleOptions) -> Pebble {
        let started =
            Pebble::start(self.control.dns.address, self.tls_port, self.http_port, options).await;
        started.expect("starts")
    }

    pub fn acme(&self, authorities: &[AuthoritySettings], options: AcmeOptions) -> Arc<Acme> {
        make(
            self.control.pool.clone(),
            self.control.keys.clone(),
            self.control.dns.address,
            authorities,
            options,
        )
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
        let (url, keys, dns) =
            (self.control.url.clone(), self.control.keys.clone(), self.control.dns.address);
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
                .execute(&self.control.pool)
                .await
                .expect("puts");
        }
    }

    async fn change(&self, set: &str, name: &str) {
        let sql =
            format!("update certificate_order set {set}, next_at = now() where hostname = $1");
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .bind(name)
            .execute(&self.control.pool)
            .await
            .expect("writes");
    }

    pub async fn renew(&self, name: &str) {
        self.change("renew_requested = true", name).await;
    }

    pub async fn ask_now(&self, name: &str) {
        self.change("window_check_at = now()", name).await;
    }

    pub async fn forget_accounts(&self) {
        sqlx::query("delete from acme_account").execute(&self.control.pool).await.expect("deletes");
    }

    /// Waits until `look` finds something.
    pub async fn until<T>(&self, what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
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
                .fetch_all(&self.control.pool)
                .await
                .expect("reads");
                panic!("{what} in vain: {rows:#?}")
            }
        }
    }

    pub async fn held(&self, name: &str) -> Option<Held> {
        certificates::get(&self.control.pool, name, REGION).await.expect("reads")
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
                .fetch_optional(&self.control.pool)
                .await
                .expect("reads")
        })
        .await
    }

    pub async fn challenge(&self, name: &str) -> Option<AcmeChallengeKind> {
        sqlx::query_scalar("select challenge from certificate_order where hostname = $1")
            .bind(name)
            .fetch_one(&self.control.pool)
            .await
            .expect("reads")
    }

    async fn count(&self, sql: &'static str) -> i64 {
        sqlx::query_scalar(sql).fetch_one(&self.control.pool).await.expect("counts")
    }

    pub async fn n_challenges(&self) -> i64 {
        self.count("select count(*) from acme_challenge").await
    }

    /// Second orders that were placed because nobody knew what became of the first one.
    pub async fn n_unsure(&self) -> i64 {
        self.count("select coalesce(sum(n_unsure), 0) from certificate_order").await
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
