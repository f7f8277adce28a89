//! Where the backups of a cluster lie in a bucket.

use std::fmt;

use uuid::Uuid;

/// `pg/` and eight hexadecimal digits, as the control database checks: short, since what pgBackRest puts
/// below it is long.
#[derive(Clone, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(transparent)]
pub struct BackupPrefix(String);

impl BackupPrefix {
    /// Of a cluster. The end of an id is random, its beginning is the time.
    pub fn of(cluster: Uuid) -> Self {
        let [.., a, b, c, d] = cluster.into_bytes();
        Self(format!("pg/{a:02x}{b:02x}{c:02x}{d:02x}"))
    }

    /// The key of the object with the sealed secrets of the backups.
    pub fn secrets_key(&self) -> String {
        format!("{self}/secrets.sealed")
    }
}

impl fmt::Display for BackupPrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
