//! One name on its way to a certificate: order, proof, certificate. Whatever must be found again
//! after a crash is written before the next step.

use std::time::Duration;

use control_types::state::{AcmeChallengeKind, CertificateSource};
use instant_acme::{AuthorizationStatus, ChallengeStatus, Error, Order, OrderStatus};
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PKCS_ECDSA_P256_SHA256};
use time::OffsetDateTime;
use tokio::time::sleep;
use uuid::Uuid;

use crate::{
    acme::{
        Acme,
        authority::Authority,
        challenges::type_of,
        critical_section::CriticalSection,
        failure::{Failure, Fault, PROVING, is_bad_nonce, words},
        http::told_to_wait,
        placing::{Failed, Placed},
        schedule::renewal_by_age,
    },
    certificate_check::{self, Anchors, Checked},
    control_db::{
        certificate_orders::Claimed,
        certificates::{Held, NewCertificate},
    },
};

/// The first pause between two looks at an order, and the longest.
const FIRST_LOOK: Duration = Duration::from_millis(200);
const LONGEST_LOOK: Duration = Duration::from_secs(10);
/// How often an authority may refuse a nonce in a row. The library asks three times by itself.
pub(super) const BAD_NONCES: u32 = 16;

/// Repeats a call while the authority only wants a newer nonce.
macro_rules! persistently {
    ($call:expr) => {{
        let mut tries = 0;
        loop {
            match $call.await {
                Err(error) if is_bad_nonce(&error) && tries < BAD_NONCES => tries += 1,
                outcome => break outcome,
            }
        }
    }};
}
pub(super) use persistently;

/// The key of the certificate in the making, which is sealed in the row already.
struct Pending {
    certificate: Uuid,
    key: KeyPair,
    sealed: Vec<u8>,
}

impl Acme {
    /// Gets a certificate for a claimed name and puts it in its place.
    pub(super) async fn order(
        &self,
        claimed: &Claimed,
        held: Option<&Held>,
        section: &CriticalSection,
    ) -> Result<(), Failed> {
        let pending = self.pending_key(claimed).await?;
        let mut placed = match self.resume(claimed).await? {
            Some(placed) => placed,
            None => self.place(claimed, held, section).await?,
        };
        let authority = placed.authority;
        let outcome = self.complete(claimed, &mut placed, &pending, section).await;
        if let Err(failure) = &outcome {
            authority.note(failure);
            if failure.account_is_gone {
                authority.forget(self.pool(), &claimed.region, placed.opened.id).await?;
            }
        }
        outcome.map_err(|failure| Failed { failure, authority: Some(authority.name().to_owned()) })
    }

