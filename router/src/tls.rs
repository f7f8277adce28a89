//! TLS to the clients: which certificate a handshake gets, and one shared configuration for all of
//! them. No client decides anything but the hostname that it asks for.

use std::{fmt, io, sync::Arc};

use control_types::{
    Hostname,
    hostname::{canonical, is_right_below},
    seal::KeyRing,
};
use rustls::{
    CipherSuite, ServerConfig, SupportedCipherSuite,
    crypto::{
        CryptoProvider,
        aws_lc_rs::{self, cipher_suite as suites},
    },
    server::{ClientHello, NoServerSessionStorage, ResolvesServerCert},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout_at},
};
use tokio_rustls::{StartHandshake, server::TlsStream};

use crate::{certificates::OpenCertificates, route_table::RouteTable};

pub mod hello;
pub mod tickets;

use hello::Hello;
use tickets::Tickets;

/// What clients may speak over TLS, the preferred first.
const PROTOCOLS: [&[u8]; 2] = [b"h2", b"http/1.1"];
/// What a certificate authority speaks that checks a challenge.
const CHALLENGE_PROTOCOL: &[u8] = b"acme-tls/1";

/// What may be agreed on, the preferred first: Mozilla's intermediate list.
static SUITES: [SupportedCipherSuite; 9] = [
    suites::TLS13_AES_128_GCM_SHA256,
    suites::TLS13_AES_256_GCM_SHA384,
    suites::TLS13_CHACHA20_POLY1305_SHA256,
    suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    suites::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    suites::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    suites::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
];

/// A handshake that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The client took too long.
    #[error("the handshake took too long")]
    Timeout,
    /// The client and the router found nothing in common, or the client left.
    #[error("the handshake failed")]
    Failed(#[source] io::Error),
    /// TLS cannot be configured.
    #[error("TLS cannot be configured")]
    Configuration(#[from] rustls::Error),
}

/// A connection after its handshake.
pub struct Secured<S> {
    /// The stream of plain bytes; on the heap, since it goes from hand to hand.
    pub stream: Box<TlsStream<S>>,
    /// Whether HTTP/2 was agreed on.
    pub http2: bool,
}

/// How handshakes are done. The router chooses the cipher suite, AES-128 first as Mozilla lists them:
/// its SHA-256 runs in hardware, and with SHA-384 a handshake costs a tenth more. A client that prefers
/// ChaCha20 gets that: it has no hardware for AES.
#[derive(Clone, Debug)]
pub struct Handshakes {
    ours: Arc<ServerConfig>,
    clients: Arc<ServerConfig>,
}

impl Handshakes {
    /// Handshakes by `configuration`.
    pub fn new(configuration: &Arc<ServerConfig>) -> Self {
        let mut ours = ServerConfig::clone(configuration);
        ours.ignore_client_order = true;
        Self { ours: Arc::new(ours), clients: Arc::clone(configuration) }
    }

    /// The handshake with a client that offers these, its preferred first.
    fn with(&self, offered: &[CipherSuite]) -> &Arc<ServerConfig> {
        let known = |offered: &&CipherSuite| SUITES.iter().any(|known| known.suite() == **offered);
        match offered.iter().find(known) {
            Some(
                CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
                | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
            ) => &self.clients,
            _ => &self.ours,
        }
    }
}

/// The configuration of all handshakes.
///
/// # Errors
/// When the cryptography does not start.
pub fn configuration(
    routes: Arc<RouteTable>,
    certificates: Arc<OpenCertificates>,
    platform_domain: Hostname,
    ring: &KeyRing,
) -> anyhow::Result<Arc<ServerConfig>> {
    let mut configuration = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Resolver::new(routes, certificates, platform_domain)));
    configuration.alpn_protocols = PROTOCOLS.map(<[u8]>::to_vec).to_vec();
    configuration.ticketer = Arc::new(Tickets::new(ring)?);
    configuration.send_tls13_tickets = 1;
    configuration.session_storage = Arc::new(NoServerSessionStorage {});
    configuration.max_early_data_size = 0;
    Ok(Arc::new(configuration))
}

fn provider() -> Arc<CryptoProvider> {
    Arc::new(CryptoProvider { cipher_suites: SUITES.to_vec(), ..aws_lc_rs::default_provider() })
}

/// Reads what the client says first.
///
/// # Errors
/// When it says none of that, or not in time.
pub async fn hello<S>(stream: &mut S, deadline: Instant) -> Result<Hello, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    in_time(deadline, hello::read(stream)).await
}

/// Makes a connection secure.
///
/// # Errors
/// When the client does not do its part in time.
pub async fn secure<S>(
    stream: S,
    hello: Hello,
    handshakes: &Handshakes,
    deadline: Instant,
) -> Result<Secured<S>, HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let configuration = Arc::clone(handshakes.with(hello.accepted.client_hello().cipher_suites()));
    let start = StartHandshake::from_parts(hello.accepted, stream);
    let stream = in_time(deadline, start.into_stream(configuration)).await?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(PROTOCOLS[0]);
    Ok(Secured { stream: Box::new(stream), http2 })
}

/// Shows a certificate authority the certificate of its challenge, and nothing else: the connection
/// ends with the handshake.
///
/// # Errors
/// When the authority does not do its part in time.
pub async fn prove<S>(
    stream: S,
    hello: Hello,
    certificate: Arc<CertifiedKey>,
    deadline: Instant,
) -> Result<(), HandshakeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut configuration = ServerConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certificate)));
    configuration.alpn_protocols = vec![CHALLENGE_PROTOCOL.to_vec()];
    configuration.session_storage = Arc::new(NoServerSessionStorage {});
    configuration.send_tls13_tickets = 0;
    let start = StartHandshake::from_parts(hello.accepted, stream);
    let handshake = async {
        let mut stream = start.into_stream(Arc::new(configuration)).await?;
        stream.shutdown().await
    };
    in_time(deadline, handshake).await
}

async fn in_time<T>(
    deadline: Instant,
    work: impl Future<Output = io::Result<T>>,
) -> Result<T, HandshakeError> {
    match timeout_at(deadline, work).await {
        Ok(outcome) => outcome.map_err(HandshakeError::Failed),
        Err(_) => Err(HandshakeError::Timeout),
    }
}

/// The certificate of the hostname that the client named, or the one that covers it because it lies
/// below the platform's domain; the platform's own for any other name.
struct Resolver {
    routes: Arc<RouteTable>,
    certificates: Arc<OpenCertificates>,
    platform_domain: Hostname,
    wildcard: String,
}

impl Resolver {
    fn new(
        routes: Arc<RouteTable>,
        certificates: Arc<OpenCertificates>,
        platform_domain: Hostname,
    ) -> Self {
        let wildcard = format!("*.{platform_domain}");
        Self { routes, certificates, platform_domain, wildcard }
    }

    fn choose(&self, server_name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let table = self.routes.load();
        let open = |hostname: &str| {
            table.certificate(hostname).and_then(|sealed| self.certificates.open(sealed))
        };
        let mut scratch = String::new();
        let named = server_name.and_then(|name| canonical(name, &mut scratch).ok());
        named
            .and_then(open)
            .or_else(|| {
                named
                    .filter(|name| is_right_below(name, self.platform_domain.as_str()))
                    .and_then(|_| open(&self.wildcard))
            })
            .or_else(|| open(self.platform_domain.as_str()))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.choose(hello.server_name())
    }
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Resolver")
    }
}

#[cfg(test)]
mod tests;
