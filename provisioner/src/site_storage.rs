//! A site's files in an object store, as the provisioner sees them: a key that reaches the site's
//! prefix only; when the site moves, the way of its files to another store; and, when it is deleted,
//! everything under the prefix. The backups of a cluster have a key and a prefix there too.

use std::{collections::HashMap, fmt, str::FromStr, sync::Arc, time::Duration};

use control_types::SiteId;
use s3::{Bucket, Region, creds::Credentials, error::S3Error, serde_types::ObjectIdentifier};
use sqlx::PgPool;
use tokio::sync::Mutex;
use uuid::Uuid;

mod backup_prefix;
mod error;
mod key_admin;
mod copy;

pub use backup_prefix::BackupPrefix;
pub use copy::{
    Blob, BlobsDigest, Copied, CopyError, CopyProgress, CopySettings, MissingBlob, Named,
    OnProgress, Verified,
};
pub use error::SiteStorageError;
pub use key_admin::{StorageKey, StorageKeyAdmin};

use crate::{
    control_db::{clusters::PlaceError, object_stores},
    secrets::{Keys, ObjectStoreAdmin},
};

/// How long one request may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// Objects listed and deleted at once: what S3 allows.
const PAGE: usize = 1000;
/// The name that signatures use for the region of an endpoint that is not Amazon's.
pub const SIGNING_REGION: &str = "us-east-1";

/// Where all of a site's files are: `site/<site id>`. Nothing else can be deleted by this module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SitePrefix(SiteId);

/// What a key may reach: a prefix that belongs to one site, or to the backups of one cluster.
pub trait KeyPrefix: fmt::Display {}
impl KeyPrefix for SitePrefix {}
impl KeyPrefix for BackupPrefix {}

/// A text is not a site's prefix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a site's prefix: site/ and the site's id")]
pub struct NotASitePrefix(String);

impl SitePrefix {
    /// The prefix of a site.
    pub const fn of(site: SiteId) -> Self {
        Self(site)
    }

    /// How the keys of the site's objects begin.
    fn with_slash(&self) -> String {
        format!("{self}/")
    }
}

impl fmt::Display for SitePrefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "site/{}", self.0)
    }
}

impl FromStr for SitePrefix {
    type Err = NotASitePrefix;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = text.strip_prefix("site/").and_then(|id| id.parse().ok());
        // Other ways to write the same id would name another prefix.
        match id.map(Self) {
            Some(prefix) if prefix.to_string() == text => Ok(prefix),
            _ => Err(NotASitePrefix(text.to_owned())),
        }
    }
}

/// One object store, as its administrator. Cheap to clone.
#[derive(Clone)]
pub struct SiteStorage(Arc<Inner>);

struct Inner {
    store: String,
    bucket: Box<Bucket>,
    key_admin: StorageKeyAdmin,
}

impl SiteStorage {
    /// The object store called `store`. Nothing is connected yet.
    ///
    /// # Errors
    /// When a URL or the bucket's name is not well formed.
    pub fn new(
        store: &str,
        endpoint: &str,
        bucket: &str,
        admin: &ObjectStoreAdmin,
    ) -> Result<Self, SiteStorageError> {
        let wrong = |field, reason: &str| SiteStorageError::Configuration {
            store: store.to_owned(),
            field,
            reason: reason.to_owned(),
        };
        let is_http = |url: &str| {
            url::Url::parse(url)
                .is_ok_and(|url| ["http", "https"].contains(&url.scheme()) && url.has_host())
        };
        if !is_http(endpoint) {
            return Err(wrong("endpoint", "is no http or https URL"));
        }
        if !is_http(&admin.key_admin_url) {
            return Err(wrong("key_admin_url", "is no http or https URL"));
        }
        let is_plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-.".contains(&byte);
        if !(3..=63).contains(&bucket.len()) || !bucket.bytes().all(is_plain) {
            let reason = "must have 3 to 63 small letters, digits, hyphens and dots";
            return Err(wrong("bucket", reason));
        }
        let region = Region::Custom {
            region: SIGNING_REGION.to_owned(),
            endpoint: endpoint.trim_end_matches('/').to_owned(),
        };
        let credentials =
            Credentials::new(Some(&admin.access_key), Some(&admin.secret_key), None, None, None)
                .map_err(|_| wrong("access_key", "is missing"))?;
        let s3 = Bucket::new(bucket, region, credentials)
            .and_then(|bucket| bucket.with_path_style().with_request_timeout(REQUEST_TIMEOUT))
            .map_err(|error| SiteStorageError::of_s3(store, "be configured", error))?;
        let key_admin =
            StorageKeyAdmin::new(store, bucket, &admin.key_admin_url, &admin.key_admin_token)?;
        Ok(Self(Arc::new(Inner { store: store.to_owned(), bucket: s3, key_admin })))
    }

    /// The keys of single prefixes.
    pub fn keys(&self) -> &StorageKeyAdmin {
        &self.0.key_admin
    }

