//! Accepts connections, at most so many, and serves each as a task of its own until it is over or
//! the router stops. Then it finishes what is in flight and takes nothing new.

use std::{
    future::Future,
    io,
    net::SocketAddr,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{Duration, sleep},
};

use crate::{
    Edge,
    arrival::{self, Arrived, Entrance, NotTaken},
    limits::{MAX_HEADER_LIST_BYTES, MAX_STREAMS},
    passthrough::{self, Carrying},
    record::Client,
    request,
    site_traffic::SiteConnection,
    tls::{HandshakeError, Handshakes},
};

mod http1;
pub mod patient;
mod rarely;
pub mod stall;

use patient::{Patient, WatchClient};
use rarely::Rarely;

/// How long accepting pauses when the system has no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// An HTTP/2 client that does not answer a ping is gone.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How much an HTTP/2 client may send before it is read, for one request and for all.
pub(crate) const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
pub(crate) const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;
/// How much of an answer is buffered for one HTTP/2 request.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// A place where connections come in.
#[derive(Debug)]
pub struct Door<L> {
    /// The listening socket.
    pub socket: L,
    /// What is spoken here.
    pub speaks: Speaks,
    /// Most connections at once, over all doors.
    pub most: Arc<Semaphore>,
}

impl Door<std::net::TcpListener> {
    /// The same door for another thread.
    ///
    /// # Errors
    /// When the process has too many open files.
    pub fn try_clone(&self) -> io::Result<Self> {
        let (speaks, most) = (self.speaks.clone(), Arc::clone(&self.most));
        Ok(Self { socket: self.socket.try_clone()?, speaks, most })
    }

    /// The door for the runtime of this thread.
    ///
    /// # Errors
    /// When the runtime cannot watch the socket.
    pub fn open(self) -> io::Result<Door<TcpListener>> {
        let socket = TcpListener::from_std(self.socket)?;
        Ok(Door { socket, speaks: self.speaks, most: self.most })
    }
}

/// What is spoken on a listener.
#[derive(Clone, Debug)]
pub enum Speaks {
    /// HTTP over TLS: everything.
    Https(Handshakes),
    /// The same, passed on by other regions' routers.
    Passed(Handshakes),
    /// Plain HTTP: redirects only.
    Http,
}

/// Accepts connections until the router stops.
pub async fn serve(edge: Arc<Edge>, door: Door<TcpListener>) {
    let Door { socket: listener, speaks, most } = door;
    loop {
        let accepting = async {
            // Beyond the limit clients wait in the system's queue.
            let permit = Arc::clone(&most).acquire_owned().await.ok();
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            accepted = accepting => accepted,
            () = edge.stopping.cancelled() => return,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                if !is_of_client(&error) {
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
                continue;
            }
        };
        let (inside, speaks) = (Arc::clone(&edge), speaks.clone());
        edge.tasks.spawn(async move {
            let _permit = permit;
            inside.metrics.accepted.increment(1);
            let _counted = Counted::begin(&inside);
            connection(inside, stream, address, speaks).await;
        });
    }
}

/// A connection that the client gave up while it waited; the next one is fine.
fn is_of_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

/// A connection, counted for as long as this lives.
pub(crate) struct Counted(Arc<Edge>);

