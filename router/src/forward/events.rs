//! A stream of events on its way to a client (`text/event-stream`). It has no end, so when its site is
//! held, or the router ends, the router ends it, after a whole event: the browser then connects again, and that waits.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::time::{Sleep, sleep};

use crate::{Edge, hold, limits::FAREWELL_TIMEOUT, route_table::Site};

/// Where a stream of events is.
pub struct Events {
    held: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    patience: Option<Pin<Box<Sleep>>>,
    // The last bytes that passed, to know the end of an event over two pieces.
    tail: [u8; 4],
    over: bool,
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("over", &self.over).finish_non_exhaustive()
    }
}

impl Events {
    /// A stream of the site that has not begun.
    pub fn new(edge: &Arc<Edge>, site: &Arc<Site>) -> Self {
        let (edge, site) = (Arc::clone(edge), Arc::clone(site));
        let held = async move {
            let farewell = edge.farewell.clone();
            tokio::select! {
                () = hold::begins(Arc::clone(&edge), site) => edge.metrics.cut_streams.increment(1),
                () = farewell.cancelled() => {}
            }
        };
        // As if an event had just ended.
        Self { held: Some(Box::pin(held)), patience: None, tail: *b"\n\n\n\n", over: false }
    }

    /// Whether the stream ends now: its site is held, and an event has ended or takes too long.
    pub fn end(&mut self, cx: &mut Context<'_>) -> bool {
        if let Some(held) = &mut self.held {
            if held.as_mut().poll(cx).is_pending() {
                return false;
            }
            self.held = None;
            self.patience = Some(Box::pin(sleep(FAREWELL_TIMEOUT)));
        }
        let late = |patience: &mut Pin<Box<Sleep>>| patience.as_mut().poll(cx) == Poll::Ready(());
        self.over |= after_event(&self.tail) || self.patience.as_mut().is_some_and(late);
        self.over
    }

    /// Notes what passes; of the last piece only what ends with an event.
    pub fn pass(&mut self, data: &mut Bytes) {
        if self.held.is_none()
            && let Some(length) = last_event_end(&self.tail, data)
        {
            data.truncate(length);
        }
        for byte in data.iter().skip(data.len().saturating_sub(self.tail.len())) {
            self.tail.rotate_left(1);
            self.tail[3] = *byte;
        }
    }
}

/// Whether an empty line, the end of an event, was last.
fn after_event(tail: &[u8; 4]) -> bool {
    matches!(tail, [.., b'\n', b'\n'] | [.., b'\r', b'\r'] | b"\r\n\r\n")
}

/// Where in `data` the last event ends.
fn last_event_end(tail: &[u8; 4], data: &[u8]) -> Option<usize> {
    let mut window = *tail;
    let mut end = None;
    for (index, byte) in data.iter().enumerate() {
        window.rotate_left(1);
        window[3] = *byte;
        if after_event(&window) {
            end = Some(index + 1);
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ends_with_an_empty_line() {
        let start = *b"\n\n\n\n";
        for (data, end) in [
            ("data: 1\n\ndata: 2", Some(9)),
            ("data: 1\r\n\r\nda", Some(11)),
            ("data: 1\r\rda", Some(9)),
            ("data: 1\ndata: 2\n", None),
            ("data: 1\n\ndata: 2\n\n", Some(18)),
        ] {
            assert_eq!(last_event_end(&start, data.as_bytes()), end, "{data:?}");
        }
        assert_eq!(last_event_end(b"a: 1", b"\n\nb"), Some(2));
        assert_eq!(last_event_end(b": 1\n", b"\nb"), Some(1));
    }
}
