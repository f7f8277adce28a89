//! The head of an answer (RFC 9112). What two programs could read differently is refused.

use std::mem::MaybeUninit;

use bytes::{Buf, BytesMut};
use http::{
    HeaderMap, HeaderName, HeaderValue, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING},
};

use super::ExchangeError;
use crate::{host::tokens, limits::MAX_ANSWER_HEAD_BYTES};

/// Most header lines of an answer.
const MAX_LINES: usize = 100;

/// What a head says of the length of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    /// So many bytes.
    Bytes(u64),
    /// Chunks.
    Chunked,
    /// Nothing: the connection's end is the body's.
    UntilClose,
}

/// The head of an answer.
#[derive(Debug)]
pub struct AnswerHead {
    /// Status and headers.
    pub response: Response<()>,
    /// The length of the body, if there is one.
    pub length: Length,
    /// Whether the connection may be used again.
    pub keeps_alive: bool,
}

impl AnswerHead {
    /// Whether this is not the answer yet: an interim one that no client asked for.
    pub fn is_interim(&self) -> bool {
        let status = self.response.status();
        status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
    }

    /// Takes the head that `read` begins with; none when it is not all there.
    ///
    /// # Errors
    /// When it is too long, or no head.
    pub fn take(read: &mut BytesMut) -> Result<Option<Self>, ExchangeError> {
        if read.is_empty() {
            return Ok(None);
        }
        let mut lines = [const { MaybeUninit::uninit() }; MAX_LINES];
        let mut parsed = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let outcome = config.parse_response_with_uninit_headers(&mut parsed, read, &mut lines);
        let length = match outcome {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) if read.len() >= MAX_ANSWER_HEAD_BYTES => {
                return Err(ExchangeError::Invalid("its head is too long"));
            }
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(ExchangeError::Invalid("it has too many header lines"));
            }
            Err(_) => return Err(ExchangeError::Invalid("its head is not HTTP/1")),
        };
        let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
        let status = status.ok_or(ExchangeError::Invalid("its status is none"))?;
        let version = if parsed.version == Some(0) { Version::HTTP_10 } else { Version::HTTP_11 };
        let mut headers = HeaderMap::with_capacity(parsed.headers.len());
        for line in parsed.headers.iter() {
            // Copied, so that a value that lives on does not keep all of what was read.
            let name = HeaderName::from_bytes(line.name.as_bytes());
            let value = HeaderValue::from_bytes(line.value);
            let (Ok(name), Ok(value)) = (name, value) else {
                return Err(ExchangeError::Invalid("a header line is not valid"));
            };
            headers.append(name, value);
        }
        read.advance(length);
        let length = body_length(&headers)?;
        let keeps_alive = take_persistence(&mut headers, version);
        let mut response = Response::new(());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Ok(Some(Self { response, length, keeps_alive }))
    }
}

/// Whether the connection may be used again. A `Connection` header that says no more than that is
/// taken out, so that most answers need no cleaning later.
fn take_persistence(headers: &mut HeaderMap, version: Version) -> bool {
    let (mut keeps, mut closes, mut more) = (version == Version::HTTP_11, false, false);
    if headers.contains_key(CONNECTION) {
        for token in tokens(headers.get_all(CONNECTION)) {
            if token.eq_ignore_ascii_case("close") {
                closes = true;
            } else if token.eq_ignore_ascii_case("keep-alive") {
                keeps = true;
            } else {
                more = true;
            }
        }
        if !more {
            headers.remove(CONNECTION);
        }
    }
    keeps && !closes
}

fn body_length(headers: &HeaderMap) -> Result<Length, ExchangeError> {
    let mut lengths = headers.get_all(CONTENT_LENGTH).iter();
    let length = lengths.next();
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    match (length, encodings.next()) {
        (None, None) => Ok(Length::UntilClose),
        (Some(_), Some(_)) => Err(ExchangeError::Invalid("it says its length in two ways")),
        (None, Some(encoding)) => {
            let is_chunked = encoding.as_bytes().eq_ignore_ascii_case(b"chunked");
            if is_chunked && encodings.next().is_none() {
                Ok(Length::Chunked)
            } else {
                Err(ExchangeError::Invalid("its transfer-encoding is not 'chunked'"))
            }
        }
        (Some(length), None) => {
            if lengths.any(|other| other != length) {
                return Err(ExchangeError::Invalid("it has two lengths"));
            }
            let digits = length.as_bytes();
            let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
            let number = std::str::from_utf8(digits).ok().and_then(|text| text.parse().ok());
            number
                .filter(|_| is_number)
                .map(Length::Bytes)
                .ok_or(ExchangeError::Invalid("its content-length is no number"))
        }
    }
}
