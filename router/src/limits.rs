//! Every limit of the router that no plan sets, in one place, and what they are for. [`Limits`] are
//! those that the configuration may change; `gcra`, `pace` and `addresses` hold to them.

use std::time::Duration;

use serde::Deserialize;

pub mod addresses;
pub mod gcra;
pub mod pace;

use crate::{config::network::Network, route_source::NEWS_BOUND};
use gcra::Rate;
use pace::Pace;

/// A client must have said its ClientHello, and finished the handshake, within this.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest ClientHello, in bytes as they come, records included.
pub const MAX_HELLO_BYTES: usize = 32 * 1024;
/// A load balancer must have said whom it speaks for within this.
pub const PROXY_HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// A client must have sent the head of a request within this; also the longest idle HTTP/1.1
/// connection.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest head of an HTTP/1.1 request, in bytes. It has at most 100 header lines, as has the head of
/// an answer: hyper's limit, which costs it nothing, while another one costs it an allocation.
pub const MAX_HEAD_BYTES: usize = 64 * 1024;
/// Longest header list of an HTTP/2 request, in bytes.
pub const MAX_HEADER_LIST_BYTES: u32 = 16 * 1024;
/// Most requests at once on an HTTP/2 connection.
pub const MAX_STREAMS: u32 = 100;
/// A QUIC client that is silent for this long is gone.
pub const HTTP3_LOST_AFTER: Duration = Duration::from_secs(30);
/// How often one that has nothing to say is asked whether it is there.
pub const HTTP3_KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Most bytes of answers that are on their way over one QUIC connection.
pub const HTTP3_SEND_BYTES: u64 = 1024 * 1024;
/// Most streams of one direction that a QUIC client may open at once. HTTP/3 needs three.
pub const HTTP3_STREAMS_OF_ONE_DIRECTION: u32 = 8;
/// Most handshakes at once with QUIC clients that have not proven their address.
pub const HTTP3_UNPROVEN_HANDSHAKES: u32 = 32;
/// How long a goodbye may take to arrive, and requests that left before it.
pub const HTTP3_GOODBYE: Duration = Duration::from_secs(1);
/// A QUIC connection ends after more requests than this that are none.
pub const HTTP3_MALFORMED_REQUESTS: u32 = 100;
/// The longest pause inside the body of an answer.
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
/// A router of another region must have finished the handshake of a relayed request within this: it
/// may have to wait for the news first.
pub const RELAY_HANDSHAKE_TIMEOUT: Duration = REFRESH_PATIENCE.saturating_add(CONNECT_TIMEOUT);
/// Most requests of one site that are relayed to another region at once.
pub const MAX_RELAYED_REQUESTS: usize = 64;

/// An instance must accept a connection within this.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long connecting is tried again while an instance restarts or cannot be reached.
pub const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// An instance must have begun its answer within this after the whole request was sent.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// An idle connection to an instance is closed after this. Shorter than what an instance takes to
/// exit idle, since it does not exit while a connection is open.
pub const UPSTREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(15);
/// A connection to an instance is not used again when it is older than this.
pub const UPSTREAM_MAX_AGE: Duration = Duration::from_secs(300);
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
/// How long a request or connection that came to the wrong place waits for newer routes: until they
/// must have come.
pub const REFRESH_PATIENCE: Duration = NEWS_BOUND.saturating_add(Duration::from_secs(1));
/// How long a request waits for a site that has no instance yet, or of which that is not known yet.
pub const START_PATIENCE: Duration = REFRESH_PATIENCE;

/// How many held requests are let go at once, and the pause before the next ones.
pub const RELEASE_SLICE: usize = 64;
/// See [`RELEASE_SLICE`].
pub const RELEASE_PAUSE: Duration = Duration::from_millis(5);
/// The first pause before a request that an instance refused as fenced is sent again; it doubles.
pub const FENCED_FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest one.
pub const FENCED_LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// How long an event stream or a WebSocket may take to come to a boundary when its site is held.
pub const FAREWELL_TIMEOUT: Duration = Duration::from_secs(1);

