//! A site's files in a real S3 endpoint: its key, and the end of its prefix.
#![allow(clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use control_types::SiteId;
use provisioner::{
    secrets::ObjectStoreAdmin,
    site_storage::{SIGNING_REGION, SitePrefix, SiteStorage},
};
use s3::{Bucket, Region, creds::Credentials};

mod parts {
    #[allow(dead_code, reason = "each test file uses its own part of it")]
    pub mod object_store;
}
use parts::object_store::{BUCKET, Endpoint};

fn storage(endpoint: &Endpoint, admin: &ObjectStoreAdmin) -> SiteStorage {
    SiteStorage::new("jakarta-files", &endpoint.url, BUCKET, admin).expect("well formed")
}

fn bucket(endpoint: &Endpoint) -> Box<Bucket> {
    let region =
        Region::Custom { region: SIGNING_REGION.to_owned(), endpoint: endpoint.url.clone() };
    let credentials = Credentials::new(Some("admin"), Some("admin-secret"), None, None, None);
    Bucket::new(BUCKET, region, credentials.expect("credentials"))
        .expect("a bucket")
        .with_path_style()
}

#[tokio::test]
async fn a_prefix_is_emptied_and_its_neighbours_stay() {
    let endpoint = Endpoint::start().await;
    let storage = storage(&endpoint, &endpoint.admin);
    let bucket = bucket(&endpoint);
    storage.probe().await.expect("answers");
    let (site, neighbour) = (SiteId::generate(), SiteId::generate());
    let (prefix, other) = (SitePrefix::of(site), SitePrefix::of(neighbour));
    // More than a page; and names that begin like the prefix or need escaping.
    for n in 0..1003 {
        bucket.put_object(format!("/{prefix}/blob/{n:04}"), b"x").await.expect("puts");
    }
    bucket.put_object(format!("/{prefix}/a name & more+.txt"), b"x").await.expect("puts");
    for kept in [format!("/{other}/blob/0"), format!("/{prefix}x/blob/0")] {
        bucket.put_object(kept, b"x").await.expect("puts");
    }
    assert!(!storage.prefix_is_empty(&prefix).await.expect("looks"));
    assert_eq!(storage.delete_prefix(&prefix).await.expect("deletes"), 1004);
    assert!(storage.prefix_is_empty(&prefix).await.expect("looks"));
    assert_eq!(storage.delete_prefix(&prefix).await.expect("deletes nothing"), 0);
    for kept in [format!("/{other}/blob/0"), format!("/{prefix}x/blob/0")] {
        bucket.head_object(kept).await.expect("is there");
    }
}

#[tokio::test]
async fn keys_are_put_and_removed_and_every_call_may_be_made_twice() {
    let endpoint = Endpoint::start().await;
    let storage = storage(&endpoint, &endpoint.admin);
    let prefix = SitePrefix::of(SiteId::generate());
    for secret in ["one", "one", "two"] {
        storage.ensure_key("KEY", secret, &prefix).await.expect("puts");
    }
    assert_eq!(endpoint.keys.get("KEY").expect("is there")["secret_key"], "two");
    let listed = storage.list_keys().await.expect("lists");
    assert_eq!(listed.len(), 1);
    assert_eq!((&*listed[0].access_key, listed[0].prefix.parse()), ("KEY", Ok(prefix)));
    for _ in 0..2 {
        storage.remove_key("KEY").await.expect("removes");
    }
    assert!(storage.list_keys().await.expect("lists").is_empty());
}

#[tokio::test]
async fn a_store_that_is_down_or_refuses_says_so() {
    let mut endpoint = Endpoint::start().await;
    let prefix = SitePrefix::of(SiteId::generate());
    let wrong_token =
        ObjectStoreAdmin { key_admin_token: "wrong".to_owned(), ..endpoint.admin.clone() };
    let error = storage(&endpoint, &wrong_token).probe().await.expect_err("refuses");
    assert!(error.to_string().contains("key_admin_token") && !error.is_retryable(), "{error}");
    let wrong_secret =
        ObjectStoreAdmin { secret_key: "wrong-secret".to_owned(), ..endpoint.admin.clone() };
    let error = storage(&endpoint, &wrong_secret).probe().await.expect_err("refuses");
    assert!(!error.is_retryable(), "{error}");
    assert!(!format!("{error:?}").contains("wrong-secret"));

    let storage = storage(&endpoint, &endpoint.admin);
    endpoint.stop();
    for error in [
        storage.probe().await.expect_err("down"),
        storage.delete_prefix(&prefix).await.expect_err("down"),
        storage.ensure_key("KEY", "secret", &prefix).await.expect_err("down"),
    ] {
        assert!(error.is_retryable(), "{error}");
        assert_eq!(error.component(), "object store jakarta-files");
    }
}
