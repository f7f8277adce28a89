//! A connection: takes its requests, each as a task, and says goodbye before it ends. The goodbye lets
//! requests through that are on their way already, so none has to be sent twice.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use h3::error::Code;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

use super::{
    entrance::canonical_address,
    exchange::{self, Exchange},
    quic::Connection,
};
use crate::{
    Edge,
    arrival::Visitor,
    limits::{
        HANDSHAKE_TIMEOUT, HTTP3_GOODBYE, HTTP3_MALFORMED_REQUESTS, MAX_HEADER_LIST_BYTES,
        MAX_STREAMS,
    },
    listener::{Activity, patient::WatchClient, share},
    record::{Client, Way},
    telemetry::OneMore,
};

/// How many requests are still taken after the goodbye, which does not arrive at once.
const ON_THEIR_WAY: usize = MAX_STREAMS as usize;

type Http3 = h3::server::Connection<Connection, bytes::Bytes>;

/// What the requests of a connection share.
pub struct Shared {
    /// How many were none.
    pub malformed: AtomicU32,
    /// When the last one began or ended.
    pub activity: Activity,
}

/// Serves a connection until it ends.
pub async fn serve(edge: Arc<Edge>, quic: quinn::Connection, mut client: Arc<Client>) {
    let Ok(_share) = share(&edge, &client) else {
        return quic.close(number(Code::H3_EXCESSIVE_LOAD), b"the site has too many connections");
    };
    let _open = OneMore::of(&edge.metrics.http3_connections);
    let (connection, gate) = Connection::new(quic.clone());
    let mut builder = h3::server::builder();
    builder.max_field_section_size(MAX_HEADER_LIST_BYTES.into()).send_grease(false);
    let Ok(Ok(mut connection)) = timeout(HANDSHAKE_TIMEOUT, builder.build(connection)).await else {
        return quic.close(number(Code::H3_GENERAL_PROTOCOL_ERROR), b"no control stream");
    };
    let shared = Arc::new(Shared { malformed: AtomicU32::new(0), activity: Activity::default() });
    let requests = TaskTracker::new();
    requests.close();
    let mut goes = false;
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = has_to_go(&edge, &client, &shared), if !goes => {
                goes = true;
                gate.close_after(ON_THEIR_WAY);
                if say_goodbye(&mut connection).await { continue }
                break;
            }
            () = is_over(&requests), if goes => break,
        };
        let Ok(Some(resolver)) = accepted else { break };
        let Some(stopped) = gate.stopped() else { break };
        if shared.malformed.load(Ordering::Relaxed) > HTTP3_MALFORMED_REQUESTS {
            quic.close(number(Code::H3_EXCESSIVE_LOAD), b"too many requests that are none");
            break;
        }
        if !follow(&edge, &quic, &mut client) {
            quic.close(number(Code::H3_EXCESSIVE_LOAD), b"the address has too many connections");
            break;
        }
        let exchange = Exchange { resolver, stopped, shared: Arc::clone(&shared) };
        let busy = shared.activity.begin();
        let answering = exchange::run(Arc::clone(&edge), Arc::clone(&client), exchange);
        edge.tasks.spawn(requests.track_future(async move {
            let _busy = busy;
            answering.await;
        }));
    }
    // With the connection they end by themselves. Without: dropping it would cut them off.
    requests.wait().await;
}

/// The client is where its datagrams come from, also when that changes: its limits and the log go by
/// the address of the moment. False when the new one may not have another connection.
fn follow(edge: &Edge, quic: &quinn::Connection, client: &mut Arc<Client>) -> bool {
    let address = canonical_address(quic);
    if address.ip() == client.address.ip() {
        return true;
    }
    let Some(admission) = edge.addresses.admit(address.ip()) else {
        edge.metrics.refused_connections.increment(1);
        return false;
    };
    let visitor = Visitor { address, way: Way::Straight, admission, version: None };
    let watched = Arc::new(WatchClient::default());
    *client = Arc::new(Client::new(visitor, client.server_name.clone(), true, watched));
    true
}

/// Returns when the client is better off with another connection, or has none to do.
async fn has_to_go(edge: &Edge, client: &Client, shared: &Shared) {
    tokio::select! {
        // At once: whoever follows needs the address, and nothing is lost by it.
        () = edge.stopping.cancelled() => {}
        () = client.sent_away() => {}
        () = shared.activity.idle(edge.limits.idle()) => {}
    }
}

/// Asks the client to send its next requests elsewhere; false if that cannot be said any more.
async fn say_goodbye(connection: &mut Http3) -> bool {
    let said = timeout(HTTP3_GOODBYE, connection.shutdown(ON_THEIR_WAY)).await;
    said.is_ok_and(|said| said.is_ok())
}

/// Returns when the goodbye must have arrived and nothing is under way.
async fn is_over(requests: &TaskTracker) {
    sleep(HTTP3_GOODBYE).await;
    requests.wait().await;
}

fn number(code: Code) -> quinn::VarInt {
    quinn::VarInt::from_u64(code.value()).unwrap_or(quinn::VarInt::MAX)
}
