//! What is known of a connection's requests beside their bytes: which are let in, and when each is over
//! for its client.

use std::{
    pin::Pin,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use quinn::{StoppedError, VarInt};

/// From one request to the next.
const ID_STEP: u64 = 4;

/// Ends when the client has all of an answer, wants no more of it, or is gone.
pub type Stopped = Pin<Box<dyn Future<Output = Result<Option<VarInt>, StoppedError>> + Send>>;

/// Between QUIC and the library for HTTP/3.
#[derive(Default)]
pub struct Gate {
    /// One more than the highest id of a request that was let in.
    next: AtomicU64,
    /// Requests from this id on are turned away, plus one; 0 as long as none are.
    closed_from: AtomicU64,
    stopped: Mutex<Option<Stopped>>,
}

impl Gate {
    /// Turns away the requests that come after the next `on_their_way` ones, as the goodbye says; all
    /// if there was none so far, since then the library says so.
    pub fn close_after(&self, on_their_way: usize) {
        let next = self.next.load(Ordering::Relaxed);
        let from = next.saturating_add(ID_STEP * on_their_way as u64);
        self.closed_from.store(if next == 0 { 1 } else { from }, Ordering::Relaxed);
    }

    /// When the request that was let in last is over for its client. Once for each request.
    pub fn stopped(&self) -> Option<Stopped> {
        self.stopped.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// From now on [`Gate::stopped`] is about this request.
    pub fn watches(&self, stopped: Stopped) {
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = Some(stopped);
    }

    /// Whether the request with this id is let in.
    pub fn lets_in(&self, id: u64) -> bool {
        let closed_from = self.closed_from.load(Ordering::Relaxed);
        if closed_from > 0 && id + 1 >= closed_from {
            return false;
        }
        self.next.fetch_max(id + 1, Ordering::Relaxed);
        true
    }
}
