//! How far something long is: told to those who follow the operation, with its rate and what is left.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::{Instant, sleep};

use crate::{
    durations::roughly,
    engine::{Cx, Kind, StepError},
};

/// How often it is told at first; later less often, so that a long copy does not fill the log.
const TELL: Duration = Duration::from_secs(3);
/// How often at least.
const TELL_LATE: Duration = Duration::from_secs(30);

/// How far it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Far {
    /// As `3 of 12 tables are there`.
    pub words: String,
    /// Bytes that are done.
    pub done: u64,
    /// Bytes in all, as far as they are known.
    pub total: u64,
}

impl Far {
    /// In words, after so long.
    pub fn told(&self, took: Duration) -> String {
        let Self { words, done, total } = self;
        let far = format!("{words}, {} of {}", shown(*done), shown(*total));
        let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).max(1);
        let per_second = done.saturating_mul(1000) / ms;
        if per_second == 0 {
            return far;
        }
        let left = Duration::from_secs(total.saturating_sub(*done) / per_second);
        format!("{far}, {}/s, about {} left", shown(per_second), roughly(left))
    }
}

/// Where work says how far it is.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Far>);

impl Seen {
    /// It is so far now.
    pub fn set(&self, far: Far) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = far;
    }

    fn get(&self) -> Far {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Runs something long, and tells how far it is. Who does not get on is silent.
pub async fn told<K: Kind, T>(
    cx: &Cx<'_, K>,
    seen: &Seen,
    work: impl Future<Output = T>,
) -> Result<T, StepError> {
    let mut work = std::pin::pin!(work);
    let begun = Instant::now();
    let mut last = Far::default();
    loop {
        tokio::select! {
            outcome = &mut work => return Ok(outcome),
            () = sleep((begun.elapsed() / 20).clamp(TELL, TELL_LATE)) => {
                let far = seen.get();
                if far != last {
                    cx.tell(&far.told(begun.elapsed())).await?;
                    last = far;
                }
            }
        }
    }
}

/// Bytes for people.
pub fn shown(bytes: u64) -> String {
    #[allow(clippy::cast_precision_loss, reason = "shown with one digit")]
    let mut value = bytes as f64;
    let mut unit = "B";
    for next in ["KiB", "MiB", "GiB", "TiB"] {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_readable() {
        for (bytes, text) in
            [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (35 << 20, "35.0 MiB")]
        {
            assert_eq!(shown(bytes), text);
        }
    }

    #[test]
    fn rate_and_rest_are_told_when_they_are_known() {
        let far = |done| Far { words: "half of it".to_owned(), done, total: 300 << 20 };
        let minute = Duration::from_secs(60);
        assert_eq!(far(0).told(minute), "half of it, 0 B of 300.0 MiB");
        assert_eq!(
            far(60 << 20).told(minute),
            "half of it, 60.0 MiB of 300.0 MiB, 1.0 MiB/s, about 4 min left"
        );
        assert_eq!(
            far(270 << 20).told(minute),
            "half of it, 270.0 MiB of 300.0 MiB, 4.5 MiB/s, about 6 s left"
        );
    }
}
