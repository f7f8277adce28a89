//! Rates as one number each (the generic cell rate algorithm): the moment at which the bucket will be
//! full again. Taking is one compare-and-swap, and an unused bucket needs no upkeep.

use std::sync::{
    LazyLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::time::Instant;

const SECOND: u64 = 1_000_000_000;

static ORIGIN: LazyLock<Instant> = LazyLock::new(Instant::now);

/// A moment as nanoseconds since the process first asked.
pub fn nanos(at: Instant) -> u64 {
    u64::try_from(at.saturating_duration_since(*ORIGIN).as_nanos()).unwrap_or(u64::MAX)
}

/// How much may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    interval: u64,
    tolerance: u64,
}

impl Rate {
    /// So many in a second in the long run, and `burst` at once after a quiet time. Both at least 1.
    pub const fn new(per_second: u32, burst: u32) -> Self {
        let interval = SECOND / if per_second == 0 { 1 } else { per_second as u64 };
        Self { interval, tolerance: interval * (burst as u64).saturating_sub(1) }
    }
}

/// One bucket.
#[derive(Debug, Default)]
pub struct Bucket(AtomicU64);

impl Bucket {
    /// Takes one, if there is one at `now` (of [`nanos`]).
    pub fn take(&self, rate: Rate, now: u64) -> bool {
        let mut full_at = self.0.load(Relaxed);
        loop {
            let from = full_at.max(now);
            if from - now > rate.tolerance {
                return false;
            }
            let next = from.saturating_add(rate.interval);
            match self.0.compare_exchange_weak(full_at, next, Relaxed, Relaxed) {
                Ok(_) => return true,
                Err(seen) => full_at = seen,
            }
        }
    }

    /// Whether there is one at `now`, without taking it.
    pub fn has_one(&self, rate: Rate, now: u64) -> bool {
        self.0.load(Relaxed).saturating_sub(now) <= rate.tolerance
    }

    /// Whether nothing is remembered at `now`: the bucket is full.
    pub fn is_full(&self, now: u64) -> bool {
        self.0.load(Relaxed) <= now
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Never more than the burst and what the time since the beginning allows; and whoever waits
        /// an interval is never refused.
        #[test]
        fn holds_to_its_rate(
            per_second in 1_u32..5_000,
            burst in 1_u32..100,
            pauses in proptest::collection::vec(0_u64..20_000_000, 1..400),
        ) {
            let (rate, bucket) = (Rate::new(per_second, burst), Bucket::default());
            let (mut now, mut taken) = (0, 0);
            for pause in pauses {
                now += pause;
                let allowed = bucket.take(rate, now);
                prop_assert!(allowed || pause < rate.interval);
                taken += u64::from(allowed);
                prop_assert!(taken <= u64::from(burst) + now / rate.interval);
            }
        }
    }
}
