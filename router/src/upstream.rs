//! Connections to the instances. Each site's version holds the pool of its own instance, so a
//! connection can never be used for another site or another generation. A connection goes back into
//! its pool only after the request was sent and the answer read to their ends.

use std::{
    cell::Cell,
    future::poll_fn,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use control_types::Upstream;
use http::{Method, Response};
use http_body::{Frame, SizeHint};
use metrics::Counter;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Duration, Instant, timeout},
};

use crate::{
    forward::upload::RequestBody,
    limits::{
        MAX_IDLE_UPSTREAM_CONNECTIONS, UPSTREAM_IDLE_TIMEOUT, UPSTREAM_MAX_AGE,
        UPSTREAM_QUEUE_TIMEOUT,
    },
};

mod breaker;
mod connect;
pub mod http1;
pub mod relay;
pub mod transport;

pub use breaker::Breaker;
pub use connect::ConnectError;
use http1::{Exchange, ExchangeError};
use transport::Transport;

/// How often idle connections are looked at.
const SWEEP: Duration = Duration::from_secs(1);

/// The connections to one instance.
#[derive(Debug)]
pub struct Pool {
    address: Upstream,
    // Newest last, so that the oldest go idle.
    idle: Mutex<Vec<Idle>>,
    // There is none before the first request: most sites are asked for nothing.
    in_use: OnceLock<Arc<Semaphore>>,
    concurrent: u32,
    /// Whether it is worth trying.
    pub breaker: Breaker,
    // Whether the sweeper knows of this pool; changes under the lock of `idle`.
    swept: AtomicBool,
}

#[derive(Debug)]
struct Idle {
    link: Box<Link>,
    since: Instant,
}

/// What all pools share.
#[derive(Debug)]
pub struct Upstreams {
    with_idle: Mutex<Vec<Arc<Pool>>>,
    connects: Counter,
    connect_errors: Counter,
}

/// A connection that is nobody's at the moment or one request's.
#[derive(Debug)]
struct Link {
    exchange: Exchange,
    made: Instant,
    // The thread whose runtime tells of its events.
    thread: u64,
}

/// Which connection a request may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Any that is not known to be closed.
    Any,
    /// One that is open at this moment, for a request that cannot be repeated.
    Open,
    /// A new one.
    New,
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
    source: ExchangeError,
}

/// One request's connection. Dropped without [`Connection::give_back`] it is closed.
#[derive(Debug)]
pub struct Connection {
    link: Box<Link>,
    // None for what is not kept after its request.
    pool: Option<Arc<Pool>>,
    reused: bool,
    _permit: OwnedSemaphorePermit,
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
        Self {
            address,
            idle: Mutex::default(),
            in_use: OnceLock::new(),
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

    fn in_use(&self) -> &Arc<Semaphore> {
        self.in_use.get_or_init(|| {
            let most = usize::try_from(self.concurrent).unwrap_or(1).min(Semaphore::MAX_PERMITS);
            Arc::new(Semaphore::new(most))
        })
    }

    /// An idle connection, or a new one.
    ///
    /// # Errors
    /// When too many are in use for too long, or none can be made.
    pub async fn connection(
        self: &Arc<Self>,
        upstreams: &Upstreams,
        wanted: Wanted,
    ) -> Result<Connection, ConnectError> {
        let mut waits: Option<Box<Waits>> = None;
        let permit = match Arc::clone(self.in_use()).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => {
                let begun = Instant::now();
                let waiting = Arc::clone(self.in_use()).acquire_owned();
                let permit = match timeout(UPSTREAM_QUEUE_TIMEOUT, waiting).await {
                    Ok(Ok(permit)) => permit,
                    _ => return Err(ConnectError::Busy(self.address.clone())),
                };
                waits.get_or_insert_default().queue = Some(begun.elapsed());
                permit
            }
        };
        let idle = self.idle_link(wanted);
        let (link, reused) = match idle {
            Some(link) => (link, true),
            None => {
                let begun = Instant::now();
                let link = self.connect(upstreams).await?;
                waits.get_or_insert_default().connect = Some(begun.elapsed());
                (link, false)
            }
        };
        Ok(Connection { link, pool: Some(Arc::clone(self)), reused, _permit: permit, waits })
    }

    async fn connect(&self, upstreams: &Upstreams) -> Result<Box<Link>, ConnectError> {
        if !self.breaker.may_try(Instant::now()) {
            return Err(ConnectError::Failing(self.address.clone()));
        }
        let outcome = upstreams.connect(&self.address).await;
        match &outcome {
            Ok(_) => self.breaker.succeeded(),
            // Somebody who waits decides when that is for too long.
            Err(ConnectError::Unreachable(..)) => {}
            Err(_) => self.breaker.failed(Instant::now()),
        }
        outcome
    }

