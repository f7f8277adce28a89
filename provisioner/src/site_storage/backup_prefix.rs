//! Where the backups of a cluster lie in a bucket.

use std::{fmt, str::FromStr};

use uuid::Uuid;

/// `pg/` and eight hexadecimal digits: short, since what pgBackRest puts below it is long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackupPrefix(String);

/// A text is not the prefix of backups.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not the prefix of backups: pg/ and eight hexadecimal digits")]
pub struct NotABackupPrefix(String);

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

impl FromStr for BackupPrefix {
    type Err = NotABackupPrefix;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match text.strip_prefix("pg/") {
            Some(digits) if digits.len() == 8 && digits.bytes().all(digit) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(NotABackupPrefix(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_is_a_prefix() {
        let prefix = BackupPrefix::of(Uuid::now_v7());
        assert_eq!(prefix.to_string().parse(), Ok(prefix.clone()));
        for wrong in ["", "pg/", "pg/0123456", "pg/0123456G", "site/01234567", "pg/../../ab"] {
            assert!(wrong.parse::<BackupPrefix>().is_err(), "{wrong}");
        }
    }
}
