//! A site's blobs on their way from one object store to another, when the site moves. What is copied
//! are the immutable objects `site/<id>/blob/<sha256>`; uploads under way (`incoming/`) belong to the
//! instance that takes them and stay where they are.
//!
//! Everything here can be done again at any moment. A blob gets its name at the target in one step, and
//! only when its bytes were found to hash to that name, so whatever is there under a blob's name is a
//! whole object: to resume is to copy what the target does not have.

use std::future;

use futures_util::{Stream, TryStreamExt as _, stream};

mod error;
mod listing;
mod merge;
mod progress;
mod reading;
mod throttle;
mod upload;
mod verify;

pub use error::{CopyError, Named};
pub use listing::{Blob, MissingBlob};
pub use progress::{CopyProgress, CopySettings, OnProgress};
pub use verify::{BlobsDigest, Verified};

use self::{
    merge::merged,
    progress::{Tally, for_each},
    reading::{Found, Head, Source},
    throttle::Throttle,
    upload::Target,
};
use super::{SitePrefix, SiteStorage, SiteStorageError};

/// What a copy did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Objects that were copied.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that the target had already.
    pub present: u64,
    /// Objects that were listed, or named, and not there when they were to be read: swept meanwhile.
    pub vanished: u64,
    /// Objects below `blob/` whose name is no SHA-256. No row can name them, and they stay behind.
    pub strange: Named,
}

impl SiteStorage {
    /// Copies every blob below the prefix that `target` does not have with the same size, until the
    /// target has all that were here when their page was listed. Run again it copies what came
    /// meanwhile, or was left when it was interrupted. A corrupt object does not keep the others from
    /// being copied. One copy of a prefix at a time: unfinished uploads of blobs at the target are
    /// taken as left by one that was interrupted, and ended.
    ///
    /// Not for places that share one store, as those of a move inside a region may: there is nothing
    /// to copy then, and the caller does not ask.
    ///
    /// An object of the right size with wrong bytes at the target is not noticed here but by
    /// [`Self::verify_prefix`]; [`Self::recopy_blobs`] mends it.
    ///
    /// # Errors
    /// When one of the stores is down or refuses; [`CopyError::Corrupt`] at the end, naming the objects
    /// whose bytes here do not hash to their name. Those were not copied.
    pub async fn copy_prefix(
        &self,
        prefix: &SitePrefix,
        target: &Self,
        settings: &CopySettings,
        progress: OnProgress<'_>,
    ) -> Result<Copied, CopyError> {
        let tally = Tally::new(progress);
        let here =
            self.blobs(prefix, |key| tally.note(|noted: &mut Noted| noted.copied.strange.add(key)));
        let there = target.blobs(prefix, |_| ());
        let missing = merged(here.map_ok(Blob::into_pair), there.map_ok(Blob::into_pair))
            .try_filter_map(|(sha256, size, at_target)| {
                let missing = size.filter(|_| at_target != size).map(|size| Blob { sha256, size });
                if size.is_some() && missing.is_none() {
                    tally.note(|noted| noted.copied.present += 1);
                }
                future::ready(Ok(missing))
            });
        self.copy_blobs(prefix, target, missing, settings, &tally).await
    }

    /// Copies these blobs whatever the target has under their names: those that a verification found
    /// wrong there. One that is not here counts as vanished.
    ///
    /// # Errors
    /// As [`Self::copy_prefix`].
    pub async fn recopy_blobs(
        &self,
        prefix: &SitePrefix,
        target: &Self,
        blobs: &[[u8; 32]],
        settings: &CopySettings,
        progress: OnProgress<'_>,
    ) -> Result<Copied, CopyError> {
        let tally = Tally::new(progress);
        // Sizes are learnt when the objects are looked at.
        let named = stream::iter(blobs.iter().map(|&sha256| Ok(Blob { sha256, size: 0 })));
        self.copy_blobs(prefix, target, named, settings, &tally).await
    }

