//! What the router tells of its work: to the provisioner, which moves a site when its requests wait
//! everywhere, and to operators.

use std::sync::Arc;

use control_types::SiteId;
use serde_json::{Value, json};
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use crate::{Edge, hold, route_table::Site};

/// How many of the busiest sites are told.
const BUSIEST: usize = 20;

/// One site; none when it is not in the table. The numbers are read after the table: they cover every
/// request that was decided by an older one.
pub fn site(edge: &Edge, id: SiteId) -> Option<Value> {
    let table = edge.routes.load_full();
    let site = table.site(id)?;
    let counts = site.traffic.counts();
    let hold = site.hold.map(|hold| {
        json!({
            "id": hold.id,
            "deadline": hold.deadline.format(&Rfc3339).unwrap_or_default(),
            "in_force": hold::in_force(site).is_some(),
        })
    });
    Some(json!({
        "site_id": site.id,
        "slug": site.slug,
        "version": site.version,
        "generation": site.generation,
        "region": site.region,
        "hold": hold,
        "requests_in_flight": counts.in_flight,
        "held": counts.held,
        "tunnels": counts.tunnels,
    }))
}

/// The whole router. Looks at every site, so it is for people and their tools.
pub fn status(edge: &Edge) -> Value {
    let table = edge.routes.load_full();
    let now = Instant::now();
    let (mut in_flight, mut tunnels) = (0, 0);
    let mut busy: Vec<(u64, &Arc<Site>)> = Vec::new();
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
    let busiest: Vec<Value> = busy.iter().take(BUSIEST).map(|(n, site)| line(*n, site)).collect();
    json!({
        "region": edge.region,
        "version": env!("CARGO_PKG_VERSION"),
        "process_id": std::process::id(),
        "uptime_secs": now.duration_since(edge.begun).as_secs(),
        "stopping": edge.stopping.is_cancelled(),
        "table": {
            "age_secs": edge.freshness.age_seconds(),
            "problem": edge.freshness.problem(),
            "publications": edge.routes.publications(),
            "hostnames": table.len(),
            "sites": table.sites().len(),
            "certificates": table.certificates().len(),
        },
        "connections": edge.connections.load(std::sync::atomic::Ordering::Relaxed),
        "max_connections": edge.limits.connections,
        "requests_in_flight": in_flight,
        "held": edge.held.number(),
        "tunnels": tunnels,
        "requests_last_minute": busy.iter().map(|(requests, _)| requests).sum::<u64>(),
        "busy_sites": busy.len(),
        "top_sites": busiest,
    })
}

fn line(requests: u64, site: &Site) -> Value {
    let counts = site.traffic.counts();
    json!({
        "site_id": site.id,
        "slug": site.slug,
        "requests_last_minute": requests,
        "requests_in_flight": counts.in_flight,
        "held": counts.held,
        "tunnels": counts.tunnels,
        "is_held": hold::in_force(site).is_some(),
        "failing": site.upstream.as_ref().is_some_and(|pool| pool.breaker.is_open()),
    })
}
