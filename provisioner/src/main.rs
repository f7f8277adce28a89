//! `provisioner --config FILE`: configuration, then telemetry, then everything that runs, until a
//! signal.

use std::{path::PathBuf, process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use migrations::Schema;
use provisioner::{
    acme::{Acme, AcmeOptions, AcmeParts, settings::AcmeSettings},
    certificate_authority::CertificateAuthority,
    config::{self, Resolved, RuntimeConfig},
    control_db::{ControlDb, holds, route_changes, tokens},
    dns::Dns,
    engine::{Engine, EngineOptions},
    http::{self, Api},
    instances::{
        InstanceRuntime,
        local::{LocalConfig, LocalRuntime},
    },
    reconcilers::{
        self, Nudges, Schedule, backups,
        certificates::Certificates,
        clusters::ClusterReconciler,
        domains::Domains,
        instances::{self, Instances},
        placements, previews, proofs,
    },
    secrets::Keys,
    site_database::Clusters,
    site_storage::ObjectStores,
    world::World,
};
use serde_json::json;
use sqlx::Connection;
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{error, info};

/// A configuration that cannot be used (`EX_USAGE`).
const BAD_CONFIGURATION: u8 = 64;
/// How often clusters and object stores are looked at.
const PLACES: Duration = Duration::from_secs(10);
/// How often certificates are looked at.
const CERTIFICATES: Duration = Duration::from_secs(60);
/// How often it is looked whether domains can serve, and whose turn it is to be looked at.
const DOMAINS: Duration = Duration::from_secs(5);
/// How often it is looked whether the backups of clusters are prepared, and how they are.
const BACKUPS: Duration = Duration::from_secs(10);
/// How often it is looked whether an old place of a site has had its time.
const PLACEMENTS: Duration = Duration::from_secs(60);
/// How often it is looked whether a site is to be put back to prove that it can be.
const PROOFS: Duration = Duration::from_secs(10);
/// How often previews are looked at whose time is over.
const PREVIEWS: Duration = Duration::from_secs(10);
/// How often the feed of the routers is shortened.
const FEED: Duration = Duration::from_secs(600);

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let path = match (arguments.next(), arguments.next(), arguments.next()) {
        (Some(flag), Some(path), None) if flag == "--config" => PathBuf::from(path),
        _ => {
            eprintln!("usage: provisioner --config FILE");
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    let resolved = match config::load(&path) {
        Ok(resolved) => resolved,
        Err(mistakes) => {
            for mistake in mistakes {
                eprintln!("provisioner: {mistake}");
            }
            return ExitCode::from(BAD_CONFIGURATION);
        }
    };
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_env_filter(&resolved.config.log)
        .with_writer(std::io::stderr)
        .init();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(error = %error, "the provisioner could not start");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(resolved)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!(error = format!("{error:#}"), "the provisioner could not start");
            ExitCode::FAILURE
        }
    }
}

