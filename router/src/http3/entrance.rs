//! Who is let in, and the handshake. The limits are those of TCP connections, but the address of a
//! datagram proves nothing: as long as a client has not shown that it gets what is sent to its address,
//! nothing is counted against that address, and only few such clients are let in at once. The others are
//! asked to show it first (Retry, RFC 9000 section 8.1.2).

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use control_types::hostname::canonical;
use quinn::{Endpoint, Incoming, VarInt, crypto::rustls::HandshakeData};
use tokio::{
    sync::{Semaphore, watch},
    time::{Instant, timeout},
};

use super::connection;
use crate::{
    Edge,
    arrival::Visitor,
    limits::{HANDSHAKE_TIMEOUT, HTTP3_UNPROVEN_HANDSHAKES, addresses::Admission},
    listener::{Counted, patient::WatchClient},
    record::{Client, Way},
};

/// H3_EXCESSIVE_LOAD: goes over TCP, where it hears the same.
const TOO_MUCH: VarInt = VarInt::from_u32(0x107);

/// Where connections come in, for one thread.
#[derive(Clone, Debug)]
pub struct Entrance {
    endpoint: watch::Receiver<Option<Endpoint>>,
    unproven: Arc<AtomicU32>,
}

/// A handshake with an address that nobody has proven.
struct Unproven(Arc<AtomicU32>);

impl Drop for Unproven {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What becomes of a client.
enum Verdict {
    Comes(Admission),
    ComesUnproven,
    ProvesItsAddress,
    Refused,
    Ignored,
}

impl Entrance {
    /// At an endpoint that is there, or will be.
    pub fn new(endpoint: watch::Receiver<Option<Endpoint>>) -> Self {
        Self { endpoint, unproven: Arc::default() }
    }

    fn verdict(&self, edge: &Edge, incoming: &Incoming) -> Verdict {
        let address = incoming.remote_address().ip().to_canonical();
        if edge.trusted.balancers.iter().any(|network| network.contains(address)) {
            // It would have to say whom it speaks for, and there is no way to.
            edge.metrics.not_taken.increment(1);
            return Verdict::Ignored;
        }
        let now = Instant::now();
        if !incoming.remote_address_validated() {
            let crowded = self.unproven.load(Ordering::Relaxed) >= HTTP3_UNPROVEN_HANDSHAKES;
            if crowded || !edge.addresses.has_room(address, now) {
                edge.metrics.http3_retries.increment(1);
                return Verdict::ProvesItsAddress;
            }
            return Verdict::ComesUnproven;
        }
        admit(edge, address, now).map_or(Verdict::Refused, Verdict::Comes)
    }
}

fn admit(edge: &Edge, address: std::net::IpAddr, now: Instant) -> Option<Admission> {
    let Some(admission) = edge.addresses.admit(address) else {
        edge.metrics.refused_connections.increment(1);
        return None;
    };
    if !admission.may_shake_hands(now) {
        edge.metrics.refused_handshakes.increment(1);
        return None;
    }
    Some(admission)
}

/// Takes connections until the router stops, with at most `most` at once over all doors.
pub async fn serve(edge: Arc<Edge>, mut entrance: Entrance, most: Arc<Semaphore>) {
    let endpoint = tokio::select! {
        found = entrance.endpoint.wait_for(Option::is_some) => {
            found.ok().and_then(|found| found.clone())
        }
        () = edge.stopping.cancelled() => return,
    };
    let Some(endpoint) = endpoint else { return };
    loop {
        let incoming = tokio::select! {
            incoming = endpoint.accept() => incoming,
            () = edge.stopping.cancelled() => return,
        };
        let Some(incoming) = incoming else { return };
        let (admission, unproven) = match entrance.verdict(&edge, &incoming) {
            Verdict::Comes(admission) => (Some(admission), None),
            Verdict::ComesUnproven => {
                entrance.unproven.fetch_add(1, Ordering::Relaxed);
                (None, Some(Unproven(Arc::clone(&entrance.unproven))))
            }
            Verdict::ProvesItsAddress => {
                // It can be asked to, or it would be proven.
                let _ = incoming.retry();
                continue;
            }
            Verdict::Refused => {
                incoming.refuse();
                continue;
            }
            Verdict::Ignored => {
                incoming.ignore();
                continue;
            }
        };
        let Ok(permit) = Arc::clone(&most).try_acquire_owned() else {
            edge.metrics.refused_connections.increment(1);
            incoming.refuse();
            continue;
        };
        let inside = Arc::clone(&edge);
        edge.tasks.spawn(async move {
            let _permit = permit;
            inside.metrics.accepted.increment(1);
            let _counted = Counted::begin(&inside);
            arrive(inside, incoming, admission, unproven).await;
        });
    }
}

/// Shakes hands, and serves the connection.
async fn arrive(
    edge: Arc<Edge>,
    incoming: Incoming,
    admission: Option<Admission>,
    unproven: Option<Unproven>,
) {
    let address = incoming.remote_address();
    let handshake = async { incoming.accept()?.await };
    let quic = match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(Ok(quic)) => quic,
        Ok(Err(error)) => {
            edge.metrics.handshake_errors.increment(1);
            tracing::debug!(client = %address.ip(), %error, "a QUIC handshake failed");
            return;
        }
        Err(_) => return edge.metrics.handshake_timeouts.increment(1),
    };
    drop(unproven);
    // Now the address is proven, if it was not.
    let address = canonical_address(&quic);
    let admission = admission.or_else(|| admit(&edge, address.ip(), Instant::now()));
    let Some(admission) = admission else {
        quic.close(TOO_MUCH, b"the address has too many connections");
        return;
    };
    edge.metrics.handshakes.increment(1);
    let visitor = Visitor { address, way: Way::Straight, admission, version: None };
    let watched = Arc::new(WatchClient::default());
    let client = Arc::new(Client::new(visitor, server_name(&quic), true, watched));
    connection::serve(edge, quic, client).await;
}

/// Where the client is now.
pub fn canonical_address(quic: &quinn::Connection) -> SocketAddr {
    let address = quic.remote_address();
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The hostname in canonical form that the client named in its handshake.
fn server_name(quic: &quinn::Connection) -> Option<Box<str>> {
    let data = quic.handshake_data()?.downcast::<HandshakeData>().ok()?;
    canonical(data.server_name.as_deref()?, &mut String::new()).ok().map(Into::into)
}
