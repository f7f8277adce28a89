//! How one reading of the control database becomes the next table. Pure.

use super::{
    Arc, EdgeRow, HashMap, HashSet, Route, RouteRow, SealedCertificate, Site, SiteId, Table,
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
            check_size("hostnames", reading.routes.len(), self.routes.len())?;
            check_size("certificates", reading.certificates.len(), self.certificates.len())?;
        }
        let mut rows: HashMap<SiteId, Vec<RouteRow>> = HashMap::new();
        for row in reading.routes {
            rows.entry(row.site_id).or_default().push(row);
        }
        let mut affected: HashSet<SiteId> = match &reading.scope {
            Scope::All => self.sites.keys().chain(rows.keys()).copied().collect(),
            Scope::Sites { sites, .. } => sites.iter().copied().collect(),
        };
        let mut older = HashSet::new();
        if !trusted {
            older.extend(
                rows.iter().filter(|(id, rows)| self.has_newer(**id, rows)).map(|(id, _)| *id),
            );
            affected.retain(|id| !older.contains(id));
        }

        let mut routes = self.routes.clone();
        let mut sites = self.sites.clone();
        let mut held = self.held.clone();
        for id in &affected {
            held.remove(id);
            if let Some(site) = sites.remove(id) {
                for hostname in &site.hostnames {
                    // Another site may have it by now.
                    if routes.get(hostname).is_some_and(|route| route.site.id == *id) {
                        routes.remove(hostname);
                    }
                }
            }
        }
        for (id, rows) in rows {
            if affected.contains(&id) {
                let before = self.sites.get(&id).map(Arc::as_ref);
                insert_site(&mut routes, &mut sites, &rows, before);
                if rows.iter().any(|row| row.hold_id.is_some()) {
                    held.insert(id);
                }
            }
        }
        let scope = &reading.scope;
        let certificates = self.merged_certificates(scope, &older, reading.certificates);
        // Challenges have no version: an older one is one that nobody asks for any more.
        let challenges = self.challenges.merged(|owner| covers(scope, owner), reading.challenges);
        let edges = match reading.edges {
            None => self.edges.clone(),
            Some(read) => {
                let mut edges: HashMap<String, Vec<EdgeRow>> = HashMap::new();
                for edge in read {
                    edges.entry(edge.region.clone()).or_default().push(edge);
                }
                edges
            }
        };
        let table = Self { routes, sites, held, certificates, challenges, edges };
        Ok(Merged { table, older: older.len() })
    }

    fn has_newer(&self, id: SiteId, rows: &[RouteRow]) -> bool {
        let read = rows.iter().map(|row| row.version).max();
        self.sites.get(&id).is_some_and(|site| read.is_some_and(|read| read < site.version))
    }

    fn merged_certificates(
        &self,
        scope: &Scope,
        older: &HashSet<SiteId>,
        read: Vec<Arc<SealedCertificate>>,
    ) -> HashMap<Arc<str>, Arc<SealedCertificate>> {
        let replaced = |owner: Option<SiteId>| {
            covers(scope, owner) && owner.is_none_or(|id| !older.contains(&id))
        };
        let mut certificates = self.certificates.clone();
        certificates.retain(|_, certificate| !replaced(certificate.site_id));
        for certificate in read {
            if replaced(certificate.site_id) {
                certificates.insert(Arc::clone(&certificate.hostname), certificate);
            }
        }
        certificates
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

fn insert_site(
    routes: &mut HashMap<Arc<str>, Route>,
    sites: &mut HashMap<SiteId, Arc<Site>>,
    rows: &[RouteRow],
    before: Option<&Site>,
) {
    let hostnames: Vec<Arc<str>> = rows.iter().map(|row| row.hostname.as_str().into()).collect();
    let Some(first) = rows.first() else { return };
    let site = Arc::new(Site::from_row(first, hostnames.clone(), before));
    for (row, hostname) in rows.iter().zip(hostnames) {
        let primary_hostname: Option<Arc<str>> = row.primary_hostname.as_deref().map(Into::into);
        let route = Route {
            hostname: Arc::clone(&hostname),
            site: Arc::clone(&site),
            kind: row.domain_kind,
            primary: primary_hostname.clone().filter(|_| !row.is_primary),
            is_primary: row.is_primary,
            primary_hostname,
        };
        routes.insert(hostname, route);
    }
    sites.insert(first.site_id, site);
}
