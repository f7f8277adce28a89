//! So many bytes per second, of all that share it.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep_until};

/// Lets bytes pass at a rate.
pub(super) struct Throttle {
    bytes_per_second: Option<u64>,
    /// When all that was let pass until now has had its time.
    free_at: Mutex<Instant>,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: Option<u64>) -> Self {
        Self { bytes_per_second, free_at: Mutex::new(Instant::now()) }
    }

    /// Waits until so many bytes have had their time.
    pub(super) async fn pass(&self, bytes: usize) {
        if let Some(until) = self.reserve(Instant::now(), bytes as u64) {
            sleep_until(until).await;
        }
    }

    /// What was not used is lost: a pause does not make the rate higher afterwards.
    fn reserve(&self, now: Instant, bytes: u64) -> Option<Instant> {
        let rate = u128::from(self.bytes_per_second?.max(1));
        let nanoseconds = u128::from(bytes) * 1_000_000_000 / rate;
        let time = Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX));
        let mut free_at = self.free_at.lock().unwrap_or_else(PoisonError::into_inner);
        // A rate so low that the clock cannot tell the time is no rate.
        *free_at = (*free_at).max(now).checked_add(time)?;
        Some(*free_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn bytes_take_their_time_one_after_the_other_and_pauses_are_lost() {
        let throttle = Throttle::new(Some(1000));
        let now = Instant::now();
        let second = Duration::from_secs(1);
        assert_eq!(throttle.reserve(now, 1000), Some(now + second));
        assert_eq!(throttle.reserve(now, 500), Some(now + second * 3 / 2));
        let later = now + 10 * second;
        assert_eq!(throttle.reserve(later, 2000), Some(later + 2 * second));
        assert_eq!(Throttle::new(None).reserve(now, 1000), None);
        assert!(Throttle::new(Some(0)).reserve(now, 1).is_some(), "no division by zero");
    }
}
