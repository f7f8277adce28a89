//! What can go wrong on a cluster, and whether it is worth trying again.

use migrations::MigrateError;

use super::SiteDatabaseName;

/// What a cluster has no more of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exhausted {
    /// Room on its disk.
    Disk,
    /// Connections.
    Connections,
    /// Memory, or another limit of its configuration.
    Memory,
}

impl std::fmt::Display for Exhausted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Disk => "its disk is full",
            Self::Connections => "all its connections are taken",
            Self::Memory => "it is out of memory",
        })
    }
}

/// Why something could not be done on a cluster.
#[derive(Debug, thiserror::Error)]
pub enum SiteDatabaseError {
    /// It does not answer, or is starting or stopping.
    #[error("cluster {cluster} cannot be reached; see that its server runs")]
    ClusterDown {
        /// The cluster's name.
        cluster: String,
        /// Why.
        source: sqlx::Error,
    },
    /// It has no room.
    #[error("cluster {cluster} is full: {exhausted}")]
    ClusterFull {
        /// The cluster's name.
        cluster: String,
        /// What it has no more of.
        exhausted: Exhausted,
        /// What it said.
        source: sqlx::Error,
    },
    /// It answered, and refused.
    #[error("cluster {cluster} refused to {action}")]
    Refused {
        /// The cluster's name.
        cluster: String,
        /// What was to be done.
        action: &'static str,
        /// What it said.
        source: sqlx::Error,
    },
    /// The site's schema could not be built.
    #[error("cluster {cluster}: the template of the site schema could not be built")]
    Template {
        /// The cluster's name.
        cluster: String,
        /// Why.
        source: MigrateError,
    },
    /// The schema of a database that came out of a backup could not be brought up to ours.
    #[error("cluster {cluster}: the schema of a restored database could not be brought up to date")]
    Schema {
        /// The cluster's name.
        cluster: String,
        /// Why.
        source: MigrateError,
    },
    /// A database belongs to another site or generation than the caller believes. Nothing was
    /// changed.
    #[error("cluster {cluster}: database {database} holds {found}, not {expected}")]
    OtherAuthority {
        /// The cluster's name.
        cluster: String,
        /// The database.
        database: SiteDatabaseName,
        /// Whose it is.
        found: String,
        /// Whose it was believed to be.
        expected: String,
    },
    /// The cluster's administration URL cannot be read. (The URL is a secret, so it is not shown.)
    #[error("cluster {cluster}: `admin_url` is no Postgres URL (postgres://user@host/database)")]
    AdminUrl {
        /// The cluster's name.
        cluster: String,
    },
    /// The server lacks what the platform needs.
    #[error("cluster {cluster} runs Postgres {found}; 15 is the oldest that will do")]
    TooOld {
        /// The cluster's name.
        cluster: String,
        /// What it runs.
        found: String,
    },
}

impl SiteDatabaseError {
    /// Sorts what Postgres, or the way to it, said while `action` was to be done.
    pub(super) fn sort(cluster: &str, action: &'static str, source: sqlx::Error) -> Self {
        let cluster = cluster.to_owned();
        let Some(code) = sqlstate(&source) else {
            return match is_lost(&source) {
                true => Self::ClusterDown { cluster, source },
                false => Self::Refused { cluster, action, source },
            };
        };
        if code.starts_with("08") || code.starts_with("57P0") {
            return Self::ClusterDown { cluster, source };
        }
        let exhausted = match code.as_str() {
            "53100" => Some(Exhausted::Disk),
            "53300" => Some(Exhausted::Connections),
            _ if code.starts_with("53") => Some(Exhausted::Memory),
            _ => None,
        };
        match exhausted {
            Some(exhausted) => Self::ClusterFull { cluster, exhausted, source },
            None => Self::Refused { cluster, action, source },
        }
    }

    /// Whether the same may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::ClusterDown { .. } | Self::ClusterFull { .. } => true,
            Self::Refused { source, .. } => is_passing(source),
            Self::Template { source, .. } | Self::Schema { source, .. } => {
                source.database_error().is_some_and(is_passing)
            }
            Self::OtherAuthority { .. } | Self::AdminUrl { .. } | Self::TooOld { .. } => false,
        }
    }

    /// The name of the cluster that is at fault.
    pub fn cluster(&self) -> &str {
        match self {
            Self::ClusterDown { cluster, .. }
            | Self::ClusterFull { cluster, .. }
            | Self::Refused { cluster, .. }
            | Self::Template { cluster, .. }
            | Self::Schema { cluster, .. }
            | Self::OtherAuthority { cluster, .. }
            | Self::AdminUrl { cluster }
            | Self::TooOld { cluster, .. } => cluster,
        }
    }

    /// The part of the platform that is at fault, as problem details name it.
    pub fn component(&self) -> String {
        format!("cluster {}", self.cluster())
    }
}

/// Postgres' five-letter code for an error.
pub(super) fn sqlstate(error: &sqlx::Error) -> Option<String> {
    error.as_database_error()?.code().map(std::borrow::Cow::into_owned)
}

/// Connection lost, out of room, busy, dead lock, lock not available, timed out, killed.
fn is_passing(error: &sqlx::Error) -> bool {
    match sqlstate(error) {
        Some(code) => {
            ["08", "53", "57P0", "40"].iter().any(|class| code.starts_with(class))
                || ["55006", "55P03", "57014"].contains(&code.as_str())
        }
        None => is_lost(error),
    }
}

/// Whether there was no connection, or no longer one. A server that dies while it is greeted leaves an
/// answer that is none (`Protocol`).
pub fn is_lost(error: &sqlx::Error) -> bool {
    matches!(
        error,
        sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::Protocol(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
    )
}
