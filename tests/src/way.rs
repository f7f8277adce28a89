//! A way to a server that can be lengthened and cut: a socket beside the server's, through which
//! every byte goes. What is cut is silent, as a network is that has come apart: nothing arrives and
//! nothing is closed.

use std::{
    io,
    net::SocketAddr,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::{mpsc, watch},
    time::{Instant, sleep_until},
};

/// The most that is read at once.
const PIECE: usize = 64 * 1024;
/// Pieces under way in one direction: a wide way, since only its length is of interest.
const PIECES: usize = 1024;

/// A way. It ends with the runtime.
#[derive(Clone, Debug)]
pub struct Way {
    state: watch::Sender<State>,
    taken: Arc<AtomicUsize>,
}

/// What is so at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct State {
    is_cut: bool,
    /// How often everything under way was lost.
    torn: u64,
}

trait Stream: AsyncRead + AsyncWrite + Send {}
impl<S: AsyncRead + AsyncWrite + Send> Stream for S {}
type Connection = Pin<Box<dyn Stream>>;
type Connect = Arc<dyn Fn() -> BoxFuture<'static, io::Result<Connection>> + Send + Sync>;

impl Way {
    /// To the Postgres server whose socket of this port lies in `server`, from the directory `at`,
    /// which is made. Every byte takes `delay` in either direction.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn to_postgres(server: &Path, port: u16, at: &Path, delay: Duration) -> io::Result<Self> {
        let name = format!(".s.PGSQL.{port}");
        let (far, near): (PathBuf, PathBuf) = (server.join(&name), at.join(&name));
        std::fs::create_dir(at)?;
        let listener = UnixListener::bind(&near)?;
        // The servers run as somebody else when the platform was started by root.
        std::fs::set_permissions(at, std::fs::Permissions::from_mode(0o755))?;
        std::fs::set_permissions(&near, std::fs::Permissions::from_mode(0o777))?;
        let connect: Connect = Arc::new(move || {
            let far = far.clone();
            Box::pin(async move {
                let stream: Connection = Box::pin(UnixStream::connect(&far).await?);
                Ok(stream)
            })
        });
        let way = Self::new();
        let opened = way.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                opened.carry(Box::pin(near), &connect, delay);
            }
        });
        Ok(way)
    }

    /// To a server on TCP. Where the way begins.
    ///
    /// # Errors
    /// When nothing can be bound.
    pub async fn to_tcp(server: SocketAddr) -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let at = listener.local_addr()?;
        let connect: Connect = Arc::new(move || {
            Box::pin(async move {
                let stream = TcpStream::connect(server).await?;
                stream.set_nodelay(true)?;
                let stream: Connection = Box::pin(stream);
                Ok(stream)
            })
        });
        let way = Self::new();
        let opened = way.clone();
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let _ = near.set_nodelay(true);
                opened.carry(Box::pin(near), &connect, Duration::ZERO);
            }
        });
        Ok((way, at))
    }

    fn new() -> Self {
        Self { state: watch::channel(State::default()).0, taken: Arc::default() }
    }

    /// Nothing arrives any more.
    pub fn cut(&self) {
        self.state.send_modify(|state| state.is_cut = true);
    }

    /// What was under way arrives, as after a short interruption.
    pub fn heal(&self) {
        self.state.send_modify(|state| state.is_cut = false);
    }

    /// The way is open again, and every connection that took it is gone, as after a long interruption.
    pub fn heal_torn(&self) {
        self.state.send_modify(|state| *state = State { is_cut: false, torn: state.torn + 1 });
    }

    /// How many connections took it until now.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.taken.load(Ordering::Relaxed)
    }

    fn carry(&self, near: Connection, connect: &Connect, delay: Duration) {
        self.taken.fetch_add(1, Ordering::Relaxed);
        let mut state = self.state.subscribe();
        let (there, back) = (state.clone(), state.clone());
        let torn = state.borrow().torn;
        let connect = Arc::clone(connect);
        let carried = async move {
            opened(&mut there.clone()).await;
            let Ok(far) = connect().await else { return };
            let ((near_in, near_out), (far_in, far_out)) = (split(near), split(far));
            tokio::join!(
                direction(near_in, far_out, delay, there),
                direction(far_in, near_out, delay, back)
            );
        };
        tokio::spawn(async move {
            tokio::select! {
                () = carried => {}
                _ = state.wait_for(|state| state.torn != torn) => {}
            }
        });
    }
}

async fn opened(state: &mut watch::Receiver<State>) {
    // Who cut it is gone with the way.
    let _ = state.wait_for(|state| !state.is_cut).await;
}

/// Carries one direction: everything arrives in its order and that much later, its end too.
async fn direction(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    delay: Duration,
    mut state: watch::Receiver<State>,
) {
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
            opened(&mut state).await;
            if piece.is_empty() || to.write_all(&piece).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(reading, writing);
}
