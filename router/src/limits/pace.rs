//! How slow a client may be. It has a credit of time: waiting for it takes from the credit, what it
//! sends or takes adds to it, never to more than in the beginning. A pause is fine, a slow line too;
//! one byte now and then is not.

use tokio::time::{Duration, Instant};

/// What is asked of clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// The credit of time in the beginning, and the most that there ever is.
    pub grace: Duration,
    /// How many bytes make up for a second of waiting.
    pub bytes_per_second: u32,
}

/// One client's credit, in one direction.
#[derive(Debug)]
pub struct Patience {
    pace: Pace,
    left: Duration,
    since: Option<Instant>,
}

impl Patience {
    /// The whole credit.
    pub const fn new(pace: Pace) -> Self {
        Self { pace, left: pace.grace, since: None }
    }

    /// It is the client's turn, at the latest from now on; when the credit will be used up.
    pub fn waits(&mut self, now: Instant) -> Instant {
        *self.since.get_or_insert(now) + self.left
    }

    /// The client did something: so many bytes.
    pub fn passed(&mut self, now: Instant, bytes: usize) {
        if let Some(since) = self.since.take() {
            self.left = self.left.saturating_sub(now.duration_since(since));
        }
        let micros = (bytes as u64).saturating_mul(1_000_000);
        let earned = Duration::from_micros(micros / u64::from(self.pace.bytes_per_second.max(1)));
        self.left = self.left.saturating_add(earned).min(self.pace.grace);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { grace: Duration::from_secs(30), bytes_per_second: 240 };
    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn one_byte_now_and_then_is_too_slow_and_a_slow_line_is_not() {
        let begun = Instant::now();
        let (mut drip, mut slow) = (Patience::new(PACE), Patience::new(PACE));
        let mut dripped = 0;
        for second in 0..3_600 {
            let now = begun + second * SECOND;
            assert!(slow.waits(now) > now + SECOND);
            slow.passed(now + SECOND, 240);
            if second % 5 == 0 && drip.waits(now) > now + 5 * SECOND {
                drip.passed(now + 5 * SECOND, 1);
                dripped += 1;
            }
        }
        assert_eq!(dripped, 6, "for hardly longer than the grace");
    }

    #[test]
    fn much_at_once_buys_no_more_than_the_first_credit() {
        let begun = Instant::now();
        let mut client = Patience::new(PACE);
        assert_eq!(client.waits(begun), begun + PACE.grace);
        client.passed(begun + 20 * SECOND, usize::MAX);
        let later = begun + 20 * SECOND;
        assert_eq!(client.waits(later), later + PACE.grace);
        // Only while it is the client's turn.
        client.passed(later, 0);
        let much_later = later + 3_600 * SECOND;
        assert_eq!(client.waits(much_later), much_later + PACE.grace);
    }
}
