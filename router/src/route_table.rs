//! Every hostname that anybody may ask for, in memory: an immutable table behind an atomic pointer.
//! Looking up takes neither a lock nor memory, and an unknown hostname is an answer, not a query.
//! The table changes only by [`Table::merge`], which never lets an older row replace a newer one.

use std::{
    borrow::Borrow,
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
    sync::Arc,
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use control_types::{
    Generation, SiteId,
    state::{DomainKind, SiteState},
};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};
use uuid::Uuid;

use crate::{certificates::SealedCertificate, challenge::Challenges};

mod merge;
mod site;
mod gone;

use gone::Gone;
pub use gone::Home;
pub use merge::{Merged, Reading, Refused, Scope};
pub use site::{Hold, Site, SiteLimits};

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

/// Where the requests for one hostname go.
#[derive(Clone, Debug)]
pub struct Route {
    /// The hostname in canonical form.
    pub hostname: Arc<str>,
    /// Whose it is.
    pub site: Arc<Site>,
    /// Whether the name is the institution's own.
    pub kind: DomainKind,
    is_primary: bool,
    primary_hostname: Option<Arc<str>>,
}

/// All routes and certificates at one moment.
#[derive(Clone, Debug, Default)]
pub struct Table {
    routes: HashSet<ByName<Route>>,
    sites: HashMap<SiteId, Arc<Site>>,
    // The sites with a hold.
    held: HashSet<SiteId>,
    certificates: HashSet<ByName<Arc<SealedCertificate>>>,
    /// Open challenges of certificate authorities.
    pub challenges: Challenges,
    edges: HashMap<String, Vec<EdgeRow>>,
}

impl Table {
    /// The route of a hostname in canonical form.
    pub fn route(&self, hostname: &str) -> Option<&Route> {
        self.routes.get(hostname).map(|ByName(route)| route)
    }

    /// The certificate of a hostname in canonical form.
    pub fn certificate(&self, hostname: &str) -> Option<&Arc<SealedCertificate>> {
        self.certificates.get(hostname).map(|ByName(certificate)| certificate)
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
        self.certificates.iter().map(|ByName(certificate)| certificate)
    }

    /// The rows of a site, for the snapshot file.
    pub fn rows_of(&self, site: &Site) -> impl Iterator<Item = RouteRow> {
        // Another site may have the hostname by now.
        let routes = site.hostnames.iter().filter_map(|hostname| self.route(hostname));
        routes.filter(|route| route.site.id == site.id).map(Route::to_row)
    }
}

impl Route {
    /// Where browsers are sent, when this is not the site's primary hostname.
    pub fn primary(&self) -> Option<&Arc<str>> {
        self.primary_hostname.as_ref().filter(|_| !self.is_primary)
    }

    /// The row that this route was made from.
    pub fn to_row(&self) -> RouteRow {
        let site = &self.site;
        RouteRow {
            hostname: self.hostname.to_string(),
            domain_kind: self.kind,
            is_primary: self.is_primary,
            primary_hostname: self.primary_hostname.as_ref().map(ToString::to_string),
            site_id: site.id,
            slug: site.slug.to_string(),
            site_name: site.name.to_string(),
            default_language: site.default_language.to_string(),
            site_state: site.state,
            generation: site.generation,
            region: site.region.to_string(),
            upstream: site.upstream.as_ref().map(|pool| pool.address().to_string()),
            max_body_bytes: i64::try_from(site.max_body_bytes).unwrap_or(i64::MAX),
            version: site.version,
            requests_per_second: signed(site.limits.requests_per_second),
            request_burst: signed(site.limits.burst),
            max_concurrent_requests: signed(site.limits.concurrent),
            hsts_max_age_secs: signed(site.hsts_max_age_secs),
            hold_id: site.hold.as_ref().map(|hold| hold.id),
            hold_deadline: site.hold.as_ref().map(|hold| hold.deadline),
        }
    }
}

/// Something in a set, to be found by its hostname: the name is not kept a second time as a key.
#[derive(Clone, Debug)]
struct ByName<T>(T);

trait Named {
    fn name(&self) -> &str;
}

impl Named for Route {
    fn name(&self) -> &str {
        &self.hostname
    }
}

impl Named for Arc<SealedCertificate> {
    fn name(&self) -> &str {
        &self.hostname
    }
}

impl<T: Named> Borrow<str> for ByName<T> {
    fn borrow(&self) -> &str {
        self.0.name()
    }
}

impl<T: Named> Hash for ByName<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.name().hash(state);
    }
}

impl<T: Named> PartialEq for ByName<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.name() == other.0.name()
    }
}

impl<T: Named> Eq for ByName<T> {}

fn signed(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

/// The current table, and what happens around its change.
#[derive(Debug)]
pub struct RouteTable {
    current: ArcSwap<Table>,
    changes: watch::Sender<u64>,
    nudge: Notify,
    gone: Gone,
}

impl Default for RouteTable {
    fn default() -> Self {
        Self {
            current: ArcSwap::from_pointee(Table::default()),
            changes: watch::Sender::new(0),
            nudge: Notify::new(),
            gone: Gone::default(),
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
        let table = Arc::new(table);
        self.current.store(Arc::clone(&table));
        self.gone.forget(&table);
        self.changes.send_modify(|count| *count += 1);
    }

    /// Where a site has gone as its old instance says, when the table does not have that yet. Takes
    /// no lock, and only a look as long as there is none.
    pub fn gone(&self, site: &Site) -> Option<Home> {
        self.gone.home(site)
    }

    /// Remembers that a site has gone until the table has it, or newer news. Whether that is news:
    /// whoever waits for some is woken then.
    pub fn remember_gone(&self, id: SiteId, home: &Home) -> bool {
        let is_news = self.gone.remember(id, home);
        // The table may have been published meanwhile.
        self.gone.forget(&self.load());
        if is_news {
            self.changes.send_modify(|_| ());
        }
        is_news
    }

    /// How many sites have gone of which the table does not have it yet.
    pub fn gone_sites(&self) -> usize {
        self.gone.number()
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
