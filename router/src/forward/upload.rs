//! The body of a request on its way to an instance. It streams; only its first
//! [`REPLAY_BYTES`] are kept, and only until the instance has begun to answer, so that a request
//! which the instance refused unprocessed can be sent again elsewhere. It also holds the limits: how
//! long the body may be, and how slowly it may come.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use super::client_body::ClientBody;
use crate::{
    limits::{
        REPLAY_BYTES,
        pace::{Pace, Patience},
    },
    rejection::Reason,
};

/// What keeping a piece costs at least: clients decide how small pieces are.
const LEAST_BYTES: usize = 64;
/// A piece shares the memory of all that was read with it, which may be much more than it is; a smaller
/// one than this is kept as a copy.
const OWN_BYTES: usize = 4 * 1024;

/// The body of a request as hyper sends it: none, or one attempt at the upload.
#[derive(Debug)]
pub enum RequestBody {
    /// Nothing.
    Empty,
    /// The client's body.
    Upload(Attempt),
}

/// The body that the client sends, over all attempts.
#[derive(Debug)]
pub struct Upload<B = ClientBody>(Mutex<State<B>>);

#[derive(Debug)]
struct State<B> {
    client: B,
    limit_bytes: u64,
    received_bytes: u64,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    // False once more came than is kept, or the answer has begun.
    keeps: bool,
    attempt: u32,
    ended: bool,
    failure: Option<Reason>,
    last_received: Instant,
    // Counts only while the client is waited for: not while the instance takes its time.
    patience: Patience,
    timer: Pin<Box<Sleep>>,
}

/// One attempt to send an upload.
#[derive(Debug)]
pub struct Attempt<B = ClientBody> {
    upload: Arc<Upload<B>>,
    number: u32,
    next: usize,
}

/// Why an upload ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// The reason is the upload's.
    #[error("the body of the request ended: {}", .0.as_str())]
    Client(Reason),
    /// A later attempt took over.
    #[error("the request is being sent elsewhere")]
    Superseded,
}

impl<B> Upload<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    /// The upload of a body.
    pub fn new(client: B, limit_bytes: u64, pace: Pace) -> Arc<Self> {
        Arc::new(Self(Mutex::new(State {
            client,
            limit_bytes,
            received_bytes: 0,
            kept: Vec::new(),
            kept_bytes: 0,
            keeps: true,
            attempt: 0,
            ended: false,
            failure: None,
            last_received: Instant::now(),
            patience: Patience::new(pace),
            timer: Box::pin(sleep(pace.grace)),
        })))
    }

    /// The body for the next attempt; none when what was sent before is not kept any more. An
    /// earlier attempt gets nothing from now on.
    pub fn attempt(self: &Arc<Self>) -> Option<Attempt<B>> {
        let mut state = self.state();
        if !state.keeps || state.failure.is_some() {
            return None;
        }
        state.attempt += 1;
        Some(Attempt { upload: Arc::clone(self), number: state.attempt, next: 0 })
    }

    /// Whether all that was sent is kept: whether there can be another attempt.
    pub fn is_kept(&self) -> bool {
        let state = self.state();
        state.keeps && state.failure.is_none()
    }

    /// The instance has begun to answer: the request will not be sent again.
    pub fn forget(&self) {
        let mut state = self.state();
        state.keeps = false;
        state.kept = Vec::new();
    }

    /// Whether the whole body was received and handed on.
    pub fn has_ended(&self) -> bool {
        self.state().ended
    }

    /// What was wrong with the body.
    pub fn failure(&self) -> Option<Reason> {
        self.state().failure
    }

    /// When a piece last came, or the body ended.
    pub fn last_received(&self) -> Instant {
        self.state().last_received
    }

    /// How much was received, in bytes.
    pub fn received_bytes(&self) -> u64 {
        self.state().received_bytes
    }

    fn state(&self) -> MutexGuard<'_, State<B>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Next = Poll<Option<Result<Frame<Bytes>, UploadError>>>;

