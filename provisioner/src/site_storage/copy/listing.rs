//! A store's listing of a site's blobs, in the order of their names.

use std::{fmt, future};

use futures_util::{Stream, StreamExt as _, TryStreamExt as _, stream};

use super::{CopyError, merge::merged};
use crate::site_storage::{PAGE, SitePrefix, SiteStorage, SiteStorageError};

const ACTION: &str = "list the site's blobs";
/// Questions for single blobs at the same time.
const ASKED_AT_ONCE: usize = 8;

/// A blob as a store lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blob {
    /// The SHA-256 of its bytes, as its name says.
    pub sha256: [u8; 32],
    /// Its length in bytes.
    pub size: u64,
}

impl Blob {
    pub(super) fn into_pair(self) -> ([u8; 32], u64) {
        (self.sha256, self.size)
    }
}

/// A blob that should be in a store and is not, or has another length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MissingBlob {
    /// Its SHA-256.
    pub sha256: [u8; 32],
    /// The length in bytes that it should have.
    pub expected: i64,
    /// The length that it has in the store, if it is there.
    pub found: Option<u64>,
}

impl fmt::Display for MissingBlob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "blob {} of {} bytes ", hex::encode(self.sha256), self.expected)?;
        match self.found {
            None => f.write_str("is not there"),
            Some(found) => write!(f, "has {found} bytes"),
        }
    }
}

impl SitePrefix {
    /// How the keys of the site's blobs begin.
    pub(super) fn blobs(&self) -> String {
        format!("{self}/blob/")
    }

    /// The key of a blob.
    pub(super) fn blob(&self, sha256: &[u8; 32]) -> String {
        format!("{self}/blob/{}", hex::encode(sha256))
    }
}

/// One line of a listing.
enum Listed {
    Blob(Blob),
    /// The key of an object whose name is no SHA-256.
    Strange(String),
}

impl SiteStorage {
    /// The site's blobs in the order of their SHA-256, a page at a time. Objects below `blob/` with
    /// other names are left out. Each item may be an error: the store is down or refuses.
    pub fn blob_sizes(
        &self,
        prefix: &SitePrefix,
    ) -> impl Stream<Item = Result<Blob, SiteStorageError>> + Send {
        self.blobs(prefix, |_| ())
    }

    /// Which of the expected blobs, as SHA-256 and length in bytes, are not in this store or have
    /// another length there. Those expected must come in the order of their SHA-256, each once, as
    /// `SELECT sha256, size_bytes FROM blob ORDER BY sha256` tells them.
    ///
    /// # Errors
    /// When the store is down or refuses; [`CopyError::NotSorted`].
    pub async fn missing_blobs(
        &self,
        prefix: &SitePrefix,
        expected: impl Iterator<Item = ([u8; 32], i64)> + Send,
    ) -> Result<Vec<MissingBlob>, CopyError> {
        let mut last = None;
        let sorted = expected.map(|(sha256, size)| {
            if last.replace(sha256).is_some_and(|last| last >= sha256) {
                return Err(CopyError::NotSorted { store: self.0.store.clone() });
            }
            Ok((sha256, size))
        });
        let here = self.blob_sizes(prefix).map_ok(Blob::into_pair).map_err(CopyError::from);
        merged(stream::iter(sorted), here)
            .try_filter_map(|(sha256, expected, found)| {
                let missing = expected
                    .filter(|&expected| u64::try_from(expected).ok() != found)
                    .map(|expected| MissingBlob { sha256, expected, found });
                future::ready(Ok(missing))
            })
            .try_collect()
            .await
    }

    /// Which of a few blobs are not in this store, or have another length there: each is asked for, so
    /// this takes one answer's time, however much the site has.
    ///
    /// # Errors
    /// When the store is down or refuses.
    pub async fn absent_blobs(
        &self,
        prefix: &SitePrefix,
        expected: &[([u8; 32], i64)],
    ) -> Result<Vec<[u8; 32]>, SiteStorageError> {
        const ACTION: &str = "say whether an object is there";
        let ask = |&(sha256, size): &([u8; 32], i64)| async move {
            let key = prefix.blob(&sha256);
            let found = match self.0.bucket.head_object(&key).await {
                Ok((head, _)) => head.content_length,
                Err(error) => match self.sort(ACTION, error) {
                    error if error.is_not_found() => None,
                    error => return Err(error),
                },
            };
            Ok((found != Some(size)).then_some(sha256))
        };
        stream::iter(expected)
            .map(ask)
            .buffer_unordered(ASKED_AT_ONCE)
            .try_filter_map(|absent| future::ready(Ok(absent)))
            .try_collect()
            .await
    }

    /// The site's blobs in the order of their SHA-256; other objects are only told of.
    pub(super) fn blobs(
        &self,
        prefix: &SitePrefix,
        on_strange: impl Fn(String) + Send,
    ) -> impl Stream<Item = Result<Blob, SiteStorageError>> + Send {
        let below = prefix.blobs();
        // Goes on after the last key and not by the store's own mark, which may be worth nothing any
        // more when a page took hours to copy.
        let pages = stream::try_unfold(Some(None), move |after| {
            let below = below.clone();
            async move {
                let Some(after) = after else { return Ok(None) };
                let (lines, next) = self.blob_page(&below, after).await?;
                Ok(Some((stream::iter(lines.into_iter().map(Ok)), next)))
            }
        });
        pages.try_flatten().try_filter_map(move |line| {
            future::ready(Ok(match line {
                Listed::Blob(blob) => Some(blob),
                Listed::Strange(key) => {
                    on_strange(key);
                    None
                }
            }))
        })
    }

    /// The lines after a key, and the key after which to go on, unless these are the last.
    async fn blob_page(
        &self,
        below: &str,
        after: Option<String>,
    ) -> Result<(Vec<Listed>, Option<Option<String>>), SiteStorageError> {
        let page = self.0.bucket.list_page(below.to_owned(), None, None, after.clone(), Some(PAGE));
        let (page, _) = page.await.map_err(|error| self.sort(ACTION, error))?;
        if page.is_truncated && page.contents.is_empty() {
            return Err(self.refused(ACTION, "it listed nothing, and says that there is more"));
        }
        let mut last = after;
        let mut lines = Vec::with_capacity(page.contents.len());
        for object in page.contents {
            let Some(name) = object.key.strip_prefix(below) else {
                let reason = format!("it listed {}, which is outside {below}", object.key);
                return Err(self.refused(ACTION, &reason));
            };
            // Listings are merged, which is right only when both are in order.
            if last.as_ref().is_some_and(|last| *last >= object.key) {
                let reason = format!("it listed {} out of order", object.key);
                return Err(self.refused(ACTION, &reason));
            }
            lines.push(match sha256_of(name) {
                Some(sha256) => Listed::Blob(Blob { sha256, size: object.size }),
                None => Listed::Strange(object.key.clone()),
            });
            last = Some(object.key);
        }
        Ok((lines, page.is_truncated.then_some(last)))
    }
}

/// Only the one form in which blobs are named: another one would be another object.
fn sha256_of(name: &str) -> Option<[u8; 32]> {
    let mut sha256 = [0; 32];
    hex::decode_to_slice(name, &mut sha256).ok()?;
    (hex::encode(sha256) == name).then_some(sha256)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_is_a_blobs_name() {
        let name = "ab".repeat(32);
        assert_eq!(sha256_of(&name), Some([0xab; 32]));
        for wrong in ["", "0001", &name[1..], &name.to_uppercase(), &format!("{name}/x")] {
            assert_eq!(sha256_of(wrong), None, "{wrong}");
        }
    }
}
