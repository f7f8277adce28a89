//! QUIC as the HTTP/3 library wants to see it. What is added to plain passing on: frames have a
//! longest length, DATA has some, a stream that is dropped before its end says so, whoever waits for a
//! client learns that it gave a request up, and after a goodbye nothing is taken that the client was
//! told would not be.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::{Buf, Bytes};
use futures_util::{Stream, StreamExt as _, stream};
use h3::{
    error::Code,
    quic::{self, ConnectionErrorIncoming, StreamErrorIncoming, StreamId, WriteBuf},
};
use quinn::{ConnectionError, ReadError, VarInt, WriteError};

use super::{
    frames::Frames,
    gate::{Gate, Stopped},
};

type Streams<T> = Pin<Box<dyn Stream<Item = Result<T, ConnectionError>> + Send + Sync>>;
type BothWays = (quinn::SendStream, quinn::RecvStream);

/// A connection.
pub struct Connection {
    quic: quinn::Connection,
    requests: Streams<BothWays>,
    arriving: Streams<quinn::RecvStream>,
    leaving: Option<Streams<quinn::SendStream>>,
    gate: Arc<Gate>,
}

impl Connection {
    /// Of a QUIC connection, with the gate that its requests go through.
    pub fn new(quic: quinn::Connection) -> (Self, Arc<Gate>) {
        let gate = Arc::<Gate>::default();
        let requests = stream::unfold(quic.clone(), |quic| async {
            let accepted = quic.accept_bi().await;
            Some((accepted, quic))
        });
        let arriving = stream::unfold(quic.clone(), |quic| async {
            let accepted = quic.accept_uni().await;
            Some((accepted, quic))
        });
        let connection = Self {
            quic,
            requests: Box::pin(requests),
            arriving: Box::pin(arriving),
            leaving: None,
            gate: Arc::clone(&gate),
        };
        (connection, gate)
    }

    fn poll_leaving(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<quinn::SendStream, StreamErrorIncoming>> {
        let quic = &self.quic;
        let leaving = self.leaving.get_or_insert_with(|| {
            Box::pin(stream::unfold(quic.clone(), |quic| async {
                let opened = quic.open_uni().await;
                Some((opened, quic))
            }))
        });
        Poll::Ready(next(ready!(leaving.poll_next_unpin(cx))).map_err(lost))
    }
}

/// The streams of this module have no end.
fn next<T>(item: Option<Result<T, ConnectionError>>) -> Result<T, ConnectionErrorIncoming> {
    match item {
        Some(outcome) => outcome.map_err(ended),
        None => Err(ConnectionErrorIncoming::InternalError("no more streams".to_owned())),
    }
}

fn ended(error: ConnectionError) -> ConnectionErrorIncoming {
    match error {
        ConnectionError::ApplicationClosed(close) => {
            ConnectionErrorIncoming::ApplicationClose { error_code: close.error_code.into_inner() }
        }
        ConnectionError::TimedOut => ConnectionErrorIncoming::Timeout,
        other => ConnectionErrorIncoming::Undefined(Arc::new(other)),
    }
}

const fn lost(connection_error: ConnectionErrorIncoming) -> StreamErrorIncoming {
    StreamErrorIncoming::ConnectionErrorIncoming { connection_error }
}

fn number(code: Code) -> VarInt {
    VarInt::from_u64(code.value()).unwrap_or(VarInt::MAX)
}

fn id_of(id: quinn::StreamId) -> StreamId {
    let id = u64::from(VarInt::from(id));
    // All ids of streams are integers of QUIC.
    StreamId::try_from(id).unwrap_or_else(|_| unreachable!("{id} is no id"))
}

impl quic::Connection<Bytes> for Connection {
    type RecvStream = Receiver;
    type OpenStreams = Opener;

