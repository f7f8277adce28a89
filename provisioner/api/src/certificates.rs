//! Certificates over the API. Private keys only come in; none ever goes out.

use control_types::state::{CertificateOrderState, CertificateSource};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

/// The certificate of a hostname in a region, or the way to it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Certificate {
    /// The name that it certifies.
    pub hostname: String,
    /// Where it serves.
    pub region: String,
    /// Whose hostname it is; none for the platform's own names.
    pub site: Option<String>,
    /// Where the one that serves came from; none when there is none yet.
    #[schema(value_type = Option<String>)]
    pub source: Option<CertificateSource>,
    /// Who issued it: `local`, `uploaded`, or an authority by its name in the configuration.
    pub issuer: Option<String>,
    /// Good from then.
    #[serde(with = "time::serde::rfc3339::option")]
    pub not_before: Option<OffsetDateTime>,
    /// Good until then.
    #[serde(with = "time::serde::rfc3339::option")]
    pub not_after: Option<OffsetDateTime>,
    /// How far the next one is; none when no public authority is asked for it.
    #[schema(value_type = Option<String>)]
    pub state: Option<CertificateOrderState>,
    /// When it will be renewed, as far as that is known.
    #[serde(with = "time::serde::rfc3339::option")]
    pub renew_at: Option<OffsetDateTime>,
    /// When there is something to do or to look at.
    #[serde(with = "time::serde::rfc3339::option")]
    pub next_at: Option<OffsetDateTime>,
    /// Failures in a row.
    pub failures: i32,
    /// The last failure, in words.
    pub last_error: Option<String>,
}

/// A certificate of one's own.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadCertificate {
    /// A hostname of the site. Ignored for the platform's own wildcard.
    #[serde(default)]
    pub hostname: String,
    /// Leaf first, with all intermediates.
    pub chain_pem: String,
    /// The private key without a passphrase. Stored sealed.
    pub key_pem: String,
}

impl std::fmt::Debug for UploadCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UploadCertificate({})", self.hostname)
    }
}
