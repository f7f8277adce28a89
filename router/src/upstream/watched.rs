//! The stream below a connection to an instance: notes what went over it, so that a failed request is
//! known to have been sent or not.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Whether anything went over a connection since the current request has it.
#[derive(Debug, Default)]
pub struct Traffic {
    written: AtomicBool,
    read: AtomicBool,
    // The instance takes no more; never false again.
    broken: AtomicBool,
}

impl Traffic {
    /// Another request has the connection.
    pub fn reset(&self) {
        self.written.store(false, Ordering::Relaxed);
        self.read.store(false, Ordering::Relaxed);
    }

    /// Whether a byte of the request left.
    pub fn written(&self) -> bool {
        self.written.load(Ordering::Relaxed)
    }

    /// Whether a byte of the answer came.
    pub fn read(&self) -> bool {
        self.read.load(Ordering::Relaxed)
    }

    /// Whether the instance takes no more.
    pub fn broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }
}

/// A stream that notes whether anything went over it. When the instance takes no more, what is
/// written is dropped instead of an error: an instance may answer, or refuse, before it has read the
/// whole request, and its answer is still to be read then. If there is none, reading says so.
pub struct Watched<S> {
    stream: S,
    traffic: Arc<Traffic>,
}

impl<S> Watched<S> {
    /// Watches `stream`.
    pub fn new(stream: S, traffic: Arc<Traffic>) -> Self {
        Self { stream, traffic }
    }

    fn wrote(&self, outcome: io::Result<usize>, length: usize) -> io::Result<usize> {
        match outcome {
            Ok(written) => {
                if written > 0 {
                    self.traffic.written.store(true, Ordering::Relaxed);
                }
                Ok(written)
            }
            Err(error) if is_closed(&error) => {
                self.traffic.broken.store(true, Ordering::Relaxed);
                Ok(length)
            }
            Err(error) => Err(error),
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let outcome = ready!(Pin::new(&mut self.stream).poll_read(cx, buffer));
        if buffer.filled().len() > before {
            self.traffic.read.store(true, Ordering::Relaxed);
        }
        Poll::Ready(outcome)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut self.stream).poll_write(cx, data));
        Poll::Ready(self.wrote(outcome, data.len()))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let outcome = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, data));
        Poll::Ready(self.wrote(outcome, data.iter().map(|piece| piece.len()).sum()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