    fn poll_accept_recv(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Receiver, ConnectionErrorIncoming>> {
        let stream = next(ready!(self.arriving.poll_next_unpin(cx)))?;
        Poll::Ready(Ok(Receiver { stream, frames: Frames::of_one_direction(), ended: false }))
    }

    fn poll_accept_bidi(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<BothWaysStream, ConnectionErrorIncoming>> {
        loop {
            let (mut send, mut receive) = next(ready!(self.requests.poll_next_unpin(cx)))?;
            if !self.gate.lets_in(u64::from(VarInt::from(send.id()))) {
                // Nothing was done with it: the client may send it again elsewhere.
                let _ = send.reset(number(Code::H3_REQUEST_REJECTED));
                let _ = receive.stop(number(Code::H3_REQUEST_REJECTED));
                continue;
            }
            let stopped: Stopped = Box::pin(send.stopped());
            self.gate.watches(stopped);
            let frames = Frames::of_request();
            let receive = Receiver { stream: receive, frames, ended: false };
            return Poll::Ready(Ok(BothWaysStream { send: Sender::new(send), receive }));
        }
    }

    fn opener(&self) -> Opener {
        Opener(self.quic.clone())
    }
}

impl quic::OpenStreams<Bytes> for Connection {
    type BidiStream = BothWaysStream;
    type SendStream = Sender;

    fn poll_open_bidi(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Result<BothWaysStream, StreamErrorIncoming>> {
        Poll::Ready(Err(no_server_asks()))
    }

    fn poll_open_send(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Sender, StreamErrorIncoming>> {
        Poll::Ready(Ok(Sender::new(ready!(self.poll_leaving(cx))?)))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.quic.close(number(code), reason);
    }
}

fn no_server_asks() -> StreamErrorIncoming {
    lost(ConnectionErrorIncoming::InternalError("a server sends no requests".to_owned()))
}

/// Required by the library and used by clients only.
pub struct Opener(quinn::Connection);

impl quic::OpenStreams<Bytes> for Opener {
    type BidiStream = BothWaysStream;
    type SendStream = Sender;

    fn poll_open_bidi(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<Result<BothWaysStream, StreamErrorIncoming>> {
        Poll::Ready(Err(no_server_asks()))
    }

    fn poll_open_send(&mut self, _: &mut Context<'_>) -> Poll<Result<Sender, StreamErrorIncoming>> {
        Poll::Ready(Err(no_server_asks()))
    }

    fn close(&mut self, code: Code, reason: &[u8]) {
        self.0.close(number(code), reason);
    }
}

/// The stream of a request and its answer.
pub struct BothWaysStream {
    send: Sender,
    receive: Receiver,
}

impl quic::BidiStream<Bytes> for BothWaysStream {
    type SendStream = Sender;
    type RecvStream = Receiver;

    fn split(mut self) -> (Sender, Receiver) {
        self.send.whole = false;
        (self.send, self.receive)
    }
}

impl quic::RecvStream for BothWaysStream {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        self.receive.poll_data(cx)
    }

    fn stop_sending(&mut self, error_code: u64) {
        self.receive.stop_sending(error_code);
    }

    fn recv_id(&self) -> StreamId {
        self.receive.recv_id()
    }
}

impl quic::SendStream<Bytes> for BothWaysStream {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_ready(cx)
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        // Before the router has the request the library answers only that its head is too long.
        self.send.whole = true;
        self.send.send_data(data)
    }

    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.send.poll_finish(cx)
    }

    fn reset(&mut self, reset_code: u64) {
        self.send.reset(reset_code);
    }

    fn send_id(&self) -> StreamId {
        self.send.send_id()
    }
}

/// What comes from the client.
pub struct Receiver {
    stream: quinn::RecvStream,
    frames: Frames,
    ended: bool,
}

impl Receiver {
    fn broken(&mut self, error: ReadError) -> StreamErrorIncoming {
        match error {
            ReadError::Reset(code) => {
                self.ended = true;
                StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() }
            }
            ReadError::ConnectionLost(error) => lost(ended(error)),
            other => StreamErrorIncoming::Unknown(Box::new(other)),
        }
    }
}

impl quic::RecvStream for Receiver {
    type Buf = Bytes;

    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, StreamErrorIncoming>> {
        loop {
            // A future of one poll: what wakes us is kept by the stream.
            let read = pin!(self.stream.read_chunk(usize::MAX, true)).poll(cx);
            let passed = match ready!(read) {
                Ok(Some(piece)) => self.frames.pass(&piece.bytes),
                Ok(None) => {
                    self.ended = true;
                    let rest = self.frames.rest();
                    return Poll::Ready(Ok((!rest.is_empty()).then(|| rest.into())));
                }
                Err(error) => return Poll::Ready(Err(self.broken(error))),
            };
            match passed {
                // It was nothing, or not enough to say so.
                Ok(piece) if piece.is_empty() => {}
                // A piece shares the memory of all datagrams that were read with it. This is a copy,
                // since some are kept for long: of small pieces many would hold far more than they are.
                Ok(piece) => return Poll::Ready(Ok(Some(piece.into()))),
                Err(too_long) => {
                    let _ = self.stream.stop(number(Code::H3_EXCESSIVE_LOAD));
                    self.ended = true;
                    return Poll::Ready(Err(StreamErrorIncoming::Unknown(Box::new(too_long))));
                }
            }
        }
    }

