//! The calls about domains.

use reqwest::Method;

use super::{Client, Result, segment};
use crate::domains::{AddDomain, ChangeDomain, DomainDetail};

impl Client {
    /// The hostnames of a site, the primary one first.
    ///
    /// # Errors
    /// As every call: see [`super::ClientError`].
    pub async fn domains(&self, site: &str) -> Result<Vec<DomainDetail>> {
        self.get(&format!("/v1/sites/{}/domains", segment(site))).await
    }

    /// One hostname of a site.
    ///
    /// # Errors
    /// As every call: see [`super::ClientError`].
    pub async fn domain(&self, site: &str, hostname: &str) -> Result<DomainDetail> {
        self.get(&path(site, hostname)).await
    }

    /// Claims a hostname for a site.
    ///
    /// # Errors
    /// As every call: see [`super::ClientError`].
    pub async fn add_domain(&self, site: &str, add: &AddDomain) -> Result<DomainDetail> {
        self.send(Method::POST, &format!("/v1/sites/{}/domains", segment(site)), add).await
    }

    /// Looks into the DNS now. A claim whose ownership is shown is verified by it.
    ///
    /// # Errors
    /// As every call: see [`super::ClientError`].
    pub async fn check_domain(&self, site: &str, hostname: &str) -> Result<DomainDetail> {
        self.send(Method::POST, &format!("{}/check", path(site, hostname)), &()).await
    }

    /// Makes a hostname the one that the site's others redirect to.
    ///
    /// # Errors
    /// As every call: see [`super::ClientError`].
    pub async fn make_domain_primary(
        &self,
        site: &str,
        hostname: &str,
        change: &ChangeDomain,
    ) -> Result<DomainDetail> {
        self.send(Method::POST, &format!("{}/primary", path(site, hostname)), change).await
    }

    /// Gives a hostname up.
    ///
    /// # Errors
    /// As every call: see [`super::ClientError`].
    pub async fn remove_domain(
        &self,
        site: &str,
        hostname: &str,
        change: &ChangeDomain,
    ) -> Result<DomainDetail> {
        self.send(Method::DELETE, &path(site, hostname), change).await
    }
}

fn path(site: &str, hostname: &str) -> String {
    format!("/v1/sites/{}/domains/{}", segment(site), segment(hostname))
}
