//! All rows of a snapshot, as sums. A table is read piece by piece, so that it is known how far the
//! reading is, and so that it can leave time to others.

use std::{collections::BTreeMap, time::Duration};

use sqlx::{AssertSqlSafe, PgConnection, Row};
use tokio::time::{Instant, sleep};

use super::{OWN, TableSum};

/// Pages of a piece: some milliseconds of work.
const PIECE: i64 = 512;
/// Bytes of a page.
const PAGE: i64 = 8192;

/// How a database is read.
pub struct Reading<'a> {
    /// After a piece it rests for so many times as long as the piece took: with 1 it uses half of a
    /// processor.
    pub rest: f64,
    /// Is told the bytes of each piece, and those of all tables before the first.
    pub progress: &'a (dyn Fn(Read) + Send + Sync),
}

/// How far it is.
#[derive(Clone, Copy, Debug)]
pub enum Read {
    /// There are so many bytes in all.
    Of(u64),
    /// So many more are read.
    Piece(u64),
}

impl Reading<'_> {
    /// All tables.
    pub(super) async fn tables(
        &self,
        connection: &mut PgConnection,
    ) -> Result<BTreeMap<String, TableSum>, sqlx::Error> {
        // Rows that the snapshot sees lie in the pages that a table has now.
        let tables: Vec<(String, i64)> = sqlx::query_as(AssertSqlSafe(format!(
            "select c.oid::regclass::text, pg_relation_size(c.oid) from pg_class c
             where c.relkind = 'r' and c.oid not in {OWN}
                 and c.relnamespace in ('public'::regnamespace, 'platform'::regnamespace)
                 and c.relname <> 'site_schema_history'
             order by 1"
        )))
        .persistent(false)
        .fetch_all(&mut *connection)
        .await?;
        let total: i64 = tables.iter().map(|(_, bytes)| bytes).sum();
        (self.progress)(Read::Of(u64::try_from(total).unwrap_or_default()));
        let mut sums = BTreeMap::new();
        for (table, bytes) in tables {
            let sum = self.table(connection, &table, bytes / PAGE).await?;
            sums.insert(table, sum);
        }
        Ok(sums)
    }

    async fn table(
        &self,
        connection: &mut PgConnection,
        table: &str,
        pages: i64,
    ) -> Result<TableSum, sqlx::Error> {
        let mut sum = TableSum::default();
        let mut from = 0;
        while from < pages {
            let to = pages.min(from + PIECE);
            // Two independent sums: rows that swap their places change neither, and nothing else
            // leaves both as they are.
            let sql = format!(
                "select count(*),
                        coalesce(bit_xor(hashtextextended(t::text, 0)), 0)::bigint,
                        coalesce(sum(hashtextextended(t::text, 1)::numeric), 0)::text
                 from {table} t where ctid >= '({from},0)' and ctid < '({to},0)'"
            );
            let begun = Instant::now();
            let row = sqlx::query(AssertSqlSafe(sql))
                .persistent(false)
                .fetch_one(&mut *connection)
                .await?;
            let text: String = row.get(2);
            let part = text.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
            sum.add(row.get(0), row.get(1), part);
            (self.progress)(Read::Piece(u64::try_from((to - from) * PAGE).unwrap_or_default()));
            self.leave_time(begun.elapsed()).await;
            from = to;
        }
        Ok(sum)
    }

    async fn leave_time(&self, took: Duration) {
        if let Ok(rest) = Duration::try_from_secs_f64(took.as_secs_f64() * self.rest)
            && !rest.is_zero()
        {
            sleep(rest).await;
        }
    }
}
