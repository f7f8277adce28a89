//! What a site's database says of its files.

use sqlx::{Connection, Row};
use time::OffsetDateTime;

use super::{SiteDatabaseError, SiteDatabaseName, SiteDatabases};

/// A content that some row of the site refers to, or did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlobRow {
    /// Its name.
    pub sha256: [u8; 32],
    /// Its length.
    pub size_bytes: i64,
}

impl BlobRow {
    /// The one with this name, if it is one.
    pub(super) fn named(name: &str, size_bytes: i64) -> Option<Self> {
        let mut sha256 = [0; 32];
        hex::decode_to_slice(name, &mut sha256).ok()?;
        Some(Self { sha256, size_bytes })
    }

    /// As in the object's key.
    pub fn name(&self) -> String {
        hex::encode(self.sha256)
    }
}

impl SiteDatabases {
    /// The contents in the order of their names; only those noted since a moment, if it is said.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn blobs(
        &self,
        name: &SiteDatabaseName,
        since: Option<OffsetDateTime>,
    ) -> Result<Vec<BlobRow>, SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let rows = sqlx::query(
            "select sha256, size_bytes from public.blob
             where $1::timestamptz is null or created_at >= $1 order by sha256",
        )
        .persistent(false)
        .bind(since)
        .fetch_all(&mut connection)
        .await;
        let _ = connection.close().await;
        let rows = rows.map_err(|error| self.sort("list the site's files", error))?;
        Ok(rows
            .iter()
            .filter_map(|row| {
                let sha256 = row.get::<&[u8], _>("sha256").try_into().ok()?;
                Some(BlobRow { sha256, size_bytes: row.get("size_bytes") })
            })
            .collect())
    }
}
