//! Handshakes in memory: which certificate a name gets, and where a session is resumed.

use control_types::seal::certificate_key;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, RootCertStore, ServerConnection,
    client::Resumption, server::ProducesTickets,
};
use rustls_pki_types::{CertificateDer, ServerName};
use uuid::Uuid;

use super::*;
use crate::{certificates::SealedCertificate, route_table::Reading};

const PLATFORM: &str = "platform.test";
const NAMES: [&str; 4] = [PLATFORM, "*.platform.test", "own.platform.test", "www.own.test"];

/// A region: its ring, and what its routers serve.
struct Region {
    ring: KeyRing,
    routes: Arc<RouteTable>,
    certificates: Arc<OpenCertificates>,
    roots: RootCertStore,
}

impl Region {
    fn new() -> Self {
        let ring = KeyRing::generate("r").expect("random bytes");
        let mut roots = RootCertStore::empty();
        let certificates = NAMES.map(|name| {
            let pair = rcgen::generate_simple_self_signed([name.to_owned()]).expect("makes one");
            roots.add(pair.cert.der().clone()).expect("is one");
            let id = Uuid::now_v7();
            let key = pair.signing_key.serialize_pem();
            let key = ring.seal(&certificate_key(id), key.as_bytes()).expect("seals");
            let pem = pair.cert.pem();
            let sealed = SealedCertificate::from_pem(id, None, name, &pem, key, 0, 0);
            Arc::new(sealed.expect("is a certificate"))
        });
        let routes = RouteTable::default();
        let reading = Reading { certificates: certificates.into(), ..Reading::default() };
        routes.publish(routes.load().merge(reading, true).expect("is merged").table);
        let certificates = Arc::new(OpenCertificates::new(ring.clone()));
        Self { ring, routes: Arc::new(routes), certificates, roots }
    }

    /// What one router of the region has.
    fn router(&self) -> ServerConfig {
        let configuration = configuration(
            Arc::clone(&self.routes),
            Arc::clone(&self.certificates),
            PLATFORM.parse().expect("a hostname"),
            &self.ring,
        );
        ServerConfig::clone(&configuration.expect("starts"))
    }

    fn client(&self, versions: &[&'static rustls::SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut client = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(versions)
            .expect("has versions")
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        client.resumption = Resumption::in_memory_sessions(8);
        Arc::new(client)
    }
}

/// One connection, until both ends have said all: how it was made, and which certificate was shown.
fn connect(
    server: &ServerConfig,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Result<(HandshakeKind, CertificateDer<'static>), rustls::Error> {
    let client = connected(server, client, name)?;
    let shown = client.peer_certificates().and_then(<[_]>::first).expect("was shown one");
    Ok((client.handshake_kind().expect("is over"), shown.clone()))
}

fn connected(
    server: &ServerConfig,
    client: &Arc<ClientConfig>,
    name: &str,
) -> Result<ClientConnection, rustls::Error> {
    let name = ServerName::try_from(name.to_owned()).expect("is a name");
    let mut client = ClientConnection::new(Arc::clone(client), name)?;
    let mut server = ServerConnection::new(Arc::new(server.clone()))?;
    for _ in 0..8 {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).expect("writes");
        }
        server.read_tls(&mut &wire[..]).expect("reads");
        server.process_new_packets()?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).expect("writes");
        }
        let mut wire = &wire[..];
        while !wire.is_empty() {
            client.read_tls(&mut wire).expect("reads");
            client.process_new_packets()?;
        }
    }
    Ok(client)
}

const BOTH: [&[&rustls::SupportedProtocolVersion]; 2] =
    [&[&rustls::version::TLS13], &[&rustls::version::TLS12]];

#[test]
fn a_name_gets_its_own_certificate_or_the_wildcard_one_label_below() {
    let region = Region::new();
    let table = region.routes.load_full();
    let server = region.router();
    let client = region.client(BOTH[0]);
    for (name, certificate) in [
        (PLATFORM, PLATFORM),
        ("own.platform.test", "own.platform.test"),
        ("other.platform.test", "*.platform.test"),
        ("www.own.test", "www.own.test"),
    ] {
        let (_, shown) = connect(&server, &client, name).expect("shakes hands");
        let wanted = table.certificate(certificate).expect("is there");
        assert_eq!(*shown, *wanted.leaf(), "{name}");
    }
    for stranger in ["a.b.platform.test", "otherplatform.test", "nobody.test"] {
        assert!(connect(&server, &client, stranger).is_err(), "{stranger} has no certificate");
    }
}

#[test]
fn a_session_is_resumed_at_another_router_of_the_region() {
    let region = Region::new();
    for versions in BOTH {
        let client = region.client(versions);
        let kinds = [region.router(), region.router()]
            .map(|server| connect(&server, &client, "own.platform.test").expect("shakes hands").0);
        assert!(matches!(kinds[0], HandshakeKind::Full), "{kinds:?}");
        assert!(matches!(kinds[1], HandshakeKind::Resumed), "{kinds:?}");
    }
}