/// What the configuration may set under `limits`. Rates and counts of one address are not held
/// against [`Limits::exempt`] networks.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Limits {
    /// Most client connections at once, if the process may have as many descriptors.
    pub connections: usize,
    /// Most of them that are made for hostnames of one site.
    pub connections_per_site: u64,
    /// Most connections of one client address. Of IPv6 a /64 counts as one.
    pub connections_per_address: u32,
    /// Handshakes of one address in a second, in the long run.
    pub handshakes_per_second: u32,
    /// Handshakes of one address at once after a quiet time.
    pub handshake_burst: u32,
    /// Requests of one address in a second, in the long run.
    pub requests_per_second: u32,
    /// Requests of one address at once after a quiet time.
    pub request_burst: u32,
    /// Networks whose clients have no limits of their own, as `10.0.0.0/8`.
    pub exempt: Vec<Network>,
    /// Most waiting requests of one held site.
    pub held_per_site: u64,
    /// Most waiting requests of one address.
    pub held_per_address: u64,
    /// Most waiting requests in all.
    pub held: u64,
    /// Longest time that one request waits for a held site.
    pub hold_secs: u32,
    /// A client that takes nothing of an answer for this long is cut off; also one that takes less
    /// than [`Limits::least_bytes_per_second`] for this long.
    pub write_stall_secs: u32,
    /// A client that sends nothing of a request's body for this long, or less than
    /// [`Limits::least_bytes_per_second`], is answered 408.
    pub body_grace_secs: u32,
    /// What a slow client must send or take in a second, in bytes.
    pub least_bytes_per_second: u32,
    /// An HTTP/2 or HTTP/3 connection without a request for this long is closed.
    pub idle_secs: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 20_000,
            connections_per_site: 10_000,
            connections_per_address: 256,
            handshakes_per_second: 50,
            handshake_burst: 200,
            requests_per_second: 200,
            request_burst: 1_000,
            exempt: Network::loopback(),
            held_per_site: 1_000,
            held_per_address: 64,
            held: 20_000,
            hold_secs: 30,
            write_stall_secs: 40,
            body_grace_secs: 30,
            least_bytes_per_second: 240,
            idle_secs: 120,
        }
    }
}

impl Limits {
    /// What is wrong with these limits.
    pub fn mistakes(&self) -> Vec<String> {
        let numbers = [
            ("connections", self.connections as u64),
            ("connections_per_site", self.connections_per_site),
            ("connections_per_address", self.connections_per_address.into()),
            ("handshakes_per_second", self.handshakes_per_second.into()),
            ("handshake_burst", self.handshake_burst.into()),
            ("requests_per_second", self.requests_per_second.into()),
            ("request_burst", self.request_burst.into()),
            ("write_stall_secs", self.write_stall_secs.into()),
            ("body_grace_secs", self.body_grace_secs.into()),
            ("least_bytes_per_second", self.least_bytes_per_second.into()),
            ("idle_secs", self.idle_secs.into()),
        ];
        let zero = numbers.iter().filter(|(_, number)| *number == 0);
        zero.map(|(name, _)| format!("limits.{name}: must be more than 0")).collect()
    }

    /// Handshakes of one address.
    pub const fn handshakes(&self) -> Rate {
        Rate::new(self.handshakes_per_second, self.handshake_burst)
    }

    /// Requests of one address.
    pub const fn requests(&self) -> Rate {
        Rate::new(self.requests_per_second, self.request_burst)
    }

    /// Longest time that one request waits for a held site.
    pub const fn longest_hold(&self) -> Duration {
        Duration::from_secs(self.hold_secs as u64)
    }

    /// A client that takes nothing of an answer for this long is cut off.
    pub const fn write_stall(&self) -> Duration {
        Duration::from_secs(self.write_stall_secs as u64)
    }

    /// How a client must take what is sent to it.
    pub const fn taking(&self) -> Pace {
        Pace { grace: self.write_stall(), bytes_per_second: self.least_bytes_per_second }
    }

    /// How a client must send the body of a request.
    pub const fn sending(&self) -> Pace {
        let grace = Duration::from_secs(self.body_grace_secs as u64);
        Pace { grace, bytes_per_second: self.least_bytes_per_second }
    }

    /// An HTTP/2 or HTTP/3 connection without a request for this long is closed.
    pub const fn idle(&self) -> Duration {
        Duration::from_secs(self.idle_secs as u64)
    }

    /// How many client connections there may be: [`Limits::connections`], or what the process may
    /// have open files for, each request needing one to the instance too. Raises the soft limit on
    /// the way.
    pub fn affordable_connections(&self) -> usize {
        use rustix::process::{Resource, getrlimit, setrlimit};
        let mut files = getrlimit(Resource::Nofile);
        files.current = files.maximum;
        // Without the raise the limit below is still the true one.
        let _ = setrlimit(Resource::Nofile, files);
        let files = getrlimit(Resource::Nofile)
            .current
            .map_or(usize::MAX, |files| usize::try_from(files).unwrap_or(usize::MAX));
        self.connections.min((files.saturating_sub(256) / 2).max(16))
    }
}
