//! Every verified domain that has a certificate serves, every claim that nobody proves is given up,
//! and what the DNS says of domains is looked at again and again. Nothing is ever taken from a site
//! because its records changed: that is shown, and counted.

use std::sync::Arc;

use control_types::{
    Hostname,
    state::{DomainState, SiteState},
};
use futures_util::{StreamExt as _, stream};
use metrics::gauge;
use serde_json::json;
use time::{Duration, OffsetDateTime};
use tracing::info;

use crate::{
    control_db::{
        audit::{self, AuditEvent},
        domains::{
            self,
            checks::{self, CLAIM_LASTS, Candidate, Count},
        },
        sites,
    },
    domain_check,
    world::World,
};

/// Who acts where nobody asked.
const ACTOR: &str = "provisioner";
/// How many domains one run looks at.
const BATCH: i64 = 64;
/// How many are looked at together.
const PARALLEL: usize = 8;
/// When a provisioner was killed while it looked, another one looks after this.
const LEASE: Duration = Duration::minutes(5);

/// The reconciler.
pub struct Domains {
    /// Where the rows are, and who asks the DNS.
    pub world: Arc<World>,
}

impl Domains {
    /// Lets domains serve, and gives claims up. No DNS is asked.
    ///
    /// # Errors
    /// When the control database does not answer.
    pub async fn advance(&self) -> anyhow::Result<()> {
        let pool = &self.world.db.pool;
        for candidate in checks::certified(pool).await? {
            self.activate(&candidate).await?;
        }
        for candidate in checks::expired(pool, OffsetDateTime::now_utc() - CLAIM_LASTS).await? {
            self.give_up(&candidate).await?;
        }
        let counts = checks::counts(pool).await?;
        for state in [DomainState::Pending, DomainState::Verified, DomainState::Active] {
            let count = counts.iter().find(|count| count.state == state);
            let of = |n: fn(&Count) -> i64| number(count.map_or(0, n));
            let state = state.as_str();
            gauge!("ta3lem_custom_domains", "state" => state).set(of(|count| count.n));
            gauge!("ta3lem_custom_domains_elsewhere", "state" => state)
                .set(of(|count| count.n_elsewhere));
        }
        Ok(())
    }

    /// Looks at the domains whose turn it is. One that cannot be looked at does not hold up others.
    ///
    /// # Errors
    /// When the control database does not answer.
    pub async fn look(&self) -> anyhow::Result<()> {
        let pool = &self.world.db.pool;
        loop {
            let due = checks::take_due(pool, BATCH, LEASE).await?;
            if due.is_empty() {
                return Ok(());
            }
            let looks = due.into_iter().map(|id| async move {
                let Some(target) = checks::target(pool, id).await? else { return Ok(()) };
                domain_check::look(&self.world, &target, ACTOR).await.map(drop)
            });
            let outcomes: Vec<Result<(), sqlx::Error>> =
                stream::iter(looks).buffer_unordered(PARALLEL).collect().await;
            outcomes.into_iter().collect::<Result<Vec<()>, _>>()?;
        }
    }

    async fn activate(&self, candidate: &Candidate) -> anyhow::Result<()> {
        let hostname: Hostname = candidate.hostname.parse()?;
        let mut tx = self.world.db.pool.begin().await?;
        let state = sites::lock_state(&mut tx, candidate.site).await?;
        let serves =
            matches!(state, Some(SiteState::Active | SiteState::Suspended | SiteState::Deleting));
        if !serves || !checks::activate(&mut tx, candidate.id).await? {
            return Ok(());
        }
        if candidate.primary_when_active {
            domains::make_primary(&mut tx, candidate.site, &hostname).await?;
        }
        note(&mut tx, candidate, "domain.activate").await?;
        tx.commit().await?;
        info!(hostname = hostname.as_str(), "domain serves");
        Ok(())
    }

    async fn give_up(&self, candidate: &Candidate) -> anyhow::Result<()> {
        let mut tx = self.world.db.pool.begin().await?;
        sites::lock_state(&mut tx, candidate.site).await?;
        if !checks::give_up(&mut tx, candidate.id).await? {
            return Ok(());
        }
        note(&mut tx, candidate, "domain.expire").await?;
        tx.commit().await?;
        info!(hostname = candidate.hostname, "claim given up: nobody showed ownership in time");
        Ok(())
    }
}

async fn note(
    connection: &mut sqlx::PgConnection,
    candidate: &Candidate,
    action: &str,
) -> Result<(), sqlx::Error> {
    let event = AuditEvent {
        actor: ACTOR,
        action,
        site: Some(candidate.site),
        operation: None,
        reason: None,
        detail: json!({
            "hostname": candidate.hostname,
            "primary": candidate.primary_when_active,
        }),
    };
    audit::append(connection, event).await
}

/// A gauge's value; the counts are far below where it loses precision.
fn number(count: i64) -> f64 {
    f64::from(i32::try_from(count).unwrap_or(i32::MAX))
}
