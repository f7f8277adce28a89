//! The site's files in the object store. Keys are made here from a content's hash or a fresh id,
//! below the site's prefix: there is no way to name anything else.

use std::{pin::Pin, sync::OnceLock, time::Duration};

use anyhow::{Context as _, anyhow};
use bytes::{Bytes, BytesMut};
use control_types::instance_config::StorageConfig;
use futures_util::{Stream, StreamExt as _};
use s3::{Bucket, Region, creds::Credentials, serde_types::Part};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use crate::rejection::Rejection;

/// How long the endpoint may take to begin to answer, and between two pieces.
const ANSWER: Duration = Duration::from_secs(20);
/// Bytes of one part of a big upload, and the most that is kept in memory of a file.
const PART_BYTES: usize = 8 * 1024 * 1024;

/// The SHA-256 of a content: its name in the object store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ContentHash(pub [u8; 32]);

/// What was stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// The content's name.
    pub hash: ContentHash,
    /// Its length.
    pub size_bytes: u64,
    /// Its first bytes, to tell what it is.
    pub head: Bytes,
}

/// The site's prefix in its object store.
pub struct Storage {
    config: StorageConfig,
    // Made at the first use: most requests need no file, and its TLS roots take memory.
    bucket: OnceLock<Box<Bucket>>,
}

/// Where in the prefix something lies.
enum Key {
    Blob(ContentHash),
    Incoming(Uuid),
}

impl Storage {
    /// Connects to nothing yet.
    pub fn new(config: StorageConfig) -> Self {
        Self { config, bucket: OnceLock::new() }
    }

    fn bucket(&self) -> Result<&Bucket, Rejection> {
        if let Some(bucket) = self.bucket.get() {
            return Ok(bucket);
        }
        let bucket = self.make_bucket().map_err(Rejection::Internal)?;
        Ok(self.bucket.get_or_init(|| bucket))
    }

    fn make_bucket(&self) -> anyhow::Result<Box<Bucket>> {
        let config = &self.config;
        let region =
            Region::Custom { region: config.region.clone(), endpoint: config.endpoint.clone() };
        let credentials =
            Credentials::new(Some(&config.access_key), Some(&config.secret_key), None, None, None)?;
        let mut bucket = Bucket::new(&config.bucket, region, credentials)
            .context("the object store's client cannot be made")?
            .with_path_style();
        // A video may stream for an hour; slowness is judged piece by piece below.
        bucket.set_request_timeout(None);
        Ok(bucket)
    }

    fn path(&self, key: &Key) -> String {
        match key {
            Key::Blob(hash) => format!("/{}/blob/{}", self.config.prefix, hex::encode(hash.0)),
            Key::Incoming(id) => format!("/{}/incoming/{id}", self.config.prefix),
        }
    }

    /// Stores a content while it arrives, under its hash. Small ones are one request; bigger ones
    /// go up in parts and get their name at the end.
    ///
    /// # Errors
    /// When it is longer than `limit`, breaks off, or the object store does not take it.
    pub async fn store<E: Into<Rejection>>(
        &self,
        content: impl Stream<Item = Result<Bytes, E>>,
        limit: u64,
    ) -> Result<Stored, Rejection> {
        let mut content = std::pin::pin!(content);
        let mut upload = Upload::new(self, limit);
        while let Some(piece) = content.next().await {
            let taken = match piece {
                Ok(piece) => upload.take(&piece).await,
                Err(error) => Err(error.into()),
            };
            if let Err(rejection) = taken {
                upload.abandon().await;
                return Err(rejection);
            }
        }
        upload.finish().await
    }

    /// A content, or the part of it between two inclusive offsets, as it arrives.
    ///
    /// # Errors
    /// When the object store does not answer or lost the content.
    pub async fn read(
        &self,
        hash: ContentHash,
        range: Option<(u64, u64)>,
    ) -> Result<Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>, Rejection> {
        let mut bucket = self.bucket()?.clone();
        if let Some((first, last)) = range {
            bucket.add_header("range", &format!("bytes={first}-{last}"));
        }
        let key = self.path(&Key::Blob(hash));
        let answer = asked("read a file", bucket.get_object_stream(&key)).await?;
        let pieces = futures_util::stream::unfold(Some(answer.bytes), |pieces| async {
            let mut pieces = pieces?;
            match tokio::time::timeout(ANSWER, pieces.next()).await {
                Ok(None) => None,
                Ok(Some(Ok(piece))) => Some((Ok(piece), Some(pieces))),
                Ok(Some(Err(error))) => Some((Err(std::io::Error::other(error)), None)),
                Err(_) => Some((Err(std::io::ErrorKind::TimedOut.into()), None)),
            }
        });
        Ok(Box::pin(pieces))
    }
}

