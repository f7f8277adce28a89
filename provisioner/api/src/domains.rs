//! Domains over the API: the hostnames of a site, and what the DNS says of them.

use control_types::{
    Hostname, SiteId, Slug,
    state::{CertificateOrderState, CertificateSource, DomainKind, DomainProof, DomainState},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use crate::certificates::{CertificateAlarm, CertificateFailure};

/// A hostname of a site, with all that is known of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DomainDetail {
    /// Whose it is, or whose claim.
    #[schema(value_type = uuid::Uuid)]
    pub site_id: SiteId,
    /// The site's short name.
    #[schema(value_type = String)]
    pub site: Slug,
    /// The name in canonical form (A-labels).
    #[schema(value_type = String)]
    pub hostname: Hostname,
    /// The same as people write it.
    pub unicode: String,
    /// The platform's or the institution's own.
    #[schema(value_type = String)]
    pub kind: DomainKind,
    /// How far it is: pending, verified, active; released when it was just removed.
    #[schema(value_type = String)]
    pub state: DomainState,
    /// Whether the others redirect to it.
    pub is_primary: bool,
    /// Whether it becomes the primary one as soon as it is active.
    pub primary_when_active: bool,
    /// Where it opens, as `https://belajar.example.ac.id`.
    pub url: String,
    /// How it was shown that it is the site's own.
    #[schema(value_type = Option<String>)]
    pub proof: Option<DomainProof>,
    /// When it was shown.
    #[serde(with = "time::serde::rfc3339::option")]
    pub verified_at: Option<OffsetDateTime>,
    /// The certificate that serves it in the site's region.
    pub certificate: Option<DomainCertificate>,
    /// How far the next certificate is; none when no public authority is asked for it.
    #[schema(value_type = Option<String>)]
    pub certificate_state: Option<CertificateOrderState>,
    /// Why there is no certificate yet, or no newer one; none when nothing failed since the last one.
    pub certificate_failure: Option<CertificateFailure>,
    /// What somebody has to do about the certificate, a sentence each. Empty when nobody can do more
    /// than wait, or all is well.
    pub certificate_to_do: Vec<String>,
    /// Whether every router of the site's region serves it; told when one domain is shown or checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routed: Option<bool>,
    /// What the DNS said when it last answered; none before, and for the platform's own names.
    pub check: Option<DomainCheck>,
    /// When it was claimed.
    #[serde(with = "time::serde::rfc3339")]
    pub created_at: OffsetDateTime,
    /// When the claim is given up, unless ownership is shown until then.
    #[serde(with = "time::serde::rfc3339::option")]
    pub expires_at: Option<OffsetDateTime>,
}

impl DomainDetail {
    /// Whether DNS and certificate are as they shall be and the domain is on its way or there:
    /// nobody has to do anything.
    pub fn is_well(&self) -> bool {
        let dns_is_well = match self.kind {
            DomainKind::Platform => true,
            DomainKind::Custom => {
                matches!(self.state, DomainState::Verified | DomainState::Active)
                    && self.check.as_ref().is_some_and(DomainCheck::is_well)
            }
        };
        dns_is_well && self.certificate_to_do.is_empty()
    }
}

/// A certificate, as far as people care.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DomainCertificate {
    /// The name that it certifies: the domain's, or the platform's wildcard.
    pub hostname: String,
    /// Who issued it: `local`, `uploaded`, or an authority by its name in the configuration.
    pub issuer: String,
    /// Where it came from.
    #[schema(value_type = String)]
    pub source: CertificateSource,
    /// Good from then.
    #[serde(with = "time::serde::rfc3339")]
    pub not_before: OffsetDateTime,
    /// Good until then.
    #[serde(with = "time::serde::rfc3339")]
    pub not_after: OffsetDateTime,
    /// Set when it ended, or ends so soon that somebody should look.
    pub alarm: Option<CertificateAlarm>,
}

/// What the DNS says of a domain, and what it should say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct DomainCheck {
    /// When it was asked.
    #[serde(with = "time::serde::rfc3339")]
    pub checked_at: OffsetDateTime,
    /// Whether the records show that the name is the site's own.
    pub ownership: Ownership,
    /// Where the name leads.
    pub pointing: Pointing,
    /// Record by record: what is there, and what should be.
    pub records: Vec<RecordDiff>,
    /// What somebody has to do, a sentence each. Empty when all is well.
    pub to_do: Vec<String>,
    /// What is not wrong but worth knowing, a sentence each.
    pub warnings: Vec<String>,
}

impl DomainCheck {
    /// Whether nobody has to do anything.
    pub fn is_well(&self) -> bool {
        self.to_do.is_empty()
    }

    /// Whether a question that matters got no answer; then nothing was decided.
    pub fn is_unknown(&self) -> bool {
        self.ownership == Ownership::Unknown || self.pointing == Pointing::Unknown
    }
}

/// Whether the records show that a name is the site's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ownership {
    /// By the TXT record.
    Txt,
    /// By the CNAME record.
    Cname,
    /// It was shown before, or an operator vouched for it.
    Before,
    /// Not by any record.
    NotShown,
    /// The DNS did not answer.
    Unknown,
}

/// Where a name leads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Pointing {
    /// To the site's region.
    Here,
    /// To another region of the platform, which passes visitors on.
    OtherRegion,
    /// Some records lead here, some elsewhere: so it goes for visitors.
    Mixed,
    /// Not to the platform.
    Elsewhere,
    /// Nowhere: it has no address.
    Nowhere,
    /// The DNS did not answer.
    Unknown,
}

/// One record (or several of one type at one name) as it is and as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RecordDiff {
    /// The full name of the record.
    pub name: String,
    /// Its type, as `TXT`.
    pub kind: String,
    /// What is there.
    pub found: Vec<String>,
    /// What should be there; nothing when it should not exist.
    pub wanted: Vec<String>,
    /// How the two compare.
    pub status: RecordStatus,
    /// How long what is there may be remembered elsewhere, in seconds.
    pub ttl_secs: Option<u32>,
    /// What to do, or why nothing is to be done.
    pub advice: Option<String>,
}

/// How a record compares with what it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum RecordStatus {
    /// As it should be.
    Ok,
    /// It should be there.
    Missing,
    /// It should say something else.
    Wrong,
    /// It should not be there.
    Surplus,
    /// The DNS did not answer.
    Unknown,
}

/// Claims a hostname for a site.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AddDomain {
    /// The name, in either form.
    pub hostname: String,
    /// Make it the primary one as soon as it is active.
    #[serde(default)]
    pub primary: bool,
    /// The operator vouches that the name is the site's own: no record has to show it.
    #[serde(default)]
    pub vouched: bool,
    /// Why, for the audit trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Changes a domain, or gives it up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ChangeDomain {
    /// Why, for the audit trail.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}
