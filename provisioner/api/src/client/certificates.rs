//! Calls about certificates.

use reqwest::Method;

use super::{Client, Result, segment};
use crate::certificates::{Certificate, UploadCertificate};

impl Client {
    /// All certificates in use, or on their way.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn certificates(&self) -> Result<Vec<Certificate>> {
        self.get("/v1/certificates").await
    }

    /// Those of a site.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn site_certificates(&self, site: &str) -> Result<Vec<Certificate>> {
        self.get(&format!("/v1/sites/{}/certificates", segment(site))).await
    }

    /// Asks for a new certificate of a site's hostname now.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn renew_certificate(&self, site: &str, hostname: &str) -> Result<Certificate> {
        let path = format!("/v1/sites/{}/certificates/{}/renew", segment(site), segment(hostname));
        self.send(Method::POST, &path, &()).await
    }

    /// Lets a hostname of a site serve with a certificate of one's own.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn upload_certificate(
        &self,
        site: &str,
        upload: &UploadCertificate,
    ) -> Result<Certificate> {
        let path = format!("/v1/sites/{}/certificates", segment(site));
        self.send(Method::POST, &path, upload).await
    }

    /// The certificate for all hostnames right below the platform's domain, in each region; none
    /// before one was uploaded.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn platform_certificate(&self) -> Result<Vec<Certificate>> {
        self.get("/v1/platform/certificate").await
    }

    /// Lets all hostnames right below the platform's domain serve with one certificate.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn put_platform_certificate(
        &self,
        upload: &UploadCertificate,
    ) -> Result<Vec<Certificate>> {
        self.send(Method::PUT, "/v1/platform/certificate", upload).await
    }
}
