//! The UDP address: taking it, what is agreed on with those who come, and the thread that reads it.
//!
//! The socket is not handed over to the next router. Two processes that read one socket would take each
//! other's datagrams; the kernel cannot tell whose they are. So a router that is replaced keeps it until
//! its connections have ended, which it makes them do at once, turns everybody else away to TCP, and the
//! next router takes the address when it is free.

use std::{
    fmt,
    io::{self, ErrorKind},
    net::{SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use aws_lc_rs::hmac;
use control_types::{hostname::canonical, seal::KeyRing};
use quinn::{
    ConnectionId, ConnectionIdGenerator, Endpoint, EndpointConfig, IdleTimeout, TokioRuntime,
    TransportConfig, crypto::rustls::QuicServerConfig,
};
use rustix::net::sockopt;
use rustls::{
    ServerConfig,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{sync::watch, time::sleep};
use uuid::Uuid;

use super::{entrance::Entrance, offer::Offer};
use crate::{
    Edge,
    config::Config,
    limits::{
        HTTP3_KEEP_ALIVE, HTTP3_LOST_AFTER, HTTP3_SEND_BYTES, HTTP3_STREAMS_OF_ONE_DIRECTION,
        MAX_STREAMS,
    },
    listener::{CONNECTION_WINDOW_BYTES, STREAM_WINDOW_BYTES},
    route_table::{RouteTable, Site},
    watchdog::Heart,
};

const PROTOCOL: &[u8] = b"h3";
/// Datagrams that wait to be read; the kernel's own limit (`net.core.rmem_max`) may be lower.
const SOCKET_BUFFER_BYTES: usize = 2 * 1024 * 1024;
/// How often it is tried to take an address that the router before still has.
const FREE_PAUSE: Duration = Duration::from_millis(50);

/// The address, before anybody is let in.
pub struct Door {
    address: SocketAddr,
    // None while the router before has it.
    socket: Option<UdpSocket>,
    endpoint: EndpointConfig,
    server: quinn::ServerConfig,
}

impl Door {
    /// The address that the configuration names, if it names one. `follows`: another router may have it
    /// still.
    ///
    /// # Errors
    /// When the address is taken, or the cryptography does not start.
    pub fn of(
        config: &Config,
        tls: &ServerConfig,
        routes: &Arc<RouteTable>,
        ring: &KeyRing,
        follows: bool,
    ) -> anyhow::Result<Option<Self>> {
        let Some(wanted) = config.http3_listen else { return Ok(None) };
        let socket = match bind(wanted) {
            Ok(socket) => Some(socket),
            Err(error) if follows && error.kind() == ErrorKind::AddrInUse => None,
            Err(error) => {
                let text = format!("http3_listen: cannot listen on {wanted} (UDP)");
                return Err(error).context(text);
            }
        };
        let address = match &socket {
            Some(socket) => socket.local_addr()?,
            None => wanted,
        };
        let mut tls = tls.clone();
        tls.alpn_protocols = vec![PROTOCOL.to_vec()];
        tls.cert_resolver = Arc::new(AtHome {
            routes: Arc::clone(routes),
            region: config.region.clone(),
            resolver: Arc::clone(&tls.cert_resolver),
        });
        let crypto = QuicServerConfig::try_from(tls).context("http3_listen: cannot start QUIC")?;
        let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(Arc::new(transport()?));
        let endpoint = endpoint(ring, &config.name)?;
        Ok(Some(Self { address, socket, endpoint, server }))
    }

    /// Where it is, or will be.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Opens it, now or as soon as the address is free: a thread that reads the socket until the process
    /// ends, which `heart` shows to turn.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn open(self, edge: &Arc<Edge>, heart: Arc<Heart>) -> io::Result<Entrance> {
        let (tell, endpoint) = watch::channel(None);
        let edge = Arc::clone(edge);
        std::thread::Builder::new().name("http3".to_owned()).spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            let outcome = runtime.and_then(|runtime| {
                runtime.block_on(async {
                    tokio::spawn(heart.beat());
                    self.run(&edge, tell).await?;
                    // The watchdog wants to hear of this thread also while the router drains.
                    std::future::pending().await
                })
            });
            if let Err::<(), _>(error) = outcome {
                // The workers find that nobody comes any more, and the router ends.
                tracing::error!(%error, "http3_listen: the socket cannot be used");
            }
        })?;
        Ok(Entrance::new(endpoint))
    }

    async fn run(self, edge: &Edge, tell: watch::Sender<Option<Endpoint>>) -> io::Result<()> {
        // Stopping waits for the last words of the connections.
        let _token = edge.tasks.token();
        let socket = match self.socket {
            Some(socket) => socket,
            None => tokio::select! {
                socket = freed(self.address) => socket?,
                () = edge.stopping.cancelled() => return Ok(()),
            },
        };
        let address = socket.local_addr()?;
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new(self.endpoint, Some(self.server), socket, runtime)?;
        tell.send_replace(Some(endpoint.clone()));
        let _ = edge.http3.set(Offer::of_port(address.port()));
        tracing::info!(%address, "listening for HTTP/3");
        edge.stopping.cancelled().await;
        tell.send_replace(None);
        turn_away(&endpoint).await;
        Ok(())
    }
}

