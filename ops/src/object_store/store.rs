//! The objects themselves: s3s-fs keeps them as files; this layer adds what it leaves out. Objects
//! are on the disk before they are confirmed, deleted objects take their attributes and their empty
//! directories along, listings look only where they must, and a failed completion of a multipart
//! upload can be tried again.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use s3s::{S3, S3Error, S3Request, S3Response, S3Result, auth::Credentials, dto::*, s3_error};
use s3s_fs::FileSystem;
use tokio::sync::RwLock;
use uuid::Uuid;

use super::listing;

/// A multipart upload that was begun longer ago than this is taken as given up.
const UPLOAD_GIVEN_UP_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// Smallest size of all parts but the last.
const MIN_PART_BYTES: u64 = 5 * 1024 * 1024;

/// One object store's files.
pub struct Store {
    files: FileSystem,
    root: PathBuf,
    /// Shared by those who put objects; taken alone (if free) to remove empty directories, since
    /// s3s-fs makes an object's directory and moves the object there in two steps.
    directories: Arc<RwLock<()>>,
}

impl Store {
    /// The files under `root`, with one bucket.
    ///
    /// # Errors
    /// When the directory cannot be used.
    pub fn open(root: &Path, bucket: &str) -> anyhow::Result<Self> {
        std::fs::create_dir_all(root.join(bucket))?;
        remove_given_up_uploads(root)?;
        let files = FileSystem::new(root).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        Ok(Self { files, root: root.to_owned(), directories: Arc::default() })
    }

    fn path(&self, bucket: &str, key: &str) -> PathBuf {
        self.root.join(bucket).join(key)
    }

    /// s3s-fs opens directories as if they were objects.
    fn must_be_object(&self, bucket: &str, key: &str) -> S3Result<()> {
        match std::fs::metadata(self.path(bucket, key)) {
            Ok(metadata) if metadata.is_file() => Ok(()),
            _ => Err(s3_error!(NoSuchKey)),
        }
    }

    /// A key cannot at once be an object and the beginning of another one's path.
    fn must_be_free(&self, bucket: &str, key: &str) -> S3Result<()> {
        let bucket_root = self.root.join(bucket);
        let path = bucket_root.join(key);
        let mut above = path.ancestors().skip(1).take_while(|above| *above != bucket_root);
        if path.is_dir() || above.any(Path::is_file) {
            return Err(s3_error!(
                InvalidArgument,
                "another object's key begins with this one, or the other way round"
            ));
        }
        Ok(())
    }

    async fn make_durable(&self, bucket: &str, key: &str) -> S3Result<()> {
        let path = self.path(bucket, key);
        let bucket_root = self.root.join(bucket);
        blocking(move || {
            std::fs::File::open(&path)?.sync_all()?;
            for directory in path.ancestors().skip(1) {
                std::fs::File::open(directory)?.sync_all()?;
                if directory == bucket_root {
                    break;
                }
            }
            Ok(())
        })
        .await
    }

    /// What s3s-fs leaves behind of a deleted object.
    async fn forget(&self, bucket: &str, key: &str) -> S3Result<()> {
        let name = format!(
            ".bucket-{}.object-{}",
            BASE64_URL_SAFE_NO_PAD.encode(bucket),
            BASE64_URL_SAFE_NO_PAD.encode(key)
        );
        let attributes = self.root.join(format!("{name}.metadata.json"));
        let internal = self.root.join(format!("{name}.internal.json"));
        let path = self.path(bucket, key);
        let bucket_root = self.root.join(bucket);
        let alone = self.directories.clone().try_write_owned();
        blocking(move || {
            for file in [attributes, internal] {
                absent_is_fine(std::fs::remove_file(file))?;
            }
            if alone.is_ok() {
                for directory in path.ancestors().skip(1) {
                    if directory == bucket_root || std::fs::remove_dir(directory).is_err() {
                        break;
                    }
                }
            }
            Ok(())
        })
        .await
    }

    /// Uploads belong to the key that began them.
    fn must_own_upload(&self, by: Option<&Credentials>, upload: &str) -> S3Result<Uuid> {
        let upload = Uuid::parse_str(upload).map_err(|_| s3_error!(NoSuchUpload))?;
        let file = self.root.join(format!(".upload-{upload}.json"));
        let text = std::fs::read(file).map_err(|_| s3_error!(NoSuchUpload))?;
        let owner: Option<String> =
            serde_json::from_slice(&text).map_err(S3Error::internal_error)?;
        if owner.is_some() && owner.as_deref() == by.map(|by| by.access_key.as_str()) {
            return Ok(upload);
        }
        Err(s3_error!(AccessDenied, "the upload was begun with another key"))
    }

