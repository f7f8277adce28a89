//! How one reading of the control database becomes the next table. Pure.

use super::{
    Arc, ByName, EdgeRow, HashMap, HashSet, Route, RouteRow, SealedCertificate, Site, SiteId, Table,
};
use crate::challenge::Challenge;

/// Below this many a table may shrink as it likes, unless to nothing.
const SMALL_TABLE: usize = 10;

/// How much one reading covers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Scope {
    /// All there is: what is not in the reading is gone.
    #[default]
    All,
    /// These sites, and what belongs to no site if `platform`.
    Sites {
        /// The sites; one without rows is gone.
        sites: Vec<SiteId>,
        /// Whether what belongs to no site was read: certificates, challenges, routers.
        platform: bool,
    },
}

/// What was read in one snapshot of the control database.
#[derive(Debug, Default)]
pub struct Reading {
    /// How much was read.
    pub scope: Scope,
    /// The routes.
    pub routes: Vec<RouteRow>,
    /// The hostnames of routes that were read too, and are as the table has them: the rows of all
    /// sites would be more than the table itself.
    pub same_routes: Vec<Arc<str>>,
    /// The certificates of the router's own region.
    pub certificates: Vec<Arc<SealedCertificate>>,
    /// Open challenges, of all regions.
    pub challenges: Vec<Challenge>,
    /// The routers of all regions, where they were read.
    pub edges: Option<Vec<EdgeRow>>,
}

/// The next table.
#[derive(Debug)]
pub struct Merged {
    /// The table.
    pub table: Table,
    /// Sites whose rows were older than what the table had, and were left alone.
    pub older: usize,
}

/// The reading covers all there is and yet holds less than half of what the table has. More
/// likely it is the wrong database or a restored one than the truth.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the reading has {incoming} {what}, the table has {current}")]
pub struct Refused {
    what: &'static str,
    incoming: usize,
    current: usize,
}

impl Table {
    /// The table after `reading`. With `trusted`, what looks wrong is taken as the truth.
    ///
    /// # Errors
    /// When the table would shrink by more than half and `trusted` is false.
    pub fn merge(&self, reading: Reading, trusted: bool) -> Result<Merged, Refused> {
        if reading.scope == Scope::All && !trusted {
            let read = reading.routes.len() + reading.same_routes.len();
            check_size("hostnames", read, self.routes.len())?;
            check_size("certificates", reading.certificates.len(), self.certificates.len())?;
        }
        let mut rows = reading.routes;
        let unchanged = self.unchanged(&reading.same_routes, &mut rows);
        rows.sort_unstable_by_key(|row| row.site_id);
        let read: HashMap<SiteId, &[RouteRow]> = rows
            .chunk_by(|row, next| row.site_id == next.site_id)
            .filter_map(|rows| Some((rows.first()?.site_id, rows)))
            .collect();
        let mut affected: HashSet<SiteId> = match &reading.scope {
            Scope::All => self.sites.keys().chain(read.keys()).copied().collect(),
            Scope::Sites { sites, .. } => sites.iter().copied().collect(),
        };
        let mut older = HashSet::new();
        if !trusted {
            older.extend(
                read.iter().filter(|(id, rows)| self.has_newer(**id, rows)).map(|(id, _)| *id),
            );
        }
        affected.retain(|id| !older.contains(id) && !unchanged.contains(id));

        let mut table = self.clone();
        for id in &affected {
            table.remove_site(*id);
        }
        for (id, rows) in read {
            if affected.contains(&id) {
                table.insert_site(rows, self.sites.get(&id).map(Arc::as_ref));
            }
        }
        let scope = &reading.scope;
        table.replace_certificates(scope, &older, reading.certificates);
        // Challenges have no version: an older one is one that nobody asks for any more.
        table.challenges = self.challenges.merged(|owner| covers(scope, owner), reading.challenges);
        if let Some(edges) = reading.edges {
            table.replace_edges(edges);
        }
        Ok(Merged { table, older: older.len() })
    }

