//! Objects written to the store that a site moves to.

use std::{mem, sync::Arc, time::Duration};

use s3::{Bucket, serde_types::Part};
use tokio::{runtime::Handle, task::JoinHandle};

use super::{
    CopyError,
    reading::{Head, again, in_time},
};
use crate::site_storage::{SiteStorage, SiteStorageError};

/// How long it may take to send a part: 8 MiB at 70 KB/s.
const SEND: Duration = Duration::from_secs(120);
/// How long a store may take to put parts together: it may have to copy them.
const COMPLETE: Duration = Duration::from_secs(600);
/// How long it may take to do anything else.
const ANSWER: Duration = Duration::from_secs(30);

/// A store that objects are written to.
pub(super) struct Target<'a> {
    store: &'a SiteStorage,
    bucket: Bucket,
}

impl<'a> Target<'a> {
    pub(super) fn new(store: &'a SiteStorage) -> Self {
        let mut bucket = (*store.0.bucket).clone();
        bucket.set_request_timeout(None);
        Self { store, bucket }
    }

    /// Writes a whole object. The store checks the bytes that arrive against the request's SHA-256.
    pub(super) async fn put(
        &self,
        key: &str,
        bytes: &[u8],
        head: &Head,
    ) -> Result<(), SiteStorageError> {
        let put = || {
            let headers = Some(head.headers.clone());
            let kind = &head.content_type;
            let put =
                self.bucket.put_object_with_content_type_and_headers(key, bytes, kind, headers);
            in_time(self.store, "store an object", SEND, put)
        };
        again(put).await.map(drop)
    }

    /// Begins an object that is written part by part, and is there when it is complete.
    pub(super) async fn begin(&self, key: &str, head: &Head) -> Result<Upload, SiteStorageError> {
        // These belong to the first request only.
        let mut bucket = self.bucket.clone();
        bucket.extra_headers_mut().extend(head.headers.clone());
        let begun = bucket.initiate_multipart_upload(key, &head.content_type);
        let id = in_time(self.store, "begin an upload", ANSWER, begun).await?.upload_id;
        let begun = Begun {
            store: self.store.clone(),
            bucket: self.bucket.clone(),
            key: key.to_owned(),
            id,
            content_type: head.content_type.clone(),
        };
        let begun = Arc::new(begun);
        Ok(Upload { begun, parts: Vec::new(), sending: None, is_open: true })
    }
}

/// An upload that the store knows of.
struct Begun {
    store: SiteStorage,
    bucket: Bucket,
    key: String,
    id: String,
    content_type: String,
}

impl Begun {
    /// The library sends it again when that fails and may pass.
    async fn send(&self, number: u32, bytes: Vec<u8>) -> Result<Part, SiteStorageError> {
        let (key, id, kind) = (&self.key, &self.id, &self.content_type);
        let sent = self.bucket.put_multipart_chunk(bytes, key, number, id, kind);
        in_time(&self.store, "store a part of an object", SEND, sent).await
    }

    /// When it fails, the next copy does it.
    async fn abort(&self) {
        let aborted = self.bucket.abort_upload(&self.key, &self.id);
        match in_time(&self.store, "end an upload", ANSWER, aborted).await {
            Err(error) if !error.is_not_found() => {
                let object = &self.key;
                tracing::warn!(object, %error, "an unfinished upload stays behind for now");
            }
            _ => {}
        }
    }

    fn sort(&self, error: SiteStorageError) -> CopyError {
        if error.is_not_found() {
            let (store, object) = (self.store.0.store.clone(), self.key.clone());
            return CopyError::UploadEnded { store, object };
        }
        CopyError::of(&self.key)(error)
    }
}

/// An object on its way, part by part. Dropped before it is complete, it is ended in the background.
pub(super) struct Upload {
    begun: Arc<Begun>,
    parts: Vec<Part>,
    sending: Option<JoinHandle<Result<Part, SiteStorageError>>>,
    is_open: bool,
}

impl Upload {
    /// Sends the next part. A task does it, so that the part is not cut off when this is dropped: a
    /// store that still had it in hand would keep it after the upload was ended.
    pub(super) async fn send_part(&mut self, bytes: Vec<u8>) -> Result<(), CopyError> {
        let number = u32::try_from(self.parts.len() + 1).unwrap_or(u32::MAX);
        let begun = self.begun.clone();
        let sending = tokio::spawn(async move { begun.send(number, bytes).await });
        let sent = self.sending.insert(sending).await;
        self.sending = None;
        let sent = sent.unwrap_or_else(|error| {
            let store = self.begun.store.0.store.clone();
            Err(SiteStorageError::Down { store, source: error.into() })
        });
        self.parts.push(sent.map_err(|error| self.begun.sort(error))?);
        Ok(())
    }

    /// Makes the parts one object, which has its name from now on.
    pub(super) async fn complete(&mut self) -> Result<(), CopyError> {
        let Begun { store, bucket, key, id, .. } = &*self.begun;
        let whole = bucket.complete_multipart_upload(key, id, mem::take(&mut self.parts));
        let whole = in_time(store, "complete an upload", COMPLETE, whole).await;
        whole.map_err(|error| self.begun.sort(error))?;
        self.is_open = false;
        Ok(())
    }

    /// Ends it, if it did not come to its completion.
    pub(super) async fn abort_unless_complete(mut self) {
        if self.is_open {
            self.begun.abort().await;
            self.is_open = false;
        }
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // Nobody waits for a copy that was given up, but its parts take room.
        if self.is_open
            && let Ok(runtime) = Handle::try_current()
        {
            let (begun, sending) = (self.begun.clone(), self.sending.take());
            runtime.spawn(async move {
                if let Some(sending) = sending {
                    let _ = sending.await;
                }
                begun.abort().await;
            });
        }
    }
}
