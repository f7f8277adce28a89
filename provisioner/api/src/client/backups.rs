//! Calls about backups: those of operators, and those of keepers.

use std::time::Duration;

use reqwest::Method;
use uuid::Uuid;

use super::{Client, Result, TIMEOUT, secs, segment};
use crate::{
    backups::{ClusterBackups, KeeperReport, KeeperSettings, PutKeeper},
    restores::{RestoreOrder, RestoreProgress},
};

impl Client {
    /// How the backups of all clusters are.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn backups(&self) -> Result<Vec<ClusterBackups>> {
        self.get("/v1/backups").await
    }

    /// Lets a keeper speak for a cluster.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn put_keeper(&self, cluster: &str, keeper: &PutKeeper) -> Result<ClusterBackups> {
        self.send(Method::PUT, &format!("/v1/clusters/{}/keeper", segment(cluster)), keeper).await
    }

    /// What the keeper that holds this client's token shall do.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn keeper_settings(&self) -> Result<KeeperSettings> {
        self.get("/v1/keeper").await
    }

    /// What the keeper that holds this client's token sees. Answers what it shall do from now on.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn keeper_report(&self, report: &KeeperReport) -> Result<KeeperSettings> {
        self.send(Method::POST, "/v1/keeper/report", report).await
    }

    /// What the keeper that holds this client's token shall bring back. Answers when there is something
    /// else to do than `known`, or after `wait`.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn restore_orders(
        &self,
        known: &[Uuid],
        wait: Duration,
    ) -> Result<Vec<RestoreOrder>> {
        let known: Vec<String> = known.iter().map(Uuid::to_string).collect();
        let request = self
            .request(Method::GET, "/v1/keeper/restores")
            .query(&[("known", known.join(",")), ("wait_secs", secs(wait).to_string())])
            .timeout(wait + TIMEOUT);
        self.answer(request).await
    }

    /// How far the keeper that holds this client's token is with an order. Refused as not found when
    /// nobody wants it any more.
    ///
    /// # Errors
    /// As every call: see [`ClientError`](super::ClientError).
    pub async fn restore_progress(&self, order: Uuid, progress: &RestoreProgress) -> Result<()> {
        let path = format!("/v1/keeper/restores/{order}");
        self.send(Method::POST, &path, progress).await.map(|_: RestoreProgress| ())
    }
}
