//! A wire to the control database over which news can be late.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::watch,
};

/// What Postgres and its clients call a socket in its directory.
const SOCKET: &str = ".s.PGSQL.5432";

pub struct Wire {
    directory: PathBuf,
    late: Arc<watch::Sender<bool>>,
}

impl Wire {
    pub fn of(directory: &Path) -> Self {
        let directory = directory.join("wire");
        std::fs::create_dir(&directory).expect("makes a directory");
        Self { directory, late: Arc::new(watch::Sender::new(false)) }
    }

    /// The same URL over this wire.
    pub fn laid_to(&self, url: &str) -> String {
        let (before, sockets) = url.split_once("host=").expect("a directory of sockets");
        let server = Path::new(sockets).join(SOCKET);
        let listener = UnixListener::bind(self.directory.join(SOCKET)).expect("listens");
        let late = Arc::clone(&self.late);
        tokio::spawn(async move {
            while let Ok((router, _)) = listener.accept().await {
                let Ok(server) = UnixStream::connect(&server).await else { continue };
                tokio::spawn(carry(router, server, late.subscribe()));
            }
        });
        format!("{before}host={}", self.directory.display())
    }

    /// From now on nothing comes from the database; and then all of it.
    pub fn is_late(&self, late: bool) {
        self.late.send_replace(late);
    }
}

async fn carry(router: UnixStream, server: UnixStream, mut late: watch::Receiver<bool>) {
    let (mut from_router, mut to_router) = router.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let news = async {
        let mut buffer = [0; 16 * 1024];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            if late.wait_for(|late| !late).await.is_err()
                || to_router.write_all(&buffer[..length]).await.is_err()
            {
                return;
            }
        }
    };
    tokio::select! {
        () = news => {}
        _ = tokio::io::copy(&mut from_router, &mut to_server) => {}
    }
}
