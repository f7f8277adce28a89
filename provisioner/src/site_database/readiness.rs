//! What a move asks of a cluster before it begins. Looks only.

use sqlx::{Connection, Row};

use super::{SiteDatabaseError, SiteDatabaseName, SiteDatabases};

/// Slots that a move takes at its publisher at most, at the same time: the stream, and one for each
/// table that is copied.
const SLOTS: i64 = 6;

impl SiteDatabases {
    /// The version of the database's schema, as noted; none when there is no such database, or it has
    /// no note.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn schema_version(
        &self,
        name: &SiteDatabaseName,
    ) -> Result<Option<u32>, SiteDatabaseError> {
        let note: Result<Option<Option<String>>, sqlx::Error> = sqlx::query_scalar(
            "select shobj_description(oid, 'pg_database') from pg_database where datname = $1",
        )
        .bind(name.as_str())
        .fetch_optional(&self.0.pool)
        .await;
        match note {
            Ok(note) => Ok(note.flatten().as_deref().and_then(migrations::noted_version)),
            Err(error) => Err(self.explain("tell the schema's version", error).await),
        }
    }

    /// Encoding and order of a database's texts.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn locale(&self, name: &SiteDatabaseName) -> Result<String, SiteDatabaseError> {
        self.locale_of(name.as_str()).await
    }

    /// The same of the databases that are made here.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn template_locale(&self) -> Result<String, SiteDatabaseError> {
        let template = self.ensure_template().await?;
        self.locale_of(template.database()).await
    }

    async fn locale_of(&self, database: &str) -> Result<String, SiteDatabaseError> {
        let locale = sqlx::query_scalar(
            "select format('encoding %s, collation %s, ctype %s', pg_encoding_to_char(encoding),
                           datcollate, datctype)
             from pg_database where datname = $1",
        )
        .bind(database)
        .fetch_one(&self.0.pool)
        .await;
        match locale {
            Ok(locale) => Ok(locale),
            Err(error) => Err(self.explain("tell a database's locale", error).await),
        }
    }

    /// What of the server's settings and present use would stop a move, as sentences.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn replication_problems(&self) -> Result<Vec<String>, SiteDatabaseError> {
        let row = sqlx::query(
            "select current_setting('wal_level') as wal_level,
                    current_setting('max_replication_slots')::bigint
                        - (select count(*) from pg_replication_slots) as slots,
                    current_setting('max_wal_senders')::bigint
                        - (select count(*) from pg_stat_replication) as senders,
                    current_setting('max_logical_replication_workers')::bigint
                        - (select count(*) from pg_stat_subscription where pid is not null)
                        as workers,
                    (select count(*) from pg_prepared_xacts) as prepared,
                    (select count(*) from pg_replication_slots where wal_status in ('lost'))
                        as lost,
                    (select coalesce(max(extract(epoch from now() - xact_start)), 0)::bigint
                     from pg_stat_activity
                     where backend_xid is not null and pid <> pg_backend_pid()) as longest",
        )
        .fetch_one(&self.0.pool)
        .await;
        let row = match row {
            Ok(row) => row,
            Err(error) => return Err(self.explain("tell its settings", error).await),
        };
        let cluster = self.cluster();
        let mut problems = Vec::new();
        let wal_level: String = row.get("wal_level");
        if wal_level != "logical" {
            problems.push(format!("cluster {cluster} has wal_level {wal_level}, not logical"));
        }
        for (column, setting) in [
            ("slots", "max_replication_slots"),
            ("senders", "max_wal_senders"),
            ("workers", "max_logical_replication_workers"),
        ] {
            let free: i64 = row.get(column);
            if free < SLOTS {
                problems.push(format!(
                    "cluster {cluster} has {free} of its {setting} left, a move takes {SLOTS}"
                ));
            }
        }
        if row.get::<i64, _>("prepared") > 0 {
            problems.push(format!("cluster {cluster} has prepared transactions"));
        }
        if row.get::<i64, _>("lost") > 0 {
            problems.push(format!("cluster {cluster} has a replication slot that lost its place"));
        }
        let longest: i64 = row.get("longest");
        if longest > 60 {
            problems.push(format!(
                "a transaction on cluster {cluster} writes for {longest} s now; a copy can only begin \
                 when it has ended"
            ));
        }
        Ok(problems)
    }

    /// How many tables of the site there are, and the bytes of its files.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn contents(&self, name: &SiteDatabaseName) -> Result<(i64, i64), SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let row = sqlx::query_as(
            "select (select count(*) from pg_class
                     where relkind = 'r' and relnamespace = 'public'::regnamespace),
                    (select coalesce(sum(size_bytes), 0)::bigint from public.blob)",
        )
        .persistent(false)
        .fetch_one(&mut connection)
        .await;
        let _ = connection.close().await;
        row.map_err(|error| self.sort("measure the site", error))
    }

    /// Bytes that are free on the disk of the server's data; none when its administrator may not know.
    ///
    /// # Errors
    /// When the cluster is down.
    pub async fn free_disk(&self) -> Result<Option<u64>, SiteDatabaseError> {
        let mut connection = self.connect(None).await?;
        // A server's programs begin in the directory of its data.
        let rows = sqlx::raw_sql(
            r"create temporary table disk (line text);
             copy disk from program 'LC_ALL=C df -Pk .' with (format csv, delimiter E'\x01',
                 quote E'\x02');
             select (regexp_match(line, '^\S.*?\s+\d+\s+\d+\s+(\d+)\s+\d+%'))[1] as kib from disk",
        )
        .fetch_all(&mut connection)
        .await;
        let _ = connection.close().await;
        let rows = rows.unwrap_or_default();
        let kib = rows.iter().find_map(|row| row.try_get::<String, _>("kib").ok());
        Ok(kib.and_then(|kib| kib.parse::<u64>().ok()).map(|kib| kib.saturating_mul(1024)))
    }

    /// One question and its answer, on a connection that may be there already.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn round_trip(&self) -> Result<(), SiteDatabaseError> {
        match sqlx::query("select 1").execute(&self.0.pool).await {
            Ok(_) => Ok(()),
            Err(error) => Err(self.explain("answer", error).await),
        }
    }
}