impl fmt::Debug for Door {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Door({})", self.address)
    }
}

fn bind(address: SocketAddr) -> io::Result<UdpSocket> {
    // Without SO_REUSEADDR and SO_REUSEPORT: a UDP address must have one reader.
    let socket = UdpSocket::bind(address)?;
    // Smaller buffers work too.
    let _ = sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    let _ = sockopt::set_socket_send_buffer_size(&socket, SOCKET_BUFFER_BYTES);
    Ok(socket)
}

async fn freed(address: SocketAddr) -> io::Result<UdpSocket> {
    tracing::info!(%address, "http3_listen: waiting until the router before has left it");
    loop {
        match bind(address) {
            Err(error) if error.kind() == ErrorKind::AddrInUse => sleep(FREE_PAUSE).await,
            outcome => return outcome,
        }
    }
}

/// Sends everybody who comes to TCP until the last connection has ended.
async fn turn_away(endpoint: &Endpoint) {
    loop {
        tokio::select! {
            biased;
            incoming = endpoint.accept() => match incoming {
                Some(incoming) => incoming.refuse(),
                None => return,
            },
            () = endpoint.wait_idle() => return,
        }
    }
}

/// No certificate for what is at home elsewhere: the handshake fails at once, and the client goes
/// over TCP, where it is passed on.
#[derive(Debug)]
struct AtHome {
    routes: Arc<RouteTable>,
    region: String,
    resolver: Arc<dyn ResolvesServerCert>,
}

impl ResolvesServerCert for AtHome {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut scratch = String::new();
        let named = hello.server_name().and_then(|name| canonical(name, &mut scratch).ok());
        if let Some(name) = named {
            let table = self.routes.load();
            let is_elsewhere =
                |site: &Site| *site.region != *self.region || self.routes.gone(site).is_some();
            if table.route(name).is_some_and(|route| is_elsewhere(&route.site)) {
                return None;
            }
        }
        self.resolver.resolve(hello)
    }
}

fn transport() -> anyhow::Result<TransportConfig> {
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(MAX_STREAMS.into())
        .max_concurrent_uni_streams(HTTP3_STREAMS_OF_ONE_DIRECTION.into())
        .stream_receive_window(STREAM_WINDOW_BYTES.into())
        .receive_window(CONNECTION_WINDOW_BYTES.into())
        .send_window(HTTP3_SEND_BYTES)
        .max_idle_timeout(Some(IdleTimeout::try_from(HTTP3_LOST_AFTER)?))
        .keep_alive_interval(Some(HTTP3_KEEP_ALIVE))
        .datagram_receive_buffer_size(None);
    Ok(transport)
}

/// After a crash the next router of this name can tell the clients of the one before that their
/// connections are gone (RFC 9000 section 10.3), since both find the same key. Routers of other names
/// cannot: whoever can send them a client's datagrams could end its connections.
fn endpoint(ring: &KeyRing, router: &str) -> anyhow::Result<EndpointConfig> {
    let secrets = ring.derive(&format!("quic stateless reset of {router}"))?;
    let secret = secrets.first().context("the region's ring has no key")?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut endpoint = EndpointConfig::new(Arc::new(key));
    endpoint.cid_generator(|| Box::new(RandomIds));
    Ok(endpoint)
}

/// Ids of connections that say nothing, also not which process made them: the reset for one that is
/// unknown must go out.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(Uuid::new_v4().as_bytes())
    }

    fn cid_len(&self) -> usize {
        size_of::<Uuid>()
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests {
    use quinn::crypto::HmacKey as _;

    use super::*;

    #[test]
    fn only_a_router_of_the_same_name_ends_connections() {
        let ring = KeyRing::generate("r").expect("random bytes");
        let sign = |router: &str| {
            let secret =
                ring.derive(&format!("quic stateless reset of {router}")).expect("derives");
            let mut signature = [0; 32];
            hmac::Key::new(hmac::HMAC_SHA256, &secret[0]).sign(b"id", &mut signature);
            signature
        };
        assert_eq!(sign("r1"), sign("r1"));
        assert_ne!(sign("r1"), sign("r2"));
        assert!(endpoint(&ring, "r1").is_ok());
    }

    #[test]
    fn an_address_has_one_reader() {
        let first = bind(([127, 0, 0, 1], 0).into()).expect("binds");
        let second = bind(first.local_addr().expect("has one"));
        assert_eq!(second.expect_err("is taken").kind(), ErrorKind::AddrInUse);
    }
}
