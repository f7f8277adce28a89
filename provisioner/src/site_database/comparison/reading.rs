//! All rows of a snapshot, as sums. A table is read piece by piece, so that it is known how far the
//! reading is, and so that it can leave time to others.

use std::collections::BTreeMap;

use sqlx::{AssertSqlSafe, PgConnection, Row};

use super::{OWN, TableSum};

/// Pages of a piece: after each it is told how far the reading is.
const PIECE: i64 = 512;
/// Pages that are read without a rest: a third of a millisecond, so that nobody waits long for a
/// processor. A server sleeps for a millisecond at least.
const BURST: i64 = 4;
/// Bytes of a page.
const PAGE: i64 = 8192;
/// Where the server leaves the sums of a piece.
const SETTING: &str = "ta3lem.read";

/// How a database is read.
pub struct Reading<'a> {
    /// Who worked rests for so many times as long: with 1 it uses half of a processor.
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
            let sql = self.piece(table, from, to);
            let rows = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut *connection).await?;
            let row = rows.iter().rfind(|row| !row.is_empty()).ok_or(sqlx::Error::RowNotFound)?;
            sum.add(&row.try_get::<String, _>(0)?)?;
            (self.progress)(Read::Piece(u64::try_from((to - from) * PAGE).unwrap_or_default()));
            from = to;
        }
        Ok(sum)
    }

    /// One round trip: the server rests by itself between the bursts.
    fn piece(&self, table: &str, from: i64, to: i64) -> String {
        // Two independent sums: rows that swap their places change neither, and nothing else leaves
        // both as they are.
        let sums = format!(
            "select count(*) as n, coalesce(bit_xor(hashtextextended(t::text, 0)), 0) as x,
                    coalesce(sum(hashtextextended(t::text, 1)::numeric), 0) as s
             from {table} t where ctid >= "
        );
        let sums = sums.replace('\'', "''");
        format!(
            "do $read$
             declare
                 page bigint := {from};
                 n bigint := 0;
                 x bigint := 0;
                 s numeric := 0;
                 part record;
                 began timestamptz;
             begin
                 while page < {to} loop
                     began := clock_timestamp();
                     execute '{sums}' || format('%L::tid and ctid < %L::tid',
                             format('(%s,0)', page),
                             format('(%s,0)', least(page + {burst}, {to})))
                         into part;
                     n := n + part.n;
                     x := x # part.x;
                     s := s + part.s;
                     page := page + {burst};
                     if {rest} > 0 then
                         perform pg_sleep(
                             extract(epoch from clock_timestamp() - began) * {rest});
                     end if;
                 end loop;
                 perform set_config('{SETTING}', n || ' ' || x || ' ' || s, true);
             end $read$;
             select current_setting('{SETTING}')",
            rest = self.rest,
            burst = if self.rest > 0.0 { BURST } else { PIECE },
        )
    }
}
