//! Backups of clusters: what their keepers are told, and what they report.
//!
//! A keeper is the process beside a cluster that makes its backups (`ta3lem cluster keep`). It speaks to
//! the provisioner with a token of its own, which opens these calls only.

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// What connections call themselves (`application_name`) that do for minutes what nobody waits for. A
/// keeper puts them behind the others of its cluster.
pub const BACKGROUND: &str = "ta3lem-background";

/// Lets a keeper speak for a cluster. Putting the same again only makes sure that the object store knows
/// its key; another token takes the place of the one before.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PutKeeper {
    /// The keeper's token: at least 32 letters that nobody can guess. Only its hash is kept.
    pub token: String,
}

/// What a keeper is told: where the backups of its cluster go, and how long they are kept.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct KeeperSettings {
    /// The cluster's name.
    pub cluster: String,
    /// Its region.
    pub region: String,
    /// The endpoint's URL of the object store.
    pub endpoint: String,
    /// The bucket there.
    pub bucket: String,
    /// The prefix there, without slashes around it.
    pub prefix: String,
    /// The key that reaches the prefix.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// What the backups are encrypted with.
    pub passphrase: String,
    /// How many days back every moment must stay restorable.
    pub retention_days: u32,
}

/// How much of a cluster a base backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum BackupKind {
    /// Everything.
    Full,
    /// What changed since the last full one.
    Differential,
    /// What changed since the last one of any kind.
    Incremental,
}

impl fmt::Display for BackupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "full",
            Self::Differential => "differential",
            Self::Incremental => "incremental",
        })
    }
}

/// A base backup of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Backup {
    /// As pgBackRest names it: `20261130-081500F`.
    pub label: String,
    /// How much it holds.
    pub kind: BackupKind,
    /// When it began.
    #[serde(with = "time::serde::rfc3339")]
    pub started_at: OffsetDateTime,
    /// When it was complete: the first moment that can be restored from it.
    #[serde(with = "time::serde::rfc3339")]
    pub finished_at: OffsetDateTime,
    /// Bytes of the cluster.
    pub bytes: u64,
    /// Bytes that it added to the object store.
    pub stored_bytes: u64,
}

/// What a keeper sees of its cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeeperReport {
    /// When it looked, by the clock of its machine.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// The base backups that are kept, the oldest first.
    pub backups: Vec<Backup>,
    /// Everything that was committed until then is in the object store. None before it is known.
    #[serde(with = "time::serde::rfc3339::option")]
    pub recoverable_until: Option<OffsetDateTime>,
    /// Finished segments of the write-ahead log that are not in the object store yet.
    pub waiting_segments: u32,
    /// What it is doing, in words, if it does anything.
    pub doing: Option<String>,
    /// What is wrong, each as a sentence that says what to do.
    pub problems: Vec<String>,
}

/// How the backups of a cluster are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ClusterBackups {
    /// The cluster's name.
    pub cluster: String,
    /// Its region.
    pub region: String,
    /// Where they lie; none when nobody makes them.
    pub object_store: Option<String>,
    /// When its keeper reported last.
    #[serde(with = "time::serde::rfc3339::option")]
    pub reported_at: Option<OffsetDateTime>,
    /// What it said.
    pub report: Option<KeeperReport>,
    /// What would be lost if the cluster were lost now: the age of the oldest write that may not be in
    /// the object store, in seconds.
    pub at_risk_secs: Option<u64>,
    /// What is wrong, if anything is.
    pub problem: Option<String>,
}

/// Which moments a site can be put back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreWindow {
    /// The first one.
    #[serde(with = "time::serde::rfc3339")]
    pub from: OffsetDateTime,
    /// The last one that is in the object store by now; later ones are on their way.
    #[serde(with = "time::serde::rfc3339")]
    pub until: OffsetDateTime,
    /// What would be lost if the site's cluster were lost now, in seconds.
    pub at_risk_secs: u64,
    /// Whether it was tried; none before the first try.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proof: Option<RestoreProof>,
}

/// Whether a site could be put back when it was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RestoreProof {
    /// The last try.
    #[serde(with = "time::serde::rfc3339")]
    pub tried_at: OffsetDateTime,
    /// What was wrong then, if anything was.
    pub problem: Option<String>,
    /// The last try with which nothing was wrong.
    #[serde(with = "time::serde::rfc3339::option")]
    pub proved_at: Option<OffsetDateTime>,
    /// How long that took from the order to an open site, in milliseconds.
    pub took_ms: Option<u64>,
    /// The age of the oldest write that was in no backup then, in seconds.
    pub at_risk_secs: Option<u64>,
}
