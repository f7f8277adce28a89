//! Every hostname that serves has a certificate that does not end soon, and so has the platform's
//! own name in every region.

use std::sync::Arc;

use anyhow::Context;
use control_types::Hostname;
use time::{Duration, OffsetDateTime};
use tracing::info;

use crate::{
    control_db::certificates::{self, Due},
    world::World,
};

/// How long before its end a certificate is renewed: a third of the 90 days that the local
/// authority gives.
const RENEW_BEFORE: Duration = Duration::days(30);

/// The reconciler.
pub struct Certificates {
    /// Where the rows are, and who issues.
    pub world: Arc<World>,
}

impl Certificates {
    /// Issues what is due. One name that cannot be certified does not hold up the others.
    ///
    /// # Errors
    /// When the control database does not answer, or a name could not be certified.
    pub async fn run_once(&self) -> anyhow::Result<()> {
        let platform = self.world.platform_domain.as_str();
        let renew_before = OffsetDateTime::now_utc() + RENEW_BEFORE;
        let due = certificates::due(&self.world.db.pool, platform, renew_before).await?;
        let mut first_error = None;
        for due in due {
            if let Err(error) = self.issue(&due).await {
                let error = error.context(format!("certificate for {}", due.hostname));
                first_error.get_or_insert(error);
            }
        }
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
}
