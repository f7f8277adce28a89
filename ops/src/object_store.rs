//! The embedded object store: an S3 endpoint over a directory, with keys that reach one prefix
//! each. It runs inside `ta3lem up`, on the loopback address only. Never meant for more than one
//! machine: there, any S3 service takes its place.
//!
//! It takes plain connections and those with TLS at the same port: the backups of Postgres go over TLS,
//! since pgBackRest speaks nothing else to an object store.

pub mod keys;
pub mod access;
pub mod listing;
pub mod store;
pub mod key_administration;

use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use anyhow::Context as _;
use http_body_util::BodyExt as _;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{
        conn::auto,
        graceful::{GracefulShutdown, Watcher},
    },
};
use rustls::ServerConfig;
use s3s::service::{S3Service, S3ServiceBuilder};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use self::{
    access::Access,
    key_administration::KeyAdministration,
    keys::{Grant, Keys},
    store::Store,
};
use crate::data_dir::{random_secret, write_private};

/// How long requests under way may take after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(5);
/// How long a client may take for its headers, and before them for its first byte and its handshake.
const HEADERS: Duration = Duration::from_secs(30);
/// The first byte of a TLS connection (a record of the handshake); no HTTP begins so.
const HANDSHAKE: u8 = 0x16;

/// What an object store remembers of itself: its port (so that it comes back where it was), the key
/// for its whole bucket, and the token of its key administration.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Identity {
    /// 0 until first started.
    pub port: u16,
    /// The one bucket.
    pub bucket: String,
    /// Reaches the whole bucket.
    pub admin_access_key: String,
    /// Its secret.
    pub admin_secret_key: String,
    /// Opens the key administration.
    pub key_admin_token: String,
}

