//! The edge of the platform: terminates TLS for every domain, finds the site in its table of routes
//! and passes the request on to the site's instance. The modules stand in the order in which a
//! request meets them; `request` is the whole way on one page.
//!
//! It never writes to a database, never waits for one to serve a hostname that it knows, and never
//! sends a request a second time that may have been processed.

pub mod life;
pub mod config;
pub mod sockets;
pub mod siblings;
pub mod workers;
pub mod watchdog;
pub mod listener;
pub mod http3;
pub mod arrival;
pub mod proxy_protocol;
pub mod passthrough;
pub mod tls;
mod shared;
pub mod certificates;
pub mod challenge;
pub mod request;
pub mod host;
pub mod route_table;
pub mod route_source;
pub mod snapshot;
pub mod forward;
pub mod upstream;
pub mod limits;
pub mod hold;
pub mod site_traffic;
pub mod rejection;
pub mod record;
pub mod request_id;
pub mod access_log;
pub mod admin;
pub mod telemetry;
pub mod traces;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::sleep;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use access_log::AccessLog;
use arrival::Trusted;
use certificates::OpenCertificates;
use challenge::lookup::ChallengeLookup;
use hold::AllHeld;
pub use life::Router;
use limits::{Limits, addresses::Addresses};
use passthrough::Neighbours;
use route_source::Freshness;
use route_table::RouteTable;
use siblings::Siblings;
use telemetry::Metrics;
use traces::Traces;
use upstream::{Upstreams, relay::Relays};

/// How long a connection without a request is kept at a stop, in case its client is just sending one.
const LINGER: Duration = Duration::from_secs(1);

/// What every connection and every request shares.
#[derive(Debug)]
pub struct Edge {
    /// The region that this router serves; other regions' sites are answered by their own routers.
    pub region: String,
    /// Where requests go.
    pub routes: Arc<RouteTable>,
    /// How well [`Edge::routes`] is known.
    pub freshness: Freshness,
    /// Challenges that the table does not have yet.
    pub challenges: ChallengeLookup,
    /// Private keys in use.
    pub certificates: Arc<OpenCertificates>,
    /// What clients may take.
    pub limits: Limits,
    /// What each client address takes.
    pub addresses: Addresses,
    /// Requests that wait for held sites.
    pub held: AllHeld,
    /// Connections of clients.
    pub connections: AtomicU64,
    /// The other processes of this router.
    pub siblings: Siblings,
    /// When the process began.
    pub begun: tokio::time::Instant,
    /// Connections to instances.
    pub upstreams: Upstreams,
    /// Which of another region's routers takes a connection over.
    pub neighbours: Neighbours,
    /// Requests of older connections on their way to another region.
    pub relays: Relays,
    /// Which peers speak for others.
    pub trusted: Trusted,
    /// What is counted.
    pub metrics: Metrics,
    /// One line for each request.
    pub log: AccessLog,
    /// Spans of some requests, if anybody takes them.
    pub traces: Option<Traces>,
    /// What clients are told of HTTP/3, once it is spoken.
    pub http3: OnceLock<http3::offer::Offer>,
    /// The port that redirects from plain HTTP name.
    pub https_port: u16,
    /// Connections and requests; stopping waits for them.
    pub tasks: TaskTracker,
    /// Cancelled by [`Edge::stop`].
    pub stopping: CancellationToken,
    // The same for whoever asks at every request: asking the token takes a lock.
    is_stopping: AtomicBool,
    /// Cancelled when another router has taken this one's place.
    pub replaced: CancellationToken,
    /// Cancelled when the drain time is about to be over: what has no end of its own ends now.
    pub farewell: CancellationToken,
    linger: OnceLock<Duration>,
}

impl Edge {
    /// Tells the router to stop.
    pub fn stop(&self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        self.stopping.cancel();
    }

    /// Counts the sites that have gone by their instance's word.
    pub fn note_gone(&self) {
        #[allow(clippy::cast_precision_loss, reason = "there are not so many")]
        self.metrics.gone_sites.set(self.routes.gone_sites() as f64);
    }

    /// Whether it was told so.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping.load(Ordering::Relaxed)
    }

    /// Returns a while after the router was told to stop. Until then a connection without a request
    /// is kept: its client may be sending one, and closing then would lose it.
    pub async fn told_to_go(&self) {
        self.stopping.cancelled().await;
        sleep(self.linger.get().copied().unwrap_or(LINGER)).await;
    }
}
