//! Calls about previews.

use reqwest::Method;

use super::{Client, Result, segment};
use crate::{
    previews::{AcceptedPreview, Comparison, CreatePreview, Preview},
    sites::{Accepted, ChangeMove, DryRun},
};

impl Client {
    /// Makes a preview of a site. The same key again is the same request.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn create_preview(
        &self,
        site: &str,
        wanted: &CreatePreview,
        idempotency_key: &str,
    ) -> Result<AcceptedPreview> {
        let request = self
            .request(Method::POST, &format!("/v1/sites/{}/previews", segment(site)))
            .header("idempotency-key", idempotency_key)
            .json(wanted);
        self.answer(request).await
    }

    /// What making a preview would do, and what would stop it.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn plan_create_preview(&self, site: &str, wanted: &CreatePreview) -> Result<DryRun> {
        let wanted = CreatePreview { dry_run: true, ..wanted.clone() };
        self.send(Method::POST, &format!("/v1/sites/{}/previews", segment(site)), &wanted).await
    }

    /// All previews that are there, the newest first.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn previews(&self) -> Result<Vec<Preview>> {
        self.get("/v1/previews").await
    }

    /// Those of a site.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn site_previews(&self, site: &str) -> Result<Vec<Preview>> {
        self.get(&format!("/v1/sites/{}/previews", segment(site))).await
    }

    /// What differs between a preview and the site that it shows, with the first `list` of each kind.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn compare_preview(&self, preview: &str, list: u32) -> Result<Comparison> {
        self.get(&format!("/v1/previews/{}/comparison?list={list}", segment(preview))).await
    }

    /// Makes a site what its preview shows. The same key again is the same request.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn promote_preview(
        &self,
        preview: &str,
        change: &ChangeMove,
        idempotency_key: &str,
    ) -> Result<Accepted> {
        let path = format!("/v1/previews/{}/promote", segment(preview));
        let request = self.request(Method::POST, &path).header("idempotency-key", idempotency_key);
        self.answer(request.json(change)).await
    }

    /// What that would do.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn plan_promote_preview(&self, preview: &str) -> Result<DryRun> {
        let change = ChangeMove { dry_run: true, ..ChangeMove::default() };
        let path = format!("/v1/previews/{}/promote", segment(preview));
        self.send(Method::POST, &path, &change).await
    }

    /// Makes a site again what it was before it was put back to an earlier moment.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn undo_restore(
        &self,
        site: &str,
        change: &ChangeMove,
        idempotency_key: &str,
    ) -> Result<Accepted> {
        let path = format!("/v1/sites/{}/undo-restore", segment(site));
        let request = self.request(Method::POST, &path).header("idempotency-key", idempotency_key);
        self.answer(request.json(change)).await
    }

    /// What that would do.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn plan_undo_restore(&self, site: &str) -> Result<DryRun> {
        let change = ChangeMove { dry_run: true, ..ChangeMove::default() };
        self.send(Method::POST, &format!("/v1/sites/{}/undo-restore", segment(site)), &change).await
    }
}
