//! Accepts connections, counts them, and ends when there was none for a while or when told to.
//!
//! Ending when idle loses nothing: the runtime holds a twin of the listening socket, so what
//! connects after the last `accept` waits in the kernel for the next process.
//!
//! Nor does being replaced: a router may send a request on a connection that it keeps at the very moment
//! at which this end would close it, and cannot repeat it when it is a write. So each connection is told
//! with its next answer that it was the last, and those without another are left to the router.

use std::{
    future::Future,
    io,
    os::{fd::FromRawFd as _, unix::net::UnixListener},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header::CONNECTION},
    middleware::{Next, from_fn_with_state},
    response::Response,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::{net::UnixStream, sync::watch};

/// How long requests in flight may take once the process was told to end.
const DRAIN: Duration = Duration::from_secs(30);
/// How long a head may take to arrive. Longer than the router keeps an idle connection (15 s).
const HEAD: Duration = Duration::from_secs(60);

/// Why serving ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// No open connection for the configured time.
    Idle,
    /// Another process takes the connections, and the last one here was closed.
    Replaced,
    /// Told to end; what was in flight is finished or was given up after 30 seconds.
    Drained,
}

/// What a process is told. Each resolves once.
pub struct Orders<R, S> {
    /// Another process takes new connections.
    pub replaced: R,
    /// It shall end.
    pub shutdown: S,
}

/// The listening unix socket that the process inherited under this number.
///
/// # Errors
/// When there is none, or it does not listen.
#[allow(unsafe_code, reason = "descriptors inherited by number can be adopted in no safe way")]
pub fn inherited(number: i32) -> io::Result<UnixListener> {
    // SAFETY: only borrowed for one check, which fails cleanly on a closed descriptor.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    if !rustix::net::sockopt::socket_acceptconn(borrowed)? {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "the socket does not listen"));
    }
    // SAFETY: it is open, inherited for this process's use, and adopted once, at the start.
    let listener = unsafe { UnixListener::from_raw_fd(number) };
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Serves until idle, replaced and done, or told to end.
///
/// # Errors
/// When the socket cannot be used.
pub async fn serve(
    listener: UnixListener,
    router: Router,
    idle: Option<Duration>,
    orders: Orders<impl Future<Output = ()>, impl Future<Output = ()>>,
) -> anyhow::Result<Ended> {
    let listener = tokio::net::UnixListener::from_std(listener)?;
    let graceful = GracefulShutdown::new();
    let open = watch::Sender::new(0_usize);
    let closing = Arc::new(AtomicBool::new(false));
    let router = router.layer(from_fn_with_state(Arc::clone(&closing), say_last));
    let (mut replaced, mut shutdown) = (pin!(orders.replaced), pin!(orders.shutdown));
    let ended = loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => answer(stream, router.clone(), &graceful, &open),
                Err(error) => {
                    // Out of descriptors, most likely: what is open must close first.
                    tracing::error!("cannot accept a connection: {error}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            () = &mut replaced => break Ended::Replaced,
            () = &mut shutdown => break Ended::Drained,
            () = idle_for(idle, open.subscribe()) => break Ended::Idle,
        }
    };
    drop(listener);
    if ended == Ended::Replaced {
        closing.store(true, Ordering::Relaxed);
        let mut open = open.subscribe();
        tokio::select! {
            _ = open.wait_for(|count| *count == 0) => return Ok(Ended::Replaced),
            () = &mut shutdown => {}
        }
    }
    if tokio::time::timeout(DRAIN, graceful.shutdown()).await.is_err() {
        tracing::warn!("gave up on requests that took over {} seconds", DRAIN.as_secs());
    }
    Ok(ended)
}

/// Says with an answer that its connection takes no other request.
async fn say_last(
    State(closing): State<Arc<AtomicBool>>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    // A connection that becomes another protocol's is closed by that.
    if closing.load(Ordering::Relaxed) && response.status() != StatusCode::SWITCHING_PROTOCOLS {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

fn answer(
    stream: UnixStream,
    router: Router,
    graceful: &GracefulShutdown,
    open: &watch::Sender<usize>,
) {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD);
    let service = TowerToHyperService::new(router);
    let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
    let connection = graceful.watch(connection);
    open.send_modify(|count| *count += 1);
    let counted = Counted(open.clone());
    tokio::spawn(async move {
        // A peer that hangs up is its own affair.
        if let Err(error) = connection.await {
            tracing::debug!("a connection ended early: {error}");
        }
        drop(counted);
    });
}

struct Counted(watch::Sender<usize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

async fn idle_for(idle: Option<Duration>, mut open: watch::Receiver<usize>) {
    let Some(idle) = idle else { return std::future::pending().await };
    loop {
        if open.wait_for(|count| *count == 0).await.is_err() {
            return;
        }
        if tokio::time::timeout(idle, open.changed()).await.is_err() {
            return;
        }
    }
}