    /// The key is sealed and stored before anything else happens, so that whoever goes on with the
    /// order can use what comes of it.
    async fn pending_key(&self, claimed: &Claimed) -> Result<Pending, Failure> {
        let keys = &self.parts.keys;
        if let (Some(certificate), Some(sealed)) = (claimed.certificate_id, &claimed.sealed_key) {
            let pem = keys.open_certificate_key(&claimed.region, certificate, sealed)?;
            let key = KeyPair::from_pem(&pem).map_err(|error| Failure::here(&error))?;
            return Ok(Pending { certificate, key, sealed: sealed.clone() });
        }
        let certificate = Uuid::now_v7();
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)
            .map_err(|error| Failure::here(&error))?;
        let pem = key.serialize_pem();
        let sealed = keys.seal_certificate_key(&claimed.region, certificate, &pem)?;
        claimed.claim().note_key(self.pool(), certificate, &sealed).await?;
        Ok(Pending { certificate, key, sealed })
    }

    /// The order that somebody placed before; none when there is none, or none that is of use.
    async fn resume(&self, claimed: &Claimed) -> Result<Option<Placed<'_>>, Failed> {
        let (Some(url), Some(name)) = (&claimed.order_url, &claimed.authority) else {
            return Ok(None);
        };
        let Some(authority) = self.authority(name) else { return Ok(None) };
        let at = |failure| Failed { failure, authority: Some(name.clone()) };
        let opened =
            authority.open(self.pool(), &self.parts.keys, &claimed.region).await.map_err(at)?;
        match persistently!(opened.account.order(url.clone())) {
            Ok(order) => Ok(Some(Placed { authority, opened, order })),
            Err(error) => {
                let failure = Failure::of(&error, name, "looking at the order");
                authority.note(&failure);
                if failure.account_is_gone {
                    authority.forget(self.pool(), &claimed.region, opened.id).await?;
                }
                // An order that the authority does not know any more is no reason to wait.
                let is_over = matches!(failure.fault, Fault::Authority | Fault::Name);
                if is_over { Ok(None) } else { Err(at(failure)) }
            }
        }
    }

    /// From a placed order to the certificate in its place.
    async fn complete(
        &self,
        claimed: &Claimed,
        placed: &mut Placed<'_>,
        pending: &Pending,
        section: &CriticalSection,
    ) -> Result<(), Failure> {
        let name = placed.authority.name();
        let proven = self.prove(claimed, name, &mut placed.order).await?;
        let chain = self.certificate(name, &mut placed.order, claimed, pending).await?;
        let checked = self.verify(placed.authority, claimed, &chain, pending)?;
        let life = checked.validity.not_after - checked.validity.not_before;
        // So that names that were issued together are not renewed together.
        let renew_at = renewal_by_age(checked.validity) - life * (rand::random::<f64>() / 40.0);
        let certificate = NewCertificate {
            id: pending.certificate,
            site: claimed.site,
            hostname: &claimed.hostname,
            region: &claimed.region,
            issuer: name,
            source: CertificateSource::Acme,
            chain_pem: &checked.chain_pem,
            sealed_key: &pending.sealed,
            not_before: checked.validity.not_before,
            not_after: checked.validity.not_after,
        };
        let challenge = proven.or(claimed.challenge);
        let _whole = section.enter().await;
        claimed.claim().finish(self.pool(), certificate, renew_at, challenge).await?;
        self.parts.nudges.all();
        tracing::info!(
            hostname = claimed.hostname,
            region = claimed.region,
            authority = name,
            not_after = %checked.validity.not_after,
            "certificate issued"
        );
        metrics::counter!("provisioner_certificates_issued_total", "authority" => name.to_owned())
            .increment(1);
        Ok(())
    }

    /// Shows the authority that the name leads here, unless it knows already. Says how.
    async fn prove(
        &self,
        claimed: &Claimed,
        name: &str,
        order: &mut Order,
    ) -> Result<Option<AcmeChallengeKind>, Failure> {
        let mut proof = None;
        let mut has_begun = false;
        let mut pause = FIRST_LOOK;
        loop {
            match order.state().status {
                OrderStatus::Ready | OrderStatus::Processing | OrderStatus::Valid => {
                    return Ok(proof);
                }
                OrderStatus::Invalid => return Err(why_invalid(name, order).await),
                OrderStatus::Pending => {}
            }
            if !has_begun {
                proof = self.begin_proof(claimed, name, order).await?;
                has_begun = true;
            }
            pause_before_look(&mut pause).await;
            persistently!(order.refresh()).map_err(|error| Failure::of(&error, name, PROVING))?;
        }
    }

    /// Answers the challenge of the order's one authorization. None when it needs none.
    async fn begin_proof(
        &self,
        claimed: &Claimed,
        name: &str,
        order: &mut Order,
    ) -> Result<Option<AcmeChallengeKind>, Failure> {
        let failed = |error: &Error| Failure::of(error, name, PROVING);
        let mut tries = 0;
        loop {
            let mut authorizations = order.authorizations();
            let mut authorization = match authorizations.next().await {
                None => return Ok(None),
                Some(Err(error)) if is_bad_nonce(&error) && tries < BAD_NONCES => {
                    tries += 1;
                    continue;
                }
                Some(outcome) => outcome.map_err(|error| failed(&error))?,
            };
            match authorization.status {
                AuthorizationStatus::Valid => return Ok(None),
                AuthorizationStatus::Pending => {}
                _ => return Err(why_unproven(name, &authorization.challenges)),
            }
            let offered = |kind: &AcmeChallengeKind| {
                authorization.challenges.iter().any(|offer| offer.r#type == type_of(*kind))
            };
            let preferred = claimed.challenge.filter(|kind| self.challenges.contains(kind));
            let mut kinds = preferred.into_iter().chain(self.challenges.iter().copied());
            let Some(kind) = kinds.find(offered) else {
                return Err(Failure::new(
                    Fault::Authority,
                    format!("{name} offers no way to prove the name that routers can answer"),
                ));
            };
            let Some(mut challenge) = authorization.challenge(type_of(kind)) else { continue };
            let (answer, token) = (challenge.key_authorization(), challenge.token.clone());
            self.publish(claimed, kind, &token, &answer).await?;
            if challenge.status == ChallengeStatus::Pending {
                persistently!(challenge.set_ready()).map_err(|error| failed(&error))?;
            }
            return Ok(Some(kind));
        }
    }

    /// The chain that the authority issues for a proven order.
    async fn certificate(
        &self,
        name: &str,
        order: &mut Order,
        claimed: &Claimed,
        pending: &Pending,
    ) -> Result<String, Failure> {
        const ISSUING: &str = "issuing the certificate";
        let failed = |error: &Error| Failure::of(error, name, ISSUING);
        if order.state().status == OrderStatus::Ready {
            let request = signing_request(&claimed.hostname, &pending.key)
                .map_err(|error| Failure::here(&error))?;
            persistently!(order.finalize_csr(&request)).map_err(|error| failed(&error))?;
        }
        let mut pause = FIRST_LOOK;
        loop {
            match order.state().status {
                OrderStatus::Valid => break,
                OrderStatus::Invalid => return Err(why_invalid(name, order).await),
                OrderStatus::Processing | OrderStatus::Ready | OrderStatus::Pending => {}
            }
            pause_before_look(&mut pause).await;
            persistently!(order.refresh()).map_err(|error| failed(&error))?;
        }
        let chain = persistently!(order.certificate()).map_err(|error| failed(&error))?;
        chain.ok_or_else(|| {
            Failure::new(Fault::Authority, format!("{name} has an order without a certificate"))
        })
    }

    fn verify(
        &self,
        authority: &Authority,
        claimed: &Claimed,
        chain: &str,
        pending: &Pending,
    ) -> Result<Checked, Failure> {
        let (hostname, now) = (&claimed.hostname, OffsetDateTime::now_utc());
        let anchors = Anchors::Issued(&authority.settings.roots);
        let key = pending.key.serialize_pem();
        certificate_check::check(hostname, chain, &key, now, &anchors).map_err(|unfit| {
            let message = format!("{} issued what cannot serve: {unfit}", authority.name());
            Failure::new(Fault::Authority, message)
        })
    }
}

