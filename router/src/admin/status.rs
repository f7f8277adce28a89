//! What the router tells of its work: to the provisioner, which moves a site when its requests wait
//! everywhere, and to operators. A router may be several processes for a while, one after another:
//! what they do is told as one, and a process that does not tell keeps a site from being drained.

use std::{
    collections::HashMap,
    sync::{Arc, atomic::Ordering},
};

use control_types::{Generation, SiteId};
use serde::{Deserialize, Serialize};
use time::{OffsetDateTime, serde::rfc3339};
use tokio::time::Instant;
use uuid::Uuid;

use super::Scope;
use crate::{Edge, hold, route_table, siblings::Said};

/// How many of the busiest sites are told.
const BUSIEST: usize = 20;

/// One site, over all processes of the router.
#[derive(Debug, Serialize, Deserialize)]
pub struct Site {
    site_id: SiteId,
    slug: String,
    /// Of the process that knows least.
    version: i64,
    /// Of the process that knows least.
    generation: Generation,
    region: String,
    hold: Option<Hold>,
    requests_in_flight: u64,
    held: u64,
    tunnels: u64,
    /// Why the numbers may be too low; the hold is then not in force.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Hold {
    id: Uuid,
    #[serde(with = "rfc3339")]
    deadline: OffsetDateTime,
    /// Whether requests wait for it in every process.
    in_force: bool,
}

/// The whole router.
#[derive(Debug, Serialize, Deserialize)]
pub struct Status {
    region: String,
    version: String,
    process_id: u32,
    uptime_secs: u64,
    stopping: bool,
    table: Table,
    connections: u64,
    max_connections: usize,
    requests_in_flight: u64,
    held: u64,
    tunnels: u64,
    requests_last_minute: u64,
    busy_sites: usize,
    top_sites: Vec<BusySite>,
    /// The other processes, whose part is in the numbers above.
    #[serde(default)]
    other_processes: Vec<Process>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Table {
    age_secs: Option<f64>,
    problem: Option<String>,
    publications: u64,
    hostnames: usize,
    sites: usize,
    certificates: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct BusySite {
    site_id: SiteId,
    slug: String,
    requests_last_minute: u64,
    requests_in_flight: u64,
    held: u64,
    tunnels: u64,
    is_held: bool,
    failing: bool,
}

/// Another process: its part of the numbers, or why it does not tell.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Process {
    problem: Option<String>,
    process_id: u32,
    uptime_secs: u64,
    stopping: bool,
    connections: u64,
    requests_in_flight: u64,
    held: u64,
    tunnels: u64,
}

/// One site; none when it is not in the table.
pub async fn site(edge: &Edge, scope: Scope, id: SiteId) -> Option<Site> {
    // This process first: one that begins only after the others were looked for reads later than this
    // one did, so it knows the hold.
    let mut site = own_site(edge, id)?;
    if scope == Scope::Router {
        for said in edge.siblings.ask(&format!("/sites/{id}")).await {
            site.add(said);
        }
    }
    Some(site)
}

/// The numbers are read after the table: they cover every request that was decided by an older one.
fn own_site(edge: &Edge, id: SiteId) -> Option<Site> {
    let table = edge.routes.load_full();
    let site = table.site(id)?;
    let counts = site.traffic.counts();
    let in_force = hold::in_force(site).is_some();
    Some(Site {
        site_id: site.id,
        slug: site.slug.to_string(),
        version: site.version,
        generation: site.generation,
        region: site.region.to_string(),
        hold: site.hold.as_ref().map(|hold| Hold {
            id: hold.id,
            deadline: hold.deadline,
            in_force,
        }),
        requests_in_flight: counts.in_flight,
        held: counts.held,
        tunnels: counts.tunnels,
        problem: None,
    })
}

impl Site {
    /// With what another process says.
    fn add(&mut self, said: Said<Self>) {
        let mut holds = |hold: Option<Hold>| {
            if let Some(own) = &mut self.hold {
                own.in_force &= hold.is_some_and(|hold| hold.in_force && hold.id == own.id);
            }
        };
        match said {
            Said::This(other) => {
                holds(other.hold);
                self.version = self.version.min(other.version);
                self.generation = self.generation.min(other.generation);
                self.requests_in_flight += other.requests_in_flight;
                self.held += other.held;
                self.tunnels += other.tunnels;
            }
            // It has not read of the site yet, or of its end.
            Said::Unknown => holds(None),
            Said::Nothing(problem) => {
                holds(None);
                self.problem = Some(problem);
            }
        }
    }
}

/// The whole router. Looks at every site, so it is for people and their tools.
pub async fn status(edge: &Edge, scope: Scope) -> Status {
    let mut status = own_status(edge);
    if scope == Scope::Router {
        for said in edge.siblings.ask("/status").await {
            status.add(said);
        }
        status.keep_busiest();
    }
    status
}

fn own_status(edge: &Edge) -> Status {
    let table = edge.routes.load_full();
    let now = Instant::now();
    let (mut in_flight, mut tunnels) = (0, 0);
    let mut busy: Vec<(u64, &Arc<route_table::Site>)> = Vec::new();
    for site in table.sites() {
        let counts = site.traffic.counts();
        in_flight += counts.in_flight;
        tunnels += counts.tunnels;
        let requests = site.traffic.requests_last_minute(now);
        if requests > 0 || counts.in_flight + counts.held + counts.tunnels > 0 {
            busy.push((requests, site));
        }
    }
    busy.sort_unstable_by(|(more, a), (less, b)| less.cmp(more).then_with(|| a.slug.cmp(&b.slug)));
    Status {
        region: edge.region.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        process_id: std::process::id(),
        uptime_secs: now.duration_since(edge.begun).as_secs(),
        stopping: edge.is_stopping(),
        table: Table {
            age_secs: edge.freshness.age_seconds(),
            problem: edge.freshness.problem(),
            publications: edge.routes.publications(),
            hostnames: table.len(),
            sites: table.sites().len(),
            certificates: table.certificates().len(),
        },
        connections: edge.connections.load(Ordering::Relaxed),
        max_connections: edge.limits.connections,
        requests_in_flight: in_flight,
        held: edge.held.number(),
        tunnels,
        requests_last_minute: busy.iter().map(|(requests, _)| requests).sum(),
        busy_sites: busy.len(),
        top_sites: busy.iter().take(BUSIEST).map(|(n, site)| BusySite::of(*n, site)).collect(),
        other_processes: Vec::new(),
    }
}

impl Status {
    fn add(&mut self, said: Said<Self>) {
        let problem = match said {
            Said::This(other) => return self.count(other),
            Said::Unknown => "another process of this router has no status".to_owned(),
            Said::Nothing(problem) => problem,
        };
        self.other_processes.push(Process { problem: Some(problem), ..Process::default() });
    }