/// A running object store.
pub struct ObjectStore {
    /// Where it is and what opens it.
    pub identity: Identity,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl ObjectStore {
    /// Starts the object store in `directory` (made when absent) with the bucket `bucket`. `tls` is what
    /// it shows to those who come with TLS.
    ///
    /// # Errors
    /// When the directory or no port can be used.
    pub async fn start(
        directory: &Path,
        bucket: &str,
        tls: Arc<ServerConfig>,
    ) -> anyhow::Result<Self> {
        let objects = directory.join("objects");
        std::fs::create_dir_all(&objects)
            .with_context(|| format!("cannot make {}", objects.display()))?;
        let identity_file = directory.join("identity.json");
        let mut identity = load_identity(&identity_file, bucket)?;
        let listener = listen(identity.port).await?;
        let port = listener.local_addr()?.port();
        if port != identity.port {
            identity.port = port;
            write_private(&identity_file, &serde_json::to_vec_pretty(&identity)?)?;
        }
        let keys = Keys::load(&directory.join("keys.json"))?;
        let admin = Grant {
            secret_key: identity.admin_secret_key.clone(),
            bucket: bucket.to_owned(),
            prefix: String::new(),
            read_only: false,
        };
        keys.put(&identity.admin_access_key, admin).await?;
        let store = Store::open(&objects, bucket)
            .with_context(|| format!("cannot use {}", objects.display()))?;
        let mut service = S3ServiceBuilder::new(store);
        service.set_auth(Access::new(keys.clone()));
        service.set_access(Access::new(keys.clone()));
        let administration = KeyAdministration::new(
            keys,
            &objects,
            &identity.key_admin_token,
            &identity.admin_access_key,
        );
        let stop = CancellationToken::new();
        let service = Service { s3: service.build(), administration, tls: TlsAcceptor::from(tls) };
        let task = tokio::spawn(serve(listener, service, stop.clone()));
        Ok(Self { identity, stop, task })
    }

    /// The endpoint's URL.
    pub fn url(&self) -> String {
        format!("http://{}", SocketAddr::from((Ipv4Addr::LOCALHOST, self.identity.port)))
    }

    /// The key administration's URL.
    pub fn key_admin_url(&self) -> String {
        format!("{}{}", self.url(), key_administration::PATH)
    }

    /// Takes no new connection, lets requests under way end, and returns.
    pub async fn stop(self) {
        self.stop.cancel();
        let _ = self.task.await;
    }
}

fn load_identity(file: &Path, bucket: &str) -> anyhow::Result<Identity> {
    match std::fs::read(file) {
        Ok(text) => {
            let identity: Identity = serde_json::from_slice(&text)
                .with_context(|| format!("{} is malformed", file.display()))?;
            anyhow::ensure!(
                identity.bucket == bucket,
                "{} belongs to the bucket '{}', not '{bucket}'",
                file.display(),
                identity.bucket
            );
            Ok(identity)
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let identity = Identity {
                port: 0,
                bucket: bucket.to_owned(),
                admin_access_key: format!("admin-{}", &random_secret()[..16]),
                admin_secret_key: random_secret(),
                key_admin_token: random_secret(),
            };
            write_private(file, &serde_json::to_vec_pretty(&identity)?)?;
            Ok(identity)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

/// On the port of last time, or on a free one if that is taken now.
async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    if port != 0
        && let Ok(listener) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await
    {
        return Ok(listener);
    }
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("no free port on 127.0.0.1")
}

/// What answers.
#[derive(Clone)]
struct Service {
    s3: S3Service,
    administration: KeyAdministration,
    tls: TlsAcceptor,
}

async fn serve(listener: TcpListener, service: Service, stop: CancellationToken) {
    let graceful = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of descriptors, mostly: waiting is all that helps.
                    tracing::warn!(%error, "the object store cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            },
            () = stop.cancelled() => break,
        };
        // Otherwise the second part of an answer waits 40 ms for the first one to be acknowledged.
        let _ = stream.set_nodelay(true);
        let (service, watcher, stop) = (service.clone(), graceful.watcher(), stop.clone());
        tokio::spawn(async move {
            if let Err(error) = service.connection(stream, watcher, stop).await {
                tracing::debug!(%error, "a connection to the object store ended");
            }
        });
    }
    drop(listener);
    let _ = timeout(DRAIN, graceful.shutdown()).await;
}

impl Service {
    async fn connection(
        &self,
        stream: TcpStream,
        watcher: Watcher,
        stop: CancellationToken,
    ) -> anyhow::Result<()> {
        let mut first = [0];
        let begins = timeout(HEADERS, stream.peek(&mut first));
        let Some(begins) = stop.run_until_cancelled(begins).await else { return Ok(()) };
        begins.context("nothing came")??;
        if first != [HANDSHAKE] {
            return self.answer_all(stream, watcher).await;
        }
        let handshake = timeout(HEADERS, self.tls.accept(stream));
        let Some(handshake) = stop.run_until_cancelled(handshake).await else { return Ok(()) };
        self.answer_all(handshake.context("the handshake does not end")??, watcher).await
    }

    async fn answer_all(
        &self,
        stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
        watcher: Watcher,
    ) -> anyhow::Result<()> {
        let mut server = auto::Builder::new(TokioExecutor::new());
        server.http1().timer(TokioTimer::new()).header_read_timeout(HEADERS);
        let service = self.clone();
        let answer = hyper::service::service_fn(move |request| {
            let service = service.clone();
            async move { service.answer(request).await }
        });
        let connection = server.serve_connection(TokioIo::new(stream), answer);
        watcher.watch(connection).await.map_err(|error| anyhow::anyhow!(error))
    }

    async fn answer(
        &self,
        request: http::Request<hyper::body::Incoming>,
    ) -> Result<http::Response<s3s::Body>, s3s::HttpError> {
        if KeyAdministration::is_for(request.uri().path()) {
            let answer = self.administration.answer(request).await;
            return Ok(answer.map(|body| s3s::Body::http_body(body.map_err(s3s::StdError::from))));
        }
        self.s3.call(request.map(s3s::Body::from)).await
    }
}
