//! The life of the process: its parts and addresses, taking over from the router before, serving, and
//! how it stops.

use std::{
    net::{SocketAddr, TcpListener},
    os::unix::net::{self as unix, UnixStream},
    path::Path,
    pin::pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64},
    },
    time::Duration,
};

use anyhow::Context as _;
use control_types::seal::KeyRing;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use sqlx::postgres::PgConnectOptions;
use tokio::{
    net::UnixListener,
    sync::Semaphore,
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    Edge, LINGER,
    access_log::AccessLog,
    admin,
    arrival::Trusted,
    certificates::OpenCertificates,
    challenge::lookup::ChallengeLookup,
    config::Config,
    hold::{self, AllHeld},
    http3,
    limits::{Limits, addresses::Addresses},
    listener::{Door, Speaks},
    passthrough::Neighbours,
    route_source::{self, Freshness, RouteSource},
    siblings::{self, Siblings},
    snapshot,
    sockets::{self, Listener, Predecessor},
    telemetry::{self, Metrics},
    tls::{self, Handshakes},
    traces::{self, Traces},
    upstream::{self, Upstreams, relay::Relays},
    watchdog,
    workers::Workers,
};

/// How often readiness is looked at while another router still serves.
const READY_PAUSE: Duration = Duration::from_millis(20);
/// How long before the end of the drain time WebSockets and event streams are told to end, at most a
/// quarter of it.
const FAREWELL: Duration = Duration::from_secs(2);

/// A router that has its addresses and does not answer yet.
pub struct Router {
    edge: Arc<Edge>,
    config: Config,
    ring: KeyRing,
    database: PgConnectOptions,
    metrics: PrometheusHandle,
    handshakes: Handshakes,
    https: TcpListener,
    http3: Option<http3::door::Door>,
    http: TcpListener,
    admin: TcpListener,
    passthrough: Option<TcpListener>,
    predecessor: Option<Predecessor>,
    sibling: Option<unix::UnixListener>,
    exporter: Option<traces::Exporter>,
}

/// The contents of the ready file.
#[derive(Serialize)]
struct Ready {
    process_id: u32,
    https: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    http3: Option<SocketAddr>,
    http: SocketAddr,
    admin: SocketAddr,
    #[serde(skip_serializing_if = "Option::is_none")]
    passthrough: Option<SocketAddr>,
}

