//! Objects read part by part. A part is asked for by its range, so that no answer stays open while
//! its bytes go elsewhere, and one that breaks off is read again without the parts before it.

use std::{ops::Range, time::Duration};

use anyhow::anyhow;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderName, HeaderValue, header};
use s3::{Bucket, error::S3Error, serde_types::HeadObjectResult};
use sha2::{Digest as _, Sha256};

use super::{CopyError, throttle::Throttle};
use crate::site_storage::{SiteStorage, SiteStorageError};

/// Most bytes of an object that are read at once, but for objects of more than 80 GB.
const PART_BYTES: u64 = 8 * 1024 * 1024;
/// Most parts of an object: what S3 takes.
const PARTS: u64 = 10_000;
/// How long a store may take to begin to answer, and between two pieces.
const ANSWER: Duration = Duration::from_secs(30);
/// Pauses before something that may pass is tried again. What lasts longer is the operation's to wait for.
const PAUSES: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// What is known of an object before it is read, and goes with its copy.
pub(super) struct Head {
    pub size: u64,
    pub content_type: String,
    pub headers: HeaderMap,
}

impl Head {
    fn new(head: HeadObjectResult) -> Option<Self> {
        let mut headers = HeaderMap::new();
        let mut keep = |name: HeaderName, value: Option<String>| {
            if let Some(value) = value.and_then(|value| HeaderValue::try_from(value).ok()) {
                headers.insert(name, value);
            }
        };
        keep(header::CACHE_CONTROL, head.cache_control);
        keep(header::CONTENT_DISPOSITION, head.content_disposition);
        keep(header::CONTENT_ENCODING, head.content_encoding);
        keep(header::CONTENT_LANGUAGE, head.content_language);
        for (name, value) in head.metadata.unwrap_or_default() {
            if let Ok(name) = HeaderName::try_from(format!("x-amz-meta-{name}")) {
                keep(name, Some(value));
            }
        }
        let size = u64::try_from(head.content_length?).ok()?;
        let content_type = head.content_type.unwrap_or_else(|| "binary/octet-stream".to_owned());
        Some(Self { size, content_type, headers })
    }

    pub(super) fn fits_one_part(&self) -> bool {
        self.size <= part_bytes(self.size)
    }
}

fn part_bytes(size: u64) -> u64 {
    PART_BYTES.max(size.div_ceil(PARTS))
}

/// What an object turned out to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Right,
    /// Its bytes do not hash to its name.
    Wrong,
    Vanished,
}

/// A store whose objects are read.
pub(super) struct Source<'a> {
    store: &'a SiteStorage,
    bucket: Bucket,
    throttle: &'a Throttle,
}

impl<'a> Source<'a> {
    pub(super) fn new(store: &'a SiteStorage, throttle: &'a Throttle) -> Self {
        let mut bucket = (*store.0.bucket).clone();
        // A throttled part takes its time. Slowness is judged piece by piece.
        bucket.set_request_timeout(None);
        Self { store, bucket, throttle }
    }