    fn stop_sending(&mut self, error_code: u64) {
        let _ = self.stream.stop(VarInt::from_u64(error_code).unwrap_or(VarInt::MAX));
        self.ended = true;
    }

    fn recv_id(&self) -> StreamId {
        id_of(self.stream.id())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if !self.ended {
            // The answer did not need the rest: no fault of the client.
            let _ = self.stream.stop(number(Code::H3_NO_ERROR));
        }
    }
}

/// What goes to the client.
pub struct Sender {
    stream: quinn::SendStream,
    writing: Option<WriteBuf<Bytes>>,
    ended: bool,
    // Whether what was written is an answer of the library's own, which is dropped after it.
    whole: bool,
}

impl Sender {
    const fn new(stream: quinn::SendStream) -> Self {
        Self { stream, writing: None, ended: false, whole: false }
    }
}

impl quic::SendStream<Bytes> for Sender {
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        if let Some(data) = &mut self.writing {
            while data.has_remaining() {
                let written = ready!(Pin::new(&mut self.stream).poll_write(cx, data.chunk()));
                data.advance(written.map_err(|error| match error {
                    WriteError::Stopped(code) => {
                        StreamErrorIncoming::StreamTerminated { error_code: code.into_inner() }
                    }
                    WriteError::ConnectionLost(error) => lost(ended(error)),
                    other => StreamErrorIncoming::Unknown(Box::new(other)),
                })?);
            }
        }
        self.writing = None;
        Poll::Ready(Ok(()))
    }

    fn send_data<T: Into<WriteBuf<Bytes>>>(&mut self, data: T) -> Result<(), StreamErrorIncoming> {
        if self.writing.is_some() {
            let text = "the piece before is not written".to_owned();
            return Err(lost(ConnectionErrorIncoming::InternalError(text)));
        }
        self.writing = Some(data.into());
        Ok(())
    }

    fn poll_finish(&mut self, _: &mut Context<'_>) -> Poll<Result<(), StreamErrorIncoming>> {
        self.ended = true;
        let finished = self.stream.finish();
        Poll::Ready(finished.map_err(|error| StreamErrorIncoming::Unknown(Box::new(error))))
    }

    fn reset(&mut self, reset_code: u64) {
        self.ended = true;
        let _ = self.stream.reset(VarInt::from_u64(reset_code).unwrap_or(VarInt::MAX));
    }

    fn send_id(&self) -> StreamId {
        id_of(self.stream.id())
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if !self.ended && !self.whole {
            // A stream that is only dropped ends as if all had been said.
            let _ = self.stream.reset(number(Code::H3_REQUEST_CANCELLED));
        }
    }
}
