//! Notices when a worker thread does not turn any more (a deadlock, an endless loop) and ends the
//! process, so that whoever supervises it starts a new one. A router that is up and serves only some
//! of its connections is worse than one that is gone for a moment.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

/// How often a thread shows that it turns, and how often that is looked at.
const BEAT: Duration = Duration::from_secs(1);
/// A thread that showed nothing for this long is stuck. Far above what a busy machine delays.
const STUCK_AFTER: Duration = Duration::from_secs(30);

/// Beats as long as its thread turns.
#[derive(Debug, Default)]
pub struct Heart(AtomicU64);

impl Heart {
    /// Beats for ever, on the thread that runs this.
    pub fn beat(self: &Arc<Self>) -> impl Future<Output = ()> + Send + 'static {
        let heart = Arc::clone(self);
        async move {
            let mut beats = tokio::time::interval(BEAT);
            loop {
                beats.tick().await;
                heart.0.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// What is known of one thread.
struct Watched {
    heart: Arc<Heart>,
    count: u64,
    /// For how many looks it was the same. Looks, not time: when the whole process stood still, as in
    /// a suspended machine, this thread did not look either.
    same: u32,
}

/// Watches the threads for ever, from a thread of its own.
///
/// # Errors
/// When the system gives no thread.
pub fn watch(hearts: &[Arc<Heart>]) -> io::Result<()> {
    let mut all: Vec<_> = hearts
        .iter()
        .map(|heart| Watched { heart: Arc::clone(heart), count: 0, same: 0 })
        .collect();
    let thread = std::thread::Builder::new().name("watchdog".to_owned());
    thread.spawn(move || {
        loop {
            std::thread::sleep(BEAT);
            if let Some(number) = stuck(&mut all) {
                // Not by tracing: the lock of the log may be what the thread waits for.
                eprintln!(
                    "{{\"level\":\"ERROR\",\"message\":\"worker {number} has been stuck for \
                     {STUCK_AFTER:?}; the router ends itself\"}}"
                );
                std::process::abort();
            }
        }
    })?;
    Ok(())
}

fn stuck(all: &mut [Watched]) -> Option<usize> {
    let looks = u32::try_from(STUCK_AFTER.as_secs() / BEAT.as_secs()).unwrap_or(u32::MAX);
    for (number, watched) in all.iter_mut().enumerate() {
        let count = watched.heart.0.load(Ordering::Relaxed);
        watched.same = if count == watched.count { watched.same + 1 } else { 0 };
        watched.count = count;
        if watched.same >= looks {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_heart_that_stands_still_is_stuck() {
        let [one, other] = [Arc::new(Heart::default()), Arc::new(Heart::default())];
        let watched = |heart: &Arc<Heart>| Watched { heart: Arc::clone(heart), count: 0, same: 0 };
        let mut all = [watched(&one), watched(&other)];
        let mut looks = 0;
        let found = loop {
            one.0.fetch_add(1, Ordering::Relaxed);
            if looks % 20 == 0 && looks < 100 {
                other.0.fetch_add(1, Ordering::Relaxed);
            }
            looks += 1;
            if let Some(number) = stuck(&mut all) {
                break number;
            }
        };
        assert_eq!((found, looks), (1, 80 + 1 + 30));
    }
}
