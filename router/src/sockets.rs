//! The sockets that a router listens at: made, or taken over from the router that it replaces, so
//! that no connection is refused while one process follows another.
//!
//! The running router waits at a unix socket (`handover_socket`). The next one connects there and is
//! sent the descriptors; it says `ready` when it serves, and only then the old one stops to accept and
//! drains. Both take from the same queues meanwhile. If the next one never gets ready, nothing has
//! happened.

use std::{
    fs,
    io::{self, IoSlice, IoSliceMut, Read, Write},
    mem::MaybeUninit,
    net::{SocketAddr, TcpListener},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{
            fs::PermissionsExt,
            net::{UnixListener, UnixStream},
        },
    },
    path::Path,
    time::Duration,
};

use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, bind, listen, recvmsg, sendmsg,
    socket_with, sockopt,
};
use serde::{Deserialize, Serialize};

/// Connections that wait to be accepted; the kernel's own limit (`net.core.somaxconn`) may be lower.
const BACKLOG: i32 = 4096;
/// Most listeners that are handed over.
const MAX_LISTENERS: usize = 16;
/// How long the other router may take for a word, other than for getting ready.
const PATIENCE: Duration = Duration::from_secs(5);
/// What the next router says when it serves.
const READY: &[u8] = b"ready\n";

/// A listening socket and what it is for.
#[derive(Debug)]
pub struct Listener {
    /// The field of the configuration, as `https_listen`.
    pub field: String,
    /// The socket; does not block.
    pub socket: TcpListener,
}

/// What is sent with the descriptors.
#[derive(Serialize, Deserialize)]
struct Offer {
    /// What the descriptors are for, in their order.
    fields: Vec<String>,
}

/// A router that is to be replaced and waits for us to be ready.
#[derive(Debug)]
pub struct Predecessor {
    stream: UnixStream,
    listeners: Vec<Listener>,
}

impl Predecessor {
    /// Asks the router behind `path` for its sockets; none when there is no router.
    ///
    /// # Errors
    /// When there is one and it does not hand them over.
    pub fn ask(path: &Path) -> io::Result<Option<Self>> {
        let stream = match UnixStream::connect(path) {
            Ok(stream) => stream,
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let listeners = receive(&stream)?;
        Ok(Some(Self { stream, listeners }))
    }

    /// The socket for `field`, if it listens where the configuration says.
    pub fn take(&mut self, field: &str, wanted: SocketAddr) -> Option<TcpListener> {
        let place = self.listeners.iter().position(|listener| {
            let at = listener.socket.local_addr();
            listener.field == field
                && at.is_ok_and(|at| {
                    at.ip() == wanted.ip() && (wanted.port() == 0 || at.port() == wanted.port())
                })
        })?;
        Some(self.listeners.swap_remove(place).socket)
    }

    /// Tells it that it is replaced; it drains now.
    ///
    /// # Errors
    /// When it has gone: then nobody has to be told.
    pub fn replace(mut self) -> io::Result<()> {
        self.stream.write_all(READY)
    }
}

/// Listens at an address.
///
/// # Errors
/// When the address is taken or not ours.
pub fn listen_at(address: SocketAddr) -> io::Result<TcpListener> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    bind(&socket, &address)?;
    listen(&socket, BACKLOG)?;
    Ok(socket.into())
}

/// Waits for the next router at `path`, in the place of whoever waited there before.
///
/// # Errors
/// When the system refuses.
pub fn wait_at(path: &Path) -> io::Result<UnixListener> {
    let new = path.with_added_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&new)?;
    fs::set_permissions(&new, fs::Permissions::from_mode(0o600))?;
    fs::rename(&new, path)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Hands the listeners to the process at the other end, and returns when that one is ready.
