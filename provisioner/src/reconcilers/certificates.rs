//! Every hostname that serves has a certificate that does not end soon, and so has the platform's
//! own name in every region. The local authority issues at once; names for public authorities are
//! handed over to `acme`, which takes its time with each.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use control_types::Hostname;
use time::OffsetDateTime;
use tracing::{info, warn};

use crate::{
    control_db::{
        acme_challenges, certificate_orders,
        certificates::{self, Due},
    },
    world::World,
};

/// The reconciler.
pub struct Certificates {
    world: Arc<World>,
    /// What the log was last told to be wrong.
    told: Mutex<Option<String>>,
}

impl Certificates {
    /// Does nothing until it runs. `world` is where the rows are, and who issues.
    pub fn new(world: Arc<World>) -> Self {
        Self { world, told: Mutex::new(None) }
    }

    /// Issues what is due. One name that cannot be certified does not hold up the others.
    ///
    /// # Errors
    /// When the control database does not answer, or a name could not be certified.
    pub async fn run_once(&self) -> anyhow::Result<()> {
        let pool = &self.world.db.pool;
        let platform = self.world.platform_domain.as_str();
        if let Some(acme) = &self.world.acme {
            certificate_orders::sync(pool, platform).await?;
            acme_challenges::prune(pool).await?;
            acme.nudge();
        }
        let due = certificates::due_locally(pool, platform, self.world.acme.is_none()).await?;
        let mut first_error = None;
        for due in due {
            if let Err(error) = self.issue(&due).await {
                let error = error.context(format!("certificate for {}", due.hostname));
                first_error.get_or_insert(error);
            }
        }
        self.measure().await?;
        first_error.map_or(Ok(()), Err)
    }

    async fn issue(&self, due: &Due) -> anyhow::Result<()> {
        let hostname: Hostname = due.hostname.parse().context("not a hostname")?;
        let mut connection = self.world.db.pool.acquire().await?;
        self.world.certify(&mut connection, &hostname, due.site, &due.region).await?;
        info!(hostname = hostname.as_str(), region = due.region, "certificate issued");
        // A verified domain waits for it.
        self.world.nudges.all();
        Ok(())
    }

    /// What operators are alarmed by.
    async fn measure(&self) -> anyhow::Result<()> {
        let platform = self.world.platform_domain.as_str();
        let health = certificate_orders::health(&self.world.db.pool, platform).await?;
        if let Some(first) = health.first_expiry {
            let days = (first - OffsetDateTime::now_utc()).as_seconds_f64() / 86_400.0;
            metrics::gauge!("provisioner_certificate_first_expiry_days").set(days);
        }
        #[allow(clippy::cast_precision_loss, reason = "there are not that many names")]
        {
            metrics::gauge!("provisioner_certificate_names_failing").set(health.n_failing as f64);
            metrics::gauge!("provisioner_certificate_names_expiring").set(health.n_expiring as f64);
            metrics::gauge!("provisioner_certificate_orders_unsure").set(health.n_unsure as f64);
        }
        self.tell(health.problem());
        Ok(())
    }

    /// A line in the log whenever what is wrong is another thing than before.
    fn tell(&self, problem: Option<String>) {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if *told == problem {
            return;
        }
        match &problem {
            Some(problem) => warn!("certificates: {problem}"),
            None => info!("certificates: all is well again"),
        }
        *told = problem;
    }
}
