//! Connections for sites that are at home in another region: their bytes go to a router there as
//! they are, so that TLS ends only at home. In front goes a PROXY header, which says whose connection
//! it is.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use moka::sync::Cache;
use rustix::net::sockopt::{
    set_socket_keepalive, set_tcp_keepcnt, set_tcp_keepidle, set_tcp_keepintvl,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    time::{Instant, sleep, timeout},
};

use crate::{
    Edge,
    access_log::{PassedLine, millis},
    limits::{EDGE_CONNECT_TIMEOUT, PASSTHROUGH_FAREWELL_TIMEOUT, PASSTHROUGH_IDLE_TIMEOUT},
    proxy_protocol,
    route_table::EdgeRow,
    telemetry::OneMore,
};

/// A router that could not be reached is the last choice for so long.
const AVOIDED: Duration = Duration::from_secs(10);
/// How often silence is looked at, in parts of the longest silence.
const CHECKS: u32 = 4;
const BUFFER_BYTES: usize = 16 * 1024;
/// Neither end can tell that the other one behind this router is gone, so this router asks.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(60);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
const KEEPALIVE_COUNT: u32 = 4;

/// How other regions' routers are chosen.
#[derive(Debug)]
pub struct Neighbours {
    next: AtomicUsize,
    failed: Cache<String, ()>,
}

/// No router of the region takes the connection over.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// None is registered.
    #[error("region '{0}' has no router with a passthrough address")]
    None(String),
    /// None answers; the reason of the last one.
    #[error("no router of region '{0}' can be reached")]
    Failed(String, #[source] io::Error),
}

impl Default for Neighbours {
    fn default() -> Self {
        let failed = Cache::builder().max_capacity(1_000).time_to_live(AVOIDED).build();
        Self { next: AtomicUsize::new(0), failed }
    }
}

impl Neighbours {
    /// A connection to one of the region's routers, which take turns; the next one when one does not
    /// answer.
    ///
    /// # Errors
    /// When none answers.
    pub async fn connect(
        &self,
        region: &str,
        routers: &[EdgeRow],
    ) -> Result<(TcpStream, String), Unreachable> {
        let mut last = None;
        for router in self.in_turn(routers) {
            let connecting = TcpStream::connect(&router.passthrough_address);
            let connected = timeout(EDGE_CONNECT_TIMEOUT, connecting).await;
            let connected = connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
            match connected.and_then(prepared) {
                Ok(stream) => {
                    self.failed.invalidate(&router.name);
                    return Ok((stream, router.name.clone()));
                }
                Err(error) => {
                    if !self.failed.contains_key(&router.name) {
                        tracing::warn!(router = router.name, region, %error,
                            "a router of another region cannot be reached");
                    }
                    self.failed.insert(router.name.clone(), ());
                    last = Some(error);
                }
            }
        }
        Err(match last {
            None => Unreachable::None(region.to_owned()),
            Some(error) => Unreachable::Failed(region.to_owned(), error),
        })
    }

    fn in_turn<'a>(&self, routers: &'a [EdgeRow]) -> Vec<&'a EdgeRow> {
        let first = self.next.fetch_add(1, Ordering::Relaxed) % routers.len().max(1);
        let (before, from) = routers.split_at(first.min(routers.len()));
        let mut order: Vec<_> = from.iter().chain(before).collect();
        order.sort_by_key(|router| self.failed.contains_key(&router.name));
        order
    }
}

fn prepared(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    keep_alive(&stream)?;
    Ok(stream)
}

fn keep_alive(stream: &TcpStream) -> io::Result<()> {
    set_socket_keepalive(stream, true)?;
    set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    set_tcp_keepcnt(stream, KEEPALIVE_COUNT)?;
    Ok(())
}

/// The PROXY header for a connection of `client` that reached this router at `local`: decrypted here if
/// `relayed`, and sent on by this `version` of its site.
pub fn header(
    client: SocketAddr,
    local: io::Result<SocketAddr>,
    relayed: bool,
    version: Option<i64>,
) -> Vec<u8> {
    let local = local.unwrap_or(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), 443));
    proxy_protocol::header(client, local, relayed, version)
}

/// Whose connection it is, and where it goes.
#[derive(Debug)]
pub struct Carrying {
    /// The client.
    pub address: SocketAddr,
    /// The hostname that it wants.
    pub hostname: Box<str>,
    /// The region.
    pub region: String,
    /// The version of its site that says so.
    pub version: Option<i64>,
}

/// Passes a connection on until it ends; `said` was read from it already.
pub async fn carry(edge: Arc<Edge>, mut client: TcpStream, said: Vec<u8>, carrying: Carrying) {
    let Carrying { address, hostname, region, version } = carrying;
    let begun = Instant::now();
    let mut carried = Carried::new(edge.limits.write_stall());
    let routers = edge.routes.load().edges(&region).to_vec();
    let outcome = match edge.neighbours.connect(&region, &routers).await {
        Err(error) => Err(error),
        Ok((stream, router)) => {
            carried.router = router;
            let _more = OneMore::of(&edge.metrics.passing_on);
            let first = [header(address, client.local_addr(), false, version), said].concat();
            carried.run(&mut client, stream, first, &edge).await;
            Ok(())
        }
    };
    edge.metrics.passed_on(outcome.is_ok());
    let (received, sent) = (carried.up.into_inner(), carried.down.into_inner());
    edge.metrics.received_bytes.increment(received);
    edge.metrics.sent_bytes.increment(sent);
    if let Err(error) = &outcome {
        let error = error as &dyn std::error::Error;
        tracing::debug!(error, "a connection cannot be passed on");
    }
    if edge.log.is_on() {
        edge.log.passed(&PassedLine {
            host: &hostname,
            region: &region,
            router: Some(&*carried.router).filter(|name| !name.is_empty()),
            error: outcome.err().map(|error| error.to_string()),
            received_bytes: received,
            sent_bytes: sent,
            duration_ms: millis(begun.elapsed()),
            client: address.ip(),
            ..PassedLine::now()
        });
    }
}