    /// None when there is no such object.
    pub(super) async fn head(&self, key: &str) -> Result<Option<Head>, SiteStorageError> {
        const ACTION: &str = "say what an object is";
        match in_time(self.store, ACTION, ANSWER, self.bucket.head_object(key)).await {
            Ok((head, _)) => match Head::new(head) {
                Some(head) => Ok(Some(head)),
                None => Err(self.store.refused(ACTION, "it did not say how long the object is")),
            },
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Begins to read an object of this size.
    pub(super) fn begin<'s>(&'s self, key: &'s str, size: u64) -> Reading<'s> {
        let hasher = Sha256::new();
        Reading { source: self, key, size, read: 0, hasher, state: State::Begun }
    }

    /// The bytes in this range of an object of this size: fewer when it is shorter, and more when a
    /// whole object is longer; none when there is no such object.
    async fn read(
        &self,
        key: &str,
        range: &Range<u64>,
        size: u64,
    ) -> Result<Option<Vec<u8>>, SiteStorageError> {
        const ACTION: &str = "hand out an object";
        let is_whole = *range == (0..size);
        let mut bucket = self.bucket.clone();
        if !is_whole {
            let inclusive = format!("bytes={}-{}", range.start, range.end - 1);
            bucket.add_header("range", &inclusive);
        }
        let answer = match in_time(self.store, ACTION, ANSWER, bucket.get_object_stream(key)).await
        {
            Ok(answer) => answer,
            Err(error) if error.is_not_found() => return Ok(None),
            // Begins after the end of the object.
            Err(SiteStorageError::Refused { status: Some(416), .. }) => {
                return Ok(Some(Vec::new()));
            }
            Err(error) => return Err(error),
        };
        if !is_whole && answer.status_code != 206 {
            return Err(self.store.refused(ACTION, "it gave a whole object for a part of it"));
        }
        let wanted = usize::try_from(range.end - range.start).unwrap_or(usize::MAX);
        let mut bytes = Vec::with_capacity(wanted);
        let mut pieces = answer.bytes;
        loop {
            let next = async { pieces.next().await.transpose() };
            let Some(piece) = in_time(self.store, ACTION, ANSWER, next).await? else { break };
            self.throttle.pass(piece.len()).await;
            bytes.extend_from_slice(&piece);
            if bytes.len() > wanted {
                break;
            }
        }
        Ok(Some(bytes))
    }
}

/// An object that is being read.
pub(super) struct Reading<'a> {
    source: &'a Source<'a>,
    key: &'a str,
    size: u64,
    read: u64,
    hasher: Sha256,
    state: State,
}

#[derive(PartialEq, Eq)]
enum State {
    Begun,
    UnderWay,
    Vanished,
    OtherLength,
}

impl Reading<'_> {
    /// The next part. None at the end, and when it is clear that these are not the bytes.
    pub(super) async fn next_part(&mut self) -> Result<Option<Vec<u8>>, CopyError> {
        let is_due = match self.state {
            // An empty object has a part as well: it may have vanished.
            State::Begun => true,
            State::UnderWay => self.read < self.size,
            State::Vanished | State::OtherLength => false,
        };
        if !is_due {
            return Ok(None);
        }
        let range = self.read..self.size.min(self.read + part_bytes(self.size));
        let read = again(|| self.source.read(self.key, &range, self.size)).await;
        let Some(bytes) = read.map_err(CopyError::of(self.key))? else {
            self.state = State::Vanished;
            return Ok(None);
        };
        if bytes.len() as u64 != range.end - range.start {
            self.state = State::OtherLength;
            return Ok(None);
        }
        self.state = State::UnderWay;
        self.read = range.end;
        self.hasher.update(&bytes);
        Ok(Some(bytes))
    }

    /// Whether what was read is the whole of what has this SHA-256.
    pub(super) fn finish(self, sha256: &[u8; 32]) -> Found {
        match self.state {
            State::Vanished => Found::Vanished,
            State::UnderWay
                if self.read == self.size
                    && <[u8; 32]>::from(self.hasher.finalize()) == *sha256 =>
            {
                Found::Right
            }
            _ => Found::Wrong,
        }
    }
}

/// Does something again, after pauses, when it failed and may pass.
pub(super) async fn again<T, W>(work: impl Fn() -> W) -> Result<T, SiteStorageError>
where
    W: Future<Output = Result<T, SiteStorageError>>,
{
    for pause in PAUSES {
        match work().await {
            Err(error) if error.is_retryable() => tokio::time::sleep(pause).await,
            outcome => return outcome,
        }
    }
    work().await
}

/// Waits for an answer of a store, but not for ever.
pub(super) async fn in_time<T>(
    store: &SiteStorage,
    action: &'static str,
    limit: Duration,
    answer: impl Future<Output = Result<T, S3Error>>,
) -> Result<T, SiteStorageError> {
    match tokio::time::timeout(limit, answer).await {
        Ok(answer) => answer.map_err(|error| store.sort(action, error)),
        Err(_) => Err(SiteStorageError::Down {
            store: store.0.store.clone(),
            source: anyhow!("it did not {action} within {} seconds", limit.as_secs()),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_object_has_more_parts_than_s3_takes() {
        for size in [0, 1, PART_BYTES, PARTS * PART_BYTES, PARTS * PART_BYTES + 1, 5 << 40] {
            assert!(size.div_ceil(part_bytes(size)) <= PARTS, "{size}");
        }
        assert_eq!(part_bytes(PARTS * PART_BYTES), PART_BYTES);
    }
}
