//! When the next process of an instance may start after one has ended. Pure.

use std::time::Duration;

/// The first wait after a failure; each further one doubles it.
const FIRST: Duration = Duration::from_secs(1);
/// The longest wait.
const LONGEST: Duration = Duration::from_secs(60);
/// A process that ran for this long ran well: what failed before is forgotten.
pub const RUN_WELL: Duration = Duration::from_secs(60);
/// A process that ends within this time, without having served what is wanted, did nothing useful.
const QUICK: Duration = Duration::from_secs(1);
/// So many useless ends in a row are a failure; fewer are connections that came at the very
/// moment of an idle exit.
const QUICK_ENDS: u32 = 10;

/// How a process ended, as far as the decision goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RunEnd {
    /// With status 0.
    pub well: bool,
    /// How long it ran.
    pub ran: Duration,
    /// Whether another one is wanted at once (a connection waits, or it is kept warm), although this
    /// one did not come as far as serving.
    pub wanted: bool,
}

/// What went wrong so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BackOff {
    failures: u32,
    quick_ends: u32,
}

impl BackOff {
    /// Notes an end; answers how long to wait before the next start, none when it was no failure.
    pub fn after(&mut self, end: RunEnd) -> Option<Duration> {
        if end.ran >= RUN_WELL {
            *self = Self::default();
        }
        if end.well {
            let quick = end.wanted && end.ran < QUICK;
            self.quick_ends = if quick { self.quick_ends + 1 } else { 0 };
            if self.quick_ends <= QUICK_ENDS {
                self.failures = 0;
                return None;
            }
        }
        self.failures = self.failures.saturating_add(1);
        let doublings = (self.failures - 1).min(16);
        Some(FIRST.saturating_mul(1 << doublings).min(LONGEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRASH: RunEnd = RunEnd { well: false, ran: Duration::from_millis(5), wanted: true };

    #[test]
    fn failures_wait_longer_and_longer_until_one_runs_well() {
        let mut back_off = BackOff::default();
        let waits: Vec<_> = (0..9).filter_map(|_| back_off.after(CRASH)).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60, 60].map(Duration::from_secs));
        assert_eq!(back_off.after(RunEnd { ran: RUN_WELL, ..CRASH }), Some(FIRST));
        assert_eq!(back_off.after(RunEnd { well: true, ..CRASH }), None);
        assert_eq!(back_off.after(CRASH), Some(FIRST));
    }

    #[test]
    fn ending_well_without_serving_is_a_failure_in_the_end() {
        let mut back_off = BackOff::default();
        let useless = RunEnd { well: true, ..CRASH };
        for _ in 0..QUICK_ENDS {
            assert_eq!(back_off.after(useless), None);
        }
        assert_eq!(back_off.after(useless), Some(FIRST));
        assert_eq!(back_off.after(useless), Some(FIRST * 2));
        assert_eq!(back_off.after(RunEnd { wanted: false, ..useless }), None);
        assert_eq!(back_off.after(useless), None);
    }
}
