//! A WebSocket between a client and an instance: bytes both ways, from the moment when the instance
//! has agreed. Before that no byte of the client reaches the instance outside of a request. When the
//! site is held both sides are told to connect again.

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
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
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
    upstream::transport::Transport,
};

/// How often idleness is looked at, in parts of the longest idleness.
const CHECKS: u32 = 4;
/// How long one side may go on when the other has ended.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(10);
const BUFFER_BYTES: usize = 16 * 1024;

/// Begins the tunnel as a task of its own; it starts when the client has switched too. The request is
/// counted until the tunnel is.
pub fn begin(
    edge: &Arc<Edge>,
    client: OnUpgrade,
    instance: (Transport, Bytes),
    site: &Arc<Site>,
    in_flight: Option<InFlight>,
) {
    let (inside, site) = (Arc::clone(edge), Arc::clone(site));
    let tunnel = Tunnel::begin(&site.traffic);
    drop(in_flight);
    edge.tasks.spawn(async move {
        let _tunnel = tunnel;
        inside.metrics.tunnels.increment(1.0);
        match client.await {
            Ok(client) => run(&inside, site, client, instance).await,
            Err(error) => tracing::debug!(%error, "a WebSocket did not begin"),
        }
        inside.metrics.tunnels.decrement(1.0);
    });
}

async fn run(
    edge: &Arc<Edge>,
    site: Arc<Site>,
    client: Upgraded,
    (instance, said): (Transport, Bytes),
) {
    let (client_reader, client_writer) = split(TokioIo::new(client));
    let (instance_reader, instance_writer) = split(instance);
    let instance_reader = io::Cursor::new(said).chain(instance_reader);
    let active = AtomicBool::new(true);
    let held = CancellationToken::new();
    let both = async {
        let up = pump(client_reader, instance_writer, &active, &held, &CLOSE_TO_INSTANCE);
        let down = pump(instance_reader, client_writer, &active, &held, &CLOSE_TO_CLIENT);
        let (up, down) = (pin!(up), pin!(down));
        // Whoever has not ended yet may answer the other's farewell, and no longer.
        match select(up, down).await {
            Either::Left((_, down)) => timeout(FAREWELL_TIMEOUT, down).await,
            Either::Right((_, up)) => timeout(FAREWELL_TIMEOUT, up).await,
        }
    };
    let closing = async {
        hold::begins(Arc::clone(edge), site).await;
        edge.metrics.cut_streams.increment(1);
        held.cancel();
        tokio::time::sleep(2 * limits::FAREWELL_TIMEOUT).await;
    };
    tokio::select! {
        // An end of any kind is the end of a WebSocket; there is nobody to tell.
        _ = both => {}
        () = closing => tracing::debug!("a WebSocket of a held site did not come to an end"),
        () = idle(&active) => tracing::debug!("a WebSocket was idle for too long"),
    }
}

/// Passes one direction on. When the site is held, `farewell` is said after the frame that is on its
/// way, and nothing more.
async fn pump(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    active: &AtomicBool,
    held: &CancellationToken,
    farewell: &[u8],
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut frames = Frames::default();
    loop {
        let length = tokio::select! {
            biased;
            () = held.cancelled(), if frames.at_boundary() => {
                writer.write_all(farewell).await?;
                writer.flush().await?;
                // The other side answers with its own close; then the connection ends.
                return discard(reader).await;
            }
            length = reader.read(&mut buffer) => length?,
        };
        active.store(true, Ordering::Relaxed);
        if length == 0 {
            return writer.shutdown().await;
        }
        let data = buffer.get(..length).unwrap_or_default();
        frames.pass(data);
        writer.write_all(data).await?;
        writer.flush().await?;
    }
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
