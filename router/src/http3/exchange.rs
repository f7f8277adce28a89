//! One request and its answer. The request is answered where all are (`request::answer`); this reads
//! its head, writes the answer, and gives up when the client does.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use h3::{
    error::Code,
    server::{RequestResolver, RequestStream},
};
use http::{Request, Response};
use http_body::Body as _;
use tokio::time::timeout;

use super::{
    connection::Shared,
    gate::Stopped,
    quic::{Connection, Sender},
    upload::Upload,
};
use crate::{
    Edge,
    forward::answer::AnswerBody,
    limits::HEADER_TIMEOUT,
    listener::stall::{clients_turn, guarded},
    record::Client,
    request,
};

/// The answer's pieces are no longer than this, so that one is taken in less than the longest stall.
const PIECE_BYTES: usize = 64 * 1024;

/// What a client has begun.
pub struct Exchange {
    /// The head, which has not come yet.
    pub resolver: RequestResolver<Connection, Bytes>,
    /// When it is over for the client.
    pub stopped: Stopped,
    /// What it shares with others.
    pub shared: Arc<Shared>,
}

/// Reads the request and answers it.
pub async fn run(edge: Arc<Edge>, client: Arc<Client>, exchange: Exchange) {
    let Exchange { resolver, mut stopped, shared } = exchange;
    let Some((request, mut sender)) = read(resolver).await else {
        shared.malformed.fetch_add(1, Ordering::Relaxed);
        return edge.metrics.http3_malformed.increment(1);
    };
    let mut whole = false;
    let limit = edge.limits.idle();
    let answering = guarded(Arc::clone(&edge), async {
        let Ok(answer) = request::answer(edge, client, request).await;
        whole = send(&mut sender, answer).await;
    });
    tokio::select! {
        () = answering => {}
        // The client wants no answer any more; what has not been sent is not.
        _ = &mut stopped => return,
    }
    if whole {
        // The connection stays until the client has it all.
        let _ = timeout(limit, stopped).await;
    }
}

type Answering = RequestStream<Sender, Bytes>;

/// The request, once its head is there; none when it is no request, which the client has been told.
async fn read(
    resolver: RequestResolver<Connection, Bytes>,
) -> Option<(Request<Upload>, Answering)> {
    let (request, stream) = timeout(HEADER_TIMEOUT, resolver.resolve_request()).await.ok()?.ok()?;
    let (mut sender, receiver) = stream.split();
    match Upload::begin(receiver, request.method(), request.headers()).await {
        Ok(upload) => Some((request.map(|()| upload), sender)),
        Err(error) => {
            tracing::debug!(error = &error as &dyn std::error::Error, "a request was not taken");
            sender.stop_stream(Code::H3_MESSAGE_ERROR);
            None
        }
    }
}

/// Sends an answer; whether to its end. If not the client must not take what it has for the whole.
async fn send(sender: &mut Answering, answer: Response<AnswerBody>) -> bool {
    let (head, mut body) = answer.into_parts();
    if let Err(error) = sender.send_response(Response::from_parts(head, ())).await {
        tracing::debug!(%error, "the head of an answer was not sent");
        return false;
    }
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(frame) = frame else {
            sender.stop_stream(Code::H3_INTERNAL_ERROR);
            return false;
        };
        let sent = match frame.into_data() {
            Ok(data) => send_data(sender, data).await,
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                sender.send_trailers(trailers).await.is_ok()
            }
        };
        if !sent {
            return false;
        }
    }
    sender.finish().await.is_ok()
}

async fn send_data(sender: &mut Answering, mut data: Bytes) -> bool {
    while !data.is_empty() {
        let piece = data.split_to(data.len().min(PIECE_BYTES));
        if sender.send_data(piece).await.is_err() {
            return false;
        }
        clients_turn();
    }
    true
}
