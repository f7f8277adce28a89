//! The stream below a client's connection: fails when the client takes nothing, or next to nothing,
//! for too long, and notices that the client left while nothing is read of it.

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::{Duration, Instant, Sleep, sleep, sleep_until},
};
use tokio_rustls::server::TlsStream;

use crate::limits::pace::{Pace, Patience};

/// Less than this in the longest stall is nothing: pings are answered by clients that take nothing.
const SOME_BYTES: u64 = 4_096;

/// What is known of a client's stream beside it, and what its requests tell it.
#[derive(Debug, Default)]
pub struct WatchClient {
    watchers: AtomicU32,
    read_bytes: AtomicU64,
    written_bytes: AtomicU64,
    write_waits: AtomicBool,
    requests_begun: AtomicU64,
    requests_ended: AtomicU64,
}

/// What has come from a client so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heard {
    /// Requests.
    pub requests: u64,
    /// Bytes as they come in, encrypted or not.
    pub bytes: u64,
}

/// Makes the connection end when the client leaves, for as long as it lives.
#[derive(Debug)]
pub struct Watching(Arc<WatchClient>);

impl WatchClient {
    /// From now on the connection ends when the client leaves, also while nothing is read of it. The
    /// connection's task looks whenever it runs.
    pub fn watch(self: &Arc<Self>) -> Watching {
        self.watchers.fetch_add(1, Ordering::Relaxed);
        Watching(Arc::clone(self))
    }

    /// A request of the client begins.
    pub fn request_begins(&self) {
        self.requests_begun.fetch_add(1, Ordering::Relaxed);
    }

    /// The answer to a request is over.
    pub fn request_ends(&self) {
        self.requests_ended.fetch_add(1, Ordering::Relaxed);
    }

    /// What the client has said so far.
    pub fn heard(&self) -> Heard {
        let (requests, bytes) = (&self.requests_begun, &self.read_bytes);
        Heard { requests: requests.load(Ordering::Relaxed), bytes: bytes.load(Ordering::Relaxed) }
    }

    /// Whether a request is in progress, or something is to be written that the client does not take.
    pub fn is_busy(&self) -> bool {
        let (begun, ended) = (&self.requests_begun, &self.requests_ended);
        begun.load(Ordering::Relaxed) != ended.load(Ordering::Relaxed)
            || self.write_waits.load(Ordering::Relaxed)
    }

    /// Ends when the client took next to nothing for `limit`.
    pub async fn takes_nothing(&self, limit: Duration) {
        let mut before = self.written_bytes.load(Ordering::Relaxed);
        loop {
            sleep(limit).await;
            let now = self.written_bytes.load(Ordering::Relaxed);
            if now - before < SOME_BYTES {
                return;
            }
            before = now;
        }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.watchers.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A stream whose other end can be seen to have left without reading.
pub trait Leaves {
    /// Whether it has.
    fn has_left(&self, cx: &mut Context<'_>) -> bool;

    /// Throws away what the other end has not taken, once the stream is closed. Otherwise the system
    /// keeps it, and the connection, for as long as the other end likes.
    fn forget_unsent(&self);
}

/// A stream that can be waited for without a buffer.
pub trait Speaks {
    /// Whether something may have come, or the other end has left. Nothing is read.
    fn poll_speaks(&self, cx: &mut Context<'_>) -> Poll<()>;
}

impl Leaves for TcpStream {
    fn has_left(&self, cx: &mut Context<'_>) -> bool {
        let ready = pin!(self.ready(Interest::READABLE));
        matches!(ready.poll(cx), Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }

    fn forget_unsent(&self) {
        // When that fails the connection ends later.
        let _ = rustix::net::sockopt::set_socket_linger(self, Some(Duration::ZERO));
    }
}

impl Speaks for TcpStream {
    fn poll_speaks(&self, cx: &mut Context<'_>) -> Poll<()> {
        // An error shows when it is read.
        self.poll_read_ready(cx).map(drop)
    }
}

impl<S: Speaks> Speaks for TlsStream<S> {
    fn poll_speaks(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.get_ref().0.poll_speaks(cx)
    }
}

impl<S: Speaks> Speaks for Box<S> {
    fn poll_speaks(&self, cx: &mut Context<'_>) -> Poll<()> {
        (**self).poll_speaks(cx)
    }
}

impl<S: Speaks> Speaks for Patient<S> {
    fn poll_speaks(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.stream.poll_speaks(cx)
    }
}

/// A stream that fails when the other end takes what it gets too slowly.
pub struct Patient<S> {
    stream: S,
    patience: Patience,
    client: Arc<WatchClient>,
    // Made when the other end is first waited for; most connections never do.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Fails when the other end does not keep the pace.
    pub const fn new(stream: S, pace: Pace, client: Arc<WatchClient>) -> Self {
        Self { stream, patience: Patience::new(pace), client, timer: None }
    }
}

impl<S: Leaves> Patient<S> {
    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
        bytes: impl FnOnce(&T) -> usize,
    ) -> Poll<io::Result<T>> {
        match outcome {
            Poll::Ready(Ok(done)) => {
                let bytes = bytes(&done);
                if self.timer.is_some() {
                    self.patience.passed(Instant::now(), bytes);
                    self.client.write_waits.store(false, Ordering::Relaxed);
                }
                self.client.written_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
                return Poll::Ready(Ok(done));
            }
            Poll::Ready(error) => return Poll::Ready(error),
            Poll::Pending => {}
        }
        self.client.write_waits.store(true, Ordering::Relaxed);
        let end = self.patience.waits(Instant::now());
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
        if timer.deadline() != end {
            timer.as_mut().reset(end);
        }
        match timer.as_mut().poll(cx) {
            Poll::Ready(()) => {
                self.stream.forget_unsent();
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = Pin::new(&mut self.stream).poll_read(cx, buffer);
        let bytes = buffer.filled().len() - before;
        if bytes > 0 {
            self.client.read_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
        }
        outcome
    }
}

impl<S: AsyncWrite + Leaves + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, data);
        self.watch(cx, outcome, |length| *length)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // One piece, the usual case, costs the system less as such.
        if let [piece] = data {
            return self.poll_write(cx, piece);
        }
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        self.watch(cx, outcome, |length| *length)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.client.watchers.load(Ordering::Relaxed) > 0 && self.stream.has_left(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, outcome, |()| 0)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watch(cx, outcome, |()| 0)
    }
}