    /// The sites all of whose routes are as they were. For one of which only some are, those are
    /// added to the rows.
    fn unchanged(&self, same: &[Arc<str>], rows: &mut Vec<RouteRow>) -> HashSet<SiteId> {
        let mut counts: HashMap<SiteId, usize> = HashMap::new();
        let routes = || same.iter().filter_map(|hostname| self.route(hostname));
        for route in routes() {
            *counts.entry(route.site.id).or_default() += 1;
        }
        for row in rows.iter() {
            counts.remove(&row.site_id);
        }
        counts.retain(|id, count| {
            self.sites.get(id).is_some_and(|site| site.hostnames.len() == *count)
        });
        let partly = routes().filter(|route| !counts.contains_key(&route.site.id));
        rows.extend(partly.map(Route::to_row));
        counts.into_keys().collect()
    }

    /// Adds a site by its rows, which are all of the one. What outlives a version is taken over from
    /// `before`.
    pub(crate) fn insert_site(&mut self, rows: &[RouteRow], before: Option<&Site>) {
        let hostnames: Box<[Arc<str>]> =
            rows.iter().map(|row| row.hostname.as_str().into()).collect();
        let Some(first) = rows.first() else { return };
        let site = Arc::new(Site::from_row(first, hostnames, before));
        // Mostly all rows name the same one, and it is among them.
        let mut primary: Option<Arc<str>> = None;
        for (row, hostname) in rows.iter().zip(&site.hostnames) {
            let primary_hostname = row.primary_hostname.as_deref().map(|text| {
                let known = primary.iter().chain(&site.hostnames).find(|known| ***known == *text);
                known.map_or_else(|| Arc::from(text), Arc::clone)
            });
            primary.clone_from(&primary_hostname);
            self.routes.replace(ByName(Route {
                hostname: Arc::clone(hostname),
                site: Arc::clone(&site),
                kind: row.domain_kind,
                is_primary: row.is_primary,
                primary_hostname,
            }));
        }
        if rows.iter().any(|row| row.hold_id.is_some()) {
            self.held.insert(first.site_id);
        }
        self.sites.insert(first.site_id, site);
    }

    fn remove_site(&mut self, id: SiteId) {
        self.held.remove(&id);
        let Some(site) = self.sites.remove(&id) else { return };
        for hostname in &site.hostnames {
            // Another site may have it by now.
            if self.route(hostname).is_some_and(|route| route.site.id == id) {
                self.routes.remove(&**hostname);
            }
        }
    }

    /// Adds a certificate, in the place of another one for its hostname.
    pub(crate) fn insert_certificate(&mut self, certificate: Arc<SealedCertificate>) {
        self.certificates.replace(ByName(certificate));
    }

    /// Has these routers and no others.
    pub(crate) fn replace_edges(&mut self, read: Vec<EdgeRow>) {
        self.edges.clear();
        for edge in read {
            self.edges.entry(edge.region.clone()).or_default().push(edge);
        }
    }

    fn has_newer(&self, id: SiteId, rows: &[RouteRow]) -> bool {
        let read = rows.iter().map(|row| row.version).max();
        self.sites.get(&id).is_some_and(|site| read.is_some_and(|read| read < site.version))
    }

    fn replace_certificates(
        &mut self,
        scope: &Scope,
        older: &HashSet<SiteId>,
        read: Vec<Arc<SealedCertificate>>,
    ) {
        let replaced = |owner: Option<SiteId>| {
            covers(scope, owner) && owner.is_none_or(|id| !older.contains(&id))
        };
        self.certificates.retain(|ByName(certificate)| !replaced(certificate.site_id));
        for certificate in read {
            if replaced(certificate.site_id) {
                self.insert_certificate(certificate);
            }
        }
    }
}

/// Whether a reading of this scope has everything of an owner; none for what belongs to no site.
fn covers(scope: &Scope, owner: Option<SiteId>) -> bool {
    match (scope, owner) {
        (Scope::All, _) => true,
        (Scope::Sites { sites, .. }, Some(id)) => sites.contains(&id),
        (Scope::Sites { platform, .. }, None) => *platform,
    }
}

fn check_size(what: &'static str, incoming: usize, current: usize) -> Result<(), Refused> {
    let refused = if current < SMALL_TABLE {
        current > 0 && incoming == 0
    } else {
        incoming < current.div_ceil(2)
    };
    if refused { Err(Refused { what, incoming, current }) } else { Ok(()) }
}
