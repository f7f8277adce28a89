//! One request and its answer at a time over a connection to an instance, in HTTP/1.1. Whoever waits
//! for the answer drives both directions: there is no task between, so a request wakes nobody but
//! itself. (A client that runs as a task of its own takes three turns of it for each request, and a
//! fifth of all instructions.)

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use http::{Method, Response, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::io::AsyncWrite as _;
use tokio_util::io::poll_read_buf;

use super::transport::Transport;
use crate::forward::upload::{RequestBody, UploadError};

mod body;
mod head;
mod sending;

use body::{Decoder, Step};
use head::AnswerHead;
use sending::Sending;
pub use sending::line;

/// How much is read at once, at first and at most; doubled when as much came.
const READ_BYTES: usize = 8 * 1024;
const MOST_READ_BYTES: usize = 64 * 1024;

/// Why an exchange failed.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The connection failed.
    #[error("the connection failed")]
    Connection(#[source] io::Error),
    /// The connection ended where it must not.
    #[error("the connection was closed in the middle")]
    Closed,
    /// What came is no answer of HTTP/1.
    #[error("the answer is not valid: {0}")]
    Invalid(&'static str),
    /// The client's body failed.
    #[error("the request's body failed")]
    Upload(#[source] UploadError),
}

/// A connection. Between two requests nothing is sent or read.
#[derive(Debug)]
pub struct Exchange {
    transport: Transport,
    read: BytesMut,
    read_bytes: usize,
    sending: Sending,
    decoder: Decoder,
    keeps_alive: bool,
    any_read: bool,
}

impl Exchange {
    /// Nothing sent yet.
    pub fn new(transport: Transport) -> Self {
        Self {
            transport,
            read: BytesMut::new(),
            read_bytes: READ_BYTES,
            sending: Sending::default(),
            decoder: Decoder::Done,
            keeps_alive: true,
            any_read: false,
        }
    }

    /// Begins a request: `head` appends its head except for how long the body is, which is said
    /// here, and the empty line after it.
    pub fn begin(&mut self, method: &Method, body: RequestBody, head: impl FnOnce(&mut Vec<u8>)) {
        self.sending.begin(method, body, head);
        self.any_read = false;
        self.decoder = Decoder::Done;
    }

    /// Whether a byte of the request left.
    pub const fn any_sent(&self) -> bool {
        self.sending.any_sent
    }

    /// Whether a byte of the answer came.
    pub const fn any_read(&self) -> bool {
        self.any_read
    }

    /// Sends, and waits for the head of the answer to `method`.
    ///
    /// # Errors
    /// When there is none.
    pub fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
    ) -> Poll<Result<Response<()>, ExchangeError>> {
        if let Poll::Ready(sent) = self.poll_send(cx) {
            sent?;
        }
        loop {
            while let Some(answer) = AnswerHead::take(&mut self.read)? {
                if answer.is_interim() {
                    continue;
                }
                let AnswerHead { response, length, keeps_alive } = answer;
                self.decoder = Decoder::of(method, response.status(), length);
                self.keeps_alive = keeps_alive && !self.decoder.ends_with_connection();
                return Poll::Ready(Ok(response));
            }
            if ready!(self.poll_read(cx))? == 0 {
                return Poll::Ready(Err(ExchangeError::Closed));
            }
        }
    }

    /// The next piece of the answer's body. Sends what is left of the request on the way.
    pub fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ExchangeError>>> {
        if let Poll::Ready(Err(error)) = self.poll_send(cx) {
            return Poll::Ready(Some(Err(error)));
        }
        loop {
            match self.decoder.step(&mut self.read) {
                Ok(Step::Frame(frame)) => return Poll::Ready(Some(Ok(frame))),
                Ok(Step::End) => return Poll::Ready(None),
                Ok(Step::More) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
            match ready!(self.poll_read(cx)) {
                Ok(0) if self.decoder.ends_with_connection() => self.decoder = Decoder::Done,
                Ok(0) => return Poll::Ready(Some(Err(ExchangeError::Closed))),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }

    /// Whether the answer was read to its end.
    pub const fn is_end_stream(&self) -> bool {
        matches!(self.decoder, Decoder::Done)
    }

    /// How much of the answer's body is to come.
    pub fn size_hint(&self) -> SizeHint {
        self.decoder.size_hint()
    }

    /// Whether another request may follow: this one was sent and its answer read to their ends, and
    /// nothing else came.
    pub fn can_go_on(&self) -> bool {
        self.keeps_alive
            && self.is_end_stream()
            && self.sending.is_over()
            && self.read.is_empty()
            && !self.sending.broken
    }

    /// Nobody needs the connection for a while: gives back the memory that reading takes.
    pub fn rest(&mut self) {
        self.read = BytesMut::new();
    }

    /// Whether the connection is as it was left, as far as this process was told.
    pub fn is_quiet(&self) -> bool {
        self.transport.is_quiet()
    }

    /// The same, as the system knows now. Costs a system call.
    pub fn is_silent(&self) -> bool {
        self.transport.is_silent()
    }

    /// The stream and what was read of it beyond the head, after an answer that switched protocols.
    pub fn into_parts(self) -> (Transport, Bytes) {
        (self.transport, self.read.freeze())
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, ExchangeError>> {
        // What is left of the last piece of memory is enough for most answers.
        if self.read.capacity() - self.read.len() < self.read_bytes / 4 {
            self.read.reserve(self.read_bytes);
        }
        let room = self.read.capacity() - self.read.len();
        let length = ready!(poll_read_buf(Pin::new(&mut self.transport), cx, &mut self.read))
            .map_err(ExchangeError::Connection)?;
        self.any_read |= length > 0;
        if length == room && self.read_bytes < MOST_READ_BYTES {
            self.read_bytes *= 2;
        }
        Poll::Ready(Ok(length))
    }

    /// Sends as much as there is. Ready when all of the request is on its way, or nothing more of it
    /// is taken.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), ExchangeError>> {
        let sending = &mut self.sending;
        if sending.is_over() {
            return Poll::Ready(Ok(()));
        }
        loop {
            let waits = sending.take_body(cx)?;
            if !sending.has_pieces() {
                if let Err(error) = ready!(Pin::new(&mut self.transport).poll_flush(cx)) {
                    sending.failed(error)?;
                }
                if sending.ended {
                    sending.over = true;
                    return Poll::Ready(Ok(()));
                }
                if waits {
                    return Poll::Pending;
                }
                continue;
            }
            let transport = Pin::new(&mut self.transport);
            let written = match sending.pieces() {
                // Most requests are a head alone; empty pieces would cost the system as much as full ones.
                [head, [], []] => transport.poll_write(cx, head),
                pieces => transport.poll_write_vectored(cx, &pieces.map(IoSlice::new)),
            };
            match ready!(written) {
                Ok(0) => sending.failed(io::ErrorKind::WriteZero.into())?,
                Ok(length) => sending.wrote(length),
                Err(error) => sending.failed(error)?,
            }
        }
    }
}

/// Whether an answer has no body, whatever its head says (RFC 9112 section 6.3).
fn is_bodiless(method: &Method, status: StatusCode) -> bool {
    method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

#[cfg(test)]
mod tests;