/// A content on its way in.
struct Upload<'a> {
    storage: &'a Storage,
    limit: u64,
    size: u64,
    hasher: Sha256,
    head: Bytes,
    buffer: BytesMut,
    parts: Option<Parts>,
}

struct Parts {
    path: String,
    id: String,
    done: Vec<Part>,
}

impl<'a> Upload<'a> {
    fn new(storage: &'a Storage, limit: u64) -> Self {
        Self {
            storage,
            limit,
            size: 0,
            hasher: Sha256::new(),
            head: Bytes::new(),
            buffer: BytesMut::new(),
            parts: None,
        }
    }

    async fn take(&mut self, piece: &Bytes) -> Result<(), Rejection> {
        self.size += piece.len() as u64;
        if self.size > self.limit {
            return Err(Rejection::TooLarge { limit: self.limit });
        }
        self.hasher.update(piece);
        self.buffer.extend_from_slice(piece);
        if self.buffer.len() >= PART_BYTES {
            self.send_part().await?;
        }
        Ok(())
    }

    fn keep_head(&mut self) {
        if self.head.is_empty() {
            self.head = Bytes::copy_from_slice(&self.buffer[..self.buffer.len().min(4096)]);
        }
    }

    async fn send_part(&mut self) -> Result<(), Rejection> {
        self.keep_head();
        let bucket = self.storage.bucket()?;
        if self.parts.is_none() {
            let path = self.storage.path(&Key::Incoming(Uuid::now_v7()));
            let begun = bucket.initiate_multipart_upload(&path, "application/octet-stream");
            let id = asked("begin an upload", begun).await?.upload_id;
            self.parts = Some(Parts { path, id, done: Vec::new() });
        }
        let Some(parts) = &mut self.parts else { return Ok(()) };
        let number = u32::try_from(parts.done.len() + 1).unwrap_or(u32::MAX);
        let bytes = self.buffer.split().to_vec();
        let sent = bucket.put_multipart_chunk(
            bytes,
            &parts.path,
            number,
            &parts.id,
            "application/octet-stream",
        );
        parts.done.push(asked("store a part of a file", sent).await?);
        Ok(())
    }

    async fn finish(mut self) -> Result<Stored, Rejection> {
        let stored = self.finish_parts().await;
        if stored.is_err() {
            self.abandon().await;
        }
        stored
    }

    async fn finish_parts(&mut self) -> Result<Stored, Rejection> {
        self.keep_head();
        let hash = ContentHash(self.hasher.clone().finalize().into());
        let blob = self.storage.path(&Key::Blob(hash));
        let bucket = self.storage.bucket()?;
        if self.parts.is_none() {
            let put = bucket.put_object(&blob, &self.buffer);
            asked("store a file", put).await?;
        } else {
            if !self.buffer.is_empty() {
                self.send_part().await?;
            }
            if let Some(parts) = &self.parts {
                let list = parts.done.clone();
                let whole = bucket.complete_multipart_upload(&parts.path, &parts.id, list);
                asked("complete an upload", whole).await?;
                let named = bucket.copy_object_internal(&parts.path, &blob);
                asked("name an upload", named).await?;
                // The copy is what counts; what stays behind is swept later.
                if let Err(error) = bucket.delete_object(&parts.path).await {
                    tracing::warn!("an upload's first copy stays behind: {error}");
                }
            }
        }
        Ok(Stored { hash, size_bytes: self.size, head: self.head.clone() })
    }

    /// Best effort: the object store drops unfinished uploads by itself after some days.
    async fn abandon(&self) {
        if let (Some(parts), Ok(bucket)) = (&self.parts, self.storage.bucket()) {
            let _ = bucket.abort_upload(&parts.path, &parts.id).await;
        }
    }
}

/// Waits for an answer of the object store, but not for ever.
async fn asked<T>(
    what: &str,
    answer: impl Future<Output = Result<T, s3::error::S3Error>>,
) -> Result<T, Rejection> {
    match tokio::time::timeout(ANSWER, answer).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(Rejection::Unavailable(
            anyhow!(error).context(format!("the object store did not {what}")),
        )),
        Err(_) => Err(Rejection::Unavailable(anyhow!(
            "the object store did not {what} within {} seconds",
            ANSWER.as_secs()
        ))),
    }
}