impl Router {
    /// Loads the last known routes and takes the addresses.
    ///
    /// # Errors
    /// When the keys cannot be read or an address is taken.
    pub fn build(config: Config) -> anyhow::Result<Self> {
        let metrics = telemetry::start_metrics().map_err(anyhow::Error::msg)?;
        let ring = ring(&config)?;
        let database = database(&config)?;
        let (siblings, sibling, mut predecessor) = others(config.handover_socket.as_deref())?;
        let mut bind = |field, address| bind(field, address, predecessor.as_mut());
        let https = bind("https_listen", config.https_listen)?;
        let http = bind("http_listen", config.http_listen)?;
        let admin = bind("admin_listen", config.admin_listen)?;
        let passthrough = config.passthrough_listen;
        let passthrough =
            passthrough.map(|address| bind("passthrough_listen", address)).transpose()?;
        let (traces, exporter) = traces(&config)?.unzip();
        let edge = Arc::new(Edge {
            region: config.region.clone(),
            routes: Arc::default(),
            freshness: Freshness::default(),
            challenges: ChallengeLookup::new(database.clone()),
            certificates: Arc::new(OpenCertificates::new(ring.clone())),
            addresses: Addresses::new(&config.limits),
            limits: config.limits.clone(),
            held: AllHeld::default(),
            connections: AtomicU64::new(0),
            siblings,
            begun: tokio::time::Instant::now(),
            upstreams: Upstreams::new(),
            neighbours: Neighbours::default(),
            relays: Relays::new(config.trusted_roots.as_deref())?,
            trusted: Trusted {
                balancers: config.proxy_protocol_from.clone(),
                routers: config.passthrough_from.clone(),
            },
            metrics: Metrics::new(),
            log: AccessLog::start().context("cannot start the access log")?,
            traces,
            http3: OnceLock::new(),
            https_port: https.local_addr()?.port(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            is_stopping: AtomicBool::new(false),
            replaced: CancellationToken::new(),
            farewell: CancellationToken::new(),
            linger: OnceLock::new(),
        });
        let tls = tls::configuration(
            Arc::clone(&edge.routes),
            Arc::clone(&edge.certificates),
            config.platform_domain.clone(),
            &ring,
        )
        .context("cannot start TLS")?;
        load_snapshot(&edge, &config);
        let follows = predecessor.is_some();
        let http3 = http3::door::Door::of(&config, &tls, &edge.routes, &ring, follows)?;
        Ok(Self {
            edge,
            config,
            ring,
            database,
            metrics,
            handshakes: Handshakes::new(&tls),
            https,
            http3,
            http,
            admin,
            passthrough,
            predecessor,
            sibling,
            exporter,
        })
    }

    /// Serves until `stop` comes, then finishes what is in flight within the drain time.
    ///
    /// # Errors
    /// When the ready file cannot be written, or a part of the router ends by itself.
    pub async fn serve(self, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        let ready = self.ready()?;
        let Self { edge, config, handshakes, https, http3, http, admin, passthrough, .. } = self;
        let predecessor = self.predecessor;
        let private = tokio::net::TcpListener::from_std(admin.try_clone()?)?;
        let sibling = self.sibling.map(UnixListener::from_std).transpose()?;
        let mut stop = pin!(stop);
        let region = config.region.clone();
        let source = RouteSource::new(Arc::clone(&edge), region, self.ring, self.database);

        let mut background = background(&edge, &config, source, self.metrics.clone(), sibling);
        self.exporter.map(|exporter| background.spawn(exporter.run()));
        let speaks = [
            (Some(&https), Speaks::Https(handshakes.clone())),
            (Some(&http), Speaks::Http),
            (passthrough.as_ref(), Speaks::Passed(handshakes)),
        ];
        let doors = doors(&edge.limits, speaks)?;
        if predecessor.is_some() {
            // It serves meanwhile: whoever comes here too early would find no certificate.
            tokio::select! {
                () = ready_to_serve(&edge) => {}
                () = &mut stop => {
                    edge.siblings.leave();
                    return Ok(());
                }
            }
        }
        background.spawn(admin::serve(Arc::clone(&edge), private, self.metrics));
        let heart = Arc::default();
        let http3 = http3.map(|door| door.open(&edge, Arc::clone(&heart))).transpose()?;
        let mut workers = Workers::start(&edge, config.workers, &doors, http3.as_ref())?;
        drop(doors);
        workers.hearts.extend(http3.is_some().then_some(heart));
        watchdog::watch(&workers.hearts)?;
        let listeners = [
            ("https_listen", Some(https)),
            ("http_listen", Some(http)),
            ("admin_listen", Some(admin)),
            ("passthrough_listen", passthrough),
        ];
        let listeners = listeners.into_iter().filter_map(|(field, socket)| {
            Some(Listener { field: field.to_owned(), socket: socket? })
        });
        let listeners = listeners.collect();

        if let Some(predecessor) = predecessor {
            take_over(predecessor);
        }
        let successor = match &config.handover_socket {
            Some(path) => Some(UnixListener::from_std(sockets::wait_at(path)?)?),
            None => None,
        };
        write_ready(&config.ready_file, &ready)?;
        tracing::info!(name = config.name, https = %ready.https, http = %ready.http,
            admin = %ready.admin, workers = config.workers, "listening");
        let (outcome, replaced) = tokio::select! {
            () = &mut stop => (Ok(()), false),
            () = replaced(successor, listeners) => (Ok(()), true),
            failed = workers.failed() => (Err(anyhow::anyhow!(failed)), false),
            ended = background.join_next() => {
                let panicked = ended.and_then(Result::err);
                (Err(anyhow::anyhow!("a part of the router ended: {panicked:?}")), false)
            }
        };
        drain(&edge, &config, replaced).await;
        // What the drain did not finish is cut.
        workers.cut();
        edge.siblings.leave();
        outcome
    }

    /// Where it will listen.
    fn ready(&self) -> std::io::Result<Ready> {
        Ok(Ready {
            process_id: std::process::id(),
            https: self.https.local_addr()?,
            http3: self.http3.as_ref().map(http3::door::Door::address),
            http: self.http.local_addr()?,
            admin: self.admin.local_addr()?,
            passthrough: self.passthrough.as_ref().map(TcpListener::local_addr).transpose()?,
        })
    }
}

/// The other processes of this router, and the one among them that is to be replaced.
fn others(
    handover: Option<&Path>,
) -> anyhow::Result<(Siblings, Option<unix::UnixListener>, Option<Predecessor>)> {
    // Before anything is read or asked: see there.
    let (siblings, sibling) =
        Siblings::listen(handover).context("handover_socket: cannot listen beside it")?;
    let Some(path) = handover else { return Ok((siblings, sibling, None)) };
    let predecessor =
        Predecessor::ask(path).with_context(|| format!("handover_socket: {}", path.display()))?;
    Ok((siblings, sibling, predecessor))
}

fn traces(config: &Config) -> anyhow::Result<Option<(Traces, traces::Exporter)>> {
    let Some(settings) = &config.traces else { return Ok(None) };
    let roots = upstream::relay::roots(config.trusted_roots.as_deref())?;
    let made = Traces::new(settings, &config.name, &config.region, roots);
    made.context("traces: cannot be sent there").map(Some)
}

fn ring(config: &Config) -> anyhow::Result<KeyRing> {
    let ring = KeyRing::load(&config.region_keys).context("cannot load the region's keys")?;
    anyhow::ensure!(
        ring.region() == config.region,
        "the keys in {} are of region '{}', the router's region is '{}'",
        config.region_keys.display(),
        ring.region(),
        config.region,
    );
    Ok(ring)
}

fn database(config: &Config) -> anyhow::Result<PgConnectOptions> {
    config.control_database_url.parse().context("control_database_url is not a postgres URL")
}

/// The doors that there are, with one limit for all of them.
fn doors(
    limits: &Limits,
    speaks: [(Option<&TcpListener>, Speaks); 3],
) -> std::io::Result<Vec<Door<TcpListener>>> {
    let most = Arc::new(Semaphore::new(limits.affordable_connections()));
    let doors = speaks.into_iter().filter_map(|(socket, speaks)| {
        let most = Arc::clone(&most);
        Some(socket?.try_clone().map(|socket| Door { socket, speaks, most }))
    });
    doors.collect()
}

/// What goes on until the process ends, beside the connections. A panic in one of them ends the
/// router: better gone and started again than serving with a part missing.
fn background(
    edge: &Arc<Edge>,
    config: &Config,
    source: RouteSource,
    metrics: PrometheusHandle,
    sibling: Option<UnixListener>,
) -> JoinSet<()> {
    let mut background = JoinSet::new();
    background.spawn(source.run());
    background.spawn(route_source::listen(Arc::clone(edge), config.control_database_url.clone()));
    background.spawn(snapshot::keep(
        Arc::clone(edge),
        config.snapshot_file.clone(),
        config.region.clone(),
    ));
    background.spawn(telemetry::upkeep(metrics.clone()));
    if let Some(sibling) = sibling {
        background.spawn(siblings::serve(Arc::clone(edge), sibling, metrics));
    }
    background.spawn(hold::watch(Arc::clone(edge)));
    let sweeping = Arc::clone(edge);
    background.spawn(async move { sweeping.upstreams.sweep().await });
    background
}

fn take_over(predecessor: Predecessor) {
    match predecessor.replace() {
        Ok(()) => tracing::info!("took over from the router before"),
        Err(error) => tracing::warn!(%error, "the router before has gone"),
    }
}

async fn ready_to_serve(edge: &Edge) {
    while admin::unready(edge).is_some() {
        sleep(READY_PAUSE).await;
    }
}

fn bind(
    field: &str,
    address: SocketAddr,
    predecessor: Option<&mut Predecessor>,
) -> anyhow::Result<TcpListener> {
    match predecessor.and_then(|predecessor| predecessor.take(field, address)) {
        Some(socket) => Ok(socket),
        None => sockets::listen_at(address)
            .with_context(|| format!("{field}: cannot listen on {address}")),
    }
}

/// Returns when another router has taken this one's place; never without a handover socket.
async fn replaced(successor: Option<UnixListener>, listeners: Vec<Listener>) {
    let Some(waiting) = successor else { return std::future::pending().await };
    let listeners = Arc::new(listeners);
    loop {
        let Ok((stream, _)) = waiting.accept().await else {
            sleep(READY_PAUSE).await;
            continue;
        };
        tracing::info!("another router takes over");
        let listeners = Arc::clone(&listeners);
        let handing = tokio::task::spawn_blocking(move || {
            let stream: UnixStream = stream.into_std()?;
            sockets::hand_over(stream, &listeners)
        });
        match handing.await {
            Ok(Ok(())) => return,
            Ok(Err(error)) => {
                tracing::warn!(%error, "the other router did not get ready; serving on");
            }
            Err(error) => tracing::error!(%error, "handing over ended early; serving on"),
        }
    }
}

fn load_snapshot(edge: &Edge, config: &Config) {
    if let Some(snapshot) = snapshot::load(&config.snapshot_file, &config.region) {
        tracing::info!(routes = snapshot.table.len(), taken_at = %snapshot.taken_at,
            "serving the routes of the snapshot until the control database is read");
        edge.freshness.is_of_snapshot(snapshot.taken_at);
        edge.routes.publish(snapshot.table);
    }
}

fn write_ready(path: &Path, ready: &Ready) -> anyhow::Result<()> {
    let new = path.with_added_extension("new");
    std::fs::write(&new, serde_json::to_vec(ready)?)
        .and_then(|()| std::fs::rename(&new, path))
        .with_context(|| format!("ready_file: cannot write {}", path.display()))
}

/// Takes nothing new and finishes what is in flight, at most for the drain time.
async fn drain(edge: &Edge, config: &Config, replaced: bool) {
    tracing::info!(replaced, "stopping: finishing what is in flight");
    // Somebody else serves already, so there is time to meet every client once more.
    let linger = if replaced { config.drain / 2 } else { LINGER.min(config.drain / 4) };
    let _ = edge.linger.set(linger);
    if replaced {
        edge.replaced.cancel();
    }
    edge.stop();
    edge.tasks.close();
    let farewell = FAREWELL.min(config.drain / 4);
    let mut finished = timeout(config.drain - farewell, edge.tasks.wait()).await;
    if finished.is_err() {
        edge.farewell.cancel();
        finished = timeout(farewell, edge.tasks.wait()).await;
    }
    if finished.is_err() && replaced && edge.held.number() > 0 {
        // They wait by order, and the next router serves: they have the time that they were promised.
        finished = timeout(edge.limits.longest_hold(), edge.tasks.wait()).await;
    }
    if finished.is_err() {
        tracing::warn!(connections = edge.tasks.len(), "stopping before everything was finished");
    }
    edge.log.finish();
    if let Some(traces) = &edge.traces {
        traces.finish().await;
    }
    if !replaced {
        // The file says that the router listens, and that is over.
        let _ = std::fs::remove_file(&config.ready_file);
    }
}
