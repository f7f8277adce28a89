//! Places an order at an authority. An order that is taken there and not noted here is lost and has
//! to be placed a second time, so nothing but the end of the process comes in between, and that is
//! noted before. RFC 8555 has no remedy: a request cannot be repeated as the same one, and the list
//! of an account's orders (section 7.1.2.1) is not offered where it matters. (An authority may
//! answer with the order that is still open for the same name; Let's Encrypt does.)

use std::time::Duration;

use control_types::state::CertificateSource;
use instant_acme::{CertificateIdentifier, Identifier, NewOrder, Order};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use crate::{
    acme::{
        Acme,
        authority::{Authority, Opened},
        critical_section::CriticalSection,
        failure::{Failure, Fault, is_bad_nonce},
        order::{BAD_NONCES, persistently},
        preflight::permits,
        renewal::identifier,
    },
    control_db::{
        acme_accounts,
        certificate_orders::{ClaimError, Claimed},
        certificates::Held,
    },
    engine::worker::chain,
};

/// How soon to try again to note an order.
const NOTE_AGAIN: Duration = Duration::from_millis(500);

/// A failure, and the authority that it happened at; none before there was one.
#[derive(Debug)]
pub struct Failed {
    /// What happened.
    pub failure: Failure,
    /// Where.
    pub authority: Option<String>,
}

impl<T: Into<Failure>> From<T> for Failed {
    fn from(failure: T) -> Self {
        Self { failure: failure.into(), authority: None }
    }
}

/// An order at an authority.
pub struct Placed<'a> {
    /// Where.
    pub authority: &'a Authority,
    /// Our account there.
    pub opened: Opened,
    /// It.
    pub order: Order,
}

impl Acme {
    /// Places an order at the authority whose turn it is, or at the next one that answers.
    pub(super) async fn place(
        &self,
        claimed: &Claimed,
        held: Option<&Held>,
        section: &CriticalSection,
    ) -> Result<Placed<'_>, Failed> {
        let caa = self.preflight(claimed).await?;
        let first = claimed.authority.as_ref().and_then(|name| {
            self.authorities.iter().position(|authority| authority.name() == name)
        });
        let (later, earlier) = self.authorities.split_at(first.unwrap_or(0));
        let mut failed = None;
        for authority in earlier.iter().chain(later) {
            let placed = async {
                let opened = authority.open(self.pool(), &self.parts.keys, &claimed.region).await?;
                let (name, account) = (authority.name(), opened.account.id());
                permits(&caa, name, &opened.caa_identities, account, &self.challenges)
                    .map_err(|reason| Failure::new(Fault::Name, reason))?;
                let order = self.place_at(authority, &opened, claimed, held, section).await;
                if let Err(failure) = &order {
                    authority.note(failure);
                    if failure.account_is_gone {
                        authority.forget(self.pool(), &claimed.region, opened.id).await?;
                    }
                }
                Ok::<_, Failure>(Placed { authority, opened, order: order? })
            };
            match placed.await {
                Ok(placed) => return Ok(placed),
                Err(failure) => {
                    // Another authority is asked at once when this one is out of reach, or may not
                    // issue for the name.
                    let goes_on = matches!(failure.fault, Fault::Unreachable | Fault::Name);
                    let authority = Some(authority.name().to_owned());
                    // The first authority's reason is told: it is the one that is meant to issue.
                    let first = failed.get_or_insert(Failed { failure, authority });
                    if !goes_on {
                        first.failure.keeps_order = false;
                        break;
                    }
                }
            }
        }
        let nobody = || Failure::new(Fault::Here, "no certificate authority is configured").into();
        Err(failed.unwrap_or_else(nobody))
    }

    /// Notes an order, also when the control database is away for a while.
    async fn note(&self, claimed: &Claimed, authority: &str, url: &str) -> Result<(), ClaimError> {
        let until = Instant::now() + self.options.lease;
        loop {
            match claimed.claim().note_order(self.pool(), authority, url).await {
                Err(ClaimError::Database(error)) if Instant::now() < until => {
                    tracing::warn!(error = %chain(&error), "cannot note an order yet");
                    sleep(NOTE_AGAIN).await;
                }
                noted => return noted,
            }
        }
    }

    async fn place_at(
        &self,
        authority: &Authority,
        opened: &Opened,
        claimed: &Claimed,
        held: Option<&Held>,
        section: &CriticalSection,
    ) -> Result<Order, Failure> {
        let replaced = held
            .filter(|held| opened.has_renewal_info && held.issuer == authority.name())
            .filter(|held| held.source == CertificateSource::Acme)
            .and_then(identifier);
        if let Some(replaced) = replaced {
            match self.new_order(authority, opened, claimed, Some(replaced), section).await {
                // The certificate that serves is not the newest one that the authority knows.
                Err(failure) if failure.is_replaced => {}
                outcome => return outcome,
            }
        }
        // Renewals that the authority suggested are free; all others cost.
        let allowed = authority.settings.allowance;
        if let Err(until) = acme_accounts::spend(self.pool(), opened.id, allowed).await? {
            let wait = (until - OffsetDateTime::now_utc()).try_into().ok();
            let message = format!(
                "the budget of orders at {} is spent; the next one is possible at {until}",
                authority.name()
            );
            return Err(Failure { wait, ..Failure::new(Fault::Limited, message) });
        }
        self.new_order(authority, opened, claimed, None, section).await
    }

    /// From the note that an authority is about to be asked to the note of what it took.
    async fn new_order(
        &self,
        authority: &Authority,
        opened: &Opened,
        claimed: &Claimed,
        replaced: Option<CertificateIdentifier<'static>>,
        section: &CriticalSection,
    ) -> Result<Order, Failure> {
        let identifiers = [Identifier::Dns(claimed.hostname.clone())];
        let mut new = NewOrder::new(&identifiers);
        if let Some(replaced) = replaced {
            new = new.replaces(replaced);
        }
        if let Some(profile) = &authority.settings.profile {
            new = new.profile(profile);
        }
        let claim = claimed.claim();
        let _whole = section.enter().await;
        if claim.note_placing(self.pool()).await? {
            tracing::warn!(
                hostname = claimed.hostname,
                "nobody heard what an authority said to the order before; another one is placed"
            );
        }
        match persistently!(opened.account.new_order(&new)) {
            Ok(order) => {
                self.note(claimed, authority.name(), order.url()).await?;
                Ok(order)
            }
            Err(error) => {
                let failure = Failure::of(&error, authority.name(), "taking the order");
                // No answer is no refusal.
                if failure.fault != Fault::Unreachable {
                    claim.note_refused(self.pool()).await?;
                }
                Err(failure)
            }
        }
    }
}
