//! A site's short name: the first label of its hostname on the platform's domain.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Names that no site may take, since the platform uses them or people would mistake them for it.
pub const RESERVED: &[&str] = &[
    "admin",
    "api",
    "app",
    "assets",
    "auth",
    "billing",
    "blog",
    "cdn",
    "console",
    "dashboard",
    "docs",
    "ftp",
    "help",
    "imap",
    "internal",
    "localhost",
    "login",
    "mail",
    "metrics",
    "ns1",
    "ns2",
    "ops",
    "pop",
    "preview",
    "provisioner",
    "root",
    "router",
    "security",
    "smtp",
    "static",
    "status",
    "support",
    "system",
    "ta3lem",
    "test",
    "www",
];

/// How the slugs of previews begin. No site that is asked for may have such a one.
pub const PREVIEW: &str = "preview-";

/// Why a text is not a slug.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SlugError {
    /// Not 2 to 40 characters.
    #[error("a slug has 2 to 40 characters")]
    Length,
    /// Something besides `a-z`, `0-9` and single inner hyphens.
    #[error(
        "a slug consists of lower-case letters, digits and single hyphens inside, and begins with a letter"
    )]
    Character,
    /// One of [`RESERVED`].
    #[error("this slug is reserved for the platform")]
    Reserved,
}

/// A valid slug.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Slug(Box<str>);

impl Slug {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Slug {
    type Err = SlugError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if !(2..=40).contains(&text.len()) {
            return Err(SlugError::Length);
        }
        let letters = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        let hyphens = text.ends_with('-') || text.contains("--");
        if !letters || hyphens || !text.starts_with(|c: char| c.is_ascii_lowercase()) {
            return Err(SlugError::Character);
        }
        if RESERVED.contains(&text) {
            return Err(SlugError::Reserved);
        }
        Ok(Self(text.into()))
    }
}

impl TryFrom<String> for Slug {
    type Error = SlugError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Slug> for String {
    fn from(slug: Slug) -> Self {
        slug.0.into()
    }
}

impl AsRef<str> for Slug {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Slug {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Hostname;

    #[test]
    fn slugs_are_told_from_what_is_none() {
        assert!("acme".parse::<Slug>().is_ok());
        assert!("acme-corp-2".parse::<Slug>().is_ok());
        for bad in ["", "a", "-a", "a-", "a--b", "Acme", "1st", "a.b", "a_b", "xn--bcher"] {
            assert!(bad.parse::<Slug>().is_err(), "{bad:?}");
        }
        assert_eq!("www".parse::<Slug>(), Err(SlugError::Reserved));
    }

    proptest! {
        #[test]
        fn every_slug_is_a_hostname_label(text in "[a-z0-9-]{0,45}") {
            if let Ok(slug) = text.parse::<Slug>() {
                let platform: Hostname = "lms.example".parse().expect("a hostname");
                prop_assert!(Hostname::on_platform(&slug, &platform).is_ok());
            }
        }
    }
}
