//! What comes in the place of a ClientHello, or in odd pieces.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Duration,
};

use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};

use crate::stack::Stack;

/// How the first message is sent.
#[derive(Clone, Copy, Debug)]
enum Pieces {
    /// Each byte of it as a record of its own.
    Records,
    /// Each byte as a segment of its own.
    Segments,
    /// In the middle of a record.
    Halves,
}

fn client(hostname: &str, authority: &CertificateDer<'static>) -> ClientConnection {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).expect("is an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("has versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(hostname.to_owned()).expect("is a name");
    ClientConnection::new(Arc::new(config), name).expect("begins")
}

/// A request whose ClientHello is sent in pieces; the whole answer.
fn ask(to: SocketAddr, mut tls: ClientConnection, pieces: Pieces, hostname: &str) -> String {
    let mut tcp = TcpStream::connect(to).expect("connects");
    tcp.set_nodelay(true).expect("is set");
    let mut hello = Vec::new();
    tls.write_tls(&mut hello).expect("writes");
    match pieces {
        Pieces::Records => {
            // One record: five bytes of header, then the message.
            let records: Vec<u8> =
                hello[5..].iter().flat_map(|byte| [22, 3, 1, 0, 1, *byte]).collect();
            tcp.write_all(&records).expect("writes");
        }
        Pieces::Segments => hello.iter().for_each(|byte| tcp.write_all(&[*byte]).expect("writes")),
        Pieces::Halves => {
            let (one, other) = hello.split_at(hello.len() / 2);
            tcp.write_all(one).expect("writes");
            tcp.write_all(other).expect("writes");
        }
    }
    let mut stream = rustls::Stream::new(&mut tls, &mut tcp);
    write!(stream, "GET /who HTTP/1.1\r\nHost: {hostname}\r\nConnection: close\r\n\r\n")
        .expect("writes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("reads");
    answer
}

/// What the router says to these bytes until it closes. It may close while they are being sent.
fn say(to: SocketAddr, bytes: &[u8]) -> Vec<u8> {
    let mut tcp = TcpStream::connect(to).expect("connects");
    let _ = tcp.write_all(bytes);
    let mut answer = Vec::new();
    let _ = tcp.read_to_end(&mut answer);
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_hello_may_come_in_any_pieces_and_what_is_none_is_closed() {
    let stack = Stack::start().await;
    let site = stack.site("alpha").await;
    // Here and, read to its end before anything is decided, in the other region.
    for router in [&stack.jakarta, &stack.singapore] {
        for pieces in [Pieces::Records, Pieces::Segments, Pieces::Halves] {
            let (to, host) = (router.https, site.hostname.clone());
            let tls = client(&host, stack.authority());
            let asking = tokio::task::spawn_blocking(move || ask(to, tls, pieces, &host));
            let answer = asking.await.expect("answers");
            assert!(answer.ends_with("alpha-j"), "{pieces:?}: {answer}");
        }
    }
    let to = stack.jakarta.https;
    let failed = stack.jakarta.metric("router_handshake_errors_total{cause=\"failed\"}").await;
    let ssl2 = [&[0x80, 0x2E, 0x01, 0x00, 0x02][..], &[0; 41]].concat();
    // A handshake message that says to be 16 MiB, in full records, and one in records of one byte.
    let record = [&[22, 3, 1, 0x40, 0, 1, 0xFF, 0xFF, 0xFF][..], &[0; 0x4000 - 4]].concat();
    let huge = record.repeat(8);
    let endless = [22, 3, 1, 0, 1, 1].repeat(200_000);
    for bytes in [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
        ssl2,
        huge,
        endless,
        vec![0xFF; 100_000],
        // An application record before any handshake.
        vec![23, 3, 3, 0, 2, 0, 0],
        // Empty records.
        [22, 3, 1, 0, 0].repeat(10_000),
    ] {
        let begin: Vec<u8> = bytes.iter().take(9).copied().collect();
        let answer = tokio::task::spawn_blocking(move || say(to, &bytes)).await.expect("ends");
        // An alert at most.
        assert!(answer.len() <= 7 && answer.first().is_none_or(|kind| *kind == 21), "{begin:?}");
    }
    // It counts a connection a moment after it has closed it.
    let counted = async {
        let failures = "router_handshake_errors_total{cause=\"failed\"}";
        while stack.jakarta.metric(failures).await - failed < 7.0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let patience = Duration::from_secs(30);
    tokio::time::timeout(patience, counted).await.expect("each of them is counted");
    // Whoever says nothing, or not all of it, is not waited for.
    let hello_begins = vec![22, 3, 1, 0, 200, 1, 0, 0, 196];
    let waits = [Vec::new(), hello_begins]
        .map(|bytes| tokio::task::spawn_blocking(move || say(to, &bytes)));
    for wait in waits {
        assert!(wait.await.expect("ends").is_empty());
    }
    stack.jakarta.shows("/metrics", "router_handshake_errors_total{cause=\"timeout\"} 2").await;
    assert_eq!(stack.ask(&stack.jakarta, &site.hostname, "/who").await.body, "alpha-j");
}

/// What other people's programs say of the router's TLS. By hand: they have to be installed, and
/// take minutes. `cargo test -p router --test regions -- --ignored scan --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs testssl.sh and sslyze"]
async fn scan() {
    let stack = Stack::start().await;
    let site = stack.site("alpha").await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/regions/tls_scan.sh");
    let mut scan = std::process::Command::new(script);
    scan.args([&site.hostname, &stack.jakarta.https.to_string()]).arg(stack.authority_file());
    let scanning = tokio::task::spawn_blocking(move || scan.status());
    assert!(scanning.await.expect("ends").expect("runs").success());
}
