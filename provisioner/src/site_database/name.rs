//! The name of a site's database. It says nothing of the site, since every role of a cluster can
//! read the names of all databases; and it is never changed.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// `s_` and 32 hexadecimal digits. The names of the site's roles follow from it. A value of this
/// type is safe inside an SQL statement.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SiteDatabaseName(String);

/// A text is not the name of a site's database.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not the name of a site's database: s_ and 32 hexadecimal digits")]
pub struct NotASiteDatabase(String);

impl SiteDatabaseName {
    /// The name that belongs to a placement: the same for the same id, so that a step run twice
    /// makes one database.
    pub fn of_placement(id: Uuid) -> Self {
        Self(format!("s_{}", id.simple()))
    }

    /// The name itself, of the database and of the role that instances log in with.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The role that instances log in with. It owns nothing.
    pub fn login(&self) -> &str {
        &self.0
    }

    /// The role that owns the database and all in it. Nobody logs in with it.
    pub fn owner(&self) -> String {
        format!("{}_owner", self.0)
    }

    /// The group that may read and write. Taking the login role out of it is the fence.
    pub fn rw(&self) -> String {
        format!("{}_rw", self.0)
    }

    /// The group that may read.
    pub fn ro(&self) -> String {
        format!("{}_ro", self.0)
    }
}

impl FromStr for SiteDatabaseName {
    type Err = NotASiteDatabase;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        match text.strip_prefix("s_") {
            Some(digits) if digits.len() == 32 && digits.bytes().all(is_digit) => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(NotASiteDatabase(text.to_owned())),
        }
    }
}

impl TryFrom<String> for SiteDatabaseName {
    type Error = NotASiteDatabase;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SiteDatabaseName> for String {
    fn from(name: SiteDatabaseName) -> Self {
        name.0
    }
}

impl fmt::Display for SiteDatabaseName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_is_a_name() {
        let name = SiteDatabaseName::of_placement(Uuid::now_v7());
        assert_eq!(name.as_str().parse(), Ok(name.clone()));
        assert_eq!(name.as_str().len(), 34);
        let upper = name.as_str().to_uppercase();
        let long = format!("{name}0");
        for wrong in [
            "",
            "s_",
            "postgres",
            "template_site_v1",
            &name.as_str()[1..],
            &upper,
            &long,
            &name.rw(),
        ] {
            assert!(wrong.parse::<SiteDatabaseName>().is_err(), "{wrong}");
        }
        assert!("s_0123456789abcdef0123456789abcde'".parse::<SiteDatabaseName>().is_err());
    }
}
