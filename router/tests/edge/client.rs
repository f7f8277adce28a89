//! A client that sends exactly the bytes it is given, over TLS or plain, and reads what comes.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http_body_util::Full;
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsConnector;

const PATIENCE: Duration = Duration::from_secs(20);

/// Asks for a WebSocket, as browsers do.
pub fn ask_for_websocket(host: &str, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// A request after which the connection goes on.
pub fn keep(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

/// A request with a body, whose answer ends the connection.
pub fn post(host: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
    )
}

/// A request whose answer ends the connection.
pub fn get(host: &str, path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

/// What came back for one request.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: String,
    pub raw: String,
}

impl Answer {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn parse(raw: String) -> Self {
        let rest = raw.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(&raw);
        let (head, body) = rest.split_once("\r\n\r\n").unwrap_or((rest, ""));
        let mut lines = head.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1));
        let headers = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned()))
            .collect();
        Self {
            status: status.and_then(|status| status.parse().ok()).unwrap_or(0),
            headers,
            body: body.to_owned(),
            raw,
        }
    }
}

pub trait Bytes: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Bytes for T {}

/// An open connection.
pub struct Stream {
    bytes: Box<dyn Bytes>,
    unread: String,
}

impl Stream {
    pub async fn plain(address: SocketAddr) -> Self {
        let bytes = TcpStream::connect(address).await.expect("connects");
        Self { bytes: Box::new(bytes), unread: String::new() }
    }

    pub async fn tls(
        address: SocketAddr,
        server_name: &str,
        authority: &CertificateDer<'static>,
        has_own_certificate: bool,
    ) -> std::io::Result<Self> {
        let bytes = secured(address, server_name, authority, has_own_certificate, &[]).await?;
        Ok(Self { bytes, unread: String::new() })
    }

    /// Over a connection that is there already.
    pub async fn tls_over(
        tcp: TcpStream,
        server_name: &str,
        authority: &CertificateDer<'static>,
    ) -> std::io::Result<Self> {
        let bytes = secured_over(tcp, server_name, authority, true, &[]).await?;
        Ok(Self { bytes, unread: String::new() })
    }

    /// As a client that may resume a session of before.
    pub async fn resumed(
        address: SocketAddr,
        server_name: &str,
        config: &Arc<ClientConfig>,
    ) -> std::io::Result<Self> {
        let tcp = TcpStream::connect(address).await?;
        let name = ServerName::try_from(server_name.to_owned()).expect("is a name");
        let bytes = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await?;
        Ok(Self { bytes: Box::new(bytes), unread: String::new() })
    }

    /// Reads the head of an answer.
    pub async fn read_head(&mut self) -> String {
        loop {
            if let Some(at) = self.unread.find("\r\n\r\n") {
                return self.unread.drain(..at + 4).collect();
            }
            self.read_more().await;
        }
    }

    /// Reads so many bytes of text.
    pub async fn read_exactly(&mut self, length: usize) -> String {
        while self.unread.len() < length {
            self.read_more().await;
        }
        self.unread.drain(..length).collect()
    }

    async fn read_more(&mut self) {
        let mut buffer = [0; 4096];
        let read = timeout(PATIENCE, self.bytes.read(&mut buffer)).await.expect("more comes");
        let length = read.expect("reads");
        assert_ne!(length, 0, "closed after {:?}", self.unread);
        self.unread.push_str(&String::from_utf8_lossy(&buffer[..length]));
    }

    /// Reads until the other end closes.
    pub async fn read_to_end(&mut self) -> String {
        let mut all = std::mem::take(&mut self.unread).into_bytes();
        let _ = timeout(PATIENCE, self.bytes.read_to_end(&mut all)).await.expect("it ends");
        String::from_utf8_lossy(&all).into_owned()
    }

    /// Waits until the other end has said goodbye, and not only left.
    pub async fn read_farewell(&mut self) {
        let mut byte = [0; 1];
        let read = timeout(PATIENCE, self.bytes.read(&mut byte)).await.expect("it ends");
        assert_eq!(read.expect("ends as TLS ends"), 0, "something came after {:?}", self.unread);
    }

    /// Speaks nothing yet, and the router thinks that it is HTTP/2.
    pub async fn raw_http2(
        address: SocketAddr,
        server_name: &str,
        authority: &CertificateDer<'static>,
    ) -> Self {
        let stream = secured(address, server_name, authority, true, &[b"h2"]).await;
        Self { bytes: stream.expect("a handshake"), unread: String::new() }
    }

    /// Speaks HTTP/2 from the start.
    pub async fn http2(
        address: SocketAddr,
        server_name: &str,
        authority: &CertificateDer<'static>,
    ) -> http2::SendRequest<Full<bytes::Bytes>> {
        let stream = secured(address, server_name, authority, true, &[b"h2"]).await;
        let stream = TokioIo::new(stream.expect("a handshake"));
        let handshake = http2::handshake(TokioExecutor::new(), stream).await;
        let (sender, connection) = handshake.expect("speaks HTTP/2");
        tokio::spawn(connection);
        sender
    }

    pub async fn send(&mut self, text: String) {
        self.bytes.write_all(text.as_bytes()).await.expect("writes");
        self.bytes.flush().await.expect("flushes");
    }

