//! How far a database that follows another one is.

use sqlx::{AssertSqlSafe, Connection, Row};

use super::{SiteDatabaseError, SiteDatabaseName, SiteDatabases, replication::FOLLOWED};

/// How far the copy is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CopyStatus {
    /// Tables that shall follow.
    pub tables: i64,
    /// Tables that are there and follow.
    pub ready: i64,
    /// Bytes of all that arrived, as the tables take them on disk.
    pub bytes_on_disk: i64,
    /// How often the copy or the stream broke off since the subscription was made.
    pub errors: i64,
}

impl CopyStatus {
    /// Whether everything that was there is copied.
    pub const fn is_complete(&self) -> bool {
        self.tables > 0 && self.tables == self.ready
    }
}

impl SiteDatabases {
    /// How far the copy of a database that follows is.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn copy_status(
        &self,
        name: &SiteDatabaseName,
    ) -> Result<CopyStatus, SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let row = sqlx::query(AssertSqlSafe(format!(
            "select (select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
                     where {FOLLOWED}) as tables,
                    (select count(*) from pg_subscription_rel where srsubstate in ('r', 's'))
                        as ready,
                    (select coalesce(sum(pg_table_size(oid)), 0)::bigint from pg_class
                     where relkind = 'r' and relnamespace = 'public'::regnamespace)
                        as bytes_on_disk,
                    (select coalesce(sum(apply_error_count + sync_error_count), 0)::bigint
                     from pg_stat_subscription_stats where subname = $1) as errors"
        )))
        .persistent(false)
        .bind(name.stream())
        .fetch_one(&mut connection)
        .await;
        let _ = connection.close().await;
        let row = row.map_err(|error| self.sort("tell how far the copy is", error))?;
        Ok(CopyStatus {
            tables: row.get("tables"),
            ready: row.get("ready"),
            bytes_on_disk: row.get("bytes_on_disk"),
            errors: row.get("errors"),
        })
    }

    /// Bytes of the site's tables without their indexes.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn table_bytes(&self, name: &SiteDatabaseName) -> Result<i64, SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let bytes = sqlx::query_scalar(
            "select coalesce(sum(pg_table_size(oid)), 0)::bigint from pg_class
             where relkind = 'r' and relnamespace = 'public'::regnamespace",
        )
        .persistent(false)
        .fetch_one(&mut connection)
        .await;
        let _ = connection.close().await;
        bytes.map_err(|error| self.sort("measure the site's tables", error))
    }
}