    async fn copy_blobs(
        &self,
        prefix: &SitePrefix,
        target: &Self,
        blobs: impl Stream<Item = Result<Blob, SiteStorageError>> + Send,
        settings: &CopySettings,
        tally: &Tally<'_, Noted>,
    ) -> Result<Copied, CopyError> {
        target.end_blob_uploads(prefix).await?;
        let throttle = Throttle::new(settings.bytes_per_second);
        let source = Source::new(self, &throttle);
        let copying = Copying { prefix, source, target: Target::new(target), tally };
        for_each(blobs, settings, tally, |blob| copying.copy(blob)).await?;
        let Noted { copied, corrupt } = tally.noted();
        if corrupt.count > 0 {
            return Err(CopyError::Corrupt { store: self.0.store.clone(), objects: corrupt });
        }
        Ok(copied)
    }

    /// Ends what an interrupted copy left at this store. A store that cannot list uploads forgets them
    /// by itself after some days.
    async fn end_blob_uploads(&self, prefix: &SitePrefix) -> Result<(), SiteStorageError> {
        let mut last_page = Vec::new();
        loop {
            let page = self.uploads_below(&prefix.blobs()).await?;
            if page.is_empty() {
                return Ok(());
            }
            if page == last_page {
                return Err(self.refused("end uploads", "ended uploads are still there"));
            }
            for (key, upload_id) in &page {
                self.abort_upload(key, upload_id).await?;
            }
            last_page = page;
        }
    }
}

/// What is noted while objects are copied.
#[derive(Clone, Default)]
struct Noted {
    copied: Copied,
    corrupt: Named,
}

/// One copy from a store to another.
struct Copying<'a> {
    prefix: &'a SitePrefix,
    source: Source<'a>,
    target: Target<'a>,
    tally: &'a Tally<'a, Noted>,
}

impl Copying<'_> {
    async fn copy(&self, blob: Blob) -> Result<(), CopyError> {
        let key = self.prefix.blob(&blob.sha256);
        let Some(head) = self.source.head(&key).await.map_err(CopyError::of(&key))? else {
            self.tally.note(|noted| noted.copied.vanished += 1);
            self.tally.forget(blob.size, 0);
            return Ok(());
        };
        self.tally.resize(blob.size, head.size);
        let mut read = 0;
        let found = if head.fits_one_part() {
            self.copy_whole(&key, &blob.sha256, &head, &mut read).await?
        } else {
            self.copy_in_parts(&key, &blob.sha256, &head, &mut read).await?
        };
        match found {
            Found::Right => self.tally.note(|Noted { copied, .. }| {
                copied.objects += 1;
                copied.bytes += head.size;
            }),
            Found::Wrong => self.tally.note(|noted| noted.corrupt.add(key)),
            Found::Vanished => {
                self.tally.note(|noted| noted.copied.vanished += 1);
                self.tally.forget(head.size, read);
                return Ok(());
            }
        }
        self.tally.object_done();
        Ok(())
    }

    async fn copy_whole(
        &self,
        key: &str,
        sha256: &[u8; 32],
        head: &Head,
        read: &mut u64,
    ) -> Result<Found, CopyError> {
        let mut reading = self.source.begin(key, head.size);
        let bytes = reading.next_part().await?.unwrap_or_default();
        *read += self.tally.read(&bytes);
        let found = reading.finish(sha256);
        if found == Found::Right {
            self.target.put(key, &bytes, head).await.map_err(CopyError::of(key))?;
        }
        Ok(found)
    }

    async fn copy_in_parts(
        &self,
        key: &str,
        sha256: &[u8; 32],
        head: &Head,
        read: &mut u64,
    ) -> Result<Found, CopyError> {
        let mut upload = self.target.begin(key, head).await.map_err(CopyError::of(key))?;
        let mut reading = self.source.begin(key, head.size);
        let sent = async {
            while let Some(bytes) = reading.next_part().await? {
                *read += self.tally.read(&bytes);
                upload.send_part(bytes).await?;
            }
            // Only now is it known whether these are the bytes; the name comes with the completion.
            let found = reading.finish(sha256);
            if found == Found::Right {
                upload.complete().await?;
            }
            Ok(found)
        };
        let outcome = sent.await;
        upload.abort_unless_complete().await;
        outcome
    }
}
