//! Every hostname that anybody may ask for, in memory: an immutable table behind an atomic pointer.
//! Looking up takes neither a lock nor memory, and an unknown hostname is an answer, not a query.
//! The table changes only by [`Table::merge`], which never lets an older row replace a newer one.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use control_types::{
    Generation, SiteId, Upstream,
    hostname::is_local,
    state::{DomainKind, SiteState},
};
use http::HeaderValue;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::{
    certificates::SealedCertificate, challenge::Challenges, site_traffic::SiteTraffic,
    upstream::Pool,
};

mod merge;

pub use merge::{Merged, Reading, Refused, Scope};

/// A row of `routing.route`, as read and as kept in the snapshot file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(missing_docs, reason = "the columns are described where the view is made")]
pub struct RouteRow {
    pub hostname: String,
    pub domain_kind: DomainKind,
    pub is_primary: bool,
    pub primary_hostname: Option<String>,
    pub site_id: SiteId,
    pub slug: String,
    pub site_name: String,
    pub default_language: String,
    pub site_state: SiteState,
    pub generation: Generation,
    pub region: String,
    pub upstream: Option<String>,
    pub max_body_bytes: i64,
    pub version: i64,
    // What snapshots of before did not have.
    #[serde(default = "some_limit")]
    pub requests_per_second: i32,
    #[serde(default = "some_limit")]
    pub request_burst: i32,
    #[serde(default = "some_limit")]
    pub max_concurrent_requests: i32,
    #[serde(default)]
    pub hsts_max_age_secs: i32,
    #[serde(default)]
    pub hold_id: Option<Uuid>,
    #[serde(default, with = "time::serde::timestamp::option")]
    pub hold_deadline: Option<OffsetDateTime>,
}

/// The limit of a site whose row does not say one.
fn some_limit() -> i32 {
    256
}

/// A router of a region, for connections whose site is at home there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EdgeRow {
    /// The router's name.
    pub name: String,
    /// Its region.
    pub region: String,
    /// Where it takes connections over, as `address:port`.
    pub passthrough_address: String,
}

/// What all requests of a site together may take of one router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SiteLimits {
    /// How many requests may begin in a second, in the long run.
    pub requests_per_second: u32,
    /// How many may begin at once after a quiet time.
    pub burst: u32,
    /// How many may be in progress.
    pub concurrent: u32,
}

/// Requests of a site wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hold {
    /// Which hold; there may be another one after it.
    pub id: Uuid,
    /// They do not wait longer than until then.
    pub deadline: OffsetDateTime,
}

/// What the router knows of a site. One value per version of the site.
#[derive(Debug)]
pub struct Site {
    /// Who it is.
    pub id: SiteId,
    /// Its short name, for log lines.
    pub slug: String,
    /// Its name, for pages.
    pub name: String,
    /// The language of its pages.
    pub default_language: String,
    /// Whether it serves.
    pub state: SiteState,
    /// The placement that its requests go to.
    pub generation: Generation,
    /// The region of that placement.
    pub region: String,
    /// Raised by every change.
    pub version: i64,
    /// Longest body of a request, in bytes.
    pub max_body_bytes: u64,
    /// What its requests may take of this router.
    pub limits: SiteLimits,
    /// How long browsers shall insist on TLS, in seconds.
    pub hsts_max_age_secs: u32,
    /// Whether its requests shall wait.
    pub hold: Option<Hold>,
    /// Connections to its instance; none while it has no instance that listens.
    pub upstream: Option<Arc<Pool>>,
    /// What its requests do, over all versions of the site.
    pub traffic: Arc<SiteTraffic>,
    /// [`Site::id`] as the value of a header.
    pub id_header: HeaderValue,
    /// [`Site::generation`] as the value of a header.
    pub generation_header: HeaderValue,
    hsts_header: HeaderValue,
    hostnames: Vec<Arc<str>>,
}

/// Where the requests for one hostname go.
#[derive(Clone, Debug)]
pub struct Route {
    /// The hostname in canonical form.
    pub hostname: Arc<str>,
    /// Whose it is.
    pub site: Arc<Site>,
    /// Whether the name is the institution's own.
    pub kind: DomainKind,
    /// Where browsers are sent, when this is not the site's primary hostname.
    pub primary: Option<Arc<str>>,
    is_primary: bool,
    primary_hostname: Option<Arc<str>>,
}

