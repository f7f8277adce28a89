//! The stream below a client's connection: fails when the client takes nothing for too long, and
//! notices that the client left while nothing is read of it.

use std::{
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, Interest, ReadBuf},
    net::TcpStream,
    time::{Duration, Instant, Sleep, sleep, sleep_until},
};

/// Less than this in the longest stall is nothing: pings are answered by clients that take nothing.
const SOME_BYTES: u64 = 4_096;

/// What a request knows of the stream that it came over.
#[derive(Debug, Default)]
pub struct WatchClient {
    watchers: AtomicU32,
    written_bytes: AtomicU64,
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
}

impl Leaves for TcpStream {
    fn has_left(&self, cx: &mut Context<'_>) -> bool {
        let ready = pin!(self.ready(Interest::READABLE));
        matches!(ready.poll(cx), Poll::Ready(Ok(ready)) if ready.is_read_closed())
    }
}

/// A stream that fails when the other end takes nothing for too long.
pub struct Patient<S> {
    stream: S,
    limit: Duration,
    client: Arc<WatchClient>,
    stalled: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    /// Fails when the other end takes nothing for `limit`.
    pub const fn new(stream: S, limit: Duration, client: Arc<WatchClient>) -> Self {
        Self { stream, limit, client, stalled: None }
    }

    fn watch<T>(
        &mut self,
        cx: &mut Context<'_>,
        outcome: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if outcome.is_ready() {
            self.stalled = None;
            return outcome;
        }
        let end = || Box::pin(sleep_until(Instant::now() + self.limit));
        match self.stalled.get_or_insert_with(end).as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Err(io::ErrorKind::TimedOut.into())),
            Poll::Pending => Poll::Pending,
        }
    }

    fn wrote(&self, outcome: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(length)) = outcome {
            self.client.written_bytes.fetch_add(length as u64, Ordering::Relaxed);
        }
        outcome
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Leaves + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write(cx, data);
        let outcome = self.wrote(outcome);
        self.watch(cx, outcome)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = Pin::new(&mut self.stream).poll_write_vectored(cx, data);
        let outcome = self.wrote(outcome);
        self.watch(cx, outcome)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.client.watchers.load(Ordering::Relaxed) > 0 && self.stream.has_left(cx) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        let outcome = Pin::new(&mut self.stream).poll_flush(cx);
        self.watch(cx, outcome)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let outcome = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.watch(cx, outcome)
    }
}
