//! Requests that were decrypted here although their site is at home elsewhere by now: the client's
//! connection is older than the site's move. They go on to a router of that region over TLS. A
//! connection carries one request, since it begins with whose it is.

use std::{fmt, io, net::SocketAddr, path::Path, sync::Arc};

use anyhow::Context as _;
use control_types::SiteId;
use moka::sync::Cache;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::AsyncWriteExt,
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;

use super::{Connection, Waits, transport::Transport};
use crate::{
    limits::{MAX_RELAYED_REQUESTS, RELAY_HANDSHAKE_TIMEOUT, UPSTREAM_QUEUE_TIMEOUT},
    passthrough::{self, Neighbours, Unreachable},
    route_table::EdgeRow,
};

/// How many sites' counts are kept.
const SITES: u64 = 100_000;

/// How requests get to other regions.
pub struct Relays {
    tls: TlsConnector,
    in_use: Cache<SiteId, Arc<Semaphore>>,
}

/// Why a request cannot be relayed. Nothing of it was sent.
#[derive(Debug, thiserror::Error)]
pub enum RelayError {
    /// Too many of the site are under way.
    #[error("too many requests of the site are being relayed")]
    Busy,
    /// No router of the region takes a connection.
    #[error(transparent)]
    Unreachable(#[from] Unreachable),
    /// The router of the region does not do its part, or cannot prove that it serves the hostname.
    #[error("the handshake with router '{0}' failed")]
    Handshake(String, #[source] io::Error),
}

/// What is to be relayed.
pub struct Relayed<'a> {
    /// The site.
    pub site: SiteId,
    /// Its region.
    pub region: &'a str,
    /// The routers there.
    pub routers: &'a [EdgeRow],
    /// The hostname that the router there must prove to serve.
    pub hostname: &'a str,
    /// The client.
    pub client: SocketAddr,
}

impl Relays {
    /// Trusts the authorities in the file, or those of the system.
    ///
    /// # Errors
    /// When the file cannot be read or has none.
    pub fn new(trusted_roots: Option<&Path>) -> anyhow::Result<Self> {
        let roots = roots(trusted_roots)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            tls: TlsConnector::from(Arc::new(tls)),
            in_use: Cache::builder().max_capacity(SITES).build(),
        })
    }

    /// A connection for one request.
    ///
    /// # Errors
    /// When there is none.
    pub async fn connection(
        &self,
        neighbours: &Neighbours,
        relayed: &Relayed<'_>,
    ) -> Result<Connection, RelayError> {
        let in_use =
            self.in_use.get_with(relayed.site, || Arc::new(Semaphore::new(MAX_RELAYED_REQUESTS)));
        let permit = match timeout(UPSTREAM_QUEUE_TIMEOUT, in_use.acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            _ => return Err(RelayError::Busy),
        };
        let begun = Instant::now();
        let (mut stream, router) = neighbours.connect(relayed.region, relayed.routers).await?;
        let connecting = async {
            let name =
                ServerName::try_from(relayed.hostname.to_owned()).map_err(io::Error::other)?;
            let header = passthrough::header(relayed.client, stream.local_addr(), true, None);
            stream.write_all(&header).await?;
            self.tls.connect(name, stream).await
        };
        let connected = timeout(RELAY_HANDSHAKE_TIMEOUT, connecting).await;
        let stream = connected
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|error| RelayError::Handshake(router, error))?;
        let waits = Waits { connect: Some(begun.elapsed()), ..Waits::default() };
        Ok(Connection::for_one(Transport::Tls(Box::new(stream)), permit, waits))
    }
}

/// The authorities in the file, or those of the system; then there may be none.
///
/// # Errors
/// When the file cannot be read or has none.
pub fn roots(trusted_roots: Option<&Path>) -> anyhow::Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    if let Some(path) = trusted_roots {
        let wrong = || format!("trusted_roots: cannot read {}", path.display());
        for certificate in CertificateDer::pem_file_iter(path).with_context(wrong)? {
            roots.add(certificate.with_context(wrong)?).with_context(wrong)?;
        }
        anyhow::ensure!(!roots.is_empty(), "trusted_roots: no certificate in {}", path.display());
    } else {
        let found = rustls_native_certs::load_native_certs();
        roots.add_parsable_certificates(found.certs);
        if roots.is_empty() {
            tracing::warn!(errors = ?found.errors, "the system trusts no certificate authority: \
                requests cannot be relayed to other regions; trusted_roots can name some");
        }
    }
    Ok(roots)
}

impl fmt::Debug for Relays {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Relays")
    }
}
