//! What a move asks of a cluster before it begins. Looks only.

use sqlx::{Connection, Row};

use super::{SiteDatabaseError, SiteDatabaseName, SiteDatabases};

/// Slots that a move takes at its publisher at most, at the same time: the stream, and one for each
/// table that is copied. As many senders, and workers at its subscriber.
const SLOTS: i64 = 6;
/// Writing transactions that are older than this many seconds are told: a copy waits for their end.
const LONG: i64 = 60;

/// Whether a cluster can take part in a move.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Readiness {
    /// What somebody has to mend first, as sentences.
    pub problems: Vec<String>,
    /// What passes by itself when others come to their end, as sentences.
    pub busy: Vec<String>,
}

impl Readiness {
    /// Looks at one thing that a move takes some of.
    fn count(&mut self, cluster: &str, setting: &str, of: i64, taken: i64) {
        let free = of - taken;
        if of < SLOTS {
            self.problems.push(format!(
                "cluster {cluster} has {setting} {of}, a move takes {SLOTS}: set it higher and start \
                 the cluster again"
            ));
        } else if free < SLOTS {
            self.busy.push(format!(
                "cluster {cluster} has {free} of its {of} {setting} left, a move takes {SLOTS}: other \
                 moves end and give theirs back, `ta3lem site settle` gives back those of places that \
                 are kept for the way back"
            ));
        }
    }
}

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

    /// What of the server's settings would stop a move, and what of its present use would keep it
    /// waiting.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn replication_readiness(&self) -> Result<Readiness, SiteDatabaseError> {
        let row = sqlx::query(
            "select current_setting('wal_level') as wal_level,
                    current_setting('max_replication_slots')::bigint as slots,
                    (select count(*) from pg_replication_slots) as slots_taken,
                    current_setting('max_wal_senders')::bigint as senders,
                    (select count(*) from pg_stat_replication) as senders_taken,
                    current_setting('max_logical_replication_workers')::bigint as workers,
                    (select count(*) from pg_stat_subscription where pid is not null)
                        as workers_taken,
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
        let mut readiness = Readiness::default();
        let wal_level: String = row.get("wal_level");
        if wal_level != "logical" {
            let problem = format!("cluster {cluster} has wal_level {wal_level}, not logical");
            readiness.problems.push(problem);
        }
        for (of, taken, setting) in [
            ("slots", "slots_taken", "max_replication_slots"),
            ("senders", "senders_taken", "max_wal_senders"),
            ("workers", "workers_taken", "max_logical_replication_workers"),
        ] {
            readiness.count(cluster, setting, row.get(of), row.get(taken));
        }
        if row.get::<i64, _>("prepared") > 0 {
            readiness.problems.push(format!("cluster {cluster} has prepared transactions"));
        }
        if row.get::<i64, _>("lost") > 0 {
            let problem = format!("cluster {cluster} has a replication slot that lost its place");
            readiness.problems.push(problem);
        }
        let longest: i64 = row.get("longest");
        if longest > LONG {
            readiness.busy.push(format!(
                "a transaction on cluster {cluster} writes for {longest} s now; a copy can only begin \
                 when it has ended"
            ));
        }
        Ok(readiness)
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

#[cfg(test)]
mod tests {
    use super::Readiness;

    #[test]
    fn what_is_taken_comes_back_and_what_never_was_does_not() {
        let count = |of, taken| {
            let mut readiness = Readiness::default();
            readiness.count("jakarta-1", "max_replication_slots", of, taken);
            (readiness.problems.len(), readiness.busy.len())
        };
        assert_eq!(count(16, 10), (0, 0));
        assert_eq!(count(16, 11), (0, 1));
        assert_eq!(count(6, 6), (0, 1));
        assert_eq!(count(5, 0), (1, 0));
    }
}