/// All routes and certificates at one moment.
#[derive(Debug, Default)]
pub struct Table {
    routes: HashMap<Arc<str>, Route>,
    sites: HashMap<SiteId, Arc<Site>>,
    // The sites with a hold.
    held: HashSet<SiteId>,
    certificates: HashMap<Arc<str>, Arc<SealedCertificate>>,
    /// Open challenges of certificate authorities.
    pub challenges: Challenges,
    edges: HashMap<String, Vec<EdgeRow>>,
}

impl Table {
    /// The route of a hostname in canonical form.
    pub fn route(&self, hostname: &str) -> Option<&Route> {
        self.routes.get(hostname)
    }

    /// The certificate of a hostname in canonical form.
    pub fn certificate(&self, hostname: &str) -> Option<&Arc<SealedCertificate>> {
        self.certificates.get(hostname)
    }

    /// The routers of a region that take connections over.
    pub fn edges(&self, region: &str) -> &[EdgeRow] {
        self.edges.get(region).map_or(&[], Vec::as_slice)
    }

    /// All of them, for the snapshot file.
    pub fn all_edges(&self) -> impl Iterator<Item = &EdgeRow> {
        self.edges.values().flatten()
    }

    /// What is known of a site.
    pub fn site(&self, id: SiteId) -> Option<&Arc<Site>> {
        self.sites.get(&id)
    }

    /// All sites.
    pub fn sites(&self) -> impl ExactSizeIterator<Item = &Arc<Site>> {
        self.sites.values()
    }

    /// The sites with a hold, also with one that is over.
    pub fn held_sites(&self) -> impl Iterator<Item = &Arc<Site>> {
        self.held.iter().filter_map(|id| self.sites.get(id))
    }

    /// How many hostnames there are.
    pub fn len(&self) -> usize {
        self.routes.len()
    }

    /// Whether there is no hostname.
    pub fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    /// All certificates.
    pub fn certificates(&self) -> impl ExactSizeIterator<Item = &Arc<SealedCertificate>> {
        self.certificates.values()
    }

    /// All routes as rows, for the snapshot file.
    pub fn rows(&self) -> impl Iterator<Item = RouteRow> {
        self.routes.values().map(Route::to_row)
    }
}

impl Route {
    /// The row that this route was made from.
    pub fn to_row(&self) -> RouteRow {
        let site = &self.site;
        RouteRow {
            hostname: self.hostname.to_string(),
            domain_kind: self.kind,
            is_primary: self.is_primary,
            primary_hostname: self.primary_hostname.as_ref().map(ToString::to_string),
            site_id: site.id,
            slug: site.slug.clone(),
            site_name: site.name.clone(),
            default_language: site.default_language.clone(),
            site_state: site.state,
            generation: site.generation,
            region: site.region.clone(),
            upstream: site.upstream.as_ref().map(|pool| pool.address().to_string()),
            max_body_bytes: i64::try_from(site.max_body_bytes).unwrap_or(i64::MAX),
            version: site.version,
            requests_per_second: signed(site.limits.requests_per_second),
            request_burst: signed(site.limits.burst),
            max_concurrent_requests: signed(site.limits.concurrent),
            hsts_max_age_secs: signed(site.hsts_max_age_secs),
            hold_id: site.hold.map(|hold| hold.id),
            hold_deadline: site.hold.map(|hold| hold.deadline),
        }
    }
}

impl Site {
    /// What browsers are told of TLS at one of the site's hostnames. Nothing on a developer's own
    /// machine, where the same name may serve something without TLS tomorrow.
    pub fn hsts(&self, hostname: &str) -> Option<HeaderValue> {
        (!is_local(hostname)).then(|| self.hsts_header.clone())
    }