impl<B> State<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    fn fail(&mut self, reason: Reason) -> Next {
        self.failure = Some(reason);
        Poll::Ready(Some(Err(UploadError::Client(reason))))
    }

    fn poll_client(&mut self, cx: &mut Context<'_>) -> Next {
        let Poll::Ready(frame) = Pin::new(&mut self.client).poll_frame(cx) else {
            let end = self.patience.waits(Instant::now());
            if self.timer.deadline() != end {
                self.timer.as_mut().reset(end);
            }
            ready!(self.timer.as_mut().poll(cx));
            return self.fail(Reason::BodyTimeout);
        };
        self.last_received = Instant::now();
        let frame = match frame {
            None => {
                self.ended = true;
                return Poll::Ready(None);
            }
            Some(Err(_)) => return self.fail(Reason::BadBody),
            Some(Ok(frame)) => frame,
        };
        match frame.into_data() {
            Ok(data) => {
                self.patience.passed(self.last_received, data.len());
                self.received_bytes = self.received_bytes.saturating_add(data.len() as u64);
                if self.received_bytes > self.limit_bytes {
                    return self.fail(Reason::BodyTooLarge);
                }
                self.ended = self.client.is_end_stream();
                self.keep(&data);
                Poll::Ready(Some(Ok(Frame::data(data))))
            }
            Err(frame) => {
                self.ended = true;
                // Trailers are not kept, so this cannot be sent a second time.
                self.keeps = false;
                let mut trailers = frame.into_trailers().unwrap_or_default();
                super::headers::clean_trailers(&mut trailers);
                Poll::Ready(Some(Ok(Frame::trailers(trailers))))
            }
        }
    }

    fn keep(&mut self, data: &Bytes) {
        if !self.keeps {
            return;
        }
        self.kept_bytes += data.len().max(LEAST_BYTES);
        if self.kept_bytes > REPLAY_BYTES {
            self.keeps = false;
            self.kept = Vec::new();
        } else if data.len() < OWN_BYTES {
            self.kept.push(Bytes::copy_from_slice(data));
        } else {
            self.kept.push(data.clone());
        }
    }
}

impl<B> Body for Attempt<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Next {
        let this = &mut *self;
        let mut state = this.upload.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.attempt != this.number {
            return Poll::Ready(Some(Err(UploadError::Superseded)));
        }
        if let Some(piece) = state.kept.get(this.next) {
            this.next += 1;
            return Poll::Ready(Some(Ok(Frame::data(piece.clone()))));
        }
        if let Some(reason) = state.failure {
            return Poll::Ready(Some(Err(UploadError::Client(reason))));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        let next = state.poll_client(cx);
        this.next = state.kept.len();
        next
    }

    fn is_end_stream(&self) -> bool {
        let state = self.upload.state();
        state.ended && self.next >= state.kept.len()
    }

    fn size_hint(&self) -> SizeHint {
        let state = self.upload.state();
        let again: u64 = state.kept.iter().skip(self.next).map(|piece| piece.len() as u64).sum();
        let rest = state.client.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(again.saturating_add(rest.lower()));
        if let Some(upper) = rest.upper() {
            hint.set_upper(again.saturating_add(upper));
        }
        hint
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = UploadError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Next {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Upload(attempt) => Pin::new(attempt).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Upload(attempt) => attempt.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Upload(attempt) => attempt.size_hint(),
        }
    }
}

