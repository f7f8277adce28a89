//! A client that speaks HTTP/3 by a library that the router does not use.

use std::{
    future::poll_fn,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
    time::Duration,
};

use bytes::{Buf, Bytes};
use h3::{
    client::{RequestStream, SendRequest},
    error::{ConnectionError, StreamError},
};
use http::{HeaderMap, Request, StatusCode};
use quinn::crypto::rustls::QuicClientConfig;
use rustls_pki_types::CertificateDer;
use tokio::{task::JoinHandle, time::timeout};

use crate::client::trusting;

const PATIENCE: Duration = Duration::from_secs(20);

/// An open connection.
pub struct Http3 {
    pub quic: quinn::Connection,
    sender: SendRequest<h3_quinn::OpenStreams, Bytes>,
    driver: JoinHandle<ConnectionError>,
    endpoint: quinn::Endpoint,
}

/// A request that is not answered yet.
pub type Asked = RequestStream<h3_quinn::BidiStream<Bytes>, Bytes>;

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("is text"))
    }
}

pub fn get(host: &str, path: &str) -> Request<()> {
    Request::get(format!("https://{host}{path}")).body(()).expect("is a request")
}

pub fn post(host: &str, path: &str) -> Request<()> {
    Request::post(format!("https://{host}{path}")).body(()).expect("is a request")
}

impl Http3 {
    /// `known`: the name has a certificate of its own; otherwise any is taken.
    pub async fn connect(
        address: SocketAddr,
        server_name: &str,
        authority: &CertificateDer<'static>,
        known: bool,
    ) -> Result<Self, quinn::ConnectionError> {
        let tls = trusting(authority, known, &[b"h3"]);
        let tls = QuicClientConfig::try_from(tls).expect("has what QUIC needs");
        let mut endpoint =
            quinn::Endpoint::client(([127, 0, 0, 1], 0).into()).expect("has a socket");
        endpoint.set_default_client_config(quinn::ClientConfig::new(Arc::new(tls)));
        let connecting = endpoint.connect(address, server_name).expect("is a name");
        let quic = timeout(PATIENCE, connecting).await.expect("hears something")?;
        let built = h3::client::new(h3_quinn::Connection::new(quic.clone())).await;
        // The router may have closed it already.
        let Ok((mut driver, sender)) = built else { return Err(quic.closed().await) };
        let driver = tokio::spawn(async move { poll_fn(|cx| driver.poll_close(cx)).await });
        Ok(Self { quic, sender, driver, endpoint })
    }

    /// Sends the head of a request.
    pub async fn begin(&mut self, request: Request<()>) -> Result<Asked, StreamError> {
        timeout(PATIENCE, self.sender.send_request(request)).await.expect("is sent")
    }

    /// Sends a request and reads its answer while it is still sending.
    pub async fn ask(
        &mut self,
        request: Request<()>,
        body: impl Into<Bytes>,
    ) -> Result<Answer, StreamError> {
        let (mut upload, download) = self.begin(request).await?.split();
        let body = body.into();
        let sending = async move {
            // The router may answer and stop taking before the end.
            if body.is_empty() || upload.send_data(body).await.is_ok() {
                let _ = upload.finish().await;
            }
        };
        let (answer, ()) = futures_util::future::join(read(download), sending).await;
        answer
    }

    /// The body of the answer to a GET that must be well.
    pub async fn page(&mut self, host: &str, path: &str) -> String {
        let answer = self.ask(get(host, path), "").await.expect("is answered");
        assert_eq!(answer.status, StatusCode::OK, "{}", answer.text());
        answer.text()
    }

    /// Goes on from another address.
    pub fn move_to(&self, address: IpAddr) {
        let socket = UdpSocket::bind((address, 0)).expect("is of this machine");
        self.endpoint.rebind(socket).expect("takes another socket");
    }

    /// Waits until the router has closed the connection, and says why.
    pub async fn closed(&mut self) -> quinn::ConnectionError {
        timeout(PATIENCE, self.quic.closed()).await.expect("is closed")
    }

    /// Waits until the router has said goodbye: no more requests on this connection.
    pub async fn dismissed(&mut self, host: &str) {
        let begun = std::time::Instant::now();
        while self.begin(get(host, "/who")).await.is_ok() {
            assert!(begun.elapsed() < PATIENCE, "takes requests for ever");
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Http3 {
    fn drop(&mut self) {
        self.driver.abort();
        self.quic.close(0x100_u32.into(), b"");
    }
}

/// Reads an answer to its end.
pub async fn read<S>(mut download: RequestStream<S, Bytes>) -> Result<Answer, StreamError>
where
    S: h3::quic::RecvStream,
{
    let reading = async {
        let (head, ()) = download.recv_response().await?.into_parts();
        let mut body = Vec::new();
        while let Some(mut data) = download.recv_data().await? {
            body.extend_from_slice(&data.copy_to_bytes(data.remaining()));
        }
        Ok(Answer { status: head.status, headers: head.headers, body })
    };
    timeout(PATIENCE, reading).await.expect("an answer comes to an end")
}