    /// s3s-fs forgets the upload before it looks at the parts, so they are looked at first.
    fn must_be_complete(
        &self,
        upload: Uuid,
        parts: Option<&CompletedMultipartUpload>,
    ) -> S3Result<()> {
        let parts = parts.and_then(|parts| parts.parts.as_deref()).unwrap_or_default();
        if parts.is_empty() {
            return Err(s3_error!(InvalidPart, "at least one part must be named"));
        }
        for (part, expected) in parts.iter().zip(1..) {
            if part.part_number != Some(expected) {
                return Err(s3_error!(InvalidPartOrder, "parts are numbered 1, 2, 3 without gap"));
            }
            let file = self.root.join(format!(".upload_id-{upload}.part-{expected}"));
            let bytes = std::fs::metadata(file).map_err(|_| s3_error!(InvalidPart))?.len();
            if bytes < MIN_PART_BYTES && usize::try_from(expected) != Ok(parts.len()) {
                return Err(s3_error!(EntityTooSmall));
            }
        }
        Ok(())
    }
}

#[async_trait::async_trait]
impl S3 for Store {
    async fn head_bucket(
        &self,
        request: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.files.head_bucket(request).await
    }

    async fn get_bucket_location(
        &self,
        request: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.files.get_bucket_location(request).await
    }

    async fn get_object(
        &self,
        request: S3Request<GetObjectInput>,
    ) -> S3Result<S3Response<GetObjectOutput>> {
        self.must_be_object(&request.input.bucket, &request.input.key)?;
        self.files.get_object(request).await
    }

    async fn head_object(
        &self,
        request: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        self.must_be_object(&request.input.bucket, &request.input.key)?;
        self.files.head_object(request).await
    }

    async fn put_object(
        &self,
        request: S3Request<PutObjectInput>,
    ) -> S3Result<S3Response<PutObjectOutput>> {
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        self.must_be_free(&bucket, &key)?;
        let _shared = self.directories.read().await;
        let answer = self.files.put_object(request).await?;
        self.make_durable(&bucket, &key).await?;
        Ok(answer)
    }

    async fn copy_object(
        &self,
        request: S3Request<CopyObjectInput>,
    ) -> S3Result<S3Response<CopyObjectOutput>> {
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        if let CopySource::Bucket { bucket, key, .. } = &request.input.copy_source {
            self.must_be_object(bucket, key)?;
        }
        self.must_be_free(&bucket, &key)?;
        let _shared = self.directories.read().await;
        let answer = self.files.copy_object(request).await?;
        self.make_durable(&bucket, &key).await?;
        Ok(answer)
    }

    async fn delete_object(
        &self,
        request: S3Request<DeleteObjectInput>,
    ) -> S3Result<S3Response<DeleteObjectOutput>> {
        let (bucket, key) = (request.input.bucket.clone(), request.input.key.clone());
        if self.path(&bucket, &key).is_dir() {
            return Ok(S3Response::new(DeleteObjectOutput::default()));
        }
        let answer = self.files.delete_object(request).await?;
        self.forget(&bucket, &key).await?;
        Ok(answer)
    }

    async fn delete_objects(
        &self,
        mut request: S3Request<DeleteObjectsInput>,
    ) -> S3Result<S3Response<DeleteObjectsOutput>> {
        let bucket = request.input.bucket.clone();
        request.input.delete.objects.retain(|object| !self.path(&bucket, &object.key).is_dir());
        let keys: Vec<String> =
            request.input.delete.objects.iter().map(|object| object.key.clone()).collect();
        let answer = self.files.delete_objects(request).await?;
        for key in keys {
            self.forget(&bucket, &key).await?;
        }
        Ok(answer)
    }

    async fn list_objects(
        &self,
        request: S3Request<ListObjectsInput>,
    ) -> S3Result<S3Response<ListObjectsOutput>> {
        let marker = request.input.marker.clone();
        let answer = self.list_objects_v2(request.map_input(Into::into)).await?;
        Ok(answer.map_output(|listing| ListObjectsOutput {
            contents: listing.contents,
            common_prefixes: listing.common_prefixes,
            delimiter: listing.delimiter,
            encoding_type: listing.encoding_type,
            name: listing.name,
            prefix: listing.prefix,
            max_keys: listing.max_keys,
            is_truncated: listing.is_truncated,
            marker,
            next_marker: listing.next_continuation_token,
            ..Default::default()
        }))
    }

