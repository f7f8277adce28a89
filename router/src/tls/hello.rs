//! The first message of a TLS client, read before anything is decided: it says which hostname the
//! client wants. Its bytes are kept, since another region's router may have to read them again.

use std::io;

use bytes::BufMut;
use control_types::hostname::canonical;
use rustls::server::{Accepted, Acceptor};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::CHALLENGE_PROTOCOL;
use crate::limits::MAX_HELLO_BYTES;

/// What rustls takes at once.
const READ_BYTES: usize = 4_096;
/// What most messages fit into.
const USUAL_BYTES: usize = 2_048;

/// What the client said first.
pub struct Hello {
    /// For the rest of the handshake.
    pub(super) accepted: Accepted,
    /// Every byte that was read from the client.
    pub bytes: Vec<u8>,
    /// The hostname in canonical form that the client named, if it named one.
    pub server_name: Option<Box<str>>,
    /// Whether a certificate authority asks for the answer to a challenge (RFC 8737): it offers that
    /// protocol and no other.
    pub is_challenge: bool,
}

/// Reads it, however it is cut into records and segments.
///
/// # Errors
/// When it is none, too long, or the client leaves. The client has been told then.
pub async fn read<S>(stream: &mut S) -> io::Result<Hello>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut acceptor = Acceptor::default();
    let mut bytes = Vec::with_capacity(USUAL_BYTES);
    loop {
        let before = bytes.len();
        if before >= MAX_HELLO_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a ClientHello without end"));
        }
        if stream.read_buf(&mut (&mut bytes).limit(READ_BYTES)).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut unread = &bytes[before..];
        acceptor.read_tls(&mut unread)?;
        if !unread.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a record without end"));
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => return Ok(Hello::new(accepted, bytes)),
            Err((error, mut alert)) => {
                let mut farewell = Vec::new();
                if alert.write_all(&mut farewell).is_ok() {
                    let _ = stream.write_all(&farewell).await;
                    let _ = stream.shutdown().await;
                }
                return Err(io::Error::new(io::ErrorKind::InvalidData, error));
            }
        }
    }
}

impl Hello {
    fn new(accepted: Accepted, bytes: Vec<u8>) -> Self {
        let hello = accepted.client_hello();
        let server_name = hello
            .server_name()
            .and_then(|name| canonical(name, &mut String::new()).ok().map(Into::into));
        let is_challenge = hello.alpn().is_some_and(|mut protocols| {
            protocols.next() == Some(CHALLENGE_PROTOCOL) && protocols.next().is_none()
        });
        Self { accepted, bytes, server_name, is_challenge }
    }
}
