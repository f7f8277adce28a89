//! Ends HTTP/2 requests whose client takes nothing of the answer. The client decides how much may be
//! sent, for each request alone, so the connection as a whole looks fine; and a body that may not send
//! is not even asked. So the body notes when it was last the client's turn, and what runs the request
//! looks at that.

use std::{cell::Cell, future::poll_fn, pin::pin, sync::Arc, task::Poll};

use tokio::time::{Instant, Sleep, sleep_until};

use crate::Edge;

tokio::task_local! {
    static TURN: Cell<Option<Instant>>;
}

/// There is something for the client to take.
pub fn clients_turn() {
    // There is none where the connection is one request's alone: writing to it shows a stall.
    let _ = TURN.try_with(|turn| turn.set(Some(Instant::now())));
}

/// There is nothing for the client to take at the moment.
pub fn instances_turn() {
    let _ = TURN.try_with(|turn| turn.set(None));
}

/// Runs a request until it ends, or until it is the client's turn for too long; then the stream is
/// reset.
pub async fn guarded<F: Future>(edge: Arc<Edge>, task: F) {
    let limit = edge.limits.write_stall();
    let guarded = async {
        let mut task = pin!(task);
        let mut timer: Option<std::pin::Pin<Box<Sleep>>> = None;
        poll_fn(|cx| {
            if task.as_mut().poll(cx).is_ready() {
                return Poll::Ready(false);
            }
            loop {
                let Some(since) = TURN.with(Cell::get) else {
                    timer = None;
                    return Poll::Pending;
                };
                let end = since + limit;
                if end <= Instant::now() {
                    return Poll::Ready(true);
                }
                // The timer is moved only when it fires, not at every piece.
                let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(end)));
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                timer.as_mut().reset(end);
            }
        })
        .await
    };
    if TURN.scope(Cell::new(None), guarded).await {
        edge.metrics.stalled_streams.increment(1);
    }
}