/// Waits as long as the authority said, or a little longer each time.
async fn pause_before_look(pause: &mut Duration) {
    sleep(told_to_wait().unwrap_or(*pause).clamp(FIRST_LOOK, LONGEST_LOOK)).await;
    *pause = (*pause * 3 / 2).min(LONGEST_LOOK);
}

/// Names stand in the alternative names only.
fn signing_request(hostname: &str, key: &KeyPair) -> Result<Vec<u8>, rcgen::Error> {
    let mut params = CertificateParams::new([hostname.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    Ok(params.serialize_request(key)?.der().to_vec())
}

/// Why an order came to nothing: most often one of its authorizations knows.
async fn why_invalid(name: &str, order: &mut Order) -> Failure {
    let mut tries = 0;
    loop {
        let mut authorizations = order.authorizations();
        let Some(Ok(mut authorization)) = authorizations.next().await else { break };
        match authorization.refresh().await {
            Err(error) if is_bad_nonce(&error) && tries < BAD_NONCES => tries += 1,
            Ok(state) if state.status != AuthorizationStatus::Valid => {
                return why_unproven(name, &state.challenges);
            }
            _ => break,
        }
    }
    match &order.state().error {
        Some(problem) => Failure::of(&Error::Api(problem.clone()), name, PROVING),
        None => Failure::new(Fault::Authority, format!("{name} calls the order invalid")),
    }
}

fn why_unproven(name: &str, challenges: &[instant_acme::Challenge]) -> Failure {
    let problem = challenges.iter().find_map(|challenge| challenge.error.as_ref());
    let Some(problem) = problem else {
        return Failure::new(Fault::Proof, format!("{name} did not find the name to lead here"));
    };
    let mut failure = Failure::of(&Error::Api(problem.clone()), name, PROVING);
    failure.message = format!("{name} could not see that the name leads here: {}", words(problem));
    failure.keeps_order = false;
    failure
}
