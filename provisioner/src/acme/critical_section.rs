//! What work on a name is not interrupted in, whether it is told to stop, takes too long or seems to
//! have lost its claim: an order on its way from an authority to its row, and the last write, which
//! gives the claim back itself.

use tokio::sync::{Mutex, MutexGuard};

/// Of the work on one name.
#[derive(Debug, Default)]
pub struct CriticalSection(Mutex<()>);

impl CriticalSection {
    /// Until what is returned is dropped, nothing interrupts.
    pub async fn enter(&self) -> MutexGuard<'_, ()> {
        self.0.lock().await
    }

    /// What `end` says, as soon as the work is not in here.
    pub async fn outside<T>(&self, end: impl Future<Output = T>) -> T {
        let said = end.await;
        drop(self.0.lock().await);
        said
    }
}