    /// Gives a key to a prefix; see [`StorageKeyAdmin::ensure_key`].
    ///
    /// # Errors
    /// When the object store is down or refuses.
    pub async fn ensure_key(
        &self,
        access_key: &str,
        secret_key: &str,
        prefix: &impl KeyPrefix,
    ) -> Result<(), SiteStorageError> {
        self.0.key_admin.ensure_key(access_key, secret_key, prefix).await
    }

    /// The same for a key that may only read; see [`StorageKeyAdmin::ensure_read_key`].
    ///
    /// # Errors
    /// When the object store is down or refuses.
    pub async fn ensure_read_key(
        &self,
        access_key: &str,
        secret_key: &str,
        prefix: &impl KeyPrefix,
    ) -> Result<(), SiteStorageError> {
        self.0.key_admin.ensure_read_key(access_key, secret_key, prefix).await
    }

    /// Keeps the sealed secrets of a cluster's backups beside them.
    ///
    /// # Errors
    /// When the object store is down or refuses.
    pub async fn put_backup_secrets(
        &self,
        prefix: &BackupPrefix,
        sealed: &[u8],
    ) -> Result<(), SiteStorageError> {
        const ACTION: &str = "keep the secrets of backups";
        let put = self.0.bucket.put_object(prefix.secrets_key(), sealed).await;
        put.map_err(|error| self.sort(ACTION, error)).map(drop)
    }

    /// Takes a key away; see [`StorageKeyAdmin::remove_key`].
    ///
    /// # Errors
    /// When the object store is down or refuses.
    pub async fn remove_key(&self, access_key: &str) -> Result<(), SiteStorageError> {
        self.0.key_admin.remove_key(access_key).await
    }

    /// All keys of prefixes.
    ///
    /// # Errors
    /// When the object store is down or refuses.
    pub async fn list_keys(&self) -> Result<Vec<StorageKey>, SiteStorageError> {
        self.0.key_admin.list_keys().await
    }

    /// Whether the bucket and the key administration answer.
    ///
    /// # Errors
    /// Why not.
    pub async fn probe(&self) -> Result<(), SiteStorageError> {
        const ACTION: &str = "list the bucket";
        let page = self.0.bucket.list_page("probe/".to_owned(), None, None, None, Some(1)).await;
        page.map_err(|error| self.sort(ACTION, error))?;
        self.0.key_admin.probe().await
    }

    /// Whether the site has no object and no unfinished upload.
    ///
    /// # Errors
    /// When the object store is down or refuses.
    pub async fn prefix_is_empty(&self, prefix: &SitePrefix) -> Result<bool, SiteStorageError> {
        Ok(self.objects(prefix, 1).await?.is_empty()
            && self.uploads_below(&prefix.with_slash()).await?.is_empty())
    }

    /// Deletes all of a site's objects and unfinished uploads, a page at a time. Returns how many
    /// there were; run again after a failure it goes on where it was.
    ///
    /// # Errors
    /// When the object store is down or refuses.
    pub async fn delete_prefix(&self, prefix: &SitePrefix) -> Result<u64, SiteStorageError> {
        let mut deleted = 0;
        // Deleted pages are gone, so the next page is always the first. One that comes again is
        // not deleted whatever the store says.
        let mut last_page = Vec::new();
        loop {
            let page = self.objects(prefix, PAGE).await?;
            if page.is_empty() {
                break;
            }
            if page == last_page {
                return Err(self.refused("delete objects", "deleted objects are still there"));
            }
            deleted += u64::try_from(page.len()).unwrap_or(u64::MAX);
            self.delete_objects(&page).await?;
            last_page = page;
        }
        let mut last_page = Vec::new();
        loop {
            let page = self.uploads_below(&prefix.with_slash()).await?;
            if page.is_empty() {
                return Ok(deleted);
            }
            if page == last_page {
                return Err(self.refused("end uploads", "ended uploads are still there"));
            }
            deleted += u64::try_from(page.len()).unwrap_or(u64::MAX);
            for (key, upload_id) in &page {
                self.abort_upload(key, upload_id).await?;
            }
            last_page = page;
        }
    }

    /// The first keys of the site's objects.
    async fn objects(
        &self,
        prefix: &SitePrefix,
        most: usize,
    ) -> Result<Vec<String>, SiteStorageError> {
        let prefix = prefix.with_slash();
        let (page, _) = self
            .0
            .bucket
            .list_page(prefix.clone(), None, None, None, Some(most))
            .await
            .map_err(|error| self.sort("list the site's objects", error))?;
        let keys: Vec<String> = page.contents.into_iter().map(|object| object.key).collect();
        // What a store returns is deleted next, so it is not trusted to have heeded the prefix.
        if let Some(stranger) = keys.iter().find(|key| !key.starts_with(&prefix)) {
            let reason = format!("it listed {stranger}, which is outside {prefix}");
            return Err(self.refused("list the site's objects", &reason));
        }
        Ok(keys)
    }

