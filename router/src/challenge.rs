//! What certificate authorities ask for when they check that a hostname leads here: the answers to
//! the challenges that are open at the moment, of all regions. Any router gives them: `answer` those
//! to an HTTP request, `tls` those in a handshake.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use control_types::{SiteId, state::AcmeChallengeKind};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::certificates::{CertificateError, SealedCertificate};

pub mod answer;
pub mod lookup;

/// A row of `routing.challenge`.
#[derive(Clone, Debug)]
#[allow(missing_docs, reason = "the columns are described where the table is made")]
pub struct ChallengeRow {
    pub id: Uuid,
    pub site_id: Option<SiteId>,
    pub hostname: String,
    pub kind: AcmeChallengeKind,
    pub token: Option<String>,
    pub key_authorization: Option<String>,
    pub region: Option<String>,
    pub chain_pem: Option<String>,
    pub sealed_key: Option<Vec<u8>>,
    pub expires_at: OffsetDateTime,
}

/// An open challenge.
#[derive(Debug)]
pub struct Challenge {
    /// The row.
    pub id: Uuid,
    /// Whose hostname it is; none for the platform's own.
    pub site_id: Option<SiteId>,
    /// The hostname in canonical form that is to be shown.
    pub hostname: Box<str>,
    /// The answer.
    pub proof: Proof,
    /// Until when anybody will ask.
    pub expires_at: OffsetDateTime,
}

/// The answer to a challenge.
#[derive(Debug)]
pub enum Proof {
    /// The body for `/.well-known/acme-challenge/<token>`.
    Http {
        /// The last part of the path.
        token: Box<str>,
        /// The body.
        key_authorization: Bytes,
    },
    /// The certificate for a handshake that offers `acme-tls/1` alone.
    TlsAlpn {
        /// The region whose routers can open its key.
        region: Box<str>,
        /// The certificate.
        certificate: Arc<SealedCertificate>,
    },
}

/// A row that is no challenge.
#[derive(Debug, thiserror::Error)]
pub enum ChallengeError {
    /// What its kind needs is not there.
    #[error("the row lacks what its kind needs")]
    Incomplete,
    /// Its certificate is none.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
}

impl TryFrom<ChallengeRow> for Challenge {
    type Error = ChallengeError;

    fn try_from(row: ChallengeRow) -> Result<Self, ChallengeError> {
        use ChallengeError::Incomplete;
        let proof = match row.kind {
            AcmeChallengeKind::Http01 => Proof::Http {
                token: row.token.ok_or(Incomplete)?.into(),
                key_authorization: row.key_authorization.ok_or(Incomplete)?.into(),
            },
            AcmeChallengeKind::TlsAlpn01 => Proof::TlsAlpn {
                region: row.region.ok_or(Incomplete)?.into(),
                certificate: Arc::new(SealedCertificate::from_pem(
                    row.id,
                    row.site_id,
                    &row.hostname,
                    &row.chain_pem.ok_or(Incomplete)?,
                    row.sealed_key.ok_or(Incomplete)?,
                    row.expires_at.unix_timestamp(),
                    0,
                )?),
            },
        };
        Ok(Self {
            id: row.id,
            site_id: row.site_id,
            hostname: row.hostname.into(),
            proof,
            expires_at: row.expires_at,
        })
    }
}

impl Challenge {
    /// The body for a request to `hostname`, if this is its challenge.
    pub fn http_body(&self, hostname: &str) -> Option<Bytes> {
        match &self.proof {
            Proof::Http { key_authorization, .. } if *self.hostname == *hostname => {
                Some(key_authorization.clone())
            }
            _ => None,
        }
    }
}

/// All open challenges at one moment.
#[derive(Clone, Debug, Default)]
pub struct Challenges {
    http: HashMap<Box<str>, Arc<Challenge>>,
    tls_alpn: HashMap<Box<str>, Arc<Challenge>>,
}

impl Challenges {
    /// The challenge with a path's token.
    pub fn http(&self, token: &str) -> Option<&Arc<Challenge>> {
        self.http.get(token)
    }

    /// The challenge that a handshake for `hostname` answers.
    pub fn tls_alpn(&self, hostname: &str) -> Option<&Arc<Challenge>> {
        self.tls_alpn.get(hostname)
    }

    /// These without those that `replaced` says the owner of, and with `read`.
    #[must_use]
    pub fn merged(&self, replaced: impl Fn(Option<SiteId>) -> bool, read: Vec<Challenge>) -> Self {
        let mut merged = self.clone();
        merged.http.retain(|_, challenge| !replaced(challenge.site_id));
        merged.tls_alpn.retain(|_, challenge| !replaced(challenge.site_id));
        for challenge in read {
            let challenge = Arc::new(challenge);
            match &challenge.proof {
                Proof::Http { token, .. } => {
                    merged.http.insert(token.clone(), Arc::clone(&challenge));
                }
                Proof::TlsAlpn { .. } => {
                    merged.tls_alpn.insert(challenge.hostname.clone(), Arc::clone(&challenge));
                }
            }
        }
        merged
    }
}
