//! Who may do what: every request is signed with a known key, is one of the operations listed here,
//! and names only objects that the key reaches. Everything else is AccessDenied.

use s3s::{
    S3Request, S3Result,
    access::{S3Access, S3AccessContext},
    auth::{Credentials, S3Auth, SecretKey},
    dto::*,
    s3_error,
};

use super::keys::{Grant, Keys, is_plain_key};

/// Operations that name objects; they are checked one by one below.
const OBJECT_OPERATIONS: &[&str] = &[
    "GetObject",
    "HeadObject",
    "PutObject",
    "CopyObject",
    "DeleteObject",
    "DeleteObjects",
    "ListObjects",
    "ListObjectsV2",
    "CreateMultipartUpload",
    "UploadPart",
    "UploadPartCopy",
    "CompleteMultipartUpload",
    "AbortMultipartUpload",
    "ListParts",
];

/// Those of them that a key may do which only reads.
const READ_OPERATIONS: &[&str] = &["GetObject", "HeadObject", "ListObjects", "ListObjectsV2"];

/// Operations on the bucket, for keys that reach the whole of it. s3s-fs does not list uploads, and
/// says so; those of a key end with the key (see `key_administration`).
const BUCKET_OPERATIONS: &[&str] = &["HeadBucket", "GetBucketLocation", "ListMultipartUploads"];

/// Both halves of the check: the signature's key and the reach of it.
#[derive(Clone)]
pub struct Access {
    keys: Keys,
}

impl Access {
    /// By these keys.
    pub fn new(keys: Keys) -> Self {
        Self { keys }
    }

    fn grant(&self, credentials: Option<&Credentials>) -> S3Result<Grant> {
        credentials
            .and_then(|credentials| self.keys.get(&credentials.access_key))
            .ok_or_else(|| s3_error!(AccessDenied, "the request is not signed with a known key"))
    }

    fn object(&self, by: Option<&Credentials>, bucket: &str, key: &str) -> S3Result<()> {
        if !self.grant(by)?.reaches(bucket, key) {
            return Err(s3_error!(AccessDenied, "the object is outside the reach of this key"));
        }
        if !is_plain_key(key) {
            return Err(s3_error!(InvalidArgument, "not a key that this object store can hold"));
        }
        Ok(())
    }

    fn source(&self, by: Option<&Credentials>, source: &CopySource) -> S3Result<()> {
        match source {
            CopySource::Bucket { bucket, key, .. } => self.object(by, bucket, key),
            _ => Err(s3_error!(AccessDenied, "only objects of the bucket can be copied")),
        }
    }

    fn listing(
        &self,
        by: Option<&Credentials>,
        bucket: &str,
        prefix: Option<&str>,
    ) -> S3Result<()> {
        if self.grant(by)?.reaches_listing(bucket, prefix.unwrap_or_default()) {
            return Ok(());
        }
        Err(s3_error!(AccessDenied, "a listing must be of the prefix that this key reaches"))
    }
}

#[async_trait::async_trait]
impl S3Auth for Access {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.keys.get(access_key) {
            Some(grant) => Ok(grant.secret_key.into()),
            None => Err(s3_error!(InvalidAccessKeyId)),
        }
    }
}

/// One check per operation of the form "the object named in the request".
macro_rules! on_objects {
    ($($method:ident($input:ty)),+ $(,)?) => {
        #[async_trait::async_trait]
        impl S3Access for Access {
            async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
                let grant = self.grant(cx.credentials())?;
                let operation = cx.s3_op().name();
                let bucket = cx.s3_path().get_bucket_name().unwrap_or_default();
                let allowed = OBJECT_OPERATIONS.contains(&operation)
                    || (BUCKET_OPERATIONS.contains(&operation) && grant.is_for_whole_bucket());
                if grant.read_only && !READ_OPERATIONS.contains(&operation) {
                    return Err(s3_error!(AccessDenied, "this key may only read"));
                }
                if allowed && bucket == grant.bucket {
                    return Ok(());
                }
                Err(s3_error!(AccessDenied, "{operation} is not for this key"))
            }

            $(async fn $method(&self, request: &mut S3Request<$input>) -> S3Result<()> {
                let input = &request.input;
                self.object(request.credentials.as_ref(), &input.bucket, &input.key)
            })+

            async fn copy_object(&self, request: &mut S3Request<CopyObjectInput>) -> S3Result<()> {
                let (by, input) = (request.credentials.as_ref(), &request.input);
                self.source(by, &input.copy_source)?;
                self.object(by, &input.bucket, &input.key)
            }

            async fn upload_part_copy(
                &self,
                request: &mut S3Request<UploadPartCopyInput>,
            ) -> S3Result<()> {
                let (by, input) = (request.credentials.as_ref(), &request.input);
                self.source(by, &input.copy_source)?;
                self.object(by, &input.bucket, &input.key)
            }

            async fn delete_objects(
                &self,
                request: &mut S3Request<DeleteObjectsInput>,
            ) -> S3Result<()> {
                let (by, input) = (request.credentials.as_ref(), &request.input);
                let mut objects = input.delete.objects.iter();
                objects.try_for_each(|object| self.object(by, &input.bucket, &object.key))
            }

            async fn list_objects(
                &self,
                request: &mut S3Request<ListObjectsInput>,
            ) -> S3Result<()> {
                let (by, input) = (request.credentials.as_ref(), &request.input);
                self.listing(by, &input.bucket, input.prefix.as_deref())
            }

            async fn list_objects_v2(
                &self,
                request: &mut S3Request<ListObjectsV2Input>,
            ) -> S3Result<()> {
                let (by, input) = (request.credentials.as_ref(), &request.input);
                self.listing(by, &input.bucket, input.prefix.as_deref())
            }
        }
    };
}

on_objects!(
    get_object(GetObjectInput),
    head_object(HeadObjectInput),
    put_object(PutObjectInput),
    delete_object(DeleteObjectInput),
    create_multipart_upload(CreateMultipartUploadInput),
    upload_part(UploadPartInput),
    complete_multipart_upload(CompleteMultipartUploadInput),
    abort_multipart_upload(AbortMultipartUploadInput),
    list_parts(ListPartsInput),
);
