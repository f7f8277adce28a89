//! The request on its way out: its head, then its body in pieces, each written with what frames it.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::{HeaderMap, Method};
use http_body::{Body, Frame};

use super::ExchangeError;
use crate::forward::upload::RequestBody;

/// How the length of a body is said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Framing {
    #[default]
    None,
    /// So many bytes are still to come.
    Length(u64),
    Chunked,
}

/// What is being sent.
#[derive(Debug, Default)]
pub struct Sending {
    // The head, and what stands before a chunk. Kept from request to request.
    text: Vec<u8>,
    text_sent: usize,
    data: Bytes,
    // What stands after a chunk.
    tail: &'static [u8],
    body: Option<RequestBody>,
    framing: Framing,
    /// The body has ended; its end may still have to be written.
    pub ended: bool,
    /// All is written, or nothing more is taken.
    pub over: bool,
    /// A byte was written.
    pub any_sent: bool,
    /// The instance takes no more.
    pub broken: bool,
}

impl Sending {
    /// Another request.
    pub fn begin(&mut self, method: &Method, body: RequestBody, head: impl FnOnce(&mut Vec<u8>)) {
        self.text.clear();
        (self.text_sent, self.data, self.tail) = (0, Bytes::new(), b"");
        (self.over, self.any_sent) = (false, false);
        self.framing = match &body {
            RequestBody::Empty => Framing::None,
            RequestBody::Upload(upload) => {
                upload.size_hint().exact().map_or(Framing::Chunked, Framing::Length)
            }
        };
        head(&mut self.text);
        match self.framing {
            // Some programs wait for a body where none is announced (RFC 9110 section 8.6).
            Framing::None if matches!(*method, Method::POST | Method::PUT | Method::PATCH) => {
                self.text.extend_from_slice(b"content-length: 0\r\n");
            }
            Framing::None => {}
            Framing::Length(length) => {
                self.text.extend_from_slice(b"content-length: ");
                self.text.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
                self.text.extend_from_slice(b"\r\n");
            }
            Framing::Chunked => self.text.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        }
        self.text.extend_from_slice(b"\r\n");
        self.ended = self.framing == Framing::None;
        self.body = (!self.ended).then_some(body);
    }

    /// Whether nothing is left to do.
    pub const fn is_over(&self) -> bool {
        self.over
    }

    /// Takes the next piece of the body if the last one was written; whether there is none yet.
    ///
    /// # Errors
    /// When the body failed, or has another length than was said.
    pub fn take_body(&mut self, cx: &mut Context<'_>) -> Result<bool, ExchangeError> {
        while !self.ended && self.data.is_empty() && self.tail.is_empty() {
            let Some(body) = &mut self.body else { return Ok(false) };
            match Pin::new(body).poll_frame(cx) {
                Poll::Pending => return Ok(true),
                Poll::Ready(Some(Ok(frame))) => self.take(frame)?,
                Poll::Ready(Some(Err(error))) => return Err(ExchangeError::Upload(error)),
                Poll::Ready(None) => self.end(None)?,
            }
        }
        Ok(false)
    }

    fn take(&mut self, frame: Frame<Bytes>) -> Result<(), ExchangeError> {
        match frame.into_data() {
            // A chunk of nothing would be the end.
            Ok(data) if data.is_empty() => Ok(()),
            Ok(data) => {
                match &mut self.framing {
                    Framing::Length(left) => match left.checked_sub(data.len() as u64) {
                        Some(rest) => *left = rest,
                        None => return Err(wrong_length()),
                    },
                    Framing::Chunked => {
                        self.start_text();
                        let mut digits = [0; 16];
                        self.text.extend_from_slice(hex(data.len(), &mut digits));
                        self.text.extend_from_slice(b"\r\n");
                        self.tail = b"\r\n";
                    }
                    Framing::None => return Err(wrong_length()),
                }
                self.data = data;
                if self.body.as_ref().is_some_and(Body::is_end_stream)
                    && self.framing == Framing::Length(0)
                {
                    self.end(None)?;
                }
                Ok(())
            }
            Err(frame) => self.end(frame.into_trailers().ok().as_ref()),
        }
    }

    fn end(&mut self, trailers: Option<&HeaderMap>) -> Result<(), ExchangeError> {
        match self.framing {
            Framing::Length(0) | Framing::None => {}
            Framing::Length(_) => return Err(wrong_length()),
            Framing::Chunked => {
                self.start_text();
                self.text.extend_from_slice(b"0\r\n");
                for (name, value) in trailers.into_iter().flatten() {
                    line(&mut self.text, name.as_str(), value.as_bytes());
                }
                self.text.extend_from_slice(b"\r\n");
            }
        }
        self.ended = true;
        self.body = None;
        Ok(())
    }

    /// Text that was written makes room for more.
    fn start_text(&mut self) {
        if self.text_sent == self.text.len() {
            self.text.clear();
            self.text_sent = 0;
        }
    }

    /// Whether anything waits to be written.
    pub fn has_pieces(&self) -> bool {
        self.text_sent < self.text.len() || !self.data.is_empty() || !self.tail.is_empty()
    }

    /// What waits to be written, in order.
    pub fn pieces(&self) -> [&[u8]; 3] {
        [self.text.get(self.text_sent..).unwrap_or_default(), &self.data, self.tail]
    }

    /// So much was written.
    pub fn wrote(&mut self, length: usize) {
        self.any_sent = true;
        let of_text = length.min(self.text.len() - self.text_sent);
        self.text_sent += of_text;
        let of_data = (length - of_text).min(self.data.len());
        self.data.advance(of_data);
        let of_tail = (length - of_text - of_data).min(self.tail.len());
        self.tail = self.tail.get(of_tail..).unwrap_or_default();
    }

    /// Writing failed. An instance may answer, or refuse, before it has read the whole request: its
    /// answer is still to be read then, and if there is none, reading says so.
    ///
    /// # Errors
    /// When the connection failed in another way.
    pub fn failed(&mut self, error: io::Error) -> Result<(), ExchangeError> {
        let closed = [io::ErrorKind::BrokenPipe, io::ErrorKind::ConnectionReset];
        if !closed.contains(&error.kind()) {
            return Err(ExchangeError::Connection(error));
        }
        (self.data, self.tail, self.body) = (Bytes::new(), b"", None);
        self.text_sent = self.text.len();
        (self.broken, self.ended, self.over) = (true, true, true);
        Ok(())
    }
}

/// Appends one line of a head or of trailers.
pub fn line(to: &mut Vec<u8>, name: &str, value: &[u8]) {
    to.extend_from_slice(name.as_bytes());
    to.extend_from_slice(b": ");
    to.extend_from_slice(value);
    to.extend_from_slice(b"\r\n");
}

const fn wrong_length() -> ExchangeError {
    ExchangeError::Invalid("the request's body has another length than was announced")
}

fn hex(mut number: usize, digits: &mut [u8; 16]) -> &[u8] {
    let mut first = digits.len();
    loop {
        first -= 1;
        if let Some(digit) = digits.get_mut(first) {
            *digit = b"0123456789abcdef"[number & 0xf];
        }
        number >>= 4;
        if number == 0 {
            return digits.get(first..).unwrap_or_default();
        }
    }
}
