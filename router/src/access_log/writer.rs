//! Writes lines in the background. Every thread has a buffer of its own, so that a request takes no
//! lock that another one holds and wakes nobody; a thread empties the buffers a few times in a second,
//! sooner when one fills up. A buffer that is full drops what comes.

use std::{
    cell::Cell,
    io::{self, Write},
    mem,
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

/// How many threads have a buffer of their own; further ones share.
const BUFFERS: usize = 64;
/// Most that waits in one buffer, in bytes.
const FULL_BYTES: usize = 4 * 1024 * 1024;
/// A buffer with so much is emptied at once.
const MUCH_BYTES: usize = 64 * 1024;
/// The longest time that a line waits.
const INTERVAL: Duration = Duration::from_millis(100);

/// The way to the thread that writes.
#[derive(Debug)]
pub struct Writer(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    buffers: [Mutex<Vec<u8>>; BUFFERS],
    // Set by whoever found that much waits; only the first one wakes the thread.
    woken: AtomicBool,
    round: Mutex<u64>,
    wake: Condvar,
    written: Condvar,
}

thread_local! {
    static BUFFER: Cell<Option<usize>> = const { Cell::new(None) };
}

/// The number of this thread's buffer.
fn own_buffer() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    BUFFER.with(|own| {
        let number = own.get().unwrap_or_else(|| NEXT.fetch_add(1, Ordering::Relaxed) % BUFFERS);
        own.set(Some(number));
        number
    })
}

impl Writer {
    /// A writer to `out`.
    ///
    /// # Errors
    /// When the system gives no thread.
    pub fn start(mut out: impl Write + Send + 'static) -> io::Result<Self> {
        let shared = Arc::new(Shared {
            buffers: [const { Mutex::new(Vec::new()) }; BUFFERS],
            woken: AtomicBool::new(false),
            round: Mutex::new(0),
            wake: Condvar::new(),
            written: Condvar::new(),
        });
        let inside = Arc::clone(&shared);
        std::thread::Builder::new()
            .name("access-log".into())
            .spawn(move || inside.write_for_ever(&mut out))?;
        Ok(Self(shared))
    }

    /// Lets `line` append a line to what is written soon. False when there is no room for it.
    pub fn append(&self, line: impl FnOnce(&mut Vec<u8>)) -> bool {
        let Some(buffer) = self.0.buffers.get(own_buffer()) else { return false };
        let mut buffer = buffer.lock().unwrap_or_else(PoisonError::into_inner);
        if buffer.len() >= FULL_BYTES {
            return false;
        }
        line(&mut buffer);
        let much = buffer.len() >= MUCH_BYTES;
        drop(buffer);
        if much && !self.0.woken.swap(true, Ordering::Relaxed) {
            self.0.wake.notify_one();
        }
        true
    }

    /// Waits until everything that was appended is written, at most for `limit`.
    pub fn finish(&self, limit: Duration) {
        let end = Instant::now() + limit;
        let mut round = self.0.round.lock().unwrap_or_else(PoisonError::into_inner);
        // The round that is under way may have passed this thread's buffer.
        let enough = *round + 2;
        while *round < enough {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            self.0.wake.notify_one();
            let waiting = self.0.written.wait_timeout(round, left.min(INTERVAL));
            round = waiting.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    fn write_for_ever(&self, out: &mut impl Write) {
        let mut taken = Vec::new();
        loop {
            let round = self.round.lock().unwrap_or_else(PoisonError::into_inner);
            drop(self.wake.wait_timeout(round, INTERVAL));
            self.woken.store(false, Ordering::Relaxed);
            for buffer in &self.buffers {
                mem::swap(&mut *buffer.lock().unwrap_or_else(PoisonError::into_inner), &mut taken);
                // Nothing can be said about a standard error that does not take anything.
                let _ = out.write_all(&taken);
                taken.clear();
                if taken.capacity() > 2 * MUCH_BYTES {
                    taken = Vec::new();
                }
            }
            *self.round.lock().unwrap_or_else(PoisonError::into_inner) += 1;
            self.written.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Default)]
    struct Sink(Arc<Mutex<Vec<u8>>>);

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_lines_of_all_threads_are_written_whole() {
        let sink = Sink::default();
        let writer = Writer::start(sink.clone()).expect("starts");
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let writer = &writer;
                scope.spawn(move || {
                    for number in 0..1000 {
                        let whole = format!("{thread} {number}\n");
                        assert!(writer.append(|buffer| buffer.extend(whole.as_bytes())));
                    }
                });
            }
        });
        writer.finish(Duration::from_secs(10));
        let text = String::from_utf8(sink.0.lock().expect("not poisoned").clone()).expect("text");
        let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
        lines.sort();
        lines.dedup();
        assert_eq!(lines.len(), 8 * 1000);
    }

    #[test]
    fn a_full_buffer_drops_and_says_so() {
        struct Stuck;
        impl Write for Stuck {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                loop {
                    std::thread::park();
                }
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let writer = Writer::start(Stuck).expect("starts");
        let mib = vec![b'x'; 1024 * 1024];
        let kept = (0..32).filter(|_| writer.append(|buffer| buffer.extend(&mib))).count();
        // What the thread took before it got stuck, and a full buffer.
        assert!((4..=9).contains(&kept), "{kept}");
    }
}
