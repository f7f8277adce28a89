//! What routers do: sites on hold, and how a router is.

use control_types::{Generation, SiteId, Slug};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;
use uuid::Uuid;

/// Lets the requests of a site wait at all routers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct HoldSite {
    /// For how long at most; 1 to 30.
    #[serde(default = "ten")]
    pub seconds: u32,
    /// Why. Goes to the audit trail.
    #[serde(default)]
    pub reason: Option<String>,
}

const fn ten() -> u32 {
    10
}

/// A site's hold, and what each router says of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteHold {
    /// The site.
    #[schema(value_type = String)]
    pub site: Slug,
    /// The hold; none when it was taken away.
    pub id: Option<Uuid>,
    /// Until when requests wait, if nobody takes it away before.
    #[serde(with = "time::serde::rfc3339::option")]
    pub deadline: Option<OffsetDateTime>,
    /// Every router of every region.
    pub routers: Vec<RouterHold>,
}

/// What a router does with a site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouterHold {
    /// The router's name.
    pub router: String,
    /// Its region.
    pub region: String,
    /// Why it did not tell, or not all; the numbers are then too low.
    pub problem: Option<String>,
    /// The site's version in its table.
    pub version: i64,
    /// The generation that it routes to.
    #[schema(value_type = i64)]
    pub generation: Generation,
    /// The hold that requests wait for there; none when they do not wait, or not in every process.
    pub hold: Option<Uuid>,
    /// Requests of the site that it is answering.
    pub requests_in_flight: u64,
    /// Requests of the site that wait.
    pub held: u64,
    /// WebSockets of the site.
    pub tunnels: u64,
}

impl RouterHold {
    /// Whether requests of the site wait there for this hold and none is under way.
    pub fn is_drained(&self, hold: Uuid) -> bool {
        self.is_held(hold) && self.requests_in_flight == 0 && self.tunnels == 0
    }

    /// Whether requests of the site wait there for this hold.
    pub fn is_held(&self, hold: Uuid) -> bool {
        self.problem.is_none() && self.hold == Some(hold)
    }
}

/// How a router is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RouterStatus {
    /// Its region.
    pub region: String,
    /// Its version.
    pub version: String,
    /// Its process.
    pub process_id: u32,
    /// Seconds since it began.
    pub uptime_secs: u64,
    /// Whether it was told to stop.
    pub stopping: bool,
    /// Its table of routes.
    pub table: RouterTable,
    /// Connections of clients.
    pub connections: u64,
    /// How many of them there may be.
    pub max_connections: u64,
    /// Requests that it is answering.
    pub requests_in_flight: u64,
    /// Requests that wait for held sites.
    pub held: u64,
    /// WebSockets.
    pub tunnels: u64,
    /// Requests of the last minute.
    pub requests_last_minute: u64,
    /// Sites with any traffic.
    pub busy_sites: u64,
    /// The busiest of them, by the requests of the last minute.
    pub top_sites: Vec<SiteTraffic>,
    /// The other processes of the router, whose part is in the numbers above.
    #[serde(default)]
    pub other_processes: Vec<RouterProcess>,
}

/// A process of a router beside the one that tells: one that was replaced and finishes what is under
/// way, or one that takes over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct RouterProcess {
    /// Why it does not tell; the rest is then nothing.
    pub problem: Option<String>,
    /// Its process.
    pub process_id: u32,
    /// Seconds since it began.
    pub uptime_secs: u64,
    /// Whether it was told to stop.
    pub stopping: bool,
    /// Connections of clients.
    pub connections: u64,
    /// Requests that it is answering.
    pub requests_in_flight: u64,
    /// Requests that wait for held sites.
    pub held: u64,
    /// WebSockets.
    pub tunnels: u64,
}

/// A router's table of routes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct RouterTable {
    /// Seconds since it was known to be right; none when it never was.
    pub age_secs: Option<f64>,
    /// Why it is not known to be right now.
    pub problem: Option<String>,
    /// How often it changed since the router began.
    pub publications: u64,
    /// Hostnames in it.
    pub hostnames: u64,
    /// Sites in it.
    pub sites: u64,
    /// Certificates of the router's region in it.
    pub certificates: u64,
}

/// A site's traffic at one router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SiteTraffic {
    /// The site.
    #[schema(value_type = Uuid)]
    pub site_id: SiteId,
    /// Its short name.
    pub slug: String,
    /// Requests of the last minute.
    pub requests_last_minute: u64,
    /// Requests being answered.
    pub requests_in_flight: u64,
    /// Requests that wait.
    pub held: u64,
    /// WebSockets.
    pub tunnels: u64,
    /// Whether the site is on hold.
    pub is_held: bool,
    /// Whether its instance cannot be reached.
    pub failing: bool,
}