async fn run(resolved: Resolved) -> anyhow::Result<()> {
    // Several TLS libraries are linked through others; this is ours.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let metrics = PrometheusBuilder::new().install_recorder().context("metrics")?;
    let shutdown = CancellationToken::new();
    let signals = stop_on_signals(shutdown.clone())?;
    let config = resolved.config.clone();
    migrate(&config.control_database_url).await?;
    let db = ControlDb::new(&config.control_database_url).context("control database")?;
    tokens::put(&db.pool, "bootstrap", &resolved.bootstrap_token)
        .await
        .context("control database")?;

    let worker = worker_name(&config.runtime);
    let RuntimeConfig::Local { directory, logs, tenant_app, stop_instances_on_exit } =
        config.runtime;
    let runtime: Arc<dyn InstanceRuntime> = Arc::new(
        LocalRuntime::open(LocalConfig { directory, logs, tenant_app, log: config.log.clone() })
            .context("instance runtime")?,
    );
    let keys = load_keys(&config.region_keys)?;
    let nudges = Nudges::new();
    let instances = Arc::new(Instances::new(
        db.pool.clone(),
        Arc::clone(&runtime),
        keys.clone(),
        nudges.clone(),
    ));
    let authority = &config.certificate_authority;
    let http = reqwest::Client::builder().no_proxy().build().context("HTTP client")?;
    let parts = AcmeParts {
        pool: db.pool.clone(),
        keys: keys.clone(),
        dns: Dns::new(&config.dns)?,
        http: http.clone(),
        nudges: nudges.clone(),
    };
    let world = Arc::new(World {
        clusters: Clusters::new(db.pool.clone(), keys.clone()),
        object_stores: ObjectStores::new(db.pool.clone(), keys.clone()),
        authority: Arc::new(
            CertificateAuthority::load(&authority.certificate, &authority.key)
                .context("certificate authority")?,
        ),
        acme: resolved.acme.map(|acme| certificates_by_acme(acme, parts)).transpose()?,
        platform_domain: resolved.platform_domain,
        dns: Dns::new(&config.dns)?,
        nudges: nudges.clone(),
        instances_changed: instances.written(),
        http,
        keys,
        db,
    });
    let running = Running {
        engine: Engine::new(Arc::clone(&world), EngineOptions { worker, ..Default::default() }),
        instances,
        metrics,
        nudges,
        shutdown: shutdown.clone(),
        world,
    };
    running.engine.release_own().await.context("control database")?;
    let outcome = running.serve(config.listen, config.ready_file).await;
    shutdown.cancel();
    signals.abort();
    if stop_instances_on_exit {
        runtime.stop_all().await;
    }
    info!("provisioner stopped");
    outcome
}

/// Names this provisioner among all: the runtime's directory is locked by one process at a time, so
/// whoever had the name before is gone.
fn worker_name(runtime: &RuntimeConfig) -> String {
    let RuntimeConfig::Local { directory, .. } = runtime;
    let uname = rustix::system::uname();
    format!("{}:{}", uname.nodename().to_string_lossy(), directory.display())
}

/// What runs until a signal.
struct Running {
    world: Arc<World>,
    engine: Arc<Engine>,
    instances: Arc<Instances>,
    nudges: Nudges,
    metrics: PrometheusHandle,
    shutdown: CancellationToken,
}

impl Running {
    /// All that is made true again and again.
    fn reconcilers(&self, tasks: &TaskTracker) -> Arc<[reconcilers::Report]> {
        let every = |period| Schedule {
            period,
            nudges: self.nudges.clone(),
            stop: self.shutdown.clone(),
            tasks: tasks.clone(),
        };
        let places = Arc::new(ClusterReconciler::new(
            self.world.db.pool.clone(),
            self.world.clusters.clone(),
            self.world.object_stores.clone(),
        ));
        let feed = self.world.db.pool.clone();
        let certificates = Arc::new(Certificates::new(Arc::clone(&self.world)));
        let domains = Arc::new(Domains { world: Arc::clone(&self.world) });
        let domain_checks = Arc::clone(&domains);
        let (world, engine) = (Arc::clone(&self.world), Arc::clone(&self.engine));
        let backed_up = Arc::clone(&self.world);
        let (proved, proving) = (Arc::clone(&self.world), Arc::clone(&self.engine));
        let (shown, deleting) = (Arc::clone(&self.world), Arc::clone(&self.engine));
        Arc::new([
            Arc::clone(&self.instances).spawn(every(instances::PERIOD)),
            reconcilers::spawn("clusters", every(PLACES), move || {
                let places = Arc::clone(&places);
                async move { places.run_once().await }
            }),
            reconcilers::spawn("certificates", every(CERTIFICATES), move || {
                let certificates = Arc::clone(&certificates);
                async move { certificates.run_once().await }
            }),
            reconcilers::spawn("domains", every(DOMAINS), move || {
                let domains = Arc::clone(&domains);
                async move { domains.advance().await }
            }),
            reconcilers::spawn("domain checks", every(DOMAINS), move || {
                let domains = Arc::clone(&domain_checks);
                async move { domains.look().await }
            }),
            reconcilers::spawn("placements", every(PLACEMENTS), move || {
                let (world, engine) = (Arc::clone(&world), Arc::clone(&engine));
                async move { placements::run_once(&world, &engine).await }
            }),
            reconcilers::spawn("previews", every(PREVIEWS), move || {
                let (world, engine) = (Arc::clone(&shown), Arc::clone(&deleting));
                async move { previews::run_once(&world, &engine).await }
            }),
            reconcilers::spawn("proofs", every(PROOFS), move || {
                let (world, engine) = (Arc::clone(&proved), Arc::clone(&proving));
                async move { proofs::run_once(&world, &engine).await }
            }),
            reconcilers::spawn("backups", every(BACKUPS), move || {
                let world = Arc::clone(&backed_up);
                async move { backups::run_once(&world).await }
            }),
            reconcilers::spawn("route changes", every(FEED), move || {
                let feed = feed.clone();
                async move {
                    holds::prune(&feed).await?;
                    Ok(route_changes::prune(&feed).await.map(drop)?)
                }
            }),
        ])
    }

