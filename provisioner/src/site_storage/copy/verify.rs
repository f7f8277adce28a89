//! Whether every blob in a store has the bytes that its name says.

use std::fmt;

use sha2::{Digest as _, Sha256};

use super::{
    Blob, CopyError, CopySettings, Named, OnProgress,
    progress::{Tally, for_each},
    reading::{Found, Source},
    throttle::Throttle,
};
use crate::site_storage::{SitePrefix, SiteStorage};

/// A digest of a set of blobs, by their names and sizes, in whatever order they were read: two stores
/// with the same blobs have the same one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlobsDigest(pub [u8; 32]);

impl BlobsDigest {
    /// Each blob is in it once, so what is added does not cancel out.
    fn add(&mut self, blob: &Blob) {
        let mut hasher = Sha256::new();
        hasher.update(blob.sha256);
        hasher.update(blob.size.to_be_bytes());
        self.0.iter_mut().zip(hasher.finalize()).for_each(|(sum, byte)| *sum ^= byte);
    }
}

impl fmt::Display for BlobsDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// What a verification found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verified {
    /// Blobs that are there, wrong ones too.
    pub objects: u64,
    /// Their bytes, as the store lists them.
    pub bytes: u64,
    /// Of all of them.
    pub digest: BlobsDigest,
    /// Blobs whose bytes do not hash to their name.
    pub wrong: Named,
    /// Blobs that were listed and not there when they were to be read: swept meanwhile.
    pub vanished: u64,
    /// Objects below `blob/` whose name is no SHA-256. They were not read.
    pub strange: Named,
}

impl SiteStorage {
    /// Reads every blob below the prefix and compares its bytes with its name. Wrong ones are no error
    /// but part of the result; at a target they are mended with [`Self::recopy_blobs`].
    ///
    /// # Errors
    /// When the store is down or refuses.
    pub async fn verify_prefix(
        &self,
        prefix: &SitePrefix,
        settings: &CopySettings,
        progress: OnProgress<'_>,
    ) -> Result<Verified, CopyError> {
        let tally = Tally::new(progress);
        let throttle = Throttle::new(settings.bytes_per_second);
        let source = Source::new(self, &throttle);
        let strange = |key| tally.note(|verified: &mut Verified| verified.strange.add(key));
        let verify = async |blob: Blob| {
            let key = prefix.blob(&blob.sha256);
            let mut reading = source.begin(&key, blob.size);
            let mut read = 0;
            while let Some(bytes) = reading.next_part().await? {
                read += tally.read(&bytes);
            }
            let found = reading.finish(&blob.sha256);
            if found == Found::Vanished {
                tally.note(|verified| verified.vanished += 1);
                tally.forget(blob.size, read);
                return Ok(());
            }
            tally.note(|verified| {
                verified.objects += 1;
                verified.bytes += blob.size;
                verified.digest.add(&blob);
                if found == Found::Wrong {
                    verified.wrong.add(key);
                }
            });
            tally.object_done();
            Ok(())
        };
        for_each(self.blobs(prefix, strange), settings, &tally, verify).await?;
        Ok(tally.noted())
    }
}