/// Opens no ticket, as a router does after the epochs have gone.
#[derive(Debug)]
struct TooLate;

impl ProducesTickets for TooLate {
    fn enabled(&self) -> bool {
        true
    }

    fn lifetime(&self) -> u32 {
        1
    }

    fn encrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }

    fn decrypt(&self, _: &[u8]) -> Option<Vec<u8>> {
        None
    }
}

/// Asks for one name and offers the sessions of all, as an attacker would.
#[derive(Debug)]
struct AnyName(Arc<rustls::client::ClientSessionMemoryCache>);

/// The one name under which all sessions are kept.
fn one() -> ServerName<'static> {
    ServerName::try_from("one.test").expect("is a name")
}

impl rustls::client::ClientSessionStore for AnyName {
    fn set_kx_hint(&self, _: ServerName<'static>, group: rustls::NamedGroup) {
        self.0.set_kx_hint(one(), group);
    }

    fn kx_hint(&self, _: &ServerName<'_>) -> Option<rustls::NamedGroup> {
        self.0.kx_hint(&one())
    }

    fn set_tls12_session(
        &self,
        _: ServerName<'static>,
        value: rustls::client::Tls12ClientSessionValue,
    ) {
        self.0.set_tls12_session(one(), value);
    }

    fn tls12_session(&self, _: &ServerName<'_>) -> Option<rustls::client::Tls12ClientSessionValue> {
        self.0.tls12_session(&one())
    }

    fn remove_tls12_session(&self, _: &ServerName<'static>) {
        self.0.remove_tls12_session(&one());
    }

    fn insert_tls13_ticket(
        &self,
        _: ServerName<'static>,
        value: rustls::client::Tls13ClientSessionValue,
    ) {
        self.0.insert_tls13_ticket(one(), value);
    }

    fn take_tls13_ticket(
        &self,
        _: &ServerName<'static>,
    ) -> Option<rustls::client::Tls13ClientSessionValue> {
        self.0.take_tls13_ticket(&one())
    }
}

#[test]
fn a_session_is_not_resumed_too_late_or_for_another_name() {
    let region = Region::new();
    for versions in BOTH {
        let mut client = ClientConfig::clone(&region.client(versions));
        let sessions = Arc::new(rustls::client::ClientSessionMemoryCache::new(8));
        client.resumption = Resumption::store(Arc::new(AnyName(sessions)));
        let client = Arc::new(client);
        let server = region.router();
        let kind = |server: &ServerConfig, name: &str| {
            connect(server, &client, name).expect("shakes hands").0
        };
        assert!(matches!(kind(&server, "own.platform.test"), HandshakeKind::Full));
        assert!(matches!(kind(&server, "own.platform.test"), HandshakeKind::Resumed));
        let for_another = kind(&server, "www.own.test");
        assert!(matches!(for_another, HandshakeKind::Full), "{for_another:?}");
        assert!(matches!(kind(&server, "www.own.test"), HandshakeKind::Resumed));
        let mut later = region.router();
        later.ticketer = Arc::new(TooLate);
        let too_late = kind(&later, "www.own.test");
        assert!(matches!(too_late, HandshakeKind::Full), "{too_late:?}");
    }
}

#[test]
fn a_client_gets_aes_128_unless_it_prefers_chacha20() {
    let region = Region::new();
    let handshakes = Handshakes::new(&Arc::new(region.router()));
    for (version, aes256, aes128, chacha20) in [
        (
            BOTH[0],
            suites::TLS13_AES_256_GCM_SHA384,
            suites::TLS13_AES_128_GCM_SHA256,
            suites::TLS13_CHACHA20_POLY1305_SHA256,
        ),
        (
            BOTH[1],
            suites::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
            suites::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
            suites::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        ),
    ] {
        for (offered, agreed) in [
            (vec![aes256, chacha20, aes128], aes128),
            (vec![chacha20, aes128, aes256], chacha20),
            (vec![aes256, chacha20], aes256),
        ] {
            let provider =
                CryptoProvider { cipher_suites: offered, ..aws_lc_rs::default_provider() };
            // What a real client says of another protocol's version, or at random, does not count.
            let mut said = vec![CipherSuite::Unknown(0x1a1a)];
            said.extend(provider.cipher_suites.iter().map(|suite| suite.suite()));
            let mut client = ClientConfig::builder_with_provider(Arc::new(provider))
                .with_protocol_versions(version)
                .expect("has versions")
                .with_root_certificates(region.roots.clone())
                .with_no_client_auth();
            client.resumption = Resumption::disabled();
            let server = handshakes.with(&said);
            let client = connected(server, &Arc::new(client), PLATFORM).expect("is made");
            assert_eq!(client.negotiated_cipher_suite(), Some(agreed));
        }
    }
}