    async fn serve(
        self,
        listen: std::net::SocketAddr,
        ready_file: Option<PathBuf>,
    ) -> anyhow::Result<()> {
        let listener =
            TcpListener::bind(listen).await.with_context(|| format!("listen {listen}"))?;
        let address = listener.local_addr()?;
        let tasks = TaskTracker::new();
        let reports = self.reconcilers(&tasks);
        tasks.spawn(Arc::clone(&self.engine).run(self.shutdown.clone()));
        if let Some(acme) = &self.world.acme {
            tasks.spawn(Arc::clone(acme).run(self.shutdown.clone()));
        }
        tasks.close();
        let api = Api {
            world: self.world,
            engine: self.engine,
            nudges: self.nudges,
            reconcilers: reports,
            metrics: self.metrics,
            shutdown: self.shutdown.clone(),
        };
        if let Some(path) = ready_file {
            let ready = json!({ "process_id": std::process::id(), "listen": address.to_string() });
            write_atomically(&path, &ready.to_string()).context("ready file")?;
        }
        info!("provisioner listens on {address}");
        http::serve(listener, api, self.shutdown.clone()).await?;
        self.shutdown.cancel();
        tasks.wait().await;
        Ok(())
    }
}

fn certificates_by_acme(settings: AcmeSettings, parts: AcmeParts) -> anyhow::Result<Arc<Acme>> {
    let (lease, checks_addresses) = (settings.claim, settings.checks_addresses);
    let options = AcmeOptions { lease, checks_addresses, ..AcmeOptions::default() };
    Acme::new(settings, parts, options).context("acme")
}

async fn migrate(url: &str) -> anyhow::Result<()> {
    let mut connection =
        sqlx::PgConnection::connect(url).await.context("cannot reach the control database")?;
    let applied = Schema::Control.migrate(&mut connection).await.context("control database")?;
    if !applied.is_empty() {
        info!("control database migrated: {applied:?}");
    }
    connection.close().await?;
    Ok(())
}

fn load_keys(files: &std::collections::BTreeMap<String, PathBuf>) -> anyhow::Result<Keys> {
    Keys::load(files).map_err(|errors| {
        let all: Vec<_> = errors.iter().map(ToString::to_string).collect();
        anyhow::anyhow!("region_keys: {}", all.join("; "))
    })
}

fn stop_on_signals(shutdown: CancellationToken) -> anyhow::Result<tokio::task::JoinHandle<()>> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("provisioner stops");
        shutdown.cancel();
    }))
}

/// So that a reader finds all of it or nothing.
fn write_atomically(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    let temporary = path.with_extension("tmp");
    std::fs::write(&temporary, text)?;
    std::fs::rename(temporary, path)
}
