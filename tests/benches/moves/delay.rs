//! A long way between two clusters' servers: unix sockets beside theirs, through which every byte
//! takes half of the round trip in either direction. The clusters are told to reach each other
//! there, so it is the stream of a move that takes the long way, with its copy and its
//! acknowledgements. The platform's own questions to the clusters do not, nor do the routers'.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, Result};
use provisioner_api::places::PutCluster;
use sqlx::postgres::PgConnectOptions;
use tests::Stack;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    sync::mpsc,
    time::{Instant, sleep_until},
};

/// The most that is read at once.
const PIECE: usize = 64 * 1024;
/// Pieces under way in one direction: a wide way, since only its length is simulated.
const PIECES: usize = 1024;

static TAKEN: AtomicUsize = AtomicUsize::new(0);

/// Puts the way in front of every cluster.
pub async fn lengthen(stack: &Stack, round_trip: Duration) -> Result<()> {
    let api = stack.api()?;
    for cluster in api.clusters().await? {
        let admin_url = stack.admin_url(&cluster.region, "postgres")?;
        let options: PgConnectOptions = admin_url.parse()?;
        let server = options.get_socket().context("the cluster has no unix socket")?;
        let port = options.get_port();
        let way = stack.data_dir().with_file_name(format!("way-{}", cluster.region));
        open(&way, &server.join(socket(port)), &way.join(socket(port)), round_trip / 2)?;
        let put = PutCluster {
            region: cluster.region.clone(),
            admin_url,
            app_host: cluster.app_host,
            app_port: cluster.app_port,
            max_databases: cluster.max_databases,
            accepts_sites: cluster.accepts_sites,
            replication_host: Some(way.to_string_lossy().into_owned()),
            replication_port: Some(port),
        };
        api.put_cluster(&cluster.name, &put).await?;
    }
    Ok(())
}

/// How many connections took the long way until now.
pub fn taken() -> usize {
    TAKEN.load(Ordering::Relaxed)
}

/// Where libpq looks for a server in a directory.
fn socket(port: u16) -> String {
    format!(".s.PGSQL.{port}")
}

fn open(way: &Path, server: &Path, listens: &Path, delay: Duration) -> Result<()> {
    std::fs::create_dir(way)?;
    let listener = UnixListener::bind(listens)?;
    // The servers run as somebody else when the platform was started by root.
    std::fs::set_permissions(way, std::fs::Permissions::from_mode(0o755))?;
    std::fs::set_permissions(listens, std::fs::Permissions::from_mode(0o777))?;
    tokio::spawn(accept(listener, server.to_owned(), delay));
    Ok(())
}

async fn accept(listener: UnixListener, server: PathBuf, delay: Duration) {
    while let Ok((near, _)) = listener.accept().await {
        TAKEN.fetch_add(1, Ordering::Relaxed);
        let server = server.clone();
        tokio::spawn(async move {
            let Ok(far) = UnixStream::connect(&server).await else { return };
            let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
            tokio::spawn(carry(near_in, far_out, delay));
            carry(far_in, near_out, delay).await;
        });
    }
}

/// Carries one direction: everything arrives in its order and that much later, its end too.
async fn carry(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, delay: Duration) {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let reading = async move {
        let mut piece = vec![0; PIECE];
        while let Ok(n) = from.read(&mut piece).await {
            let read = piece.get(..n).unwrap_or_default().to_vec();
            if sender.send((Instant::now() + delay, read)).await.is_err() || n == 0 {
                break;
            }
        }
    };
    let writing = async move {
        while let Some((at, piece)) = receiver.recv().await {
            sleep_until(at).await;
            if piece.is_empty() || to.write_all(&piece).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}
