//! Certificates from public authorities by ACME (RFC 8555), renewed when the authority suggests it
//! (RFC 9773). The state of every name lies in the control database, so that any provisioner goes on
//! where another one ended. In the order in which a name meets the modules: the worker claims it,
//! `schedule` decides, `preflight` looks at its DNS, an `authority` gets the order, `challenges` are
//! answered by the routers, and only what was verified takes the place of what serves.

use std::{sync::Arc, time::Duration};

use control_types::{hostname::is_local, state::AcmeChallengeKind};
use sqlx::PgPool;
use tokio::sync::Notify;

use crate::{dns::Dns, reconcilers::Nudges, secrets::Keys};

pub mod advice;
mod authority;
mod challenges;
mod critical_section;
mod failure;
mod http;
mod order;
mod placing;
mod preflight;
mod renewal;
pub mod schedule;
pub mod settings;
mod worker;

use authority::Authority;
use settings::AcmeSettings;

/// How the work is done.
#[derive(Clone, Debug)]
pub struct AcmeOptions {
    /// Names this provisioner in claims.
    pub worker: String,
    /// How long a claim holds without a heartbeat: so long a name rests when its provisioner was
    /// killed.
    pub lease: Duration,
    /// Longest time for one attempt; what is not done then is taken up later.
    pub attempt: Duration,
    /// Names worked on at once.
    pub parallel: usize,
    /// How often to look for names that nobody told of.
    pub poll: Duration,
    /// Whether a name must lead to the regions' edge addresses before anything is ordered for it.
    pub checks_addresses: bool,
}

impl Default for AcmeOptions {
    fn default() -> Self {
        Self {
            worker: format!("provisioner-{}", std::process::id()),
            lease: Duration::from_secs(30),
            attempt: Duration::from_secs(180),
            parallel: 16,
            poll: Duration::from_secs(5),
            checks_addresses: true,
        }
    }
}

/// What the work needs.
pub struct AcmeParts {
    /// The control database.
    pub pool: PgPool,
    /// The regions' keys.
    pub keys: Keys,
    /// Asks the DNS.
    pub dns: Dns,
    /// Asks routers.
    pub http: reqwest::Client,
    /// Wakes who waits for certificates.
    pub nudges: Nudges,
}

/// Gets certificates from public authorities.
pub struct Acme {
    parts: AcmeParts,
    authorities: Vec<Authority>,
    challenges: Vec<AcmeChallengeKind>,
    options: AcmeOptions,
    work: Notify,
}

impl Acme {
    /// Does nothing until it [runs](Acme::run).
    ///
    /// # Errors
    /// When no HTTP client can be made with the roots of an authority.
    pub fn new(
        settings: AcmeSettings,
        parts: AcmeParts,
        options: AcmeOptions,
    ) -> Result<Arc<Self>, reqwest::Error> {
        let authorities = settings.authorities.into_iter().map(Authority::new);
        Ok(Arc::new(Self {
            authorities: authorities.collect::<Result<_, _>>()?,
            challenges: settings.challenges,
            parts,
            options,
            work: Notify::new(),
        }))
    }

    /// Tells it that there may be work.
    pub fn nudge(&self) {
        self.work.notify_one();
    }

    /// Whether a public authority could certify this name at all.
    pub fn certifies(hostname: &str) -> bool {
        !is_local(hostname)
    }

    /// The names that the authorities go by in CAA records, as far as they said so.
    pub fn caa_identities(&self) -> Vec<String> {
        self.authorities.iter().flat_map(Authority::caa_identities).collect()
    }

    fn pool(&self) -> &PgPool {
        &self.parts.pool
    }

    fn authority(&self, name: &str) -> Option<&Authority> {
        self.authorities.iter().find(|authority| authority.name() == name)
    }
}
