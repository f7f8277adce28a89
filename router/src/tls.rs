//! TLS to the clients: which certificate a handshake gets, and one shared configuration for all of
//! them. No client decides anything but the hostname that it asks for.

use std::{fmt, io, sync::Arc};

use control_types::{Hostname, hostname::canonical};
use rustls::{
    ServerConfig,
    server::{Acceptor, ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::timeout,
};
use tokio_rustls::{LazyConfigAcceptor, server::TlsStream};

use crate::{certificates::OpenCertificates, limits::HANDSHAKE_TIMEOUT, route_table::RouteTable};

/// What clients may speak over TLS, the preferred first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// A handshake that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client took too long.
    #[error("the handshake took too long")]
    Timeout,
    /// The client and the router found nothing in common, or the client left.
    #[error("the handshake failed")]
    Failed(#[source] io::Error),
}

/// A connection after its handshake.
pub struct Secured<S> {
    /// The stream of plain bytes.
    pub stream: TlsStream<S>,
    /// The hostname in canonical form that the client named, if it named one.
    pub server_name: Option<Box<str>>,
    /// Whether HTTP/2 was agreed on.
    pub http2: bool,
}

/// The configuration of all handshakes.
///
/// # Errors
/// When the cryptography does not start.
pub fn configuration(
    routes: Arc<RouteTable>,
    certificates: Arc<OpenCertificates>,
    platform_domain: Hostname,
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let resolver = Resolver { routes, certificates, platform_domain };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut configuration = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(resolver));
    configuration.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    configuration.ticketer = rustls::crypto::aws_lc_rs::Ticketer::new()?;
    configuration.send_tls13_tickets = 1;
    configuration.session_storage = Arc::new(NoServerSessionStorage {});
    configuration.max_early_data_size = 0;
    Ok(Arc::new(configuration))
}

/// Makes a connection secure, within the limit of time.
///
/// # Errors
/// When the client does not do its part.
pub async fn secure<S>(
    stream: S,
    configuration: Arc<ServerConfig>,
) -> Result<Secured<S>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let handshake = async {
        let start = LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
        let server_name = canonical_name(&start.client_hello());
        let stream = start.into_stream(configuration).await?;
        let http2 = stream.get_ref().1.alpn_protocol() == Some(PROTOCOLS[0]);
        Ok(Secured { stream, server_name, http2 })
    };
    match timeout(HANDSHAKE_TIMEOUT, handshake).await {
        Ok(outcome) => outcome.map_err(HandshakeError::Failed),
        Err(_) => Err(HandshakeError::Timeout),
    }
}

fn canonical_name(hello: &ClientHello<'_>) -> Option<Box<str>> {
    canonical(hello.server_name()?, &mut String::new()).ok().map(Into::into)
}

/// The certificate of the hostname that the client named; the platform's own for any other name.
struct Resolver {
    routes: Arc<RouteTable>,
    certificates: Arc<OpenCertificates>,
    platform_domain: Hostname,
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let table = self.routes.load();
        let mut scratch = String::new();
        let named = hello
            .server_name()
            .and_then(|name| canonical(name, &mut scratch).ok())
            .and_then(|name| table.certificate(name))
            .and_then(|sealed| self.certificates.open(sealed));
        named.or_else(|| {
            let sealed = table.certificate(self.platform_domain.as_str())?;
            self.certificates.open(sealed)
        })
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}
