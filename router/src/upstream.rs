//! Connections to the instances. Each site's version holds the pool of its own instance, so a
//! connection can never be used for another site or another generation. A connection goes back into
//! its pool only after the request was sent and the answer read to their ends.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use control_types::Upstream;
use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::http1::{self, SendRequest},
};
use hyper_util::rt::TokioIo;
use metrics::Counter;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::AbortHandle,
    time::{Duration, Instant, timeout},
};
use tokio_util::task::TaskTracker;

use crate::{
    forward::upload::RequestBody,
    limits::{
        CONNECT_TIMEOUT, MAX_ANSWER_HEAD_BYTES, MAX_IDLE_UPSTREAM_CONNECTIONS,
        UPSTREAM_IDLE_TIMEOUT, UPSTREAM_MAX_AGE, UPSTREAM_QUEUE_TIMEOUT,
    },
};

mod breaker;
pub mod relay;
mod watched;

pub use breaker::Breaker;
use watched::{Traffic, Watched};

/// How long a connection that was just given back may take to become ready again.
const SETTLE: Duration = Duration::from_millis(20);

/// The connections to one instance.
#[derive(Debug)]
pub struct Pool {
    address: Upstream,
    // Newest last, so that the oldest go idle.
    idle: Mutex<Vec<Idle>>,
    in_use: Arc<Semaphore>,
    concurrent: u32,
    /// Whether it is worth trying.
    pub breaker: Breaker,
    // Whether the sweeper knows of this pool; changes under the lock of `idle`.
    swept: AtomicBool,
}

#[derive(Debug)]
struct Idle {
    link: Link,
    since: Instant,
}

/// What all pools share.
#[derive(Debug)]
pub struct Upstreams {
    tasks: TaskTracker,
    with_idle: Mutex<Vec<Arc<Pool>>>,
    connects: Counter,
    connect_errors: Counter,
}

