//! Where a request goes: a connection to the instance of its site as the site is now. Nothing of the
//! request was sent yet, so it may follow the site wherever that goes, whatever the request is.

use std::sync::Arc;

use tokio::time::{Duration, Instant};

use super::{Forwarding, check_state};
use crate::{
    limits::START_PATIENCE,
    rejection::Reason,
    route_table::{Route, Site},
    upstream::{ConnectError, Connection, Pool, Wanted},
};

/// The first pause before connecting again.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
/// The longest one.
const LONGEST_PAUSE: Duration = Duration::from_millis(400);

impl Forwarding<'_> {
    /// A connection to the instance of the site as it is now. Waits while the instance restarts or
    /// cannot be reached, and while the site has none.
    pub(super) async fn connection(
        &self,
        site: &mut Arc<Site>,
        wanted: Wanted,
    ) -> Result<Connection, Reason> {
        let mut pause = FIRST_PAUSE;
        // Since when there is no instance that listens.
        let mut since = None;
        loop {
            if let Some(gone) = self.gone(site) {
                *site = gone;
            }
            if self.is_elsewhere(site) {
                return Box::pin(self.relay(site)).await;
            }
            let Some(pool) = site.upstream.clone() else {
                since.get_or_insert_with(Instant::now);
                let patience = self.patience(START_PATIENCE)?;
                let arrived = |route: &Route| route.site.upstream.is_some();
                Box::pin(self.update(site, patience, arrived)).await?;
                if site.upstream.is_none() {
                    return Err(Reason::Starting);
                }
                continue;
            };
            // Since when this attempt waits, if it has to.
            let mut begun = None;
            let outcome = tokio::select! {
                biased;
                outcome = pool.connection(&self.edge.upstreams, wanted) => Some(outcome),
                // Looked at only while there is no connection, which is rare.
                () = async {
                    begun = Some(Instant::now());
                    Box::pin(self.leaves(site, &pool)).await;
                } => None,
            };
            match outcome {
                Some(Ok(mut connection)) => {
                    if let Some(since) = since {
                        connection.waits.get_or_insert_default().start = Some(since.elapsed());
                    }
                    return Ok(connection);
                }
                None => {
                    since = since.or(begun);
                    Box::pin(self.update(site, Duration::ZERO, |_| true)).await?;
                }
                Some(Err(ConnectError::Busy(_))) => return Err(Reason::Busy),
                Some(Err(ConnectError::Failing(_))) => {
                    self.edge.routes.nudge();
                    self.edge.metrics.fast_failures.increment(1);
                    return Err(Reason::Starting);
                }
                Some(Err(error @ ConnectError::Unreachable(..))) => {
                    since = since.or(begun).or_else(|| Some(Instant::now()));
                    let version = site.version;
                    self.edge.routes.nudge();
                    let patience = self.patience(pause).inspect_err(|_| {
                        pool.breaker.failed_for_long(Instant::now());
                        not_reached(site, &error);
                    })?;
                    let newer = |route: &Route| route.site.version > version;
                    Box::pin(self.update(site, patience, newer)).await?;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                }
                Some(Err(error @ ConnectError::Failed(..))) => {
                    not_reached(site, &error);
                    return Err(Reason::UpstreamFailed);
                }
            }
        }
    }

    /// Waits until the requests of the site go elsewhere than to the instance of `pool`, or nowhere.
    async fn leaves(&self, site: &Site, pool: &Arc<Pool>) {
        let left = |route: &Route| {
            let now = &*route.site;
            let is_there = now.upstream.as_ref().is_some_and(|now| Arc::ptr_eq(now, pool));
            !is_there
                || now.id != site.id
                || self.is_elsewhere(now)
                || self.gone(now).is_some()
                || check_state(now).is_err()
        };
        self.edge.routes.wait_for(&self.hostname, Duration::MAX, left).await;
    }

    /// `wanted`, or what is left until the request is given up.
    fn patience(&self, wanted: Duration) -> Result<Duration, Reason> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(Reason::Starting) } else { Ok(wanted.min(left)) }
    }

    /// Waits for the route to become as wished, and takes it as it then is.
    pub(super) async fn update(
        &self,
        site: &mut Arc<Site>,
        patience: Duration,
        arrived: impl Fn(&Route) -> bool,
    ) -> Result<(), Reason> {
        let route = self.edge.routes.wait_for(&self.hostname, patience, arrived).await;
        match route.map(|route| route.site) {
            // The hostname went to another site; what was asked was not asked of that one.
            None => Err(Reason::UnknownHost),
            Some(now) if now.id != site.id => Err(Reason::Relocating),
            Some(now) => {
                check_state(&now)?;
                *site = now;
                Ok(())
            }
        }
    }
}

fn not_reached(site: &Site, error: &ConnectError) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(site.id = %site.id, error, "an instance cannot be reached");
}
