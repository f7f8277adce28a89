//! A WebSocket between a client and an instance: bytes both ways, from the moment when the instance
//! has agreed. Before that no byte of the client reaches the instance outside of a request.

use std::{
    io,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures_util::future::{Either, select};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, split},
    time::{Duration, interval, timeout},
};

use crate::{Edge, limits::TUNNEL_IDLE_TIMEOUT, route_table::InFlight};

/// How often idleness is looked at, in parts of the longest idleness.
const CHECKS: u32 = 4;
/// How long one side may go on when the other has ended.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(10);
const BUFFER_BYTES: usize = 16 * 1024;

/// Begins the tunnel as a task of its own; it starts when both sides have switched.
pub fn begin(
    edge: &Arc<Edge>,
    client: OnUpgrade,
    instance: OnUpgrade,
    in_flight: Option<InFlight>,
) {
    let inside = Arc::clone(edge);
    edge.tasks.spawn(async move {
        let _in_flight = in_flight;
        inside.metrics.tunnels.increment(1.0);
        match futures_util::try_join!(client, instance) {
            Ok((client, instance)) => run(client, instance).await,
            Err(error) => tracing::debug!(%error, "a WebSocket did not begin"),
        }
        inside.metrics.tunnels.decrement(1.0);
    });
}

async fn run(client: Upgraded, instance: Upgraded) {
    let (client_reader, client_writer) = split(TokioIo::new(client));
    let (instance_reader, instance_writer) = split(TokioIo::new(instance));
    let active = AtomicBool::new(true);
    let both = async {
        let up = pin!(pump(client_reader, instance_writer, &active));
        let down = pin!(pump(instance_reader, client_writer, &active));
        // Whoever has not ended yet may answer the other's farewell, and no longer.
        match select(up, down).await {
            Either::Left((_, down)) => timeout(FAREWELL_TIMEOUT, down).await,
            Either::Right((_, up)) => timeout(FAREWELL_TIMEOUT, up).await,
        }
    };
    tokio::select! {
        // An end of any kind is the end of a WebSocket; there is nobody to tell.
        _ = both => {}
        () = idle(&active) => tracing::debug!("a WebSocket was idle for too long"),
    }
}

async fn pump(
    mut reader: impl AsyncRead + Unpin,
    mut writer: impl AsyncWrite + Unpin,
    active: &AtomicBool,
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let length = reader.read(&mut buffer).await?;
        active.store(true, Ordering::Relaxed);
        if length == 0 {
            return writer.shutdown().await;
        }
        writer.write_all(&buffer[..length]).await?;
        writer.flush().await?;
    }
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
