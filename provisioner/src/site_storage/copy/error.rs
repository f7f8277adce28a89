//! What can go wrong with a site's blobs on their way.

use std::fmt;

use crate::site_storage::SiteStorageError;

/// How many names are kept of many.
const MOST: usize = 20;

/// Objects by their keys: the first of them, and how many there are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Named {
    /// At most 20, in no order.
    pub first: Vec<String>,
    /// All of them.
    pub count: u64,
}

impl Named {
    pub(super) fn add(&mut self, key: String) {
        self.count += 1;
        if self.first.len() < MOST {
            self.first.push(key);
        }
    }
}

impl fmt::Display for Named {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.first.join(", "))?;
        match self.count.saturating_sub(self.first.len() as u64) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// Why a site's blobs could not be copied, verified or compared.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A store is down or refuses, while it was asked about the whole prefix.
    #[error(transparent)]
    Store(#[from] SiteStorageError),
    /// A store is down or refuses, at one object.
    #[error("{source} (at {object})")]
    Object {
        /// The object's key.
        object: String,
        /// What is with the store.
        #[source]
        source: SiteStorageError,
    },
    /// An upload was ended while it was under way: by another copy of the same prefix, or a rule of
    /// the store.
    #[error("object store {store}: the upload of {object} was ended by somebody else")]
    UploadEnded {
        /// The object store's name.
        store: String,
        /// The object's key.
        object: String,
    },
    /// Objects of the store that is copied from have other bytes than their names say.
    #[error(
        "object store {store}: the source is corrupt: {} objects do not hash to their names and \
         were not copied: {objects}; bring them back there, then try again",
        objects.count
    )]
    Corrupt {
        /// The object store's name.
        store: String,
        /// The corrupt objects.
        objects: Named,
    },
    /// The blobs to compare a store with are not in order.
    #[error("the blobs to compare object store {store} with are not sorted by their SHA-256")]
    NotSorted {
        /// The object store's name.
        store: String,
    },
}

impl CopyError {
    /// Makes an error of a store one at this object.
    pub(super) fn of(object: &str) -> impl FnOnce(SiteStorageError) -> Self {
        move |source| Self::Object { object: object.to_owned(), source }
    }

    /// Whether the same may succeed later without anybody changing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Store(source) | Self::Object { source, .. } => source.is_retryable(),
            Self::UploadEnded { .. } => true,
            Self::Corrupt { .. } | Self::NotSorted { .. } => false,
        }
    }

    /// The name of the object store that is at fault.
    pub fn store(&self) -> &str {
        match self {
            Self::Store(source) | Self::Object { source, .. } => source.store(),
            Self::UploadEnded { store, .. }
            | Self::Corrupt { store, .. }
            | Self::NotSorted { store } => store,
        }
    }

    /// The part of the platform that is at fault, as problem details name it.
    pub fn component(&self) -> String {
        format!("object store {}", self.store())
    }
}
