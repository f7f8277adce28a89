//! Calls that change where a site is.

use reqwest::Method;
use serde::Serialize;

use super::{Client, Result, segment};
use crate::sites::{Accepted, ChangeMove, ChangeRegions, DryRun, MoveSite, Site, SiteRecord};

impl Client {
    /// Moves a site. The same key again is the same request.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn move_site(
        &self,
        site: &str,
        wanted: &MoveSite,
        idempotency_key: &str,
    ) -> Result<Accepted> {
        self.ask(site, "move", wanted, idempotency_key).await
    }

    /// What moving a site would do, and what would stop it.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn plan_move_site(&self, site: &str, wanted: &MoveSite) -> Result<DryRun> {
        let wanted = MoveSite { dry_run: true, ..wanted.clone() };
        self.send(Method::POST, &path(site, "move"), &wanted).await
    }

    /// Moves a site back to where it was before its last move.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn move_site_back(
        &self,
        site: &str,
        change: &ChangeMove,
        idempotency_key: &str,
    ) -> Result<Accepted> {
        self.ask(site, "move-back", change, idempotency_key).await
    }

    /// What moving it back would do.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn plan_move_site_back(&self, site: &str) -> Result<DryRun> {
        let change = ChangeMove { dry_run: true, ..ChangeMove::default() };
        self.send(Method::POST, &path(site, "move-back"), &change).await
    }

    /// Removes what a site left at its old place.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn settle_site(
        &self,
        site: &str,
        change: &ChangeMove,
        idempotency_key: &str,
    ) -> Result<Accepted> {
        self.ask(site, "settle", change, idempotency_key).await
    }

    /// What removing it would do.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn plan_settle_site(&self, site: &str) -> Result<DryRun> {
        let change = ChangeMove { dry_run: true, ..ChangeMove::default() };
        self.send(Method::POST, &path(site, "settle"), &change).await
    }

    /// Changes where a site's data may be.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn change_regions(&self, site: &str, change: &ChangeRegions) -> Result<Site> {
        self.send(Method::POST, &path(site, "regions"), change).await
    }

    /// What was proven of a site, the oldest first.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn site_records(&self, site: &str) -> Result<Vec<SiteRecord>> {
        self.get(&path(site, "records")).await
    }

    async fn ask(
        &self,
        site: &str,
        verb: &str,
        body: &impl Serialize,
        idempotency_key: &str,
    ) -> Result<Accepted> {
        let request = self
            .request(Method::POST, &path(site, verb))
            .header("idempotency-key", idempotency_key)
            .json(body);
        self.answer(request).await
    }
}

fn path(site: &str, verb: &str) -> String {
    format!("/v1/sites/{}/{verb}", segment(site))
}
