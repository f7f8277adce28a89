//! Gives the listening socket back: whoever connects to the control socket is sent a twin of it.
//! So a provisioner that was restarted can wake this site again after the process has ended. The
//! directory's permissions decide who can connect.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::{fd::AsFd as _, unix::net::UnixListener},
};

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::{io::Interest, net::UnixStream};

/// Answers for ever.
pub async fn answer(control: UnixListener, listening: UnixListener) {
    let control = match tokio::net::UnixListener::from_std(control) {
        Ok(control) => control,
        Err(error) => return tracing::error!("the control socket cannot be used: {error}"),
    };
    loop {
        let sent = match control.accept().await {
            Ok((stream, _)) => send(&stream, &listening).await,
            Err(error) => Err(error),
        };
        if let Err(error) = sent {
            tracing::warn!("the listening socket could not be handed over: {error}");
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }
}

async fn send(stream: &UnixStream, listening: &UnixListener) -> io::Result<()> {
    stream
        .async_io(Interest::WRITABLE, || {
            let descriptors = [listening.as_fd()];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut message = SendAncillaryBuffer::new(&mut space);
            message.push(SendAncillaryMessage::ScmRights(&descriptors));
            sendmsg(stream, &[IoSlice::new(&[0])], &mut message, SendFlags::NOSIGNAL)?;
            Ok(())
        })
        .await
}
