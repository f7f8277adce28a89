//! The other processes of this router: the one before while it drains, and the next one while it
//! starts. Whoever asks one of them is told of all, since a mover that counts requests must count
//! those of every process. Each listens at a socket of its own beside the handover socket, from before
//! its first reading of the control database until its end. So a process whose socket is not there yet
//! reads later, and knows every hold that the asking process knows.

use std::{
    fs, io,
    os::unix::{ffi::OsStrExt, fs::PermissionsExt, net::UnixListener},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::future::join_all;
use http::{Request, StatusCode, header::HOST};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::de::DeserializeOwned;
use tokio::{net::UnixStream, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use crate::{
    Edge,
    admin::{self, Scope},
};

/// How long a process may take for an answer: less than whoever asks this one gives.
const PATIENCE: Duration = Duration::from_millis(500);
/// Longest answer.
const MAX_BYTES: usize = 256 * 1024;
/// Hexadecimal digits of a process's name.
const NAME_LENGTH: usize = 8;
/// A socket that nobody listens at is forgotten after this; a younger one may be just coming up.
const FORGOTTEN: Duration = Duration::from_secs(60);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Where the processes of this router find each other; nowhere without a handover socket.
#[derive(Debug)]
pub struct Siblings(Option<Place>);

#[derive(Debug)]
struct Place {
    /// What all their sockets' paths begin with.
    handover: PathBuf,
    own: PathBuf,
}

/// What another process says.
#[derive(Debug)]
pub enum Said<T> {
    /// This.
    This(T),
    /// It does not know what it was asked about.
    Unknown,
    /// It lives and does not answer, for this reason.
    Nothing(String),
}

impl Siblings {
    /// Begins to be found. What is heard is answered by [`serve`].
    ///
    /// # Errors
    /// When the system refuses a socket there.
    pub fn listen(handover: Option<&Path>) -> io::Result<(Self, Option<UnixListener>)> {
        let Some(handover) = handover else { return Ok((Self(None), None)) };
        let name = Uuid::new_v4().simple().to_string();
        let own = handover.with_added_extension(&name[..NAME_LENGTH]);
        let listener = UnixListener::bind(&own)?;
        fs::set_permissions(&own, fs::Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        Ok((Self(Some(Place { handover: handover.to_owned(), own })), Some(listener)))
    }

    /// Is not found any more. After the last request.
    pub fn leave(&self) {
        if let Some(place) = &self.0 {
            // What stays is removed by whoever asks next.
            let _ = fs::remove_file(&place.own);
        }
    }

    /// What each of the others that lives answers at `path` of its private listener.
    pub async fn ask<T: DeserializeOwned>(&self, path: &str) -> Vec<Said<T>> {
        let Some(place) = &self.0 else { return Vec::new() };
        match place.others() {
            Ok(others) => {
                let said = join_all(others.iter().map(|socket| said(socket, path))).await;
                said.into_iter().flatten().collect()
            }
            Err(error) => {
                vec![Said::Nothing(format!("other processes cannot be looked for: {error}"))]
            }
        }
    }
}

impl Place {
    /// The sockets of the others, also of some that have ended.
    fn others(&self) -> io::Result<Vec<PathBuf>> {
        let directory = self.handover.parent().filter(|path| !path.as_os_str().is_empty());
        let mut others = Vec::new();
        for entry in fs::read_dir(directory.unwrap_or(Path::new(".")))? {
            let path = entry?.path();
            if path.file_name() != self.own.file_name() && self.is_of_process(&path) {
                others.push(path);
            }
        }
        Ok(others)
    }

    fn is_of_process(&self, path: &Path) -> bool {
        path.file_stem() == self.handover.file_name()
            && path.extension().is_some_and(|name| {
                name.len() == NAME_LENGTH && name.as_bytes().iter().all(u8::is_ascii_hexdigit)
            })
    }
}

/// What the process behind `socket` says; none when it has ended.
async fn said<T: DeserializeOwned>(socket: &Path, path: &str) -> Option<Said<T>> {
    let mut outcome = timeout(PATIENCE, get(socket, path)).await;
    if matches!(outcome, Ok(Err(_))) {
        // It may have ended over the answer: then nobody listens now.
        outcome = timeout(PATIENCE, get(socket, path)).await;
    }
    let problem = match outcome {
        Ok(Ok((StatusCode::OK, body))) => match serde_json::from_slice(&body) {
            Ok(answer) => return Some(Said::This(answer)),
            Err(error) => error.to_string(),
        },
        Ok(Ok((StatusCode::NOT_FOUND, _))) => return Some(Said::Unknown),
        Ok(Ok((status, _))) => format!("it answers {status}"),
        Ok(Err(error)) if has_ended(&error) => {
            forget(socket);
            return None;
        }
        Ok(Err(error)) => error.to_string(),
        Err(_) => "it does not answer".to_owned(),
    };
    Some(Said::Nothing(format!("another process of this router does not tell: {problem}")))
}

fn has_ended(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

fn forget(socket: &Path) {
    let made = fs::symlink_metadata(socket).and_then(|metadata| metadata.modified());
    let age = made.ok().and_then(|made| SystemTime::now().duration_since(made).ok());
    if age.is_some_and(|age| age > FORGOTTEN) {
        // Another process may have been faster.
        let _ = fs::remove_file(socket);
    }
}

async fn get(socket: &Path, path: &str) -> io::Result<(StatusCode, Bytes)> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) =
        http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let _connection = AbortOnDropHandle::new(tokio::spawn(connection));
    let request = Request::get(path).header(HOST, "process").body(Empty::<Bytes>::new());
    let request = request.map_err(io::Error::other)?;
    let response = sender.send_request(request).await.map_err(io::Error::other)?;
    let status = response.status();
    let body = Limited::new(response.into_body(), MAX_BYTES).collect().await;
    Ok((status, body.map_err(io::Error::other)?.to_bytes()))
}

/// Tells the other processes what this one alone does, until its end.
pub async fn serve(edge: Arc<Edge>, listener: tokio::net::UnixListener, metrics: PrometheusHandle) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let (edge, metrics) = (Arc::clone(&edge), metrics.clone());
                tokio::spawn(admin::connection(edge, stream, metrics, Scope::Process));
            }
            Err(_) => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_has_ended_is_not_asked_and_who_is_silent_is_named() {
        let directory = tempfile::tempdir().expect("a directory");
        let handover = directory.path().join("router.handover");
        let (one, _heard) = Siblings::listen(Some(&handover)).expect("listens");
        // Neither the handover socket itself nor anything else there is a process.
        for other in ["router.handover", "router.handover.new", "another.handover.0123abcd"] {
            fs::write(directory.path().join(other), "").expect("writes");
        }
        assert!(one.ask::<()>("/status").await.is_empty());
        let (other, heard) = Siblings::listen(Some(&handover)).expect("listens");
        // As a process that is stopped: it has the socket and never answers.
        let said = one.ask::<()>("/status").await;
        assert!(matches!(&*said, [Said::Nothing(why)] if why.contains("does not answer")));
        // As one that was killed: its file stays.
        drop(heard);
        assert!(one.ask::<()>("/status").await.is_empty());
        assert_eq!(one.0.as_ref().expect("a place").others().expect("reads").len(), 1);
        other.leave();
        assert_eq!(one.0.as_ref().expect("a place").others().expect("reads").len(), 0);
    }

    #[test]
    fn what_is_left_of_a_process_is_removed_when_it_is_old() {
        let directory = tempfile::tempdir().expect("a directory");
        let socket = directory.path().join("socket");
        let file = fs::File::create(&socket).expect("makes");
        forget(&socket);
        assert!(socket.exists(), "it may be coming up");
        let old = SystemTime::now() - 2 * FORGOTTEN;
        file.set_modified(old).expect("is old");
        forget(&socket);
        assert!(!socket.exists());
    }
}