    pub async fn send_bytes(&mut self, data: &[u8]) -> bool {
        self.bytes.write_all(data).await.is_ok() && self.bytes.flush().await.is_ok()
    }

    /// How much came that was not asked for yet, in bytes. Only right for plain text.
    pub fn buffered(&self) -> usize {
        self.unread.len()
    }

    /// What comes next; nothing at the end.
    pub async fn read_some(&mut self) -> Vec<u8> {
        let mut buffer = vec![0; 64 * 1024];
        let length = match timeout(PATIENCE, self.bytes.read(&mut buffer)).await {
            Ok(Ok(length)) => length,
            Ok(Err(_)) => 0,
            Err(_) => panic!("nothing came"),
        };
        buffer.truncate(length);
        buffer
    }

    /// Reads until `last` came, the other end closed, or nothing came for a while.
    pub async fn read_until_quiet(&mut self, quiet: Duration, last: &[u8]) -> Vec<u8> {
        let mut all = Vec::new();
        let mut buffer = [0; 16 * 1024];
        while let Ok(Ok(length @ 1..)) = timeout(quiet, self.bytes.read(&mut buffer)).await {
            all.extend_from_slice(&buffer[..length]);
            if all.windows(last.len()).any(|bytes| bytes == last) {
                break;
            }
        }
        all
    }

    /// Reads until one of `texts` came, and says which.
    pub async fn read_until_any<'a>(&mut self, texts: &[&'a str]) -> &'a str {
        loop {
            let found = texts.iter().filter_map(|text| Some((self.unread.find(text)?, *text)));
            if let Some((at, text)) = found.min() {
                self.unread.drain(..at + text.len());
                return text;
            }
            let more = self.read_some().await;
            assert!(!more.is_empty(), "closed before {texts:?}, after {:?}", self.unread);
            self.unread.push_str(&String::from_utf8_lossy(&more));
        }
    }

    /// Reads until `text` came.
    pub async fn read_until(&mut self, text: &str) {
        let reading = async {
            loop {
                if let Some(at) = self.unread.find(text) {
                    self.unread.drain(..at + text.len());
                    return;
                }
                let mut buffer = [0; 4096];
                let length = self.bytes.read(&mut buffer).await.expect("reads");
                assert_ne!(length, 0, "closed before {text:?}, after {:?}", self.unread);
                self.unread.push_str(&String::from_utf8_lossy(&buffer[..length]));
            }
        };
        if timeout(PATIENCE, reading).await.is_err() {
            panic!("{text:?} did not come");
        }
    }

    /// Sends `request` and reads until the router closes, or a whole answer came.
    pub async fn exchange(mut self, request: &[u8]) -> Answer {
        self.ask(request).await
    }

    /// The same on a connection that may be used again.
    pub async fn ask(&mut self, request: &[u8]) -> Answer {
        // The router may answer and close before it has taken everything.
        let _ = self.bytes.write_all(request).await;
        let _ = self.bytes.flush().await;
        let mut all = Vec::new();
        let reading = async {
            let mut buffer = [0; 16 * 1024];
            loop {
                match self.bytes.read(&mut buffer).await {
                    Ok(0) | Err(_) => return,
                    Ok(length) => all.extend_from_slice(&buffer[..length]),
                }
                if is_whole(&all) {
                    return;
                }
            }
        };
        let _ = timeout(PATIENCE, reading).await;
        Answer::parse(String::from_utf8_lossy(&all).into_owned())
    }
}

async fn secured(
    address: SocketAddr,
    server_name: &str,
    authority: &CertificateDer<'static>,
    has_own_certificate: bool,
    protocols: &[&[u8]],
) -> std::io::Result<Box<dyn Bytes>> {
    let tcp = TcpStream::connect(address).await?;
    secured_over(tcp, server_name, authority, has_own_certificate, protocols).await
}

async fn secured_over(
    tcp: TcpStream,
    server_name: &str,
    authority: &CertificateDer<'static>,
    has_own_certificate: bool,
    protocols: &[&[u8]],
) -> std::io::Result<Box<dyn Bytes>> {
    let config = trusting(authority, has_own_certificate, protocols);
    let name = ServerName::try_from(server_name.to_owned()).expect("is a name");
    Ok(Box::new(TlsConnector::from(Arc::new(config)).connect(name, tcp).await?))
}

/// What a client trusts and speaks.
pub fn trusting(
    authority: &CertificateDer<'static>,
    has_own_certificate: bool,
    protocols: &[&[u8]],
) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(authority.clone()).expect("is an authority");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("has versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    // A name that nobody has gets the platform's certificate; all others get their own.
    if !has_own_certificate {
        config.dangerous().set_certificate_verifier(Arc::new(AnyName));
    }
    config
}

fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes);
    let text = text.strip_prefix("HTTP/1.1 100 Continue\r\n\r\n").unwrap_or(&text);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        name.eq_ignore_ascii_case("content-length").then(|| value.parse::<usize>().ok())?
    });
    match length {
        Some(length) => body.len() >= length,
        None => body.ends_with("0\r\n\r\n") || head.contains(" 204 "),
    }
}

/// Takes any certificate that the router can prove to have the key of.
#[derive(Debug)]
struct AnyName;

impl rustls::client::danger::ServerCertVerifier for AnyName {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let algorithms = &provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        let algorithms = &provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        let provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.signature_verification_algorithms.supported_schemes()
    }
}
