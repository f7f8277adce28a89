//! What a site's requests do at this router, over all versions of the site: how many are in flight,
//! wait or became tunnels, and what they may still take. Whoever moves a site decides by these
//! numbers, so a request is always in at least one of them.

use std::sync::{
    Arc, Mutex, OnceLock, PoisonError,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence},
};

use tokio::{sync::Notify, time::Instant};

use crate::{
    hold::queue::Queue,
    limits::gcra::{Bucket, Rate, nanos},
    route_table::SiteLimits,
};

const MINUTE: u64 = 60 * 1_000_000_000;
/// A retry costs as much as so many requests earn.
const RETRY_COST: u32 = 5;
/// What can be saved up: fifty retries.
const MOST_SAVED: u32 = 50 * RETRY_COST;
/// What a site has that earned nothing yet.
const FEW_RETRIES: Rate = Rate::new(1, 5);

/// The numbers of one site.
#[derive(Debug, Default)]
pub struct SiteTraffic {
    in_flight: AtomicU64,
    held: AtomicU64,
    tunnels: AtomicU64,
    connections: AtomicU64,
    rate: Bucket,
    saved: AtomicU32,
    few_retries: Bucket,
    minutes: Minutes,
    // Most sites are never held.
    waiting: OnceLock<Box<Waiting>>,
}

/// What waits for the end of a hold, or to be ended by one.
#[derive(Debug)]
struct Waiting {
    queue: Mutex<Queue>,
    has_queue: Arc<AtomicBool>,
    /// Told when streams without an end have to end.
    cut: Notify,
}

/// A site's traffic at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Requests being answered.
    pub in_flight: u64,
    /// Requests that wait until the site is not held any more.
    pub held: u64,
    /// WebSockets.
    pub tunnels: u64,
}

impl Default for Waiting {
    fn default() -> Self {
        let has_queue = Arc::<AtomicBool>::default();
        Self {
            queue: Mutex::new(Queue::new(Arc::clone(&has_queue))),
            has_queue,
            cut: Notify::new(),
        }
    }
}

impl SiteTraffic {
    /// How many requests are being answered, about.
    pub fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Whether requests wait or are being let go.
    pub fn has_queue(&self) -> bool {
        self.waiting.get().is_some_and(|waiting| waiting.has_queue.load(Ordering::Relaxed))
    }

    /// The numbers. Asked after the route table was read, they cover every request that was decided
    /// by an older table.
    pub fn counts(&self) -> Counts {
        // With the fence of `InFlight::begin`: either the request sees the newer table, or this sees
        // the request.
        fence(Ordering::SeqCst);
        Counts {
            in_flight: self.in_flight.load(Ordering::SeqCst),
            held: self.held.load(Ordering::SeqCst),
            tunnels: self.tunnels.load(Ordering::SeqCst),
        }
    }

    /// Whether the site may have another request at `now`, which is counted.
    pub fn may_begin(&self, limits: &SiteLimits, now: Instant) -> bool {
        let now = nanos(now);
        self.minutes.count(now);
        self.saved
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| {
                (saved < MOST_SAVED).then_some(saved + 1)
            })
            .ok();
        self.rate.take(Rate::new(limits.requests_per_second, limits.burst), now)
    }

    /// Whether a request may be sent again: a fifth of the requests may, and a few in any case.
    pub fn may_retry(&self) -> bool {
        let paid = self.saved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |saved| {
            saved.checked_sub(RETRY_COST)
        });
        paid.is_ok() || self.few_retries.take(FEW_RETRIES, nanos(Instant::now()))
    }

    /// About how many requests began in the minute before `now`.
    pub fn requests_last_minute(&self, now: Instant) -> u64 {
        self.minutes.last(nanos(now))
    }

    /// The requests that wait.
    pub fn queue(&self) -> std::sync::MutexGuard<'_, Queue> {
        self.waiting().queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn waiting(&self) -> &Waiting {
        self.waiting.get_or_init(Box::default)
    }

    /// Ends the streams without an end.
    pub fn cut(&self) {
        self.waiting().cut.notify_waiters();
    }

    /// Ends when streams without an end have to end, from now on.
    pub fn cuts(&self) -> tokio::sync::futures::Notified<'_> {
        self.waiting().cut.notified()
    }
}

