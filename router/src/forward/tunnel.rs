//! A WebSocket between a client and an instance: bytes both ways, from the moment when the instance
//! has agreed. Before that no byte of the client reaches the instance outside of a request. When the
//! site is held, or the router ends, both sides are told to connect again.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures_util::future::{Either, select};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    time::{Duration, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use super::websocket::{CLOSE_TO_CLIENT, CLOSE_TO_INSTANCE, Frames};
use crate::{
    Edge, hold,
    limits::{self, TUNNEL_IDLE_TIMEOUT},
    route_table::Site,
    site_traffic::{InFlight, Tunnel},
    telemetry::OneMore,
    upstream::transport::Transport,
};

/// How often idleness is looked at, in parts of the longest idleness.
const CHECKS: u32 = 4;
/// How long one side may go on when the other has ended.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(10);
const BUFFER_BYTES: usize = 16 * 1024;

/// What both sides have agreed on: it begins when the client has got the answer too.
#[derive(Debug)]
pub struct Agreed {
    instance: (Transport, Bytes),
    site: Arc<Site>,
    counted: Tunnel,
}

impl Agreed {
    /// The instance of `site` has agreed, and `said` so much after it. The request is counted until
    /// the tunnel is.
    pub fn new(
        instance: Transport,
        said: Bytes,
        site: &Arc<Site>,
        in_flight: Option<InFlight>,
    ) -> Self {
        let counted = Tunnel::begin(&site.traffic);
        drop(in_flight);
        Self { instance: (instance, said), site: Arc::clone(site), counted }
    }

    /// Passes bytes both ways until one side ends.
    pub async fn run(self, edge: &Arc<Edge>, client: impl AsyncRead + AsyncWrite) {
        let Self { instance, site, counted: _counted } = self;
        let _more = OneMore::of(&edge.metrics.tunnels);
        run(edge, site, client, instance).await;
    }
}

async fn run(
    edge: &Arc<Edge>,
    site: Arc<Site>,
    client: impl AsyncRead + AsyncWrite,
    (instance, said): (Transport, Bytes),
) {
    let (client_reader, client_writer) = split(client);
    let (instance_reader, instance_writer) = split(instance);
    let instance_reader = io::Cursor::new(said).chain(instance_reader);
    let active = AtomicBool::new(true);
    let over = CancellationToken::new();
    let both = async {
        let up = pump(client_reader, instance_writer, &active, &over, &CLOSE_TO_INSTANCE);
        let down = pump(instance_reader, client_writer, &active, &over, &CLOSE_TO_CLIENT);
        let (up, down) = (pin!(up), pin!(down));
        // Whoever has not ended yet may answer the other's farewell, and no longer.
        match select(up, down).await {
            Either::Left((_, down)) => timeout(FAREWELL_TIMEOUT, down).await,
            Either::Right((_, up)) => timeout(FAREWELL_TIMEOUT, up).await,
        }
    };
    let closing = async {
        tokio::select! {
            () = hold::begins(Arc::clone(edge), site) => edge.metrics.cut_streams.increment(1),
            () = edge.farewell.cancelled() => {}
        }
        over.cancel();
        tokio::time::sleep(2 * limits::FAREWELL_TIMEOUT).await;
    };
    tokio::select! {
        // An end of any kind is the end of a WebSocket; there is nobody to tell.
        _ = both => {}
        () = closing => tracing::debug!("a WebSocket that was told to end did not"),
        () = idle(&active) => tracing::debug!("a WebSocket was idle for too long"),
    }
}

/// Passes one direction on. When it is over, `farewell` is said after the frame that is on its way, and
/// nothing more; a frame that does not come to its end is cut without.
async fn pump(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    active: &AtomicBool,
    over: &CancellationToken,
    farewell: &[u8],
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut frames = Frames::default();
    loop {
        let length = tokio::select! {
            biased;
            () = over.cancelled(), if frames.at_boundary() => break,
            length = reader.read(&mut buffer) => length?,
        };
        active.store(true, Ordering::Relaxed);
        if length == 0 {
            return writer.shutdown().await;
        }
        let mut data = buffer.get(..length).unwrap_or_default();
        if over.is_cancelled() {
            // What follows this frame is not begun: a busy sender never stops between two reads.
            let end = frames.pass_frame(data).unwrap_or(length);
            data = data.get(..end).unwrap_or_default();
        } else {
            frames.pass(data);
        }
        writer.write_all(data).await?;
        writer.flush().await?;
    }
    writer.write_all(farewell).await?;
    writer.flush().await?;
    // The other side answers with its own close; then the connection ends.
    discard(reader).await
}

/// Reads until the end, or until what a farewell needs has come.
async fn discard(mut reader: impl AsyncRead + Unpin) -> io::Result<()> {
    let mut buffer = [0; 256];
    let reading = async {
        while reader.read(&mut buffer).await? > 0 {}
        io::Result::Ok(())
    };
    timeout(limits::FAREWELL_TIMEOUT, reading).await.unwrap_or(Ok(()))
}

/// Ends when nothing was active for long.
async fn idle(active: &AtomicBool) {
    let mut checks = interval(TUNNEL_IDLE_TIMEOUT / CHECKS);
    let mut quiet = 0;
    while quiet <= CHECKS {
        checks.tick().await;
        quiet = if active.swap(false, Ordering::Relaxed) { 0 } else { quiet + 1 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A frame of text, as servers send it.
    fn frame(text: &str) -> Vec<u8> {
        [&[0x81, text.len() as u8], text.as_bytes()].concat()
    }

    #[tokio::test]
    async fn the_farewell_comes_after_the_frame_that_is_on_its_way() {
        let (mut instance, reader) = tokio::io::duplex(1_024);
        let (writer, mut client) = tokio::io::duplex(1_024);
        let (active, over) = (AtomicBool::new(false), CancellationToken::new());
        let pumping = pump(reader, writer, &active, &over, &CLOSE_TO_CLIENT);
        let talking = async {
            let (first, second, third) = (frame("first"), frame("second"), frame("third"));
            // No frame ends where a piece ends.
            let begin = [&first[..], &second[..3]].concat();
            instance.write_all(&begin).await.expect("is taken");
            let mut got = vec![0; begin.len()];
            client.read_exact(&mut got).await.expect("comes");
            assert_eq!(got, begin);
            over.cancel();
            let more = [&second[3..], &third[..4]].concat();
            instance.write_all(&more).await.expect("is taken");
            drop(instance);
            let mut rest = Vec::new();
            client.read_to_end(&mut rest).await.expect("ends");
            assert_eq!(rest, [&second[3..], &CLOSE_TO_CLIENT[..]].concat());
        };
        let (pumped, ()) = futures_util::future::join(pumping, talking).await;
        pumped.expect("ends well");
    }

    #[tokio::test]
    async fn between_two_frames_the_farewell_comes_at_once() {
        let (_instance, reader) = tokio::io::duplex(1_024);
        let (writer, mut client) = tokio::io::duplex(1_024);
        let (active, over) = (AtomicBool::new(false), CancellationToken::new());
        over.cancel();
        let pumping = pump(reader, writer, &active, &over, &CLOSE_TO_CLIENT);
        let mut got = [0; 4];
        let (pumped, read) = futures_util::future::join(pumping, client.read_exact(&mut got)).await;
        assert_eq!((read.expect("comes"), got), (4, CLOSE_TO_CLIENT));
        pumped.expect("waits for an answer, and not for ever");
    }
}
