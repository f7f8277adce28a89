//! Certificate authorities come to any router, before or after the news of their challenge.

use std::sync::Arc;

use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::{io::AsyncReadExt, net::TcpStream};
use tokio_rustls::TlsConnector;

use crate::{
    client::Stream,
    stack::{JAKARTA, PLATFORM, Router, SINGAPORE, Stack},
};

const NEW: &str = "new.institution.test";

fn asks(method: &str, host: &str, token: &str) -> String {
    format!(
        "{method} /.well-known/acme-challenge/{token} HTTP/1.1\r\nHost: {host}\r\n\
         Connection: close\r\n\r\n"
    )
}

fn http_challenge(host: &str, token: &str) -> String {
    format!(
        "insert into acme_challenge (id, hostname, kind, token, key_authorization, expires_at)
         values (gen_random_uuid(), '{host}', 'http_01', '{token}', '{token}.proof',
             now() + interval '1 hour')"
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn any_router_answers_a_challenge() {
    let stack = Stack::start().await;
    let site = stack.site("alpha").await;
    stack.sql(http_challenge(NEW, "first")).await;
    for router in [&stack.jakarta, &stack.singapore] {
        router.shows("/challenges/first", NEW).await;
        let answer = router.plain(&asks("GET", NEW, "first")).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "first.proof"));
        let head = router.plain(&asks("HEAD", NEW, "first")).await;
        assert_eq!((head.status, head.header("content-length")), (200, Some("11")));
        // Another hostname's challenge is nobody else's.
        assert_eq!(router.plain(&asks("GET", &site.hostname, "first")).await.status, 404);
        assert_eq!(router.plain(&asks("GET", NEW, "unknown")).await.status, 404);
        assert_eq!(router.admin("/challenges/unknown").await.status, 404);
    }
    // Over TLS too; what is no challenge is the instance's to answer.
    stack.sql(http_challenge(&site.hostname, "over_tls")).await;
    let over_tls = async |token| {
        let stream = stack.connect(&stack.singapore, &site.hostname).await;
        stream.exchange(asks("GET", &site.hostname, token).as_bytes()).await
    };
    assert_eq!(over_tls("over_tls").await.body, "over_tls.proof");
    assert_eq!(over_tls("other").await.body, "no such page");

    // The authority is quicker than the news, which never come here.
    stack.sql("alter table acme_challenge disable trigger all".to_owned()).await;
    stack.sql(http_challenge(NEW, "silent")).await;
    let answer = stack.singapore.plain(&asks("GET", NEW, "silent")).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "silent.proof"));
    assert_eq!(stack.singapore.admin("/challenges/silent").await.status, 404);
    // Without a control database there are no further challenges, and the rest goes on.
    stack.database.stop();
    assert_eq!(stack.jakarta.plain(&asks("GET", NEW, "gone")).await.status, 404);
    assert_eq!(stack.jakarta.plain(&asks("GET", NEW, "first")).await.body, "first.proof");
    assert_eq!(stack.ask(&stack.jakarta, &site.hostname, "/who").await.body, "alpha-j");
}

/// Looks at the certificate by itself, as an authority does: what makes it a challenge's is critical,
/// and rustls reads no certificate with that.
#[derive(Debug)]
struct Authority;

impl ServerCertVerifier for Authority {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        _: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        assert!(!message.is_empty() && !signature.signature().is_empty());
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

/// A handshake as an authority makes it; what was shown, and what came after it.
async fn validate(
    router: &Router,
    hostname: &str,
    protocols: &[&[u8]],
) -> std::io::Result<(CertificateDer<'static>, Vec<u8>)> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("has versions")
        .with_root_certificates(RootCertStore::empty())
        .with_no_client_auth();
    config.dangerous().set_certificate_verifier(Arc::new(Authority));
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::try_from(hostname.to_owned()).expect("is a name");
    let tcp = TcpStream::connect(router.https).await?;
    let mut stream = TlsConnector::from(Arc::new(config)).connect(name, tcp).await?;
    let mut after = Vec::new();
    stream.read_to_end(&mut after).await?;
    let (_, connection) = stream.get_ref();
    assert_eq!(connection.alpn_protocol(), protocols.first().copied());
    let shown = connection.peer_certificates().and_then(<[_]>::first).expect("was shown one");
    Ok((shown.clone(), after))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_challenge_is_shown_by_any_router_and_by_handshakes_for_it_only() {
    let stack = Stack::start().await;
    stack.add_tls_challenge(NEW, JAKARTA).await;
    stack.add_tls_challenge("other.test", SINGAPORE).await;
    const ACME: &[u8] = b"acme-tls/1";
    for router in [&stack.jakarta, &stack.singapore] {
        for name in [NEW, "other.test"] {
            router.shows(&format!("/challenges/tls-alpn-01/{name}"), name).await;
            router.shows("/metrics", "router_route_table_age_seconds").await;
        }
    }
    for router in [&stack.jakarta, &stack.singapore] {
        for name in [NEW, "other.test"] {
            let (shown, after) = validate(router, name, &[ACME]).await.expect("is shown");
            let digest = [7; 32];
            assert!(shown.windows(32).any(|bytes| bytes == digest), "{name}");
            assert!(after.is_empty(), "the connection ends with the handshake");
        }
        // Nobody's challenge: the protocol is refused.
        let refused = validate(router, "nobody.test", &[ACME]).await;
        let text = format!("{:?}", refused.expect_err("is refused"));
        assert!(text.contains("NoApplicationProtocol"), "{text}");
    }
    // Whoever offers more is a browser, and sees no challenge.
    let tcp = TcpStream::connect(stack.jakarta.https).await.expect("connects");
    let platform = Stream::tls_over(tcp, PLATFORM, stack.authority()).await.expect("shakes hands");
    drop(platform);
}