/// A connection on its way, and how much went over it.
struct Carried {
    router: String,
    /// An end that takes nothing for so long is given up.
    stall: Duration,
    up: AtomicU64,
    down: AtomicU64,
}

impl Carried {
    const fn new(stall: Duration) -> Self {
        Self { router: String::new(), stall, up: AtomicU64::new(0), down: AtomicU64::new(0) }
    }

    async fn run(&self, client: &mut TcpStream, mut home: TcpStream, first: Vec<u8>, edge: &Edge) {
        // A client that is gone is found out by its silence at the latest.
        let _ = keep_alive(client);
        if !matches!(timeout(self.stall, home.write_all(&first)).await, Ok(Ok(()))) {
            return;
        }
        self.up.fetch_add(first.len() as u64, Ordering::Relaxed);
        drop(first);
        tokio::select! {
            () = self.exchange(client, &mut home) => {}
            () = self.quiet(edge) => {}
        }
    }

    /// Both directions: an end in one leaves the other as it is, a failure ends both.
    async fn exchange(&self, client: &mut TcpStream, home: &mut TcpStream) {
        let (client_reader, client_writer) = client.split();
        let (home_reader, home_writer) = home.split();
        let up = self.pump(client_reader, home_writer, &self.up);
        let down = self.pump(home_reader, client_writer, &self.down);
        if let Err(error) = futures_util::try_join!(up, down) {
            tracing::debug!(%error, "a connection that is passed on broke off");
        }
    }

    async fn pump(
        &self,
        mut reader: ReadHalf<'_>,
        mut writer: WriteHalf<'_>,
        carried: &AtomicU64,
    ) -> io::Result<()> {
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            let length = reader.read(&mut buffer).await?;
            if length == 0 {
                return writer.shutdown().await;
            }
            let written = timeout(self.stall, writer.write_all(&buffer[..length])).await;
            written.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
            carried.fetch_add(length as u64, Ordering::Relaxed);
        }
    }

    /// Ends when nothing came for long, or not for so long while the router stops.
    async fn quiet(&self, edge: &Edge) {
        let stopping = async {
            edge.told_to_go().await;
            self.silent_for(PASSTHROUGH_FAREWELL_TIMEOUT).await;
        };
        tokio::select! {
            () = self.silent_for(PASSTHROUGH_IDLE_TIMEOUT) => {}
            () = stopping => {}
        }
    }

    async fn silent_for(&self, limit: Duration) {
        let bytes = || self.up.load(Ordering::Relaxed) + self.down.load(Ordering::Relaxed);
        let (mut before, mut quiet) = (bytes(), 0);
        while quiet < CHECKS {
            sleep(limit / CHECKS).await;
            let now = bytes();
            quiet = if now == before { quiet + 1 } else { 0 };
            before = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn router(name: &str, address: SocketAddr) -> EdgeRow {
        EdgeRow {
            name: name.to_owned(),
            region: "r".to_owned(),
            passthrough_address: address.to_string(),
        }
    }

    #[tokio::test]
    async fn the_next_router_is_taken_when_one_does_not_answer() {
        let alive = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let dead = {
            let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listens");
            gone.local_addr().expect("has an address")
        };
        let live = alive.local_addr().expect("has an address");
        let routers = [router("dead", dead), router("live", live)];
        let neighbours = Neighbours::default();
        for _ in 0..4 {
            let (_, name) = neighbours.connect("r", &routers).await.expect("connects");
            assert_eq!(name, "live");
        }
        assert_eq!(neighbours.in_turn(&routers)[1].name, "dead", "it comes last for a while");
        let none = neighbours.connect("r", &[]).await;
        assert!(matches!(none, Err(Unreachable::None(_))));
        let failed = neighbours.connect("r", &routers[..1]).await;
        assert!(matches!(failed, Err(Unreachable::Failed(..))));
    }

    #[tokio::test]
    async fn an_end_in_one_direction_leaves_the_other_as_it_is() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listens");
        let address = listener.local_addr().expect("has an address");
        let pair = async || {
            let one = TcpStream::connect(address).await.expect("connects");
            (one, listener.accept().await.expect("accepts").0)
        };
        let ((mut client, mut left), (mut right, mut home)) = (pair().await, pair().await);
        let carried = Carried::new(Duration::from_secs(60));
        let ends = async {
            client.write_all(b"all I have to say").await.expect("writes");
            client.shutdown().await.expect("ends");
            let mut heard = String::new();
            home.read_to_string(&mut heard).await.expect("reads");
            assert_eq!(heard, "all I have to say");
            home.write_all(b"an answer").await.expect("writes");
            drop(home);
            let mut answer = String::new();
            client.read_to_string(&mut answer).await.expect("reads");
            assert_eq!(answer, "an answer");
        };
        futures_util::future::join(carried.exchange(&mut left, &mut right), ends).await;
        assert_eq!((carried.up.into_inner(), carried.down.into_inner()), (17, 9));
    }

    #[test]
    fn routers_take_turns() {
        let address = ([127, 0, 0, 1], 1).into();
        let routers = [router("a", address), router("b", address), router("c", address)];
        let neighbours = Neighbours::default();
        let firsts: Vec<_> = (0..4).map(|_| neighbours.in_turn(&routers)[0].name.clone()).collect();
        assert_eq!(firsts, ["a", "b", "c", "a"]);
    }
}