///
/// # Errors
/// When it is another user's process, or goes away before it is ready: nothing has changed then.
pub fn hand_over(mut stream: UnixStream, listeners: &[Listener]) -> io::Result<()> {
    stream.set_nonblocking(false)?;
    let peer = sockopt::socket_peercred(&stream)?;
    if peer.uid != rustix::process::geteuid() {
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, "another user's process"));
    }
    stream.set_write_timeout(Some(PATIENCE))?;
    let fields = listeners.iter().map(|listener| listener.field.clone()).collect();
    let offer = serde_json::to_vec(&Offer { fields })?;
    let descriptors: Vec<_> = listeners.iter().map(|listener| listener.socket.as_fd()).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&descriptors)) {
        return Err(io::Error::other("too many listeners"));
    }
    let sent = sendmsg(&stream, &[IoSlice::new(&offer)], &mut control, SendFlags::NOSIGNAL)?;
    stream.write_all(offer.get(sent..).unwrap_or_default())?;
    stream.write_all(b"\n")?;
    // However long that takes: reading a large table, a slow disk. The end of the process ends it.
    let mut word = [0; READY.len()];
    stream.read_exact(&mut word)?;
    if word == *READY { Ok(()) } else { Err(io::ErrorKind::InvalidData.into()) }
}

fn receive(stream: &UnixStream) -> io::Result<Vec<Listener>> {
    let mut buffer = vec![0; 4096];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_LISTENERS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let slices = &mut [IoSliceMut::new(&mut buffer)];
    let length = recvmsg(stream, slices, &mut control, RecvFlags::CMSG_CLOEXEC)?.bytes;
    let mut descriptors: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            descriptors.extend(received);
        }
    }
    let mut text = buffer.get(..length).unwrap_or_default().to_vec();
    let mut byte = [0];
    while text.last() != Some(&b'\n') {
        if (&mut &*stream).read(&mut byte)? == 0 || text.len() > buffer.len() {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a part of the offer"));
        }
        text.push(byte[0]);
    }
    let offer: Offer = serde_json::from_slice(&text)?;
    if offer.fields.len() != descriptors.len() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "not as many sockets as names"));
    }
    let mut listeners = Vec::with_capacity(descriptors.len());
    for (field, descriptor) in offer.fields.into_iter().zip(descriptors) {
        if !sockopt::socket_acceptconn(&descriptor)? {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a listening socket"));
        }
        let socket = TcpListener::from(descriptor);
        socket.set_nonblocking(true)?;
        listeners.push(Listener { field, socket });
    }
    Ok(listeners)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_gets_the_sockets_and_the_old_one_learns_when_it_is_ready() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("handover");
        assert!(Predecessor::ask(&path).expect("asks").is_none());
        let any: SocketAddr = ([127, 0, 0, 1], 0).into();
        let listeners = ["https_listen", "http_listen"].map(|field| Listener {
            field: field.to_owned(),
            socket: listen_at(any).expect("listens"),
        });
        let address = listeners[0].socket.local_addr().expect("has one");
        let waiting = wait_at(&path).expect("waits");
        waiting.set_nonblocking(false).expect("waits");
        let old = std::thread::spawn(move || {
            let (stream, _) = waiting.accept().expect("comes");
            hand_over(stream, &listeners)
        });
        let mut predecessor = Predecessor::ask(&path).expect("asks").expect("is there");
        assert!(predecessor.take("https_listen", ([127, 0, 0, 1], 1).into()).is_none());
        let socket = predecessor.take("https_listen", any).expect("was sent");
        assert_eq!(socket.local_addr().expect("has one"), address);
        assert!(predecessor.take("https_listen", any).is_none());
        predecessor.replace().expect("is told");
        old.join().expect("ends").expect("handed over");
    }

    #[test]
    fn a_successor_that_fails_changes_nothing() {
        let (one, other) = UnixStream::pair().expect("a pair");
        // Dropped with its thread, as by a process that ends.
        let gone = std::thread::spawn(move || receive(&other).map(|listeners| listeners.len()));
        assert!(hand_over(one, &[]).is_err());
        assert_eq!(gone.join().expect("ends").expect("was sent"), 0);
    }
}
