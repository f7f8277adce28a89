//! The requests of one held site, in the order in which they came.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::sync::oneshot;

/// Who waits. One task lets them go; it runs for as long as anybody waits.
#[derive(Debug, Default)]
pub struct Queue {
    waiting: VecDeque<oneshot::Sender<()>>,
    // Whether the task runs; to be read without the lock.
    in_use: Arc<AtomicBool>,
}

impl Queue {
    /// A queue that says in `in_use` whether newcomers have somebody before them.
    pub const fn new(in_use: Arc<AtomicBool>) -> Self {
        Self { waiting: VecDeque::new(), in_use }
    }

    /// A place at the end, and whether the task that lets go has to be started. At most `most` wait
    /// in truth; those that gave up are forgotten when there are many.
    pub fn join(&mut self, most: u64) -> (oneshot::Receiver<()>, bool) {
        if self.waiting.len() as u64 >= most.saturating_mul(2) {
            self.waiting.retain(|waiter| !waiter.is_closed());
        }
        let (waiter, released) = oneshot::channel();
        self.waiting.push_back(waiter);
        let first = !self.in_use.swap(true, Ordering::Relaxed);
        (released, first)
    }

    /// Lets the first `most` go. Whether there may be more; if not, the task that asks has ended.
    pub fn release(&mut self, most: usize) -> bool {
        let mut released = 0;
        while released < most {
            let Some(waiter) = self.waiting.pop_front() else {
                self.in_use.store(false, Ordering::Relaxed);
                self.waiting.shrink_to_fit();
                return false;
            };
            // Who gave up does not count.
            released += usize::from(waiter.send(()).is_ok());
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_in_first_out_in_slices() {
        let mut queue = Queue::default();
        let mut waiting: Vec<_> = (0..5).map(|_| queue.join(5)).collect();
        let starts: Vec<bool> = waiting.iter().map(|(_, first)| *first).collect();
        assert_eq!(starts, [true, false, false, false, false]);
        // The second gives up.
        drop(waiting.remove(1));
        assert!(queue.release(2));
        let gone: Vec<bool> =
            waiting.iter_mut().map(|(released, _)| released.try_recv().is_ok()).collect();
        assert_eq!(gone, [true, true, false, false]);
        assert!(queue.in_use.load(Ordering::Relaxed));
        assert!(!queue.release(10));
        assert!(!queue.in_use.load(Ordering::Relaxed) && queue.join(5).1);
    }

    #[test]
    fn who_comes_and_goes_does_not_make_it_grow() {
        let mut queue = Queue::default();
        for _ in 0..1_000 {
            drop(queue.join(5));
        }
        assert!(queue.waiting.len() <= 10);
    }
}