    /// The one that was used last, if possible one of this thread: another one's would be told of
    /// its events by that thread.
    fn idle_link(&self, wanted: Wanted) -> Option<Box<Link>> {
        if wanted == Wanted::New {
            return None;
        }
        let own = own_thread();
        loop {
            let mut idle = self.lock();
            let newest = idle.iter().rposition(|idle| idle.link.thread == own);
            let link = match newest {
                Some(place) => idle.remove(place).link,
                None => idle.pop()?.link,
            };
            drop(idle);
            if link.exchange.is_quiet() && (wanted == Wanted::Any || link.exchange.is_silent()) {
                return Some(link);
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Closes what is idle for too long; whether anything is left.
    fn sweep(&self, now: Instant) -> bool {
        let mut idle = self.lock();
        idle.retain_mut(|idle| {
            let rested = now.duration_since(idle.since);
            if rested >= SWEEP {
                idle.link.exchange.rest();
            }
            rested < UPSTREAM_IDLE_TIMEOUT && idle.link.exchange.is_quiet()
        });
        if idle.is_empty() {
            self.swept.store(false, Ordering::Relaxed);
        }
        !idle.is_empty()
    }
}

impl Upstreams {
    /// Nothing connected yet.
    pub fn new() -> Self {
        Self {
            with_idle: Mutex::default(),
            connects: metrics::counter!("router_upstream_connects_total"),
            connect_errors: metrics::counter!("router_upstream_connect_errors_total"),
        }
    }

    /// Closes idle connections for ever.
    pub async fn sweep(&self) {
        let mut seconds = tokio::time::interval(SWEEP);
        loop {
            seconds.tick().await;
            let now = Instant::now();
            self.lock().retain(|pool| pool.sweep(now));
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Arc<Pool>>> {
        self.with_idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn connect(&self, address: &Upstream) -> Result<Box<Link>, ConnectError> {
        self.connects.increment(1);
        let connected = connect::connect(address).await;
        if connected.is_err() {
            self.connect_errors.increment(1);
        }
        connected.map(Link::new)
    }
}

impl Default for Upstreams {
    fn default() -> Self {
        Self::new()
    }
}

impl Link {
    fn new(transport: Transport) -> Box<Self> {
        let (made, thread) = (Instant::now(), own_thread());
        Box::new(Self { exchange: Exchange::new(transport), made, thread })
    }
}

/// A number for the thread that asks.
fn own_thread() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    thread_local! {
        static OWN: Cell<u64> = const { Cell::new(0) };
    }
    if OWN.get() == 0 {
        OWN.set(NEXT.fetch_add(1, Ordering::Relaxed));
    }
    OWN.get()
}

impl Connection {
    /// A connection for one request, that belongs to no pool.
    fn for_one(transport: Transport, permit: OwnedSemaphorePermit, waits: Waits) -> Self {
        let (link, waits) = (Link::new(transport), Some(Box::new(waits)));
        Self { link, pool: None, reused: false, _permit: permit, waits }
    }

    /// Sends a request and waits for the head of its answer. `head` appends the request's head but
    /// for the length of its body.
    ///
    /// # Errors
    /// When there is none; the error says whether the request can have been processed.
    pub async fn send(
        &mut self,
        method: &Method,
        body: RequestBody,
        head: impl FnOnce(&mut Vec<u8>),
    ) -> Result<Response<()>, SendError> {
        let exchange = &mut self.link.exchange;
        exchange.begin(method, body, head);
        let outcome = poll_fn(|cx| exchange.poll_head(cx, method)).await;
        outcome.map_err(|source| SendError {
            nothing_sent: !exchange.any_sent(),
            closed_while_idle: self.reused && !exchange.any_read(),
            source,
        })
    }

    /// The next piece of the answer's body.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        self.link.exchange.poll_frame(cx)
    }

    /// Whether the answer was read to its end.
    pub fn is_end_stream(&self) -> bool {
        self.link.exchange.is_end_stream()
    }

    /// How much of the answer's body is to come.
    pub fn size_hint(&self) -> SizeHint {
        self.link.exchange.size_hint()
    }

    /// For the next request, if the request was sent and the answer read to their ends; with the
    /// rest of the one or the other still coming, the next one would stand behind it. Dropped
    /// without this, a connection is closed.
    pub fn give_back(self, upstreams: &Upstreams) {
        let Self { link, pool: Some(pool), .. } = self else { return };
        let now = Instant::now();
        if !link.exchange.can_go_on() || now.duration_since(link.made) > UPSTREAM_MAX_AGE {
            return;
        }
        let mut idle = pool.lock();
        if idle.len() >= MAX_IDLE_UPSTREAM_CONNECTIONS {
            return;
        }
        idle.push(Idle { link, since: now });
        let known = pool.swept.swap(true, Ordering::Relaxed);
        drop(idle);
        if !known {
            upstreams.lock().push(pool);
        }
    }

    /// The connection became a tunnel: it is no request's any more. The stream, and what was read of
    /// it already.
    pub fn into_tunnel(self) -> (Transport, Bytes) {
        self.link.exchange.into_parts()
    }
}
