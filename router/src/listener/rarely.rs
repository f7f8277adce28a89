//! A future that is asked only after it woke its task. A connection's task runs for every piece that
//! passes, while what may end it (a stop, a timer) almost never has news, and asking costs a lock each.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use futures_util::task::AtomicWaker;

/// See the module.
pub struct Rarely<F> {
    future: Pin<Box<F>>,
    bell: Arc<Bell>,
    waker: Waker,
}

struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl<F> Rarely<F> {
    /// Asks `future` once, and then whenever it has called.
    pub fn new(future: F) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        Self { future: Box::pin(future), waker: Arc::clone(&bell).into(), bell }
    }
}

impl<F: Future> Future for Rarely<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        // First the waker, so that no call gets lost between the look and the wait.
        self.bell.task.register(cx.waker());
        if !self.bell.rung.swap(false, Ordering::Acquire) {
            return Poll::Pending;
        }
        let this = &mut *self;
        this.future.as_mut().poll(&mut Context::from_waker(&this.waker))
    }
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::poll_fn, pin::pin, rc::Rc};

    use super::*;

    #[tokio::test]
    async fn asked_only_when_it_called() {
        let (tell, told) = tokio::sync::oneshot::channel::<u8>();
        let asked = Rc::new(Cell::new(0));
        let count = Rc::clone(&asked);
        let mut told = Box::pin(told);
        let rarely = Rarely::new(poll_fn(move |cx| {
            count.set(count.get() + 1);
            told.as_mut().poll(cx)
        }));
        let mut rarely = pin!(rarely);
        for _ in 0..100 {
            assert!(futures_util::poll!(&mut rarely).is_pending());
        }
        assert_eq!(asked.get(), 1);
        let (said, ()) = futures_util::future::join(&mut rarely, async {
            tokio::task::yield_now().await;
            tell.send(7).expect("is taken");
        })
        .await;
        assert_eq!((said, asked.get()), (Ok(7), 2));
    }
}
