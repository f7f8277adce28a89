//! The body of a request over HTTP/3, and what must be known of it before the request goes on: whether
//! there is one. The length that a head announces is held against what comes, which HTTP/2 and
//! HTTP/1.1 have done by their libraries.

use std::{
    fmt,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes};
use h3::{error::StreamError, server::RequestStream};
use http::{HeaderMap, HeaderName, Method, header};
use http_body::{Body, Frame, SizeHint};
use tokio::time::timeout;

use super::quic::Receiver;
use crate::{host::tokens, limits::HEADER_TIMEOUT};

type Stream = RequestStream<Receiver, Bytes>;

/// Fields that belong to HTTP/1.1 connections (RFC 9114 section 4.2).
const OF_CONNECTIONS: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// A request that is none.
#[derive(Debug, thiserror::Error)]
pub enum Malformed {
    /// Its head says what no head may say.
    #[error("the head of a request is malformed")]
    Head,
    /// It does not end, or its stream broke.
    #[error("a request did not come to an end")]
    Unfinished,
}

/// Why a body ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum BrokenUpload {
    /// The stream broke.
    #[error("the stream of the body broke")]
    Stream(#[source] StreamError),
    /// It is longer or shorter than announced.
    #[error("the body is not as long as announced")]
    Length,
}

/// The body.
pub struct Upload {
    stream: Stream,
    // What came before it was known that there is a body.
    first: Option<Bytes>,
    announced: Option<u64>,
    received: u64,
    place: Place,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Data,
    Trailers,
    End,
}

impl Upload {
    /// The body of the request with this head. Waits for the end of a request that has none: until
    /// then its head is not the whole of it.
    ///
    /// # Errors
    /// When the head cannot be, or the end does not come in time.
    pub async fn begin(
        stream: Stream,
        method: &Method,
        headers: &HeaderMap,
    ) -> Result<Self, Malformed> {
        let announced = check(headers)?;
        let mut upload = Self { stream, first: None, announced, received: 0, place: Place::Data };
        if announced.is_some_and(|length| length > 0) {
            return Ok(upload);
        }
        let may_stream = matches!(*method, Method::POST | Method::PUT | Method::PATCH);
        let first = if may_stream && announced.is_none() {
            // It may be waiting for the beginning of an answer before it sends anything.
            poll_fn(|cx| match upload.poll_data(cx) {
                Poll::Ready(first) => Poll::Ready(Some(first)),
                Poll::Pending => Poll::Ready(None),
            })
            .await
        } else {
            let first = timeout(HEADER_TIMEOUT, poll_fn(|cx| upload.poll_data(cx))).await;
            Some(first.map_err(|_| Malformed::Unfinished)?)
        };
        match first {
            None => {}
            Some(Ok(Some(data))) => upload.first = Some(data),
            // Trailers without a body say nothing that a site needs.
            Some(Ok(None)) => upload.place = Place::End,
            Some(Err(BrokenUpload::Length)) => return Err(Malformed::Head),
            Some(Err(BrokenUpload::Stream(_))) => return Err(Malformed::Unfinished),
        }
        Ok(upload)
    }

    fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, BrokenUpload>> {
        let data = ready!(self.stream.poll_recv_data(cx)).map_err(BrokenUpload::Stream)?;
        let data = data.map(|mut data| data.copy_to_bytes(data.remaining()));
        self.received += data.as_ref().map_or(0, |data| data.len() as u64);
        let right = match self.announced {
            None => true,
            Some(length) if data.is_some() => self.received <= length,
            Some(length) => self.received == length,
        };
        Poll::Ready(if right { Ok(data) } else { Err(BrokenUpload::Length) })
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BrokenUpload>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if self.place == Place::Data {
            if let Some(data) = ready!(self.poll_data(cx))? {
                return Poll::Ready(Some(Ok(Frame::data(data))));
            }
            self.place = Place::Trailers;
        }
        if self.place == Place::Trailers {
            let trailers = ready!(self.stream.poll_recv_trailers(cx));
            self.place = Place::End;
            if let Some(trailers) = trailers.map_err(BrokenUpload::Stream)? {
                return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
            }
        }
        Poll::Ready(None)
    }
}

impl Body for Upload {
    type Data = Bytes;
    type Error = BrokenUpload;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenUpload>>> {
        let next = self.poll(cx);
        if let Poll::Ready(Some(Err(_))) = next {
            self.place = Place::End;
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        self.place == Place::End && self.first.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let waiting = self.first.as_ref().map_or(0, |first| first.len() as u64);
        match self.announced {
            Some(length) => SizeHint::with_exact(length.saturating_sub(self.received) + waiting),
            None if self.place == Place::End => SizeHint::with_exact(waiting),
            None => SizeHint::default(),
        }
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (received, place) = (self.received, self.place);
        f.debug_struct("Upload").field("received", &received).field("place", &place).finish()
    }
}

/// The length that the head announces, in bytes.
fn check(headers: &HeaderMap) -> Result<Option<u64>, Malformed> {
    if OF_CONNECTIONS.iter().any(|name| headers.contains_key(name))
        || tokens(headers.get_all(header::TE)).any(|token| !token.eq_ignore_ascii_case("trailers"))
    {
        return Err(Malformed::Head);
    }
    let mut lines = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(None),
        (Some(line), None) if line.as_bytes().iter().all(u8::is_ascii_digit) => {
            let length = line.to_str().ok().and_then(|text| text.parse().ok());
            length.map(Some).ok_or(Malformed::Head)
        }
        _ => Err(Malformed::Head),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(lines: &[(&str, &str)]) -> Result<Option<u64>, ()> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            let name: HeaderName = name.parse().expect("a name");
            headers.append(name, value.parse().expect("a value"));
        }
        check(&headers).map_err(|_| ())
    }

    #[test]
    fn one_length_and_nothing_of_another_version() {
        assert_eq!(checked(&[("accept", "*/*")]), Ok(None));
        assert_eq!(checked(&[("content-length", "12"), ("te", "trailers")]), Ok(Some(12)));
        for bad in [
            &[("content-length", "1"), ("content-length", "1")][..],
            &[("content-length", "+1")],
            &[("content-length", "")],
            &[("content-length", "1, 1")],
            &[("content-length", "99999999999999999999")],
            &[("transfer-encoding", "chunked")],
            &[("connection", "close")],
            &[("upgrade", "websocket")],
            &[("te", "trailers, gzip")],
        ] {
            assert_eq!(checked(bad), Err(()), "{bad:?}");
        }
    }
}
