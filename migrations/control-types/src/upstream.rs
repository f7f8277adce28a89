//! Where an instance listens.

use std::{fmt, net::SocketAddr, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

/// The address of an instance: `unix:/path` or `tcp:host:port`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Upstream {
    /// A unix socket on the router's machine.
    Unix(PathBuf),
    /// A TCP address.
    Tcp(SocketAddr),
}

/// The text is no upstream address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an upstream is unix:/absolute/path or tcp:address:port")]
pub struct UpstreamError;

impl FromStr for Upstream {
    type Err = UpstreamError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Some(path) = text.strip_prefix("unix:") {
            return if path.starts_with('/') {
                Ok(Self::Unix(path.into()))
            } else {
                Err(UpstreamError)
            };
        }
        let address = text.strip_prefix("tcp:").ok_or(UpstreamError)?;
        address.parse().map(Self::Tcp).map_err(|_| UpstreamError)
    }
}

impl TryFrom<String> for Upstream {
    type Error = UpstreamError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Upstream> for String {
    fn from(upstream: Upstream) -> Self {
        upstream.to_string()
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_back() {
        for text in ["unix:/run/a.sock", "tcp:127.0.0.1:80", "tcp:[::1]:80"] {
            assert_eq!(text.parse::<Upstream>().map(|u| u.to_string()), Ok(text.to_owned()));
        }
        for bad in ["", "unix:a", "tcp:host", "http://a"] {
            assert!(bad.parse::<Upstream>().is_err(), "{bad:?}");
        }
    }
}