    async fn delete_objects(&self, keys: &[String]) -> Result<(), SiteStorageError> {
        const ACTION: &str = "delete the site's objects";
        let objects: Vec<ObjectIdentifier> = keys.iter().map(ObjectIdentifier::new).collect();
        let outcome = self.0.bucket.delete_objects(objects).await;
        let outcome = outcome.map_err(|error| self.sort(ACTION, error));
        match outcome {
            Ok(result) => match result.errors.first() {
                Some(error) => Err(self.refused(ACTION, &error.message)),
                None => Ok(()),
            },
            // A store that cannot delete many at once.
            Err(error) if error.is_not_implemented() => {
                for key in keys {
                    let outcome = self.0.bucket.delete_object(key).await;
                    outcome.map_err(|error| self.sort(ACTION, error))?;
                }
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The first unfinished uploads of keys that begin so, as key and upload id. A store that does not
    /// know how to list them has none that could be ended.
    async fn uploads_below(&self, prefix: &str) -> Result<Vec<(String, String)>, SiteStorageError> {
        let page = self
            .0
            .bucket
            .list_multiparts_uploads_page(Some(prefix), None, None, None, Some(PAGE))
            .await
            .map_err(|error| self.sort("list the site's uploads", error));
        match page {
            Ok((page, _)) => Ok(page
                .uploads
                .into_iter()
                .filter(|upload| upload.key.starts_with(prefix))
                .map(|upload| (upload.key, upload.id))
                .collect()),
            Err(error) if error.is_not_implemented() => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    async fn abort_upload(&self, key: &str, upload_id: &str) -> Result<(), SiteStorageError> {
        match self.0.bucket.abort_upload(key, upload_id).await {
            // Ended by somebody else meanwhile.
            Err(S3Error::HttpFailWithBody(404, _)) => Ok(()),
            outcome => outcome.map_err(|error| self.sort("end an upload", error)),
        }
    }

    fn sort(&self, action: &'static str, error: S3Error) -> SiteStorageError {
        SiteStorageError::of_s3(&self.0.store, action, error)
    }

    fn refused(&self, action: &'static str, reason: &str) -> SiteStorageError {
        SiteStorageError::Refused {
            store: self.0.store.clone(),
            action,
            reason: reason.to_owned(),
            status: None,
        }
    }
}

impl fmt::Debug for SiteStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SiteStorage({})", self.0.store)
    }
}

/// Every object store by its id. Cheap to clone.
#[derive(Clone)]
pub struct ObjectStores {
    control: PgPool,
    keys: Keys,
    open: Arc<Mutex<HashMap<Uuid, Open>>>,
}

struct Open {
    endpoint: String,
    bucket: String,
    admin: ObjectStoreAdmin,
    storage: SiteStorage,
}

impl ObjectStores {
    /// The object stores in the control database.
    pub fn new(control: PgPool, keys: Keys) -> Self {
        Self { control, keys, open: Arc::default() }
    }

    /// The object store with this id, as its row says now.
    ///
    /// # Errors
    /// When there is none, the control database is down, or its secrets do not open.
    pub async fn get(&self, id: Uuid) -> Result<SiteStorage, PlaceError> {
        let row = object_stores::get(&self.control, &self.keys, id).await?;
        let (endpoint, bucket, admin) = (row.store.endpoint, row.store.bucket, row.admin);
        let mut open = self.open.lock().await;
        if let Some(known) = open.get(&id)
            && (&known.endpoint, &known.bucket, &known.admin) == (&endpoint, &bucket, &admin)
        {
            return Ok(known.storage.clone());
        }
        let storage = SiteStorage::new(&row.store.name, &endpoint, &bucket, &admin)?;
        open.insert(id, Open { endpoint, bucket, admin, storage: storage.clone() });
        Ok(storage)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_exact_form_is_a_prefix() {
        let prefix = SitePrefix::of(SiteId::generate());
        assert_eq!(prefix.to_string().parse(), Ok(prefix.clone()));
        let upper = prefix.to_string().to_uppercase();
        let simple = format!("site/{}", prefix.0.0.simple());
        for wrong in ["", "site/", "site", "/", &prefix.with_slash(), &upper, &simple, "site/../x"]
        {
            assert!(wrong.parse::<SitePrefix>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_wrong_registration_names_its_field() {
        let admin = ObjectStoreAdmin {
            access_key: "a".to_owned(),
            secret_key: "s".to_owned(),
            key_admin_url: "http://127.0.0.1:1/keys".to_owned(),
            key_admin_token: "t".to_owned(),
        };
        let field = |endpoint: &str, bucket: &str, admin: &ObjectStoreAdmin| match SiteStorage::new(
            "files", endpoint, bucket, admin,
        ) {
            Err(SiteStorageError::Configuration { field, .. }) => field,
            Err(error) => panic!("{error}"),
            Ok(_) => "",
        };
        assert_eq!(field("http://127.0.0.1:1", "files", &admin), "");
        assert_eq!(field("127.0.0.1:1", "files", &admin), "endpoint");
        assert_eq!(field("http://127.0.0.1:1", "a/b", &admin), "bucket");
        let no_url = ObjectStoreAdmin { key_admin_url: "keys".to_owned(), ..admin };
        assert_eq!(field("http://127.0.0.1:1", "files", &no_url), "key_admin_url");
    }
}
