//! An HTTPS server on this machine, with a root of its own.

use std::sync::Arc;

use axum::Router;
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use provisioner::certificate_authority::CertificateAuthority;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

pub struct TlsServer {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    /// What vouches for it.
    pub root_pem: String,
}

impl TlsServer {
    pub async fn bind() -> Self {
        let (root_pem, key) = CertificateAuthority::generate().expect("an authority");
        let own = CertificateAuthority::from_pem(&root_pem, &key).expect("loads");
        let issued = own.issue(&"localhost".parse().expect("a hostname")).expect("issues");
        let chain = CertificateDer::from_pem_slice(issued.chain_pem.as_bytes()).expect("PEM");
        let key = PrivateKeyDer::from_pem_slice(issued.key_pem.as_bytes()).expect("PEM");
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![chain], key)
            .expect("they match");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("binds");
        Self { listener, acceptor: TlsAcceptor::from(Arc::new(config)), root_pem }
    }

    pub fn url(&self) -> String {
        format!("https://localhost:{}", self.listener.local_addr().expect("bound").port())
    }

    pub fn root_der(&self) -> Vec<u8> {
        CertificateDer::from_pem_slice(self.root_pem.as_bytes()).expect("PEM").as_ref().to_vec()
    }

    /// Answers until the runtime ends.
    pub fn serve(self, app: Router) {
        let Self { listener, acceptor, .. } = self;
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, app) = (acceptor.clone(), app.clone());
                tokio::spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else { return };
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app))
                        .await;
                });
            }
        });
    }
}