impl Counted {
    pub(crate) fn begin(edge: &Arc<Edge>) -> Self {
        edge.metrics.connections.increment(1.0);
        edge.connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(edge))
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.metrics.connections.decrement(1.0);
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn connection(edge: Arc<Edge>, mut stream: TcpStream, peer: SocketAddr, speaks: Speaks) {
    if stream.set_nodelay(true).is_err() {
        return;
    }
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let entrance = match speaks {
        Speaks::Passed(_) => Entrance::Private,
        Speaks::Https(_) | Speaks::Http => Entrance::Public,
    };
    // Also while the router stops: whoever has got so far gets an answer.
    let visitor = match arrival::whose(&edge, &mut stream, peer, entrance).await {
        Ok(visitor) => visitor,
        Err(not_taken) => return refused(&edge, peer, &not_taken),
    };
    let handshakes = match speaks {
        Speaks::Http => {
            let watched = Arc::new(WatchClient::default());
            let stream = Patient::new(stream, edge.limits.taking(), Arc::clone(&watched));
            let client = Arc::new(Client::new(visitor, None, false, watched));
            return Box::pin(http1::serve(&edge, stream, client, request::redirect)).await;
        }
        Speaks::Https(handshakes) | Speaks::Passed(handshakes) => handshakes,
    };
    // Each stage is on the heap for as long as it lasts: a connection is idle for most of its life, and
    // what its handshake took is gone then.
    match Box::pin(arrival::tls(&edge, stream, visitor, &handshakes)).await {
        Err(not_taken) => refused(&edge, peer, &not_taken),
        Ok(Arrived::Proved) => {
            tracing::info!(client = %peer.ip(), "showed a challenge's certificate");
        }
        Ok(Arrived::Elsewhere { stream, visitor, said, hostname, region, version }) => {
            let carrying = Carrying { address: visitor.address, hostname, region, version };
            Box::pin(passthrough::carry(edge, stream, said, carrying)).await;
        }
        Ok(Arrived::Here(secured, client)) => {
            edge.metrics.handshakes.increment(1);
            if secured.http2 {
                Box::pin(http2(&edge, secured.stream, client)).await;
            } else {
                Box::pin(http1::serve(&edge, secured.stream, client, request::answer)).await;
            }
        }
    }
}

fn refused(edge: &Edge, peer: SocketAddr, not_taken: &NotTaken) {
    match not_taken {
        NotTaken::Handshake(HandshakeError::Timeout) => {
            edge.metrics.handshake_timeouts.increment(1);
        }
        NotTaken::Handshake(_) => edge.metrics.handshake_errors.increment(1),
        NotTaken::TooManyConnections => edge.metrics.refused_connections.increment(1),
        NotTaken::TooManyHandshakes => edge.metrics.refused_handshakes.increment(1),
        _ => edge.metrics.not_taken.increment(1),
    }
    let error = not_taken as &dyn std::error::Error;
    tracing::debug!(client = %peer.ip(), error, "a connection was not taken");
}

/// The site has too many connections.
pub(crate) struct TooMany;

/// Counts the connection of the site whose hostname the client named, so that no site's clients take
/// all connections that there may be.
pub(crate) fn share(edge: &Edge, client: &Client) -> Result<Option<SiteConnection>, TooMany> {
    let Some(server_name) = client.server_name.as_deref() else { return Ok(None) };
    let table = edge.routes.load();
    let Some(route) = table.route(server_name) else { return Ok(None) };
    match SiteConnection::begin(&route.site.traffic, edge.limits.connections_per_site) {
        Some(share) => Ok(Some(share)),
        None => {
            edge.metrics.refused_for_site.increment(1);
            Err(TooMany)
        }
    }
}

async fn http2<S>(edge: &Arc<Edge>, stream: S, client: Arc<Client>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(_share) = share(edge, &client) else { return };
    let activity = Activity::default();
    let service = service_fn(|request| {
        let (edge, client, busy) = (Arc::clone(edge), Arc::clone(&client), activity.begin());
        async move {
            let _busy = busy;
            request::answer(edge, client, request).await
        }
    });
    let watched = Arc::clone(&client.stream);
    let connection = http2::Builder::new(Tracked(Arc::clone(edge)))
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(MAX_HEADER_LIST_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut end = Rarely::new(either(
        either(edge.told_to_go(), client.sent_away()),
        activity.idle(edge.limits.idle()),
    ));
    let outcome = tokio::select! {
        biased;
        outcome = &mut connection => outcome,
        () = &mut end => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                outcome = connection => outcome,
                () = watched.takes_nothing(edge.limits.write_stall()) => Ok(()),
            }
        }
    };
    ended(&client, outcome);
}

/// Runs the requests of an HTTP/2 connection as tasks that the end of the router waits for.
#[derive(Clone)]
struct Tracked(Arc<Edge>);

impl<F> hyper::rt::Executor<F> for Tracked
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    fn execute(&self, task: F) {
        // Moved as a pointer only, since it is moved several times.
        self.0.tasks.spawn(stall::guarded(Arc::clone(&self.0), Box::pin(task)));
    }
}

async fn either(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    tokio::select! {
        () = one => {}
        () = other => {}
    }
}

fn ended(client: &Client, outcome: hyper::Result<()>) {
    if let Err(error) = outcome {
        let error = &error as &dyn std::error::Error;
        tracing::debug!(client = %client.address.ip(), error, "a connection ended");
    }
}

/// When an HTTP/2 or HTTP/3 connection last began or ended working on a request's head.
#[derive(Clone, Default)]
pub(crate) struct Activity(Arc<AtomicU32>, Arc<AtomicU32>);

pub(crate) struct Busy(Activity);

impl Activity {
    pub(crate) fn begin(&self) -> Busy {
        self.0.fetch_add(1, Ordering::Relaxed);
        self.1.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    /// Ends when no request began and none was worked on for so long. The bodies of answers
    /// that still flow then are finished: what follows is a graceful end.
    pub(crate) async fn idle(&self, limit: Duration) {
        loop {
            let begun = self.1.load(Ordering::Relaxed);
            sleep(limit).await;
            if self.0.load(Ordering::Relaxed) == 0 && self.1.load(Ordering::Relaxed) == begun {
                return;
            }
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
