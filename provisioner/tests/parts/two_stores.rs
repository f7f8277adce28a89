//! Two regions' stores, and the blobs in them.

use std::collections::BTreeMap;

use control_types::SiteId;
use futures_util::TryStreamExt as _;
use provisioner::site_storage::{
    Blob, Copied, CopyError, CopySettings, OnProgress, SIGNING_REGION, SitePrefix, SiteStorage,
    Verified,
};
use s3::{Bucket, Region, creds::Credentials};
use sha2::{Digest as _, Sha256};

use super::object_store::{BUCKET, Endpoint};

/// More than two parts of 8 MiB.
pub const BIG: usize = 20 * 1024 * 1024;

/// One region's store, as the provisioner and as an administrator see it.
pub struct Store {
    name: &'static str,
    pub endpoint: Endpoint,
    pub bucket: Box<Bucket>,
}

impl Store {
    pub async fn start(name: &'static str) -> Self {
        let endpoint = Endpoint::start().await;
        let (region, url) = (SIGNING_REGION.to_owned(), endpoint.url.clone());
        let region = Region::Custom { region, endpoint: url };
        let credentials = Credentials::new(Some("admin"), Some("admin-secret"), None, None, None);
        let bucket = Bucket::new(BUCKET, region, credentials.expect("credentials"));
        Self { name, endpoint, bucket: bucket.expect("a bucket").with_path_style() }
    }

    pub fn storage(&self) -> SiteStorage {
        SiteStorage::new(self.name, &self.endpoint.url, BUCKET, &self.endpoint.admin)
            .expect("well formed")
    }

    pub async fn put(&self, key: &str, bytes: &[u8]) {
        self.bucket.put_object(key, bytes).await.expect("puts");
    }

    pub async fn put_blob(&self, prefix: &SitePrefix, bytes: &[u8]) -> [u8; 32] {
        let sha256 = sha256(bytes);
        self.put(&key(prefix, &sha256), bytes).await;
        sha256
    }

    pub fn has(&self, key: &str) -> bool {
        self.endpoint.file(key).exists()
    }

    pub async fn sizes(&self, prefix: &SitePrefix) -> BTreeMap<[u8; 32], u64> {
        let blobs = self.storage().blob_sizes(prefix).try_collect::<Vec<Blob>>().await;
        blobs.expect("lists").into_iter().map(|blob| (blob.sha256, blob.size)).collect()
    }

    pub async fn verified(&self, prefix: &SitePrefix) -> Verified {
        let (storage, settings) = (self.storage(), CopySettings::default());
        let verified = for_a_task(storage.verify_prefix(prefix, &settings, &|_| ())).await;
        verified.expect("verifies")
    }

    pub async fn copy(
        &self,
        prefix: &SitePrefix,
        target: &Self,
        settings: CopySettings,
        progress: OnProgress<'_>,
    ) -> Result<Copied, CopyError> {
        let (from, to) = (self.storage(), target.storage());
        for_a_task(from.copy_prefix(prefix, &to, &settings, progress)).await
    }

    pub async fn copied(&self, prefix: &SitePrefix, target: &Self) -> Copied {
        let copied = self.copy(prefix, target, CopySettings::default(), &|_| ());
        copied.await.expect("copies")
    }
}

/// So that a test knows what is next.
pub const ONE_BY_ONE: CopySettings = CopySettings { parallel: 1, bytes_per_second: None };

/// The engine runs operations in tasks of their own.
pub fn for_a_task<T>(future: impl Future<Output = T> + Send) -> impl Future<Output = T> + Send {
    future
}

pub async fn two_stores() -> (Store, Store, SitePrefix) {
    let stores = (Store::start("jakarta-files").await, Store::start("singapore-files").await);
    (stores.0, stores.1, SitePrefix::of(SiteId::generate()))
}

pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

pub fn key(prefix: &SitePrefix, sha256: &[u8; 32]) -> String {
    format!("{prefix}/blob/{}", hex::encode(sha256))
}

/// Bytes of which no two parts are the same.
pub fn big(seed: u8) -> Vec<u8> {
    let mut bytes = vec![seed; BIG];
    for (n, page) in bytes.chunks_mut(4096).enumerate() {
        page[..8].copy_from_slice(&n.to_be_bytes());
    }
    bytes
}