/// Requests of this minute and of the one before. Two minutes that race for the change lose a few.
#[derive(Debug, Default)]
struct Minutes {
    number: AtomicU64,
    now: AtomicU64,
    before: AtomicU64,
}

impl Minutes {
    fn count(&self, now: u64) {
        let (minute, known) = (now / MINUTE, self.number.load(Ordering::Relaxed));
        if minute != known
            && self
                .number
                .compare_exchange(known, minute, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok()
        {
            let ended = self.now.swap(0, Ordering::Relaxed);
            let before = if minute == known + 1 { ended } else { 0 };
            self.before.store(before, Ordering::Relaxed);
        }
        self.now.fetch_add(1, Ordering::Relaxed);
    }

    fn last(&self, now: u64) -> u64 {
        let (minute, known) = (now / MINUTE, self.number.load(Ordering::Relaxed));
        let (this, before) = match minute.saturating_sub(known) {
            0 => (self.now.load(Ordering::Relaxed), self.before.load(Ordering::Relaxed)),
            1 => (0, self.now.load(Ordering::Relaxed)),
            _ => return 0,
        };
        // The part of the minute before that is not a minute ago yet.
        this + before * (MINUTE - now % MINUTE) / MINUTE
    }
}

macro_rules! counted {
    ($(#[$text:meta])* $name:ident, $field:ident) => {
        $(#[$text])*
        #[derive(Debug)]
        pub struct $name(Arc<SiteTraffic>);

        impl $name {
            /// Counts one more.
            pub fn begin(traffic: &Arc<SiteTraffic>) -> Self {
                traffic.$field.fetch_add(1, Ordering::SeqCst);
                // What is read of the site from here on is newer than the count.
                fence(Ordering::SeqCst);
                Self(Arc::clone(traffic))
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                self.0.$field.fetch_sub(1, Ordering::SeqCst);
            }
        }
    };
}

counted! {
    /// A request of a site, counted for as long as this lives. The state of the site must be read
    /// after this began, never before: whoever closes the site and then sees no request in flight
    /// must be right.
    InFlight, in_flight
}
counted! {
    /// A WebSocket of a site, counted for as long as this lives.
    Tunnel, tunnels
}

macro_rules! limited {
    ($(#[$text:meta])* $name:ident, $field:ident) => {
        $(#[$text])*
        #[derive(Debug)]
        pub struct $name(Arc<SiteTraffic>);

        impl $name {
            /// Counts one more, unless there are `most` already.
            pub fn begin(traffic: &Arc<SiteTraffic>, most: u64) -> Option<Self> {
                if traffic.$field.fetch_add(1, Ordering::SeqCst) >= most {
                    traffic.$field.fetch_sub(1, Ordering::SeqCst);
                    return None;
                }
                Some(Self(Arc::clone(traffic)))
            }
        }

        impl Drop for $name {
            fn drop(&mut self) {
                self.0.$field.fetch_sub(1, Ordering::SeqCst);
            }
        }
    };
}

limited! {
    /// A waiting request of a site, counted for as long as this lives.
    Held, held
}
limited! {
    /// A client's connection that was made for a hostname of a site, counted for as long as this
    /// lives.
    SiteConnection, connections
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_fifth_of_the_requests_and_a_few() {
        let traffic = SiteTraffic::default();
        let few = (0..100).filter(|_| traffic.may_retry()).count();
        assert_eq!(few, 5);
        let limits = SiteLimits { requests_per_second: 1_000_000, burst: 1_000, concurrent: 1 };
        for _ in 0..100 {
            traffic.may_begin(&limits, Instant::now());
        }
        let retries = (0..100).filter(|_| traffic.may_retry()).count();
        assert!((20..=21).contains(&retries), "{retries}");
    }

    #[test]
    fn the_last_minute_slides() {
        let minutes = Minutes::default();
        for _ in 0..60 {
            minutes.count(MINUTE / 2);
        }
        assert_eq!(minutes.last(MINUTE / 2), 60);
        assert_eq!(minutes.last(MINUTE + MINUTE / 2), 30);
        minutes.count(MINUTE + MINUTE / 2);
        assert_eq!(minutes.last(MINUTE + MINUTE / 2), 31);
        assert_eq!(minutes.last(2 * MINUTE), 1);
        assert_eq!(minutes.last(4 * MINUTE), 0);
    }
}
