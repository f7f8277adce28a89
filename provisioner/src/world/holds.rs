//! Holding a site at all routers, and asking them how far that is. Nothing of a site's data depends on
//! it: the fence is in the database. It is what people notice, or rather do not.

use std::time::Duration;

use control_types::SiteId;
use futures_util::future::join_all;
use provisioner_api::{
    places::Router,
    routers::{RouterHold, RouterStatus},
};
use serde::Deserialize;
use time::OffsetDateTime;
use uuid::Uuid;

use super::World;
use crate::{
    control_db::{holds, places},
    engine::worker::chain,
    routers,
};

/// One hold of a site; another one, also of the same site, has another id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldId(pub Uuid);

/// What a router says of a site.
#[derive(Deserialize)]
struct SiteSeen {
    version: i64,
    generation: control_types::Generation,
    hold: Option<HoldSeen>,
    requests_in_flight: u64,
    held: u64,
    tunnels: u64,
    /// Why the numbers may be too low: a part of the router does not tell.
    #[serde(default)]
    problem: Option<String>,
}

#[derive(Deserialize)]
struct HoldSeen {
    id: Uuid,
    in_force: bool,
}

impl World {
    /// Lets the requests of a site wait at all routers, at most for `longest`. Routers hear of it
    /// within a moment: [`World::drained`] tells when they have.
    ///
    /// # Errors
    /// When the control database does not answer.
    pub async fn hold(
        &self,
        site: SiteId,
        longest: Duration,
    ) -> Result<(HoldId, OffsetDateTime), sqlx::Error> {
        let hold = HoldId(Uuid::now_v7());
        let deadline =
            holds::put(&mut *self.db.pool.acquire().await?, site, hold.0, longest).await?;
        Ok((hold, deadline))
    }

    /// Lets them go on. Whether they waited.
    ///
    /// # Errors
    /// When the control database does not answer.
    pub async fn release(&self, site: SiteId) -> Result<bool, sqlx::Error> {
        holds::remove(&mut *self.db.pool.acquire().await?, site).await
    }

    /// What every router of every region does with the site. With [`RouterHold::is_drained`] of all
    /// of them, no request of the site is under way that was let in before the hold.
    ///
    /// # Errors
    /// When the control database does not answer. A router that does not is named.
    pub async fn drained(&self, site: SiteId) -> Result<Vec<RouterHold>, sqlx::Error> {
        let routers = places::routers(&self.db.pool).await?;
        Ok(join_all(routers.into_iter().map(|router| self.hold_at(router, site))).await)
    }

    async fn hold_at(&self, router: Router, site: SiteId) -> RouterHold {
        let seen = routers::ask::<SiteSeen>(&self.http, &router, &format!("/sites/{site}")).await;
        let mut report = RouterHold {
            router: router.name,
            region: router.region,
            problem: None,
            version: 0,
            generation: control_types::Generation(0),
            hold: None,
            requests_in_flight: 0,
            held: 0,
            tunnels: 0,
        };
        match seen {
            Ok(seen) => {
                report.version = seen.version;
                report.generation = seen.generation;
                report.hold = seen.hold.filter(|hold| hold.in_force).map(|hold| hold.id);
                report.requests_in_flight = seen.requests_in_flight;
                report.held = seen.held;
                report.tunnels = seen.tunnels;
                report.problem = seen.problem;
            }
            Err(error) => report.problem = Some(chain(&error)),
        }
        report
    }

    /// How a router is.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn router_status(&self, router: &Router) -> Result<RouterStatus, reqwest::Error> {
        routers::ask(&self.http, router, "/status").await
    }
}
