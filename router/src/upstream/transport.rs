//! The stream to an instance, or to another region's router.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, Waker},
};

use rustix::{io::Errno, net::RecvFlags};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, UnixStream},
};
use tokio_rustls::client::TlsStream;

/// A connected stream.
#[derive(Debug)]
pub enum Transport {
    /// To an instance on another machine.
    Tcp(TcpStream),
    /// To an instance on this one.
    Unix(UnixStream),
    /// To another region's router.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Transport {
    /// Whether nothing came and nobody closed it, as far as this process was told: costs no system
    /// call as long as that is so. What is encrypted is never quiet.
    pub fn is_quiet(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let mut byte = [0];
        let read = match self {
            Self::Tcp(stream) => match stream.poll_read_ready(&mut cx) {
                Poll::Pending => return true,
                Poll::Ready(ready) => ready.and_then(|()| stream.try_read(&mut byte)),
            },
            Self::Unix(stream) => match stream.poll_read_ready(&mut cx) {
                Poll::Pending => return true,
                Poll::Ready(ready) => ready.and_then(|()| stream.try_read(&mut byte)),
            },
            Self::Tls(_) => return false,
        };
        read.is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether the system, asked now, has neither a byte nor an end of it.
    pub fn is_silent(&self) -> bool {
        let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
        let seen = match self {
            Self::Tcp(stream) => rustix::net::recv(stream, &mut [0_u8; 1], flags),
            Self::Unix(stream) => rustix::net::recv(stream, &mut [0_u8; 1], flags),
            Self::Tls(_) => return false,
        };
        matches!(seen, Err(Errno::AGAIN))
    }
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, data),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, data),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // One piece, the usual case, costs the system less as such.
        if let [piece] = data {
            return self.poll_write(cx, piece);
        }
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, data),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, data),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, data),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
