//! What can go wrong with an object store, and whether it is worth trying again.

use s3::error::S3Error;

/// Why something could not be done in an object store.
#[derive(Debug, thiserror::Error)]
pub enum SiteStorageError {
    /// It does not answer.
    #[error("object store {store} cannot be reached; see that its endpoint runs")]
    Down {
        /// The object store's name.
        store: String,
        /// Why.
        source: anyhow::Error,
    },
    /// It answered, and refused.
    #[error("object store {store} refused to {action}: {reason}")]
    Refused {
        /// The object store's name.
        store: String,
        /// What was to be done.
        action: &'static str,
        /// What it said.
        reason: String,
        /// The HTTP status, if there was one.
        status: Option<u16>,
    },
    /// Its endpoint, bucket or key administration is not well formed.
    #[error("object store {store}: {field} {reason}")]
    Configuration {
        /// The object store's name.
        store: String,
        /// The field of its registration.
        field: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl SiteStorageError {
    /// Sorts an error of the S3 client. What the endpoint wrote is kept short.
    pub(super) fn of_s3(store: &str, action: &'static str, error: S3Error) -> Self {
        let store = store.to_owned();
        match error {
            S3Error::HttpFailWithBody(status, body) => {
                let reason = format!("{status} {}", s3_code(&body));
                Self::Refused { store, action, reason, status: Some(status) }
            }
            S3Error::Reqwest(error) => Self::Down { store, source: without_url(error) },
            S3Error::Io(error) => Self::Down { store, source: error.into() },
            S3Error::Http(error) => Self::Down { store, source: error.into() },
            error => Self::Refused { store, action, reason: error.to_string(), status: None },
        }
    }

    /// Sorts an error of the key administration's client.
    pub(super) fn of_http(store: &str, error: reqwest::Error) -> Self {
        Self::Down { store: store.to_owned(), source: without_url(error) }
    }

    /// Whether the same may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Down { .. } => true,
            Self::Refused { status, .. } => {
                status.is_none_or(|status| status >= 500 || status == 429 || status == 408)
            }
            Self::Configuration { .. } => false,
        }
    }

    /// The name of the object store that is at fault.
    pub fn store(&self) -> &str {
        match self {
            Self::Down { store, .. }
            | Self::Refused { store, .. }
            | Self::Configuration { store, .. } => store,
        }
    }

    /// The part of the platform that is at fault, as problem details name it.
    pub fn component(&self) -> String {
        format!("object store {}", self.store())
    }

    /// Whether there is no such object or upload. A bucket that is not there is something else.
    pub(super) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: Some(404), reason, .. } if !reason.contains("NoSuchBucket"))
    }

    /// Whether the endpoint does not know the request at all.
    pub(super) fn is_not_implemented(&self) -> bool {
        matches!(self, Self::Refused { status: Some(501), .. })
    }
}

/// The code in S3's XML for an error, or the beginning of whatever else was said.
fn s3_code(body: &str) -> String {
    let code = body.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
    code.map_or_else(|| body.chars().take(200).collect(), |(code, _)| code.to_owned())
}

/// A URL may hold a signature.
fn without_url(error: reqwest::Error) -> anyhow::Error {
    anyhow::Error::new(error.without_url())
}
