//! The body of an answer, by its length, by chunks, or until the connection ends.

use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::{Frame, SizeHint};

use super::{ExchangeError, head::Length, is_bodiless};

/// Longest line before a chunk, in bytes.
const MAX_CHUNK_LINE_BYTES: usize = 4 * 1024;
/// Longest trailers, in bytes, and most of them.
const MAX_TRAILER_BYTES: usize = 16 * 1024;
const MAX_TRAILERS: usize = 32;

/// What is still to come.
#[derive(Debug, PartialEq, Eq)]
pub enum Decoder {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunked(Chunk),
    /// All until the connection ends.
    UntilClose,
    /// Nothing.
    Done,
}

/// Where in the chunks.
#[derive(Debug, PartialEq, Eq)]
pub enum Chunk {
    /// Before the line that says its length.
    Size,
    /// So many bytes of it are to come.
    Data(u64),
    /// Before the end of its line.
    End,
    /// After the last one.
    Trailers,
}

/// What was found.
pub enum Step {
    /// A piece.
    Frame(Frame<Bytes>),
    /// More has to be read first.
    More,
    /// The end.
    End,
}

impl Decoder {
    /// Of the answer to `method` with such a head.
    pub fn of(method: &Method, status: StatusCode, length: Length) -> Self {
        if is_bodiless(method, status) {
            return Self::Done;
        }
        match length {
            Length::Bytes(0) => Self::Done,
            Length::Bytes(length) => Self::Length(length),
            Length::Chunked => Self::Chunked(Chunk::Size),
            Length::UntilClose => Self::UntilClose,
        }
    }

    /// Whether the end of the connection is the end of the body.
    pub const fn ends_with_connection(&self) -> bool {
        matches!(self, Self::UntilClose)
    }

    /// How much is to come.
    pub fn size_hint(&self) -> SizeHint {
        match self {
            Self::Length(length) => SizeHint::with_exact(*length),
            Self::Done => SizeHint::with_exact(0),
            Self::Chunked(_) | Self::UntilClose => SizeHint::default(),
        }
    }

    /// Takes the next piece out of what was read.
    ///
    /// # Errors
    /// When the chunks are not framed as they must be.
    pub fn step(&mut self, read: &mut BytesMut) -> Result<Step, ExchangeError> {
        match self {
            Self::Done => Ok(Step::End),
            Self::UntilClose if read.is_empty() => Ok(Step::More),
            Self::UntilClose => Ok(Step::Frame(Frame::data(read.split().freeze()))),
            Self::Length(left) => {
                let Some(data) = take(read, left) else { return Ok(Step::More) };
                if *left == 0 {
                    *self = Self::Done;
                }
                Ok(Step::Frame(Frame::data(data)))
            }
            Self::Chunked(chunk) => {
                let step = chunk.step(read)?;
                let is_last = match &step {
                    Step::Frame(frame) => frame.is_trailers(),
                    Step::More => false,
                    Step::End => true,
                };
                if is_last {
                    *self = Self::Done;
                }
                Ok(step)
            }
        }
    }
}

/// As much as there is of the next `left` bytes; none when there is nothing.
fn take(read: &mut BytesMut, left: &mut u64) -> Option<Bytes> {
    let length = read.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
    if length == 0 {
        return None;
    }
    *left -= length as u64;
    Some(read.split_to(length).freeze())
}

impl Chunk {
    fn step(&mut self, read: &mut BytesMut) -> Result<Step, ExchangeError> {
        loop {
            match self {
                Self::Size => {
                    let Some(end) = read.iter().position(|byte| *byte == b'\n') else {
                        return if read.len() > MAX_CHUNK_LINE_BYTES {
                            Err(ExchangeError::Invalid("a line before a chunk is too long"))
                        } else {
                            Ok(Step::More)
                        };
                    };
                    let line = read.split_to(end + 1);
                    *self = match chunk_length(&line)? {
                        0 => Self::Trailers,
                        length => Self::Data(length),
                    };
                }
                Self::Data(left) => {
                    let Some(data) = take(read, left) else { return Ok(Step::More) };
                    if *left == 0 {
                        *self = Self::End;
                    }
                    return Ok(Step::Frame(Frame::data(data)));
                }
                Self::End => {
                    let Some(end) = read.get(..2) else { return Ok(Step::More) };
                    if end != b"\r\n" {
                        return Err(ExchangeError::Invalid("a chunk is longer than it says"));
                    }
                    read.advance(2);
                    *self = Self::Size;
                }
                Self::Trailers => return trailers(read),
            }
        }
    }
}

fn chunk_length(line: &[u8]) -> Result<u64, ExchangeError> {
    let wrong = ExchangeError::Invalid("the length of a chunk is no number");
    let Some(line) = line.strip_suffix(b"\r\n") else { return Err(wrong) };
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii_end();
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(wrong);
    }
    let text = std::str::from_utf8(digits).unwrap_or_default();
    u64::from_str_radix(text, 16).map_err(|_| wrong)
}

fn trailers(read: &mut BytesMut) -> Result<Step, ExchangeError> {
    if read.starts_with(b"\r\n") {
        read.advance(2);
        return Ok(Step::End);
    }
    let mut lines = [httparse::EMPTY_HEADER; MAX_TRAILERS];
    let wrong = ExchangeError::Invalid("its trailers are not valid");
    let (length, found) = match httparse::parse_headers(read, &mut lines) {
        Ok(httparse::Status::Complete((length, found))) => (length, found),
        Ok(httparse::Status::Partial) if read.len() < MAX_TRAILER_BYTES => return Ok(Step::More),
        _ => return Err(wrong),
    };
    let mut map = HeaderMap::with_capacity(found.len());
    for line in found {
        let name = HeaderName::from_bytes(line.name.as_bytes());
        let value = HeaderValue::from_bytes(line.value);
        let (Ok(name), Ok(value)) = (name, value) else { return Err(wrong) };
        map.append(name, value);
    }
    read.advance(length);
    Ok(Step::Frame(Frame::trailers(map)))
}
