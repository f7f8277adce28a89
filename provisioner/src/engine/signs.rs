//! Signs of life of a step. Servers end statements that take too long, but an answer can be lost on
//! its way, together with whoever sent it, and nobody would ever tell: such a step is given up and
//! tried again, as if its worker had vanished.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

/// So long a step may be silent: longer than any statement may take (`statement_timeout`, 120 s).
pub const SILENCE: Duration = Duration::from_secs(300);

/// When a step was last heard of.
#[derive(Clone, Debug)]
pub struct Signs(watch::Sender<Instant>);

impl Signs {
    /// Heard of now.
    pub fn new() -> Self {
        Self(watch::channel(Instant::now()).0)
    }

    /// It gets on.
    pub fn give(&self) {
        self.0.send_replace(Instant::now());
    }

    /// Runs it, unless it is silent for `silence`; then none.
    pub async fn heed<T>(&self, silence: Duration, step: impl Future<Output = T>) -> Option<T> {
        self.give();
        let mut heard = self.0.subscribe();
        let silent = async {
            // The sender is `self`.
            while let Ok(Ok(())) = timeout(silence, heard.changed()).await {}
        };
        tokio::select! {
            outcome = step => Some(outcome),
            () = silent => None,
        }
    }
}

impl Default for Signs {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(100);

    #[tokio::test]
    async fn a_step_that_hangs_is_given_up() {
        assert_eq!(Signs::new().heed(SHORT, std::future::pending::<()>()).await, None);
    }

    #[tokio::test]
    async fn a_step_that_tells_may_take_long() {
        let signs = Signs::new();
        let step = async {
            for _ in 0..10 {
                tokio::time::sleep(SHORT / 5).await;
                signs.give();
            }
            7
        };
        assert_eq!(signs.heed(SHORT, step).await, Some(7));
    }
}
