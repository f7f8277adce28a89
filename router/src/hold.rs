//! Requests of a held site wait here: while its data goes to another place, nobody sees an error. What
//! waits has not been read beyond its head, nothing of it was sent, so it is safe to let go whatever
//! it is. Places are limited, the first to come is the first to go, and whoever leaves frees a place.
//!
//! That the order reaches a router is not needed for the data to be right: an instance refuses what it
//! may not do any more, and the request then waits as if the order had come.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use control_types::SiteId;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use uuid::Uuid;

use crate::{
    Edge,
    limits::{RELEASE_PAUSE, RELEASE_SLICE, addresses::HeldOfAddress},
    record::{Client, Record},
    rejection::Reason,
    route_table::{Hold, Site},
    site_traffic::{Held, InFlight, SiteTraffic},
};

pub mod queue;

/// How often it is seen that a hold has passed its deadline, when the system's clock is set back.
const CLOCK_CHECK: Duration = Duration::from_secs(1);
/// How often it is looked whether the client of a waiting request is still there.
const CLIENT_CHECK: Duration = Duration::from_secs(1);

/// The hold that requests of a site wait for now.
pub fn in_force(site: &Site) -> Option<&Hold> {
    site.hold.as_deref().filter(|hold| hold.deadline > OffsetDateTime::now_utc())
}

/// A place among those who wait; free again when dropped.
struct Place {
    edge: Arc<Edge>,
    _of_site: Held,
    _of_address: HeldOfAddress,
}

/// How many requests wait in all.
#[derive(Debug, Default)]
pub struct AllHeld(AtomicU64);