    async fn list_objects_v2(
        &self,
        request: S3Request<ListObjectsV2Input>,
    ) -> S3Result<S3Response<ListObjectsV2Output>> {
        let bucket_root = self.root.join(&request.input.bucket);
        let listing =
            tokio::task::spawn_blocking(move || listing::list(&bucket_root, request.input));
        Ok(S3Response::new(listing.await.map_err(S3Error::internal_error)??))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
        self.must_be_free(&request.input.bucket, &request.input.key)?;
        self.files.create_multipart_upload(request).await
    }

    async fn upload_part(
        &self,
        request: S3Request<UploadPartInput>,
    ) -> S3Result<S3Response<UploadPartOutput>> {
        must_be_part_number(request.input.part_number)?;
        self.must_own_upload(request.credentials.as_ref(), &request.input.upload_id)?;
        self.files.upload_part(request).await
    }

    async fn upload_part_copy(
        &self,
        request: S3Request<UploadPartCopyInput>,
    ) -> S3Result<S3Response<UploadPartCopyOutput>> {
        must_be_part_number(request.input.part_number)?;
        self.must_own_upload(request.credentials.as_ref(), &request.input.upload_id)?;
        if let CopySource::Bucket { bucket, key, .. } = &request.input.copy_source {
            self.must_be_object(bucket, key)?;
        }
        self.files.upload_part_copy(request).await
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
        let input = &request.input;
        let upload = self.must_own_upload(request.credentials.as_ref(), &input.upload_id)?;
        self.must_be_complete(upload, input.multipart_upload.as_ref())?;
        let (bucket, key) = (input.bucket.clone(), input.key.clone());
        self.must_be_free(&bucket, &key)?;
        let _shared = self.directories.read().await;
        let answer = self.files.complete_multipart_upload(request).await?;
        self.make_durable(&bucket, &key).await?;
        Ok(answer)
    }

    async fn abort_multipart_upload(
        &self,
        request: S3Request<AbortMultipartUploadInput>,
    ) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
        self.must_own_upload(request.credentials.as_ref(), &request.input.upload_id)?;
        self.files.abort_multipart_upload(request).await
    }

    async fn list_parts(
        &self,
        request: S3Request<ListPartsInput>,
    ) -> S3Result<S3Response<ListPartsOutput>> {
        self.must_own_upload(request.credentials.as_ref(), &request.input.upload_id)?;
        self.files.list_parts(request).await
    }
}

fn must_be_part_number(number: PartNumber) -> S3Result<()> {
    if (1..=10_000).contains(&number) {
        return Ok(());
    }
    Err(s3_error!(InvalidArgument, "a part's number is 1 to 10000"))
}

/// Ends the unfinished uploads that a key began: what nobody can finish takes no room.
///
/// # Errors
/// When the directory cannot be read or changed.
pub fn end_uploads_of(root: &Path, access_key: &str) -> std::io::Result<()> {
    let mut ended = Vec::new();
    for entry in std::fs::read_dir(root)? {
        let name = entry?.file_name();
        let Some(id) = name
            .to_str()
            .and_then(|name| name.strip_prefix(".upload-"))
            .and_then(|name| name.strip_suffix(".json"))
        else {
            continue;
        };
        let Ok(text) = std::fs::read(root.join(&name)) else { continue };
        let owner: Option<String> = serde_json::from_slice(&text).unwrap_or_default();
        if owner.as_deref() == Some(access_key) {
            ended.push(id.to_owned());
        }
    }
    if ended.is_empty() {
        return Ok(());
    }
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_of = |name: &str| name.starts_with('.') && ended.iter().any(|id| name.contains(id));
        if name.to_str().is_some_and(is_of) {
            absent_is_fine(std::fs::remove_file(entry.path()))?;
        }
    }
    Ok(())
}

fn remove_given_up_uploads(root: &Path) -> std::io::Result<()> {
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let name = entry.file_name();
        let is_upload = name.to_str().is_some_and(|name| {
            name.starts_with(".upload")
                || (name.starts_with(".bucket-") && name.contains(".upload-"))
        });
        let age = SystemTime::now().duration_since(entry.metadata()?.modified()?);
        if is_upload && age.is_ok_and(|age| age > UPLOAD_GIVEN_UP_AFTER) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn absent_is_fine(result: std::io::Result<()>) -> std::io::Result<()> {
    match result {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

async fn blocking(work: impl FnOnce() -> std::io::Result<()> + Send + 'static) -> S3Result<()> {
    let done = tokio::task::spawn_blocking(work).await.map_err(S3Error::internal_error)?;
    done.map_err(S3Error::internal_error)
}
