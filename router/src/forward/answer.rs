//! The body of an answer on its way to the client. What comes from an instance streams; the
//! connection goes back into its pool at the answer's end, and only if the request's body ended too.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Method, StatusCode};
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep};

use crate::{
    Edge,
    forward::events::Events,
    limits::BODY_IDLE_TIMEOUT,
    listener::stall::{clients_turn, instances_turn},
    record::Record,
    route_table::Site,
    upstream::{Connection, http1::ExchangeError},
};

/// The body of an answer, with the record of its request.
#[derive(Debug)]
pub struct AnswerBody {
    content: Content,
    record: Box<Record>,
}

#[derive(Debug)]
enum Content {
    Whole(Option<Bytes>),
    Stream(Box<Stream>),
}

/// What an instance is still saying.
#[derive(Debug)]
pub struct Stream {
    // None once it is over, or was broken off.
    connection: Option<Connection>,
    edge: Arc<Edge>,
    pause: Option<Pin<Box<Sleep>>>,
    last_frame: Option<Instant>,
    events: Option<Events>,
}

/// Why an answer ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum AnswerError {
    /// The instance broke off.
    #[error("the instance broke off its answer")]
    Broken(#[source] ExchangeError),
    /// The instance said nothing for too long.
    #[error("the instance paused inside its answer for too long")]
    Paused,
}

impl AnswerBody {
    /// An answer of the router's own.
    pub fn whole(content: Bytes, mut record: Box<Record>) -> Self {
        let bodyless = record.method == Method::HEAD
            || record.status == Some(StatusCode::SWITCHING_PROTOCOLS)
            || content.is_empty();
        record.complete = bodyless;
        clients_turn();
        Self { content: Content::Whole((!bodyless).then_some(content)), record }
    }

    /// An instance's answer.
    pub fn stream(stream: Box<Stream>, mut record: Box<Record>) -> Self {
        record.complete = stream.connection.is_none();
        clients_turn();
        Self { content: Content::Stream(stream), record }
    }
}

impl Stream {
    /// The rest of an answer whose head was read from `connection`.
    pub fn new(connection: Connection, edge: &Arc<Edge>) -> Box<Self> {
        let mut stream = Box::new(Self {
            connection: Some(connection),
            edge: Arc::clone(edge),
            pause: None,
            last_frame: None,
            events: None,
        });
        stream.finish_if_over();
        stream
    }

    /// Ends the stream after an event when its site is held; the client connects again.
    pub fn ends_at_hold(&mut self, site: &Arc<Site>) {
        self.events = Some(Events::new(&self.edge, site));
    }

    /// Whether the stream of events has to end here.
    fn ends(&mut self, cx: &mut Context<'_>) -> bool {
        let ends = self.events.as_mut().is_some_and(|events| events.end(cx));
        if ends {
            self.connection = None;
        }
        ends
    }

    fn finish_if_over(&mut self) {
        if let Some(connection) = self.connection.take_if(|connection| connection.is_end_stream()) {
            connection.give_back(&self.edge.upstreams);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        if self.ends(cx) {
            return Poll::Ready(None);
        }
        let Some(connection) = &mut self.connection else { return Poll::Ready(None) };
        match connection.poll_frame(cx) {
            Poll::Ready(None) => {
                self.finish_if_over();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                // Nobody asks as long as nothing was waited for.
                self.last_frame = self.pause.is_some().then(Instant::now);
                if let (Some(events), Some(data)) = (&mut self.events, frame.data_mut()) {
                    events.pass(data);
                }
                if let Some(trailers) = frame.trailers_mut() {
                    super::headers::clean_trailers(trailers);
                }
                self.finish_if_over();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.connection = None;
                Poll::Ready(Some(Err(AnswerError::Broken(error))))
            }
            Poll::Pending => self.poll_pause(cx),
        }
    }

    fn poll_pause(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let pause = self.pause.get_or_insert_with(|| Box::pin(sleep(BODY_IDLE_TIMEOUT)));
        // The timer is moved only when it fires, not at every frame.
        while pause.as_mut().poll(cx).is_ready() {
            let end = self.last_frame.map(|last| last + BODY_IDLE_TIMEOUT);
            match end.filter(|end| *end > Instant::now()) {
                Some(end) => pause.as_mut().reset(end),
                None => {
                    self.connection = None;
                    return Poll::Ready(Some(Err(AnswerError::Paused)));
                }
            }
        }
        Poll::Pending
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let this = &mut *self;
        let next = match &mut this.content {
            Content::Whole(content) => {
                this.record.complete = true;
                Poll::Ready(content.take().map(|content| Ok(Frame::data(content))))
            }
            Content::Stream(stream) => {
                let next = stream.poll(cx);
                if !matches!(next, Poll::Ready(Some(Err(_)))) && stream.connection.is_none() {
                    this.record.complete = true;
                }
                next
            }
        };
        match &next {
            Poll::Pending => instances_turn(),
            Poll::Ready(Some(Ok(frame))) => {
                clients_turn();
                this.record.sent_bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            }
            Poll::Ready(Some(Err(error))) => {
                let request_id = this.record.id_text();
                let host = this.record.host.as_deref().unwrap_or("");
                tracing::warn!(
                    request.id = request_id,
                    host,
                    error = error as &dyn std::error::Error,
                    "an answer was cut off"
                );
            }
            _ => {}
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Whole(content) => content.is_none(),
            Content::Stream(stream) => stream.connection.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(content) => {
                SizeHint::with_exact(content.as_ref().map_or(0, |content| content.len() as u64))
            }
            Content::Stream(stream) => {
                let connection = stream.connection.as_ref();
                connection.map_or_else(|| SizeHint::with_exact(0), Connection::size_hint)
            }
        }
    }
}
