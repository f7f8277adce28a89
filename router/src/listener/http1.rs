//! A client's HTTP/1.1 connection. hyper serves it while something is said; in between it gives the
//! stream back, with the buffers that it would keep, so that an idle connection costs little more than
//! its TLS state. A connection that becomes a WebSocket is taken over here too.

use std::{
    convert::Infallible,
    future::{Future, poll_fn},
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Buf, Bytes};
use http::{HeaderValue, Request, Response, StatusCode, header::CONNECTION};
use hyper::{
    body::Incoming,
    server::conn::http1,
    service::{HttpService, service_fn},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::{Duration, Instant, sleep, sleep_until},
};

use super::{
    either, ended,
    patient::{Speaks, WatchClient},
    rarely::Rarely,
    share,
};
use crate::{
    Edge,
    forward::{answer::AnswerBody, tunnel::Agreed},
    limits::{HEADER_TIMEOUT, MAX_HEAD_BYTES},
    record::Client,
    telemetry::OneMore,
};

/// How often a connection is looked at: hyper keeps it for this long after the last request, at most
/// twice. Its times are as exact as this, for which no request pays.
const LOOK: Duration = Duration::from_secs(1);

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves it until its end.
pub async fn serve<S, H, F>(edge: &Arc<Edge>, stream: S, client: Arc<Client>, handler: H)
where
    S: AsyncRead + AsyncWrite + Speaks + Unpin + Send + 'static,
    H: Fn(Arc<Edge>, Arc<Client>, Request<Incoming>) -> F,
    F: Future<Output = Result<Response<AnswerBody>, Infallible>> + Send,
{
    let Ok(_share) = share(edge, &client) else { return };
    let mut going = pin!(either(edge.told_to_go(), client.sent_away()));
    let mut free_since = Instant::now();
    let mut stream = Again { said: Bytes::new(), stream };
    loop {
        // On the heap only for as long as it is needed.
        let stage = spoken(edge, &client, &handler, stream, going.as_mut(), &mut free_since);
        stream = match Box::pin(stage).await {
            Stage::Over => return,
            Stage::Switched(stream, agreed) => return Box::pin(agreed.run(edge, stream)).await,
            Stage::Quiet(stream) => stream,
        };
        if !stream.said.is_empty() {
            // It had begun to say something, slowly: hyper waits on, for the rest of its time.
            continue;
        }
        let _counted = OneMore::of(&edge.metrics.quiet_connections);
        tokio::select! {
            () = poll_fn(|cx| stream.stream.poll_speaks(cx)) => {}
            () = either(going.as_mut(), sleep_until(free_since + HEADER_TIMEOUT)) => {
                farewell(stream).await;
                return;
            }
        }
    }
}

enum Stage<S> {
    /// The connection is over.
    Over,
    /// Nothing is in progress and nothing was heard for a while.
    Quiet(Again<S>),
    /// It is a WebSocket now.
    Switched(Again<S>, Box<Agreed>),
}

/// Why hyper has to let go.
enum Lull {
    /// The last request is answered, and nothing came after it.
    Quiet,
    /// A request took too long to come.
    TooLong,
    /// The router stops, or has sent the client away.
    Going,
}

async fn spoken<S, H, F>(
    edge: &Arc<Edge>,
    client: &Arc<Client>,
    handler: &H,
    stream: Again<S>,
    going: Pin<&mut impl Future<Output = ()>>,
    free_since: &mut Instant,
) -> Stage<S>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    H: Fn(Arc<Edge>, Arc<Client>, Request<Incoming>) -> F,
    F: Future<Output = Result<Response<AnswerBody>, Infallible>> + Send,
{
    let service = service_fn(|request| async move {
        let mut answer = handler(Arc::clone(edge), Arc::clone(client), request).await?;
        if edge.is_stopping() && answer.status() != StatusCode::SWITCHING_PROTOCOLS {
            // So that the client sends its next request over a connection of the next router.
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        Ok::<_, Infallible>(answer)
    });
    let begun_to_speak = !stream.said.is_empty();
    let mut connection = http1::Builder::new()
        .header_read_timeout(None)
        .max_buf_size(MAX_HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    let mut lull = Rarely::new(async {
        tokio::select! {
            () = going => Lull::Going,
            lull = silence(&client.stream, begun_to_speak, free_since) => lull,
        }
    });
    let outcome = tokio::select! {
        biased;
        outcome = &mut connection => outcome,
        lull = &mut lull => match lull {
            Lull::Quiet => return Stage::Quiet(taken_back(connection)),
            Lull::TooLong => return farewell(taken_back(connection)).await,
            Lull::Going => {
                Pin::new(&mut connection).graceful_shutdown();
                let mut free_since = Instant::now();
                // A client that never asks is not waited for.
                let silence = silence(&client.stream, begun_to_speak, &mut free_since);
                tokio::select! {
                    outcome = &mut connection => outcome,
                    _ = silence => return farewell(taken_back(connection)).await,
                }
            }
        },
    };
    let agreed = client.switched();
    match (&outcome, agreed) {
        (Ok(()), Some(agreed)) => Stage::Switched(taken_back(connection), agreed),
        _ => {
            ended(client, outcome);
            Stage::Over
        }
    }
}

/// Closes the stream. Whoever does not take even this is gone.
async fn farewell<S: AsyncRead + AsyncWrite + Unpin>(mut stream: Again<S>) -> Stage<S> {
    let _ = stream.shutdown().await;
    Stage::Over
}

/// The stream, from a connection that has nothing in progress or was upgraded.
fn taken_back<S, T>(connection: http1::Connection<TokioIo<Again<S>>, T>) -> Again<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
    T: HttpService<Incoming, ResBody = AnswerBody>,
    T::Error: Into<BoxError>,
{
    let http1::Parts { io, read_buf, .. } = connection.into_parts();
    let Again { said, stream } = io.into_inner();
    // What hyper has read comes before what it has not.
    let said = if said.is_empty() { read_buf } else { [read_buf, said].concat().into() };
    Again { said, stream }
}

/// Ends when the client has nothing in progress and says nothing, or takes too long to say it.
/// `free_since` is when the client last had something in progress, as far as was looked.
async fn silence(client: &WatchClient, begun_to_speak: bool, free_since: &mut Instant) -> Lull {
    let first = client.heard();
    let mut before = first;
    loop {
        sleep(LOOK).await;
        let now = client.heard();
        if now.requests != before.requests || client.is_busy() {
            *free_since = Instant::now();
        } else if free_since.elapsed() >= HEADER_TIMEOUT {
            return Lull::TooLong;
        } else if now == before && (!begun_to_speak || now.requests != first.requests) {
            return Lull::Quiet;
        }
        before = now;
    }
}

/// A stream of which something was read before.
struct Again<S> {
    said: Bytes,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Again<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.said.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, buffer);
        }
        let length = self.said.len().min(buffer.remaining());
        buffer.put_slice(self.said.get(..length).unwrap_or_default());
        self.said.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Again<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