/// A connection that is nobody's at the moment or one request's.
#[derive(Debug)]
struct Link {
    sender: SendRequest<RequestBody>,
    traffic: Arc<Traffic>,
    task: AbortHandle,
    made: Instant,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody listens: the instance is between two lives, or its socket is not there yet.
    #[error("nobody listens at {0}")]
    NotListening(Upstream, #[source] io::Error),
    /// It failed again and again a moment ago.
    #[error("{0} could not be reached a moment ago")]
    Failing(Upstream),
    /// All connections are in use.
    #[error("all connections to {0} are in use")]
    Busy(Upstream),
    /// Anything else.
    #[error("cannot connect to {0}")]
    Failed(Upstream, #[source] io::Error),
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[error("the instance gave no answer")]
pub struct SendError {
    /// Not a byte of the request left: it was not processed, whatever it is.
    pub nothing_sent: bool,
    /// The connection had served before, and closed without a byte of an answer: most likely the
    /// instance had closed it before the request came.
    pub closed_while_idle: bool,
    #[source]
    source: hyper::Error,
}

/// One request's connection. Dropped without [`Connection::give_back`] it is closed.
#[derive(Debug)]
pub struct Connection {
    link: Option<Link>,
    // None for what is not kept after its request.
    pool: Option<Arc<Pool>>,
    reused: bool,
    permit: Option<OwnedSemaphorePermit>,
    /// What was waited for until it was there; nothing for most.
    pub waits: Option<Box<Waits>>,
}

/// What a request waited for before it could be sent; nothing where it had not to wait.
#[derive(Clone, Copy, Debug, Default)]
pub struct Waits {
    /// All connections were in use.
    pub queue: Option<Duration>,
    /// There was no instance that listened.
    pub start: Option<Duration>,
    /// A connection was made.
    pub connect: Option<Duration>,
}

impl Pool {
    /// No connection yet, and at most `concurrent` in use at once.
    pub fn new(address: Upstream, concurrent: u32) -> Self {
        let most = usize::try_from(concurrent).unwrap_or(1).min(Semaphore::MAX_PERMITS);
        Self {
            address,
            idle: Mutex::default(),
            in_use: Arc::new(Semaphore::new(most)),
            concurrent,
            breaker: Breaker::default(),
            swept: AtomicBool::new(false),
        }
    }

    /// Where the instance listens.
    pub fn address(&self) -> &Upstream {
        &self.address
    }

    /// How many connections may be in use at once.
    pub const fn concurrent(&self) -> u32 {
        self.concurrent
    }

    /// An idle connection, or a new one; a new one in any case if `new`.
    ///
    /// # Errors
    /// When too many are in use for too long, or none can be made.
    pub async fn connection(
        self: &Arc<Self>,
        upstreams: &Upstreams,
        new: bool,
    ) -> Result<Connection, ConnectError> {
        let mut waits: Option<Box<Waits>> = None;
        let permit = match Arc::clone(&self.in_use).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let begun = Instant::now();
                let waiting = Arc::clone(&self.in_use).acquire_owned();
                let permit = match timeout(UPSTREAM_QUEUE_TIMEOUT, waiting).await {
                    Ok(Ok(permit)) => permit,
                    _ => return Err(ConnectError::Busy(self.address.clone())),
                };
                waits.get_or_insert_default().queue = Some(begun.elapsed());
                permit
            }
        };
        let idle = if new { None } else { self.idle_link().await };
        let (link, reused) = match idle {
            Some(link) => (link, true),
            None => {
                let begun = Instant::now();
                let link = self.connect(upstreams).await?;
                waits.get_or_insert_default().connect = Some(begun.elapsed());
                (link, false)
            }
        };
        Ok(Connection {
            link: Some(link),
            pool: Some(Arc::clone(self)),
            reused,
            permit: Some(permit),
            waits,
        })
    }

    async fn connect(&self, upstreams: &Upstreams) -> Result<Link, ConnectError> {
        if !self.breaker.may_try(Instant::now()) {
            return Err(ConnectError::Failing(self.address.clone()));
        }
        let outcome = upstreams.connect(&self.address).await;
        match &outcome {
            Ok(_) => self.breaker.succeeded(),
            // Somebody who waits decides when that is for too long.
            Err(ConnectError::NotListening(..)) => {}
            Err(_) => self.breaker.failed(Instant::now()),
        }
        outcome
    }

    async fn idle_link(&self) -> Option<Link> {
        loop {
            let mut link = self.lock().pop()?.link;
            if link.sender.is_ready() {
                return Some(link);
            }
            if !link.sender.is_closed()
                && matches!(timeout(SETTLE, link.sender.ready()).await, Ok(Ok(())))
            {
                return Some(link);
            }
            link.task.abort();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes what is idle for too long; whether anything is left.
    fn sweep(&self, now: Instant) -> bool {
        let mut idle = self.lock();
        idle.retain(|idle| {
            now.duration_since(idle.since) < UPSTREAM_IDLE_TIMEOUT && !idle.link.sender.is_closed()
        });
        if idle.is_empty() {
            self.swept.store(false, Ordering::Relaxed);
        }
        !idle.is_empty()
    }
}

impl Upstreams {
    /// Nothing connected yet; connections live as tasks of `tasks`.
    pub fn new(tasks: TaskTracker) -> Self {
        Self {
            tasks,
            with_idle: Mutex::default(),
            connects: metrics::counter!("router_upstream_connects_total"),
            connect_errors: metrics::counter!("router_upstream_connect_errors_total"),
        }
    }

    /// Closes idle connections for ever, looking every second.
    pub async fn sweep(&self) {
        let mut seconds = tokio::time::interval(Duration::from_secs(1));
        loop {
            seconds.tick().await;
            let now = Instant::now();
            self.lock().retain(|pool| pool.sweep(now));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Pool>>> {
        self.with_idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, address: &Upstream) -> Result<Link, ConnectError> {
        self.connects.increment(1);
        let connecting = async {
            match address {
                Upstream::Unix(path) => {
                    let stream = UnixStream::connect(path).await?;
                    self.handshake(stream).await
                }
                Upstream::Tcp(address) => {
                    let stream = TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    self.handshake(stream).await
                }
            }
        };
        let outcome = timeout(CONNECT_TIMEOUT, connecting)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        outcome.map_err(|error| {
            self.connect_errors.increment(1);
            match error.kind() {
                // `WouldBlock`: the queue of a unix socket is full.
                io::ErrorKind::ConnectionRefused
                | io::ErrorKind::NotFound
                | io::ErrorKind::WouldBlock => ConnectError::NotListening(address.clone(), error),
                _ => ConnectError::Failed(address.clone(), error),
            }
        })
    }

    async fn handshake<S>(&self, stream: S) -> io::Result<Link>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let traffic = Arc::new(Traffic::default());
        let watched = Watched::new(stream, Arc::clone(&traffic));
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(MAX_ANSWER_HEAD_BYTES)
            .max_headers(2 * crate::limits::MAX_HEADERS)
            .handshake(TokioIo::new(watched))
            .await
            .map_err(io::Error::other)?;
        // Its errors reach whoever waits for the answer.
        let task = self.tasks.spawn(connection.with_upgrades());
        Ok(Link { sender, traffic, task: task.abort_handle(), made: Instant::now() })
    }
}

impl Connection {
    /// Sends a request and waits for the head of its answer.
    ///
    /// # Errors
    /// When there is none; the error says whether the request can have been processed.
    pub async fn send(
        &mut self,
        request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, SendError> {
        let Some(link) = &mut self.link else { unreachable!("a connection has its link") };
        link.traffic.reset();
        match link.sender.try_send_request(request).await {
            Ok(response) => Ok(response),
            Err(mut error) => {
                let (written, read) = (link.traffic.written(), link.traffic.read());
                Err(SendError {
                    nothing_sent: error.take_message().is_some() || !written,
                    closed_while_idle: self.reused && !read,
                    source: error.into_error(),
                })
            }
        }
    }

    /// For the next request. Only after the request was sent and the answer read to their ends.
    pub fn give_back(mut self, upstreams: &Upstreams) {
        let Some(pool) = self.pool.take() else { return };
        let Some(link) = self.link.take() else { return };
        if link.sender.is_closed()
            || link.traffic.broken()
            || link.made.elapsed() > UPSTREAM_MAX_AGE
        {
            return;
        }
        let mut idle = pool.lock();
        if idle.len() >= MAX_IDLE_UPSTREAM_CONNECTIONS {
            return;
        }
        idle.push(Idle { link, since: Instant::now() });
        let known = pool.swept.swap(true, Ordering::Relaxed);
        drop(idle);
        if !known {
            upstreams.lock().push(pool);
        }
    }

    /// The connection became a tunnel: it is no request's any more and lives on by itself.
    pub fn release(mut self) {
        self.link = None;
        self.permit = None;
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if let Some(link) = self.link.take() {
            // The rest of a request or an answer must never be met by the next one.
            link.task.abort();
        }
    }
}
