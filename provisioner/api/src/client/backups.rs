//! Calls about backups: those of operators, and those of keepers.

use reqwest::Method;

use super::{Client, Result, segment};
use crate::backups::{ClusterBackups, KeeperReport, KeeperSettings, PutKeeper};

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
}
