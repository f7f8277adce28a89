//! Everything that effects are made with, in one place.

mod holds;

use std::{sync::Arc, time::Duration};

use control_types::{Hostname, SiteId, state::CertificateSource};
use serde::Deserialize;
use sqlx::PgConnection;
use tokio::sync::watch;
use uuid::Uuid;

pub use holds::HoldId;

use crate::{
    acme::Acme,
    certificate_authority::CertificateAuthority,
    control_db::{
        ControlDb,
        certificates::{self, NewCertificate},
        instances::{self, Awaited, Whose},
        places, sites,
    },
    dns::Dns,
    engine::{Flow, StepError},
    reconcilers::Nudges,
    routers,
    secrets::Keys,
    site_database::Clusters,
    site_storage::ObjectStores,
};

/// The control database, the clusters, the object stores, the keys.
pub struct World {
    /// The control database.
    pub db: ControlDb,
    /// The regions' keys.
    pub keys: Keys,
    /// Administers the clusters.
    pub clusters: Clusters,
    /// Administers the object stores.
    pub object_stores: ObjectStores,
    /// Issues certificates for names that no public authority certifies.
    pub authority: Arc<CertificateAuthority>,
    /// Gets all others from public authorities; none when the local one issues all.
    pub acme: Option<Arc<Acme>>,
    /// The platform's own domain.
    pub platform_domain: Hostname,
    /// Asks the DNS.
    pub dns: Dns,
    /// Wakes reconcilers.
    pub nudges: Nudges,
    /// Ticks when the runtime saw something new, or its row was written.
    pub instances_changed: watch::Receiver<u64>,
    /// Asks routers.
    pub http: reqwest::Client,
}

/// What a router says of a route.
#[derive(Deserialize)]
struct RouteSeen {
    version: i64,
}

impl World {
    /// Who gets certificates for a hostname from public authorities; none when the local one issues
    /// them.
    pub fn acme_for(&self, hostname: &str) -> Option<&Arc<Acme>> {
        self.acme.as_ref().filter(|_| Acme::certifies(hostname))
    }

    /// The names that our authorities go by in CAA records, as far as they said so. The local
    /// authority has none: it does not look at them.
    pub fn caa_identities(&self) -> Vec<String> {
        self.acme.as_ref().map(|acme| acme.caa_identities()).unwrap_or_default()
    }

    /// Issues a certificate by the local authority, in the place of the one that the name had in the
    /// region.
    ///
    /// # Errors
    /// When it cannot be issued, sealed or stored.
    pub async fn certify(
        &self,
        connection: &mut PgConnection,
        hostname: &Hostname,
        site: Option<SiteId>,
        region: &str,
    ) -> anyhow::Result<()> {
        let issued = self.authority.issue(hostname)?;
        let id = Uuid::now_v7();
        let certificate = NewCertificate {
            id,
            site,
            hostname: hostname.as_str(),
            region,
            issuer: self.authority.name(),
            source: CertificateSource::Local,
            chain_pem: &issued.chain_pem,
            sealed_key: &self.keys.seal_certificate_key(region, id, &issued.key_pem)?,
            not_before: issued.not_before,
            not_after: issued.not_after,
        };
        Ok(certificates::put(connection, &certificate).await?)
    }

    /// Waits until instances are as they shall be; puts the operation aside after `patience`.
    ///
    /// # Errors
    /// When the control database does not answer.
    pub async fn await_instances(
        &self,
        whose: Whose,
        awaited: Awaited,
        patience: Duration,
    ) -> Result<Flow, StepError> {
        let until = tokio::time::Instant::now() + patience;
        let mut changed = self.instances_changed.clone();
        self.nudges.all();
        loop {
            changed.mark_unchanged();
            if instances::are(&self.db.pool, whose, awaited).await? {
                return Ok(Flow::Done);
            }
            tokio::select! {
                _ = changed.changed() => {}
                () = tokio::time::sleep_until(until) => {
                    return Ok(Flow::Wait {
                        pause: Duration::from_millis(500),
                        reason: "the instance is not yet as it shall be".to_owned(),
                    });
                }
            }
        }
    }

    /// The name of a router of `region` that does not have the site's newest route yet, or does not
    /// answer; none when all have it.
    ///
    /// # Errors
    /// When the control database does not answer.
    pub async fn routers_behind(
        &self,
        site: SiteId,
        region: &str,
    ) -> Result<Option<String>, StepError> {
        let Some((hostname, version)) = sites::routed(&self.db.pool, site).await? else {
            return Ok(None);
        };
        for router in places::routers(&self.db.pool).await? {
            if router.region != region {
                continue;
            }
            let path = format!("/routes/{hostname}");
            match routers::ask::<RouteSeen>(&self.http, &router, &path).await {
                Ok(seen) if seen.version >= version => {}
                _ => return Ok(Some(router.name)),
            }
        }
        Ok(None)
    }
}