    fn count(&mut self, other: Self) {
        self.connections += other.connections;
        self.requests_in_flight += other.requests_in_flight;
        self.held += other.held;
        self.tunnels += other.tunnels;
        self.requests_last_minute += other.requests_last_minute;
        // Most sites that are busy in one process are so in the other.
        self.busy_sites = self.busy_sites.max(other.busy_sites);
        self.top_sites.extend(other.top_sites);
        self.other_processes.push(Process {
            problem: None,
            process_id: other.process_id,
            uptime_secs: other.uptime_secs,
            stopping: other.stopping,
            connections: other.connections,
            requests_in_flight: other.requests_in_flight,
            held: other.held,
            tunnels: other.tunnels,
        });
    }

    /// One line for each site, the busiest first.
    fn keep_busiest(&mut self) {
        let mut sites: HashMap<SiteId, BusySite> = HashMap::new();
        for line in std::mem::take(&mut self.top_sites) {
            match sites.get_mut(&line.site_id) {
                Some(known) => known.add(&line),
                None => drop(sites.insert(line.site_id, line)),
            }
        }
        self.top_sites = sites.into_values().collect();
        self.top_sites.sort_unstable_by(|a, b| {
            b.requests_last_minute.cmp(&a.requests_last_minute).then_with(|| a.slug.cmp(&b.slug))
        });
        self.top_sites.truncate(BUSIEST);
        self.busy_sites = self.busy_sites.max(self.top_sites.len());
    }
}

impl BusySite {
    fn of(requests: u64, site: &route_table::Site) -> Self {
        let counts = site.traffic.counts();
        Self {
            site_id: site.id,
            slug: site.slug.to_string(),
            requests_last_minute: requests,
            requests_in_flight: counts.in_flight,
            held: counts.held,
            tunnels: counts.tunnels,
            is_held: hold::in_force(site).is_some(),
            failing: site.upstream.as_ref().is_some_and(|pool| pool.breaker.is_open()),
        }
    }

    fn add(&mut self, other: &Self) {
        self.requests_last_minute += other.requests_last_minute;
        self.requests_in_flight += other.requests_in_flight;
        self.held += other.held;
        self.tunnels += other.tunnels;
        self.is_held |= other.is_held;
        self.failing |= other.failing;
    }
}
