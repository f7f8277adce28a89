//! The sockets of an instance: made, watched, and taken back from a process that was started by
//! an earlier provisioner.

use std::{
    fs, io,
    io::IoSliceMut,
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{MetadataExt, PermissionsExt},
    },
    path::Path,
    sync::Arc,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix,
        SocketFlags, SocketType, bind, listen, recvmsg, socket_with, sockopt,
    },
};
use tokio::{
    io::{AsyncReadExt, Interest, unix::AsyncFd},
    net::UnixStream,
};

use super::state_file::Files;

/// Connections that wait while no process runs, or while it is busy. The kernel's own limit
/// (`net.core.somaxconn`) may be lower.
const BACKLOG: i32 = 4096;

/// A socket that listens at `path`. One that was there before goes on with what it has, without
/// the name.
///
/// # Errors
/// When the system refuses.
pub fn listen_at(path: &Path, files: &Files) -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match fs::remove_file(&files.unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    bind(&socket, &SocketAddrUnix::new(&files.unfinished)?)?;
    fs::set_permissions(&files.unfinished, fs::Permissions::from_mode(0o600))?;
    listen(&socket, BACKLOG)?;
    fs::rename(&files.unfinished, path)?;
    Ok(socket)
}

/// The inode of a socket's file; 0 when there is none.
pub fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |meta| meta.ino())
}

/// Whether a connection waits to be accepted.
pub fn connection_waits(listener: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(listener, PollFlags::IN)];
    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    poll(&mut fds, Some(&now)).is_ok_and(|ready| ready > 0)
}

/// Returns when a connection waits to be accepted. It stays there for the process.
///
/// # Errors
/// When the socket cannot be watched.
pub async fn connection_comes(listener: Arc<OwnedFd>) -> io::Result<()> {
    let watched = watch(listener)?;
    loop {
        let mut guard = watched.readable().await?;
        if connection_waits(watched.get_ref()) {
            return Ok(());
        }
        guard.clear_ready();
    }
}

/// Lets tokio tell when a descriptor becomes readable.
///
/// # Errors
/// When the system refuses.
#[allow(unsafe_code, reason = "tokio's only constructor that is not deprecated")]
pub fn watch<T: Descriptor>(descriptor: T) -> io::Result<AsyncFd<T>> {
    // SAFETY: the types of `Descriptor` own their descriptor, which thereby stays open and the same
    // as long as the `AsyncFd` has them.
    Ok(unsafe { AsyncFd::register_with_interest(descriptor, Interest::READABLE) }?)
}

/// What owns one descriptor and never another.
pub trait Descriptor: AsRawFd {}
impl Descriptor for OwnedFd {}
impl Descriptor for Arc<OwnedFd> {}

/// Returns true when the process behind a control socket answers, false when it ends instead.
pub async fn answers(control: &Path) -> bool {
    let Ok(mut stream) = UnixStream::connect(control).await else { return false };
    // The descriptor that comes with the byte is not asked for, so the kernel drops it.
    matches!(stream.read(&mut [0]).await, Ok(1))
}

/// The listening socket of the process behind a control socket.
///
/// # Errors
/// When nothing answers there, or not with a listening socket.
pub async fn take_back(control: &Path) -> io::Result<OwnedFd> {
    let stream = UnixStream::connect(control).await?;
    let socket = stream.async_io(Interest::READABLE, || receive_descriptor(&stream)).await?;
    if sockopt::socket_acceptconn(&socket)? {
        Ok(socket)
    } else {
        Err(io::Error::new(io::ErrorKind::InvalidData, "not a listening socket"))
    }
}

fn receive_descriptor(stream: &impl AsFd) -> io::Result<OwnedFd> {
    let mut byte = [0];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let slices = &mut [IoSliceMut::new(&mut byte)];
    recvmsg(stream, slices, &mut control, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)?;
    let descriptor = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    descriptor.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no descriptor was sent"))
}
