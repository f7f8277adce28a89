//! Challenges: what routers answer so that an authority sees that a name leads here.

use std::time::Duration;

use control_types::state::AcmeChallengeKind;
use futures_util::future::join_all;
use instant_acme::{ChallengeType, KeyAuthorization};
use provisioner_api::places::Router;
use rcgen::{
    CertificateParams, CustomExtension, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256,
};
use serde::Deserialize;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use crate::{
    acme::{
        Acme,
        failure::{Failure, Fault},
    },
    control_db::{
        acme_challenges::{self, NewChallenge, Proof},
        certificate_orders::{ClaimError, Claimed},
        places,
    },
    routers,
};

/// How long a challenge stays when nobody removes it.
const LIFE: time::Duration = time::Duration::hours(2);
/// Longest time until all routers have a challenge. They ask for what they do not have, so that
/// going on without one of them is a risk only while the control database is out of its reach.
const ROUTERS: Duration = Duration::from_secs(15);
/// A router that does not answer for so long is not waited for.
const SILENT: Duration = Duration::from_secs(3);
/// How soon to ask a router again.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// What the ACME library calls a kind.
pub fn type_of(kind: AcmeChallengeKind) -> ChallengeType {
    match kind {
        AcmeChallengeKind::Http01 => ChallengeType::Http01,
        AcmeChallengeKind::TlsAlpn01 => ChallengeType::TlsAlpn01,
    }
}

/// What a router says of a challenge.
#[derive(Deserialize)]
struct Seen {
    id: Uuid,
}

impl Acme {
    /// Lets routers answer a challenge; returns when they do.
    pub(super) async fn publish(
        &self,
        claimed: &Claimed,
        kind: AcmeChallengeKind,
        token: &str,
        answer: &KeyAuthorization,
    ) -> Result<(), Failure> {
        let id = Uuid::now_v7();
        let certificate = match kind {
            AcmeChallengeKind::Http01 => None,
            AcmeChallengeKind::TlsAlpn01 => Some(
                self_signed(&claimed.hostname, answer.digest().as_ref())
                    .map_err(|error| Failure::here(&error))?,
            ),
        };
        let sealed_key = match &certificate {
            Some((_, key)) => {
                Some(self.parts.keys.seal_certificate_key(&claimed.region, id, key)?)
            }
            None => None,
        };
        let proof = match (&certificate, &sealed_key) {
            (Some((chain_pem, _)), Some(sealed_key)) => {
                Proof::TlsAlpn { region: &claimed.region, chain_pem, sealed_key }
            }
            _ => Proof::Http { token, key_authorization: answer.as_str() },
        };
        let challenge = NewChallenge {
            id,
            order: claimed.id,
            site: claimed.site,
            hostname: &claimed.hostname,
            proof,
            expires_at: OffsetDateTime::now_utc() + LIFE,
        };
        let mut tx = self.pool().begin().await?;
        claimed.claim().check(&mut tx).await?;
        acme_challenges::replace(&mut tx, &challenge).await?;
        tx.commit().await?;
        let path = match kind {
            AcmeChallengeKind::Http01 => format!("/challenges/{token}"),
            AcmeChallengeKind::TlsAlpn01 => format!("/challenges/tls-alpn-01/{}", claimed.hostname),
        };
        self.await_routers(id, &path).await
    }

    async fn await_routers(&self, challenge: Uuid, path: &str) -> Result<(), Failure> {
        let routers = places::routers(self.pool()).await?;
        let until = Instant::now() + ROUTERS;
        join_all(routers.iter().map(|router| self.await_router(router, challenge, path, until)))
            .await;
        Ok(())
    }

    async fn await_router(&self, router: &Router, challenge: Uuid, path: &str, until: Instant) {
        let mut silent_since = None;
        while Instant::now() < until {
            match routers::ask::<Seen>(&self.parts.http, router, path).await {
                Ok(seen) if seen.id == challenge => return,
                Ok(_) => silent_since = None,
                // It answers, and does not have it yet.
                Err(error) if error.is_status() || error.is_decode() => silent_since = None,
                Err(_) => {
                    let since = *silent_since.get_or_insert_with(Instant::now);
                    if since.elapsed() > SILENT {
                        tracing::warn!(
                            router = router.name,
                            "a router does not answer; its part \
                            in a challenge is not waited for"
                        );
                        return;
                    }
                }
            }
            sleep(ASK_AGAIN).await;
        }
        tracing::warn!(router = router.name, "a router did not tell that it has a challenge");
    }
}

impl From<ClaimError> for Failure {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::Lost => {
                Self { keeps_order: true, ..Self::new(Fault::Here, error.to_string()) }
            }
            ClaimError::Database(error) => Self::here(&error),
        }
    }
}

/// The certificate for `acme-tls/1` (RFC 8737 section 3), and its key.
fn self_signed(hostname: &str, digest: &[u8]) -> Result<(String, String), rcgen::Error> {
    let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
    let mut params = CertificateParams::new([hostname.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.not_before = OffsetDateTime::now_utc() - time::Duration::hours(1);
    params.not_after = OffsetDateTime::now_utc() + time::Duration::days(7);
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key)?;
    Ok((certificate.pem(), key.serialize_pem()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_certificate_shows_the_digest_critically() {
        let (pem, _) = self_signed("a.example", &[7; 32]).expect("makes one");
        let (_, pem) = x509_parser::pem::parse_x509_pem(pem.as_bytes()).expect("pem");
        let certificate = pem.parse_x509().expect("parses");
        let extension = certificate
            .iter_extensions()
            .find(|extension| extension.oid.to_id_string() == "1.3.6.1.5.5.7.1.31")
            .expect("is there");
        assert!(extension.critical);
        assert_eq!(extension.value, [&[4, 32][..], &[7; 32]].concat());
    }
}
