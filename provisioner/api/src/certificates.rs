//! Certificates over the API. Private keys only come in; none ever goes out.

use control_types::state::{CertificateFault, CertificateOrderState, CertificateSource};
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
    /// Whose fault it was.
    #[schema(value_type = Option<String>)]
    pub last_fault: Option<CertificateFault>,
    /// Set when the one in use ended, or ends so soon that somebody should look.
    pub alarm: Option<CertificateAlarm>,
}

/// What is alarming about a certificate in use. One of a public or the local authority should have
/// been renewed long before its last 7 days, one that a person uploaded is told of in its last 14; in
/// both cases it is a quarter of the life, if that is shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CertificateAlarm {
    /// It ends soon.
    EndsSoon,
    /// It ended: browsers refuse it.
    Ended,
}

/// An attempt to get a certificate that came to nothing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct CertificateFailure {
    /// In words.
    pub reason: String,
    /// Whose fault it is; none when that was not noted.
    #[schema(value_type = Option<String>)]
    pub fault: Option<CertificateFault>,
    /// When it was.
    #[serde(with = "time::serde::rfc3339")]
    pub at: OffsetDateTime,
    /// Failures in a row; 0 when it was nobody's failure, or another way is tried first.
    pub failures: i32,
    /// When it is tried again.
    #[serde(with = "time::serde::rfc3339")]
    pub next_at: OffsetDateTime,
}

/// A certificate of one's own.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct UploadCertificate {
    /// A hostname of the site. For the platform's wildcard it may be left out.
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
