//! Every limit of the router that no plan sets, in one place, and what they are for.

use std::time::Duration;

/// Most client connections at once, if the process may have as many descriptors.
pub const MAX_CONNECTIONS: usize = 20_000;
/// A client must have said its ClientHello, and finished the handshake, within this.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest ClientHello, in bytes as they come, records included.
pub const MAX_HELLO_BYTES: usize = 32 * 1024;
/// A load balancer must have said whom it speaks for within this.
pub const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A client must have sent the head of a request within this; also the longest idle HTTP/1.1
/// connection.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Most header lines of a request.
pub const MAX_HEADERS: usize = 100;
/// Longest head of an HTTP/1.1 request, in bytes.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Longest header list of an HTTP/2 request, in bytes.
pub const MAX_HEADER_LIST_BYTES: u32 = 16 * 1024;
/// Most requests at once on an HTTP/2 connection.
pub const MAX_STREAMS: u32 = 100;
/// An HTTP/2 connection without a request for this long is closed.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(120);
/// A client that takes nothing of an answer for this long is cut off.
pub const WRITE_STALL_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest pause inside the body of a request or an answer.
pub const BODY_IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest pause in both directions of a WebSocket.
pub const TUNNEL_IDLE_TIMEOUT: Duration = Duration::from_secs(3_600);

/// The longest pause in both directions of a connection that goes to another region. Longer than any
/// pause that the router there allows, so that it is the one that decides.
pub const PASSTHROUGH_IDLE_TIMEOUT: Duration = Duration::from_secs(3_660);
/// The same while the router stops.
pub const PASSTHROUGH_FAREWELL_TIMEOUT: Duration = Duration::from_secs(5);
/// A router of another region must accept a connection within this; then the next one is tried.
pub const EDGE_CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A router of another region must have finished the handshake of a relayed request within this.
pub const RELAY_HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Most requests of one site that are relayed to another region at once.
pub const MAX_RELAYED_REQUESTS: usize = 64;

/// An instance must accept a connection within this.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long connecting is tried again while an instance restarts.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// An instance must have begun its answer within this after the whole request was sent.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// An idle connection to an instance is closed after this. Shorter than what an instance takes to
/// exit idle, since it does not exit while a connection is open.
pub const UPSTREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// Most connections in use to one instance.
pub const MAX_UPSTREAM_CONNECTIONS: usize = 256;
/// Most idle connections kept to one instance.
pub const MAX_IDLE_UPSTREAM_CONNECTIONS: usize = 256;
/// How long a request waits for one of these connections.
pub const UPSTREAM_QUEUE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest head of an answer, in bytes.
pub const MAX_ANSWER_HEAD_BYTES: usize = 128 * 1024;
/// How much of a request's body is kept to send it again when an instance refuses the request.
pub const REPLAY_BYTES: usize = 64 * 1024;
/// How often a request that was not processed is sent again.
pub const MAX_RETRIES: u32 = 2;
/// How long a refused request waits for a newer route.
pub const REFRESH_PATIENCE: Duration = Duration::from_secs(2);
/// How long a request waits for a site that has no instance yet.
pub const START_PATIENCE: Duration = Duration::from_secs(3);

/// How many client connections there may be: [`MAX_CONNECTIONS`], or what the process may have open
/// files for, each request needing one to the instance too. Raises the soft limit on the way.
pub fn connections() -> usize {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut files = getrlimit(Resource::Nofile);
    files.current = files.maximum;
    // Without the raise the limit below is still the true one.
    let _ = setrlimit(Resource::Nofile, files);
    let files = getrlimit(Resource::Nofile)
        .current
        .map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
    MAX_CONNECTIONS.min((files.saturating_sub(256) / 2).max(16))
}
