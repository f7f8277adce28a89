//! When the authority wants a certificate renewed (RFC 9773).

use control_types::state::CertificateSource;
use instant_acme::CertificateIdentifier;
use rustls_pki_types::{CertificateDer, pem::PemObject};
use time::{Duration, OffsetDateTime};

use crate::{
    acme::{
        Acme,
        failure::Failure,
        http::told_to_wait,
        schedule::{self, Validity, Window, renewal_by_age, renewal_in_window},
    },
    control_db::{
        certificate_orders::{Claimed, Rest},
        certificates::Held,
    },
};

/// How long until the authority is asked again after it did not answer.
const AFTER_SILENCE: Duration = Duration::hours(1);

/// What an authority calls a certificate.
pub fn identifier(held: &Held) -> Option<CertificateIdentifier<'static>> {
    let leaf = CertificateDer::from_pem_slice(held.chain_pem.as_bytes()).ok()?;
    CertificateIdentifier::try_from(&leaf).ok()
}

/// From when until when.
pub fn validity(held: &Held) -> Validity {
    Validity { not_before: held.not_before, not_after: held.not_after }
}

impl Acme {
    /// Asks the authority that issued a certificate, and says until when the name rests. No answer
    /// is no failure: the certificate's age decides then.
    pub(super) async fn ask(&self, claimed: &Claimed, held: &Held) -> Rest {
        let now = OffsetDateTime::now_utc();
        let by_age = claimed.renew_at.unwrap_or_else(|| renewal_by_age(validity(held)));
        let rest = |window, renew_at: OffsetDateTime, ask_at: Option<OffsetDateTime>| Rest {
            window,
            renew_at: Some(renew_at),
            ask_at,
            next_at: ask_at.map_or(renew_at, |at| at.min(renew_at)),
        };
        match self.suggested(claimed, held).await {
            Ok(None) => rest(None, by_age, None),
            Ok(Some((window, pause))) => {
                let renew_at = if claimed.window() == Some(window) {
                    by_age
                } else {
                    renewal_in_window(validity(held), window, rand::random())
                };
                rest(Some(window), renew_at, Some(schedule::ask_again(now, pause)))
            }
            Err(failure) => {
                tracing::info!(
                    hostname = claimed.hostname,
                    "no renewal information: {}",
                    failure.message
                );
                let pause = failure.wait.and_then(|wait| wait.try_into().ok());
                let ask_at = schedule::ask_again(now, pause.unwrap_or(AFTER_SILENCE));
                rest(claimed.window(), by_age, Some(ask_at))
            }
        }
    }

    /// The window, and when to ask again; none when the authority suggests nothing.
    async fn suggested(
        &self,
        claimed: &Claimed,
        held: &Held,
    ) -> Result<Option<(Window, Duration)>, Failure> {
        let authority = self.authority(&held.issuer);
        let Some(authority) = authority.filter(|_| held.source == CertificateSource::Acme) else {
            return Ok(None);
        };
        let opened = authority.open(self.pool(), &self.parts.keys, &claimed.region).await?;
        let Some(id) = identifier(held).filter(|_| opened.has_renewal_info) else {
            return Ok(None);
        };
        let (info, pause) = opened.account.renewal_info(&id).await.map_err(|error| {
            Failure::of(&error, authority.name(), "asking for the time of renewal")
        })?;
        let window = Window { start: info.suggested_window.start, end: info.suggested_window.end };
        let pause = told_to_wait().unwrap_or(pause).try_into().unwrap_or(AFTER_SILENCE);
        Ok(Some((window, pause)))
    }
}
