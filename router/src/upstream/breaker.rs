//! Whether it is worth connecting to an instance that failed again and again. There is no other
//! instance to go to, so this only makes the failure quick: once in a while one request tries, and the
//! first success ends it.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use crate::limits::gcra::nanos;

/// So many failures in a row are no accident.
const FAILURES: u32 = 5;
/// How often one request tries nevertheless.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);

/// The failures of one instance. Closed at first.
#[derive(Debug, Default)]
pub struct Breaker {
    failures: AtomicU32,
    // 0 while closed, else the moment from which one request may try.
    next_probe: AtomicU64,
}

impl Breaker {
    /// Whether a request may connect. While the instance fails, one in [`PROBE_INTERVAL`] may.
    pub fn may_try(&self, now: Instant) -> bool {
        let next = self.next_probe.load(Relaxed);
        next == 0 || (nanos(now) >= next && self.probes(next, now))
    }

    fn probes(&self, next: u64, now: Instant) -> bool {
        self.next_probe
            .compare_exchange(next, nanos(now + PROBE_INTERVAL), Relaxed, Relaxed)
            .is_ok()
    }

    /// The instance took a connection.
    pub fn succeeded(&self) {
        // Almost always nothing is to be changed, and reading is cheap.
        if self.failures.load(Relaxed) != 0 {
            self.failures.store(0, Relaxed);
            self.next_probe.store(0, Relaxed);
        }
    }

    /// The instance took none.
    pub fn failed(&self, now: Instant) {
        if self.failures.fetch_add(1, Relaxed) + 1 >= FAILURES {
            self.open(now);
        }
    }

    /// The instance took none for as long as anybody waits.
    pub fn failed_for_long(&self, now: Instant) {
        self.failures.store(FAILURES, Relaxed);
        self.open(now);
    }

    fn open(&self, now: Instant) {
        self.next_probe.store(nanos(now + PROBE_INTERVAL), Relaxed);
    }

    /// Whether connecting fails at once.
    pub fn is_open(&self) -> bool {
        self.next_probe.load(Relaxed) != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_are_quick_but_never_for_ever() {
        let (breaker, mut now) = (Breaker::default(), Instant::now());
        for _ in 0..FAILURES {
            assert!(breaker.may_try(now));
            breaker.failed(now);
        }
        for _ in 0..3 {
            assert!(breaker.is_open() && !breaker.may_try(now));
            now += PROBE_INTERVAL;
            // One tries, the others do not; it fails.
            assert!(breaker.may_try(now) && !breaker.may_try(now));
            breaker.failed(now);
        }
        now += PROBE_INTERVAL;
        assert!(breaker.may_try(now));
        breaker.succeeded();
        assert!(!breaker.is_open() && breaker.may_try(now) && breaker.may_try(now));
        breaker.failed_for_long(now);
        assert!(!breaker.may_try(now));
    }
}
