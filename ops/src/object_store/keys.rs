//! The access keys of one object store: who may reach which part of which bucket. They lie in one
//! file that only its owner can read, and are all in memory.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::data_dir::write_private;

/// What one access key opens.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Signs the requests.
    pub secret_key: String,
    /// The one bucket that it reaches.
    pub bucket: String,
    /// The key reaches what lies under `<prefix>/`; the whole bucket when empty.
    pub prefix: String,
    /// Whether it may only read what it reaches.
    #[serde(default)]
    pub read_only: bool,
}

impl Grant {
    /// Whether an object is within reach.
    pub fn reaches(&self, bucket: &str, key: &str) -> bool {
        bucket == self.bucket && self.reaches_key(key)
    }

    /// Whether everything that begins with `listed` is within reach.
    pub fn reaches_listing(&self, bucket: &str, listed: &str) -> bool {
        bucket == self.bucket && self.reaches_key(listed)
    }

    /// Whether this is a key for the whole bucket.
    pub fn is_for_whole_bucket(&self) -> bool {
        self.prefix.is_empty()
    }

    fn reaches_key(&self, key: &str) -> bool {
        self.is_for_whole_bucket()
            || key.strip_prefix(&self.prefix).is_some_and(|rest| rest.starts_with('/'))
    }
}

/// The keys of one object store.
#[derive(Clone)]
pub struct Keys {
    file: Arc<PathBuf>,
    grants: Arc<RwLock<Arc<BTreeMap<String, Grant>>>>,
    /// Held while the file is written, so that its content is never older than the memory's.
    writing: Arc<tokio::sync::Mutex<()>>,
}

impl Keys {
    /// The keys in `file`; none when there is no such file.
    ///
    /// # Errors
    /// When the file cannot be read or is malformed.
    pub fn load(file: &Path) -> anyhow::Result<Self> {
        let grants = match std::fs::read(file) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("the key file {} is malformed", file.display()))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => BTreeMap::new(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", file.display()));
            }
        };
        Ok(Self {
            file: Arc::new(file.to_owned()),
            grants: Arc::new(RwLock::new(Arc::new(grants))),
            writing: Arc::default(),
        })
    }

    /// What an access key opens.
    pub fn get(&self, access_key: &str) -> Option<Grant> {
        self.all().get(access_key).cloned()
    }

    /// All keys.
    pub fn all(&self) -> Arc<BTreeMap<String, Grant>> {
        self.grants.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Adds a key or replaces it. On return it is on disk.
    ///
    /// # Errors
    /// When the file cannot be written; nothing has changed then.
    pub async fn put(&self, access_key: &str, grant: Grant) -> anyhow::Result<()> {
        let access_key = access_key.to_owned();
        self.change(|grants| drop(grants.insert(access_key, grant))).await
    }

    /// Takes a key away, if it is there.
    ///
    /// # Errors
    /// When the file cannot be written; nothing has changed then.
    pub async fn remove(&self, access_key: &str) -> anyhow::Result<()> {
        let access_key = access_key.to_owned();
        self.change(|grants| drop(grants.remove(&access_key))).await
    }

    async fn change(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, Grant>),
    ) -> anyhow::Result<()> {
        let _writing = self.writing.lock().await;
        let mut grants = BTreeMap::clone(&self.all());
        let before = grants.clone();
        change(&mut grants);
        if grants == before {
            return Ok(());
        }
        let text = serde_json::to_vec_pretty(&grants)?;
        let file = Arc::clone(&self.file);
        tokio::task::spawn_blocking(move || write_private(&file, &text)).await??;
        *self.grants.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(grants);
        Ok(())
    }
}

/// A key of an object as it may appear in a request: segments between single slashes, none of them
/// `.` or `..`. s3s-fs maps keys to paths, so anything else could become another path.
pub fn is_plain_key(key: &str) -> bool {
    // s3s-fs keeps an object's attributes in one file named after the key in base64, and file names
    // have 255 bytes.
    const MAX_KEY_BYTES: usize = 120;
    key.len() <= MAX_KEY_BYTES
        && !key.chars().any(|c| c.is_control() || c == '\\')
        && key.split('/').all(|segment| !matches!(segment, "" | "." | ".."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(prefix: &str) -> Grant {
        Grant {
            secret_key: "s".into(),
            bucket: "files".into(),
            prefix: prefix.into(),
            read_only: false,
        }
    }

    #[test]
    fn a_grant_ends_at_its_slash() {
        let site = grant("site/1");
        assert!(site.reaches("files", "site/1/a"));
        for key in ["site/1", "site/11/a", "site/1x/a", "site/2/a", "", "/site/1/a"] {
            assert!(!site.reaches("files", key), "{key:?}");
        }
        assert!(!site.reaches("other", "site/1/a"));
        assert!(site.reaches_listing("files", "site/1/"));
        assert!(!site.reaches_listing("files", "site/1"));
        assert!(grant("").reaches("files", "site/2/a"));
        assert!(!grant("").reaches("other", "site/2/a"));
    }

    #[test]
    fn keys_that_could_become_other_paths_are_none() {
        assert!(is_plain_key("site/1/blob/abc.def"));
        for key in
            ["", "/a", "a//b", "a/../b", "..", "a/.", "./a", "a/", "a\0b", "a\\b", &"x".repeat(200)]
        {
            assert!(!is_plain_key(key), "{key:?}");
        }
    }

    #[tokio::test]
    async fn keys_survive_in_a_private_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("keys.json");
        let keys = Keys::load(&file).expect("no file is no keys");
        keys.put("a", grant("site/1")).await.expect("puts");
        keys.put("b", grant("site/2")).await.expect("puts");
        keys.remove("b").await.expect("removes");
        keys.remove("c").await.expect("nothing to remove");
        let again = Keys::load(&file).expect("reads");
        assert_eq!(again.all().keys().collect::<Vec<_>>(), ["a"]);
        let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&file).expect("there"));
        assert_eq!(mode & 0o777, 0o600);
    }
}
