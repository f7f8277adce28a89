//! What a connection goes through before its first request: whose it is, what it says first, and
//! whether it is answered here at all. A challenge is shown to its authority; a connection for a site
//! that is at home in another region goes there as it is.

use std::{net::SocketAddr, sync::Arc};

use rustls::sign::CertifiedKey;
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    Edge,
    challenge::Proof,
    config::network::Network,
    limits::{HANDSHAKE_TIMEOUT, PROXY_HEADER_TIMEOUT, REFRESH_PATIENCE, addresses::Admission},
    listener::patient::{Patient, WatchClient},
    proxy_protocol::{self, Header},
    record::{Client, Way},
    tls::{self, HandshakeError, Handshakes, Secured, hello::Hello},
};

/// Which peers speak for others.
#[derive(Debug)]
pub struct Trusted {
    /// Load balancers in front of the public listeners.
    pub balancers: Vec<Network>,
    /// Other regions' routers.
    pub routers: Vec<Network>,
}

/// Which kind of listener a connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entrance {
    /// A public one.
    Public,
    /// The one for other regions' routers.
    Private,
}

/// A connection that will not be answered.
#[derive(Debug, thiserror::Error)]
pub enum NotTaken {
    /// A peer that may not come to this listener.
    #[error("the peer is in none of the networks of passthrough_from")]
    Stranger,
    /// A peer that must begin with a PROXY header and did not.
    #[error("the PROXY header did not come or is none")]
    Header(#[source] std::io::Error),
    /// Another region's router believes that the site is at home here, and this router does not.
    #[error("another router passed on a connection for a site that is not at home here")]
    NotHere,
    /// The address has as many connections as it may.
    #[error("the address has too many connections")]
    TooManyConnections,
    /// The address made as many handshakes as it may for now.
    #[error("the address makes too many handshakes")]
    TooManyHandshakes,
    /// TLS failed.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
}

/// Whose connection it is.
#[derive(Debug)]
pub struct Visitor {
    /// The other end; behind a load balancer or another router, what that one says.
    pub address: SocketAddr,
    /// How the connection came.
    pub way: Way,
    /// What the address may take.
    pub admission: Admission,
    /// The version of the site by which another router passed it on.
    pub version: Option<i64>,
}

impl Visitor {
    /// Whether the connection may go on to where the site is at home by its `version`: only by newer
    /// news than brought it here, so that it can never go round.
    fn may_go_on(&self, version: Option<i64>) -> bool {
        match self.way {
            Way::Straight => true,
            Way::PassedOn => self.version.is_some_and(|known| version > Some(known)),
            Way::Relayed => false,
        }
    }
}

/// Whose connection it is, and the rest of what its peer said about it.
///
/// # Errors
/// When the peer may not come, or must say whom it speaks for and does not, or has too many
/// connections.
pub async fn whose(
    edge: &Edge,
    stream: &mut TcpStream,
    peer: SocketAddr,
    entrance: Entrance,
) -> Result<Visitor, NotTaken> {
    let among = |networks: &[Network]| networks.iter().any(|network| network.contains(peer.ip()));
    let begins_with_header = match entrance {
        Entrance::Private if !among(&edge.trusted.routers) => return Err(NotTaken::Stranger),
        Entrance::Private => true,
        Entrance::Public => among(&edge.trusted.balancers),
    };
    let admitted = |address: SocketAddr, way, version| {
        let admission = edge.addresses.admit(address.ip()).ok_or(NotTaken::TooManyConnections)?;
        Ok(Visitor { address, way, admission, version })
    };
    if !begins_with_header {
        return admitted(peer, Way::Straight, None);
    }
    let header = match timeout(PROXY_HEADER_TIMEOUT, proxy_protocol::read(stream)).await {
        Ok(read) => read.map_err(NotTaken::Header)?,
        Err(_) => return Err(NotTaken::Header(std::io::ErrorKind::TimedOut.into())),
    };
    let Header { source, relayed, version } = header;
    let way = match entrance {
        Entrance::Public => Way::Straight,
        Entrance::Private if relayed => Way::Relayed,
        Entrance::Private => Way::PassedOn,
    };
    admitted(source.unwrap_or(peer), way, version)
}

/// What becomes of a TLS connection.
pub enum Arrived {
    /// It is answered here.
    Here(Secured<Patient<TcpStream>>, Arc<Client>),
    /// It was a certificate authority, and has seen what it came for.
    Proved,
    /// It goes on to a router of this region.
    Elsewhere {
        /// The stream, of which nothing but `said` was read.
        stream: TcpStream,
        /// Whose it is.
        visitor: Visitor,
        /// What the client said so far.
        said: Vec<u8>,
        /// The hostname that it wants.
        hostname: Box<str>,
        /// The region.
        region: String,
        /// The version of the site that says so.
        version: Option<i64>,
    },
}

/// Hears what a TLS client wants, and makes the connection secure if it is answered here.
///
/// # Errors
/// When the client does not do its part, or must not be answered here.
pub async fn tls(
    edge: &Edge,
    mut stream: TcpStream,
    visitor: Visitor,
    handshakes: &Handshakes,
) -> Result<Arrived, NotTaken> {
    if !visitor.admission.may_shake_hands(Instant::now()) {
        return Err(NotTaken::TooManyHandshakes);
    }
    let deadline = Instant::now() + HANDSHAKE_TIMEOUT;
    let hello = tls::hello(&mut stream, deadline).await?;
    let end = match end_of(edge, &hello, visitor.way) {
        End::Elsewhere(_, version) if !visitor.may_go_on(version) => {
            arrives(edge, &hello, &visitor).await?
        }
        end => end,
    };
    match end {
        End::Elsewhere(region, version) => {
            let Hello { bytes: said, server_name, .. } = hello;
            let hostname = server_name.unwrap_or_default();
            Ok(Arrived::Elsewhere { stream, visitor, said, hostname, region, version })
        }
        End::Proof(certificate) => {
            tls::prove(stream, hello, certificate, deadline).await?;
            edge.metrics.challenges_tls.increment(1);
            Ok(Arrived::Proved)
        }
        End::Here => {
            let server_name = hello.server_name.clone();
            let watched = Arc::new(WatchClient::default());
            let stream = Patient::new(stream, edge.limits.taking(), Arc::clone(&watched));
            let secured = tls::secure(stream, hello, handshakes, deadline).await?;
            let client = Client::new(visitor, server_name, true, watched);
            Ok(Arrived::Here(secured, Arc::new(client)))
        }
    }
}

/// Where a connection ends.
enum End {
    Here,
    Proof(Arc<CertifiedKey>),
    /// In this region, as this version of the site says.
    Elsewhere(String, Option<i64>),
}

fn end_of(edge: &Edge, hello: &Hello, way: Way) -> End {
    let Some(server_name) = hello.server_name.as_deref() else { return End::Here };
    let table = edge.routes.load();
    if hello.is_challenge {
        // Without a challenge the handshake fails here: nobody else speaks that protocol.
        let Some(challenge) = table.challenges.tls_alpn(server_name) else { return End::Here };
        return match &challenge.proof {
            Proof::TlsAlpn { region, .. } if **region != *edge.region => {
                End::Elsewhere(region.to_string(), None)
            }
            Proof::TlsAlpn { certificate, .. } => {
                edge.certificates.open_challenge(certificate).map_or(End::Here, End::Proof)
            }
            Proof::Http { .. } => End::Here,
        };
    }
    let Some(route) = table.route(server_name) else { return End::Here };
    let site = &route.site;
    if *site.region != *edge.region {
        return End::Elsewhere(site.region.to_string(), Some(site.version));
    }
    // An instance's word has no version that could keep a connection from going round, so what
    // another router passed on ends here by it, and its requests are relayed.
    match edge.routes.gone(site) {
        Some(home) if way == Way::Straight => {
            End::Elsewhere(home.region.to_string(), Some(site.version))
        }
        _ => End::Here,
    }
}

/// Waits for the news that the site is at home here, which another router knows already, or for newer
/// news than that router has.
async fn arrives(edge: &Edge, hello: &Hello, visitor: &Visitor) -> Result<End, NotTaken> {
    let mut changes = edge.routes.watch();
    edge.routes.nudge();
    let waiting = async {
        loop {
            match end_of(edge, hello, visitor.way) {
                End::Elsewhere(_, version) if !visitor.may_go_on(version) => {}
                end => return Ok(end),
            }
            if changes.changed().await.is_err() {
                return Err(NotTaken::NotHere);
            }
        }
    };
    timeout(REFRESH_PATIENCE, waiting).await.unwrap_or(Err(NotTaken::NotHere))
}