impl AllHeld {
    /// How many there are.
    pub fn number(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Place {
    fn take(edge: &Arc<Edge>, client: &Client, site: &Site) -> Option<Self> {
        let limits = &edge.limits;
        let of_site = Held::begin(&site.traffic, limits.held_per_site)?;
        let of_address = client.admission.hold(limits.held_per_address)?;
        if edge.held.0.fetch_add(1, Ordering::Relaxed) >= limits.held {
            edge.held.0.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        edge.metrics.held.increment(1.0);
        edge.metrics.holds.increment(1);
        Some(Self { edge: Arc::clone(edge), _of_site: of_site, _of_address: of_address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.edge.held.0.fetch_sub(1, Ordering::Relaxed);
        self.edge.metrics.held.decrement(1.0);
    }
}

/// Whether a request has to wait: the site is held, or others wait that came before it.
pub fn must_wait(edge: &Edge, site: &Site, was_let_go: bool) -> bool {
    holds(edge, site).is_some() || (!was_let_go && site.traffic.has_queue())
}

/// The hold that requests of a site wait for. None when the site has gone, as its instance says: what
/// the hold was for is over, and the requests do not go where they were held from.
fn holds<'a>(edge: &Edge, site: &'a Site) -> Option<&'a Hold> {
    in_force(site).filter(|_| edge.routes.gone(site).is_none())
}

/// Waits in the site's queue. The request is in flight before and after, and held between.
///
/// # Errors
/// When there is no place, or the request has waited for too long.
pub async fn wait(
    edge: &Arc<Edge>,
    client: &Client,
    site: &Arc<Site>,
    record: &mut Record,
) -> Result<(), Reason> {
    let released = async {
        let (released, first) = site.traffic.queue().join(edge.limits.held_per_site);
        if first {
            tokio::spawn(release(Arc::clone(edge), site.id, Arc::clone(&site.traffic)));
        }
        // The releaser is never gone before its queue is empty.
        let _ = released.await;
    };
    held(edge, client, site, record, released).await
}

/// Waits because the site's instance refused to write: until there is a newer generation or word that
/// the site has gone, the site is not held any more, or `pause` is over and it may be asked again.
///
/// # Errors
/// When there is no place, or the request has waited for too long.
pub async fn wait_for_fence(
    edge: &Arc<Edge>,
    client: &Client,
    hostname: &str,
    site: &Arc<Site>,
    pause: Duration,
    record: &mut Record,
) -> Result<(), Reason> {
    if holds(edge, site).is_some() {
        return wait(edge, client, site, record).await;
    }
    let released = async {
        edge.routes.nudge();
        let (generation, version) = (site.generation, site.version);
        let had_gone = edge.routes.gone(site).is_some();
        let moved = |now: &Site| {
            now.generation > generation
                || now.version > version
                || (!had_gone && edge.routes.gone(now).is_some())
        };
        edge.routes.wait_for(hostname, pause, |route| moved(&route.site)).await;
    };
    held(edge, client, site, record, released).await
}

async fn held(
    edge: &Arc<Edge>,
    client: &Client,
    site: &Arc<Site>,
    record: &mut Record,
    released: impl Future<Output = ()>,
) -> Result<(), Reason> {
    let Some(place) = Place::take(edge, client, site) else {
        edge.metrics.hold_overflows.increment(1);
        return Err(Reason::Held);
    };
    // Counted as waiting before it is not counted as in flight any more.
    record.in_flight = None;
    let watched = client.stream.watch();
    let begun = Instant::now();
    let end = begun + edge.limits.longest_hold().saturating_sub(record.held.unwrap_or_default());
    let waiting = async {
        let mut released = std::pin::pin!(released);
        loop {
            tokio::select! {
                () = &mut released => return,
                // Whenever its task runs, a connection looks whether the client is still there.
                () = sleep(CLIENT_CHECK) => {}
            }
        }
    };
    let outcome = timeout_at(end, waiting).await;
    drop(watched);
    record.was_held(begun);
    record.in_flight = Some(InFlight::begin(&site.traffic));
    drop(place);
    if outcome.is_err() {
        edge.metrics.hold_timeouts.increment(1);
        return Err(Reason::Held);
    }
    Ok(())
}

/// Lets the requests of a site go when it is not held any more, a slice at a time, so that they do
/// not all come to the instance at once. Ends when nobody waits.
async fn release(edge: Arc<Edge>, id: SiteId, traffic: Arc<SiteTraffic>) {
    let mut changes = edge.routes.watch();
    loop {
        changes.mark_unchanged();
        let remaining = edge
            .routes
            .load()
            .site(id)
            .and_then(|site| holds(&edge, site))
            .map(|hold| hold.deadline - OffsetDateTime::now_utc());
        if let Some(remaining) = remaining {
            let remaining = Duration::try_from(remaining).unwrap_or_default().min(CLOCK_CHECK);
            tokio::select! {
                _ = changes.changed() => {}
                () = sleep_until(Instant::now() + remaining) => {}
            }
            continue;
        }
        if !traffic.queue().release(RELEASE_SLICE) {
            return;
        }
        sleep(RELEASE_PAUSE).await;
    }
}

/// Tells the event streams and WebSockets of sites that they have to end, once for each hold, until
/// the process ends.
pub async fn watch(edge: Arc<Edge>) {
    let mut changes = edge.routes.watch();
    let mut told: HashMap<SiteId, Uuid> = HashMap::new();
    loop {
        let table = edge.routes.load_full();
        told.retain(|id, _| table.site(*id).is_some_and(|site| site.hold.is_some()));
        for site in table.held_sites() {
            let Some(hold) = in_force(site) else { continue };
            if told.insert(site.id, hold.id) != Some(hold.id) {
                tracing::info!(site.id = %site.id, hold.id = %hold.id, deadline = %hold.deadline,
                    in_flight = site.traffic.counts().in_flight, "a site is held");
                site.traffic.cut();
            }
        }
        drop(table);
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Ends when a stream without an end has to end: when its site is held.
pub async fn begins(edge: Arc<Edge>, site: Arc<Site>) {
    let mut cut = std::pin::pin!(site.traffic.cuts());
    // A hold that comes after this look is heard.
    cut.as_mut().enable();
    if edge.routes.load().site(site.id).is_some_and(|now| in_force(now).is_some()) {
        return;
    }
    cut.await;
}
