//! How fast objects are dealt with, how many at a time, and how far it is.

use std::sync::{Mutex, MutexGuard, PoisonError};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, future, stream};
use tokio::sync::mpsc;

use super::{Blob, CopyError};
use crate::site_storage::SiteStorageError;

/// How many objects the listing may be ahead of the reading. With 40 bytes each that is little, and
/// the totals of most sites are known soon.
const AHEAD: usize = 10_000;

/// How much a copy or a verification may take of the stores and the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopySettings {
    /// Objects dealt with at the same time, at least 1. Each takes up to 16 MiB of memory.
    pub parallel: usize,
    /// Bytes read per second, of all objects together; no limit when none.
    pub bytes_per_second: Option<u64>,
}

impl Default for CopySettings {
    fn default() -> Self {
        Self { parallel: 4, bytes_per_second: None }
    }
}

/// How far a copy or a verification is. The totals grow while the store is being listed; objects that
/// need no copying are in none of the numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CopyProgress {
    /// Objects that are dealt with.
    pub objects_done: u64,
    /// Objects found until now.
    pub objects_total: u64,
    /// Bytes read until now, of objects under way too.
    pub bytes_done: u64,
    /// Bytes of the objects found until now.
    pub bytes_total: u64,
}

/// Is told how far it is, with each object that is found or done and each part of one. The work waits
/// for it, so it must not block.
pub type OnProgress<'a> = &'a (dyn Fn(CopyProgress) + Send + Sync);

/// Counts for the progress, and keeps what is noted for the result.
pub(super) struct Tally<'a, N> {
    state: Mutex<(CopyProgress, N)>,
    on_progress: OnProgress<'a>,
}

impl<'a, N: Clone + Default> Tally<'a, N> {
    pub(super) fn new(on_progress: OnProgress<'a>) -> Self {
        Self { state: Mutex::default(), on_progress }
    }

    fn state(&self) -> MutexGuard<'_, (CopyProgress, N)> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn count(&self, count: impl FnOnce(&mut CopyProgress)) {
        let mut state = self.state();
        count(&mut state.0);
        let progress = state.0;
        drop(state);
        (self.on_progress)(progress);
    }

    fn found(&self, size: u64) {
        self.count(|progress| {
            progress.objects_total += 1;
            progress.bytes_total += size;
        });
    }

    /// An object turned out to have another size than its listing said.
    pub(super) fn resize(&self, listed: u64, size: u64) {
        if listed != size {
            self.count(|progress| {
                progress.bytes_total = (progress.bytes_total + size).saturating_sub(listed);
            });
        }
    }

    /// Returns how many bytes these are.
    pub(super) fn read(&self, bytes: &[u8]) -> u64 {
        let read = bytes.len() as u64;
        self.count(|progress| progress.bytes_done += read);
        read
    }

    pub(super) fn object_done(&self) {
        self.count(|progress| progress.objects_done += 1);
    }

    /// An object vanished, of which so much had been read.
    pub(super) fn forget(&self, size: u64, read: u64) {
        self.count(|progress| {
            progress.objects_total = progress.objects_total.saturating_sub(1);
            progress.bytes_total = progress.bytes_total.saturating_sub(size);
            progress.bytes_done = progress.bytes_done.saturating_sub(read);
        });
    }

    pub(super) fn note(&self, note: impl FnOnce(&mut N)) {
        note(&mut self.state().1);
    }

    pub(super) fn noted(&self) -> N {
        self.state().1.clone()
    }
}

/// Deals with all the blobs, so many at a time, while they are still being listed. Ends with the first
/// error; what is under way then is dropped.
pub(super) async fn for_each<N: Clone + Default, W>(
    blobs: impl Stream<Item = Result<Blob, SiteStorageError>>,
    settings: &CopySettings,
    tally: &Tally<'_, N>,
    work: impl Fn(Blob) -> W,
) -> Result<(), CopyError>
where
    W: Future<Output = Result<(), CopyError>>,
{
    let (found, listed) = mpsc::channel(AHEAD);
    let list = async move {
        let mut blobs = std::pin::pin!(blobs);
        while let Some(blob) = blobs.try_next().await? {
            tally.found(blob.size);
            if found.send(blob).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    let listed = stream::unfold(listed, |mut listed| async {
        let blob = listed.recv().await?;
        Some((blob, listed))
    });
    let done = listed.map(work).buffer_unordered(settings.parallel.max(1)).try_collect::<()>();
    future::try_join(list, done).await?;
    Ok(())
}
