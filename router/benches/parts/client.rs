//! A client that trusts the benchmark's authority, and an instance that answers `ok`.

use std::{
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::{CertificateDer, ServerName};

/// A connection after its handshake.
pub type Connected = StreamOwned<ClientConnection, TcpStream>;

/// Speaks HTTP/1.1 over TLS 1.3, without sessions of before.
pub struct Client {
    to: SocketAddr,
    tls: Arc<ClientConfig>,
}

impl Client {
    pub fn new(to: SocketAddr, authority: &CertificateDer<'static>) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone()).expect("is a certificate");
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("has versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        tls.resumption = rustls::client::Resumption::disabled();
        Self { to, tls: Arc::new(tls) }
    }

    /// A new connection that has asked once and got `200`.
    pub fn ask(&self, hostname: &str) -> Connected {
        let name = ServerName::try_from(hostname.to_owned()).expect("is a name");
        let tls = ClientConnection::new(Arc::clone(&self.tls), name).expect("starts");
        let tcp = TcpStream::connect(self.to).expect("connects");
        tcp.set_nodelay(true).expect("sets an option");
        let mut stream = StreamOwned::new(tls, tcp);
        let request = format!("GET / HTTP/1.1\r\nHost: {hostname}\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sends");
        let mut answer = [0; 2048];
        let mut length = 0;
        while !answer[..length].ends_with(b"\r\n\r\nok") {
            let read = stream.read(&mut answer[length..]).expect("reads");
            let text = String::from_utf8_lossy(&answer[..length]);
            assert!(read > 0 && (length == 0 || text.starts_with("HTTP/1.1 200")), "{text}");
            length += read;
        }
        stream
    }
}

/// Listens for as long as the process lives; the address as a route has it.
pub fn instance() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = listener.local_addr().expect("has an address");
    thread::spawn(move || {
        for stream in listener.incoming().filter_map(Result::ok) {
            thread::spawn(move || serve(stream));
        }
    });
    format!("tcp:{address}")
}

fn serve(mut stream: TcpStream) {
    let mut head = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(length @ 1..) = stream.read(&mut piece) {
        head.extend_from_slice(&piece[..length]);
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            if stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").is_err() {
                return;
            }
        }
    }
}
