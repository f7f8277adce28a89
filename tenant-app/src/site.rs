//! What every handler gets: the site's identity, its database, its files and its settings. The
//! only shared state of the process.

use std::sync::Arc;

use control_types::{Generation, InstanceConfig, SiteId, Slug};
use sqlx::PgPool;

use crate::{
    accounts::passwords::Passwords, fence::Fence, preview::Preview, rejection::Rejection,
    settings::SettingsCache, storage::Storage,
};

/// The site that this process serves.
pub struct Site {
    /// Its id.
    pub id: SiteId,
    /// Its short name, for log lines and for pages when its database does not answer.
    pub slug: Slug,
    /// The generation of its placement.
    pub generation: Generation,
    /// Its prefix in the object store.
    pub storage: Storage,
    /// Its name, look and language.
    pub settings: SettingsCache,
    /// Hashing with a bound on how much runs at once.
    pub passwords: Passwords,
    /// The way to its database.
    pub fence: Fence,
    /// If it is another one as it was at some moment, only to be looked at.
    pub preview: Option<Preview>,
}

impl Site {
    /// Prepares everything and connects to nothing.
    ///
    /// # Errors
    /// When the configuration cannot be used.
    pub fn new(config: InstanceConfig) -> anyhow::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            id: config.site_id,
            slug: config.slug.clone(),
            generation: config.generation,
            storage: Storage::new(config.storage.clone()),
            settings: SettingsCache::default(),
            passwords: Passwords::default(),
            fence: Fence::new(&config),
            preview: config.preview.as_ref().map(Preview::new).transpose()?,
        }))
    }

    /// The database, known to be this site's.
    ///
    /// # Errors
    /// When it does not answer, or is another site's or another generation's.
    pub async fn database(&self) -> Result<&PgPool, Rejection> {
        self.fence.database().await
    }
}