/// The length that the client announced, in bytes.
pub fn announced_bytes(headers: &HeaderMap) -> Option<u64> {
    headers.get(http::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, StreamBody};

    use super::*;

    type Piece = Result<Frame<Bytes>, std::io::Error>;

    const PACE: Pace =
        Pace { grace: std::time::Duration::from_millis(50), bytes_per_second: 1_000 };

    fn upload(sizes: &[usize], limit: u64) -> Arc<Upload<impl Body<Data = Bytes> + Unpin + use<>>> {
        let pieces: Vec<Piece> =
            sizes.iter().map(|size| Ok(Frame::data(Bytes::from(vec![b'x'; *size])))).collect();
        Upload::new(StreamBody::new(futures_util::stream::iter(pieces)), limit, PACE)
    }

    async fn length(attempt: Attempt<impl Body<Data = Bytes> + Unpin>) -> Result<usize, Reason> {
        match attempt.collect().await {
            Ok(body) => Ok(body.to_bytes().len()),
            Err(UploadError::Client(reason)) => Err(reason),
            Err(UploadError::Superseded) => Err(Reason::Relocating),
        }
    }

    #[tokio::test]
    async fn a_short_body_can_be_sent_again_from_any_point() {
        let upload = upload(&[10, 20, 30], 100);
        let mut first = upload.attempt().expect("nothing sent yet");
        let _ = first.frame().await;
        let second = upload.attempt().expect("is kept");
        assert!(matches!(first.frame().await, Some(Err(UploadError::Superseded))));
        assert_eq!(length(second).await, Ok(60));
        assert_eq!(length(upload.attempt().expect("is kept")).await, Ok(60));
        upload.forget();
        assert!(upload.attempt().is_none());
    }

    #[tokio::test]
    async fn a_long_body_is_not_kept() {
        let upload = upload(&[REPLAY_BYTES, 1], u64::MAX);
        let first = upload.attempt().expect("nothing sent yet");
        assert_eq!(length(first).await, Ok(REPLAY_BYTES + 1));
        assert!(upload.has_ended() && upload.attempt().is_none());
    }

    #[tokio::test]
    async fn small_pieces_take_no_more_memory_than_large_ones() {
        // Each piece is a byte of a large reading.
        let readings: Vec<Bytes> = (0..10).map(|_| Bytes::from(vec![b'x'; 16 * 1024])).collect();
        let pieces: Vec<Piece> =
            readings.iter().map(|reading| Ok(Frame::data(reading.slice(..1)))).collect();
        let body = StreamBody::new(futures_util::stream::iter(pieces));
        let upload = Upload::new(body, 100, PACE);
        assert_eq!(length(upload.attempt().expect("nothing sent yet")).await, Ok(10));
        assert!(readings.iter().all(Bytes::is_unique), "what was read with them is not kept");
        assert_eq!(length(upload.attempt().expect("is kept")).await, Ok(10));
        // Nor are many of them, or of none.
        for size in [0, 1] {
            let upload = self::upload(&vec![size; REPLAY_BYTES / LEAST_BYTES + 1], u64::MAX);
            let first = upload.attempt().expect("nothing sent yet");
            assert!(length(first).await.is_ok() && upload.attempt().is_none());
        }
    }

    #[tokio::test]
    async fn a_body_without_an_end_that_comes_byte_by_byte_fails() {
        let drops = futures_util::stream::unfold((), |()| async {
            sleep(std::time::Duration::from_millis(10)).await;
            Some((Piece::Ok(Frame::data(Bytes::from_static(b"x"))), ()))
        });
        let upload = Upload::new(StreamBody::new(Box::pin(drops)), u64::MAX, PACE);
        let first = upload.attempt().expect("nothing sent yet");
        assert_eq!(length(first).await, Err(Reason::BodyTimeout));
        assert_eq!(upload.failure(), Some(Reason::BodyTimeout));
    }

    #[tokio::test]
    async fn a_slow_instance_is_not_the_clients_fault() {
        let upload = upload(&[10; 4], 100);
        let mut first = upload.attempt().expect("nothing sent yet");
        while let Some(frame) = first.frame().await {
            assert!(frame.is_ok());
            sleep(2 * PACE.grace).await;
        }
        assert!(upload.has_ended());
    }

    #[tokio::test]
    async fn a_body_over_the_limit_fails() {
        let upload = upload(&[10, 20], 29);
        let first = upload.attempt().expect("nothing sent yet");
        assert_eq!(length(first).await, Err(Reason::BodyTooLarge));
        assert_eq!(upload.failure(), Some(Reason::BodyTooLarge));
        assert!(upload.attempt().is_none());
    }
}