    /// A site from one of its rows. What outlives a version is taken over from `before`.
    fn from_row(row: &RouteRow, hostnames: Vec<Arc<str>>, before: Option<&Self>) -> Self {
        let address = row.upstream.as_deref().and_then(|text| match text.parse::<Upstream>() {
            Ok(address) => Some(address),
            Err(error) => {
                tracing::error!(site.id = %row.site_id, %error, "the upstream of a site is malformed");
                None
            }
        });
        let concurrent = unsigned(row.max_concurrent_requests).max(1);
        let upstream = address.map(|address| {
            before
                .filter(|before| before.generation == row.generation)
                .and_then(|before| before.upstream.clone())
                .filter(|pool| *pool.address() == address && pool.concurrent() == concurrent)
                .unwrap_or_else(|| Arc::new(Pool::new(address, concurrent)))
        });
        let mut text = Uuid::encode_buffer();
        let id_header = HeaderValue::from_str(row.site_id.0.hyphenated().encode_lower(&mut text))
            .unwrap_or(HeaderValue::from_static(""));
        Self {
            id: row.site_id,
            slug: row.slug.clone(),
            name: row.site_name.clone(),
            default_language: row.default_language.clone(),
            state: row.site_state,
            generation: row.generation,
            region: row.region.clone(),
            version: row.version,
            max_body_bytes: u64::try_from(row.max_body_bytes).unwrap_or(0),
            limits: SiteLimits {
                requests_per_second: unsigned(row.requests_per_second).max(1),
                burst: unsigned(row.request_burst).max(1),
                concurrent,
            },
            hsts_max_age_secs: unsigned(row.hsts_max_age_secs),
            hold: row.hold_id.zip(row.hold_deadline).map(|(id, deadline)| Hold { id, deadline }),
            upstream,
            traffic: before.map_or_else(Arc::default, |before| Arc::clone(&before.traffic)),
            id_header,
            generation_header: HeaderValue::from(row.generation.0),
            hsts_header: HeaderValue::try_from(format!("max-age={}", row.hsts_max_age_secs.max(0)))
                .unwrap_or(HeaderValue::from_static("max-age=0")),
            hostnames,
        }
    }
}

fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn unsigned(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

/// The current table, and what happens around its change.
#[derive(Debug)]
pub struct RouteTable {
    current: ArcSwap<Table>,
    changes: watch::Sender<u64>,
    nudge: Notify,
}

impl Default for RouteTable {
    fn default() -> Self {
        Self {
            current: ArcSwap::from_pointee(Table::default()),
            changes: watch::Sender::new(0),
            nudge: Notify::new(),
        }
    }
}

impl RouteTable {
    /// The table as it is now. Not to be held across an await.
    pub fn load(&self) -> Guard<Arc<Table>> {
        self.current.load()
    }

    /// The table as it is now, to keep.
    pub fn load_full(&self) -> Arc<Table> {
        self.current.load_full()
    }

    /// How often a table was published.
    pub fn publications(&self) -> u64 {
        *self.changes.borrow()
    }

    /// Whether there ever was a table; before, an unknown hostname means nothing.
    pub fn is_loaded(&self) -> bool {
        *self.changes.borrow() > 0
    }

    /// Makes `table` the current one. Only the route source does.
    pub fn publish(&self, table: Table) {
        self.current.store(Arc::new(table));
        self.changes.send_modify(|count| *count += 1);
    }

    /// Wakes the route source now.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }

    /// Waits until somebody nudges.
    pub async fn nudged(&self) {
        self.nudge.notified().await;
    }

    /// Learns of every publication from now on.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Waits until the route of `hostname` satisfies `arrived`, at most for `limit`. Gives the
    /// route as it then is.
    pub async fn wait_for(
        &self,
        hostname: &str,
        limit: Duration,
        arrived: impl Fn(&Route) -> bool,
    ) -> Option<Route> {
        let mut changes = self.changes.subscribe();
        let waiting = async {
            loop {
                let route = self.load().route(hostname).cloned();
                match route {
                    Some(route) if !arrived(&route) => {}
                    other => return other,
                }
                if changes.changed().await.is_err() {
                    return None;
                }
            }
        };
        match tokio::time::timeout(limit, waiting).await {
            Ok(route) => route,
            Err(_) => self.load().route(hostname).cloned(),
        }
    }
}

#[cfg(test)]
mod tests;
