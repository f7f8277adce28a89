//! What an instance is told at its start, as JSON on its standard input. It holds secrets, so it
//! never is an argument or an environment variable (both can be read in `/proc`).

use std::fmt;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use crate::{Generation, InstanceId, SiteId, Slug};

/// The number of the listening socket that an instance inherits (`SD_LISTEN_FDS_START`).
pub const LISTEN_FD: i32 = 3;
/// Where the instance answers its runtime: a socket of its own that hands the listening socket
/// back to a provisioner that was restarted (`SCM_RIGHTS`).
pub const CONTROL_FD: i32 = 4;

/// All that an instance knows of the world.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InstanceConfig {
    /// The site that it serves.
    pub site_id: SiteId,
    /// The site's slug, for log lines.
    pub slug: Slug,
    /// The generation of the placement that it serves.
    pub generation: Generation,
    /// Itself.
    pub instance_id: InstanceId,
    /// The site's database.
    pub database: DatabaseConfig,
    /// The site's prefix in the object store.
    pub storage: StorageConfig,
    /// Seconds without an open connection after which it ends by itself; 0 means never.
    pub idle_exit_secs: u32,
    /// Most connections to the database at once.
    pub max_database_connections: u32,
    /// The site is a preview: another one as it was at some moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preview: Option<PreviewConfig>,
}

/// Of which moment a preview is, for whom, and until when. Nothing can be changed in one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PreviewConfig {
    /// The moment.
    #[serde(with = "time::serde::rfc3339")]
    pub moment: OffsetDateTime,
    /// SHA-256 of the secret that opens it, in hexadecimal. The secret itself is in the link that was
    /// given to whoever asked for the preview: `/preview?key=<secret>`.
    pub key_hash: String,
    /// Nobody sees anything from then on.
    #[serde(with = "time::serde::rfc3339")]
    pub expires_at: OffsetDateTime,
}

/// How to reach the site's database, as the role that owns nothing.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DatabaseConfig {
    /// A host name, or the directory of the server's unix socket.
    pub host: String,
    /// The port (part of the socket's name for a unix socket).
    pub port: u16,
    /// The database.
    pub database: String,
    /// The login role.
    pub user: String,
    /// Its password.
    pub password: String,
}

/// How to reach the site's prefix in its object store.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StorageConfig {
    /// The S3 endpoint's URL.
    pub endpoint: String,
    /// The region's name as the endpoint's signatures want it.
    pub region: String,
    /// The bucket.
    pub bucket: String,
    /// The prefix, without a slash at its end.
    pub prefix: String,
    /// An access key that reaches the prefix and nothing else.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
}

impl fmt::Debug for DatabaseConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseConfig({}@{}:{}/{})", self.user, self.host, self.port, self.database)
    }
}

impl fmt::Debug for StorageConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StorageConfig({}/{}/{})", self.endpoint, self.bucket, self.prefix)
    }
}
