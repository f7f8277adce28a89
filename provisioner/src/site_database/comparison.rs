//! Whether a database that follows another one holds the same: every table by its number of rows and
//! a sum over all of them that does not depend on their order, both read at the same place of the
//! stream; and everything that is no row.
//!
//! How two servers are read at one place, while people write:
//!
//! 1. At the follower a lock on the marker's table makes the stream stop where the marker is written
//!    next.
//! 2. At the publisher all tables are locked against writes for a moment; a snapshot is taken, the
//!    marker is written, the locks end.
//! 3. At the follower the stream now waits at the marker: a snapshot there is the same as the
//!    publisher's. The lock ends, and the stream goes on.
//! 4. Both snapshots are read at leisure.

use std::{collections::BTreeMap, time::Duration};

use provisioner_api::backups::BACKGROUND;
use sha2::{Digest as _, Sha256};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::time::{Instant, sleep};

mod reading;

pub use reading::{Read, Reading};

use super::{
    SiteDatabaseError, SiteDatabaseName, SiteDatabases,
    catalog::{self, Line},
    error::sqlstate,
};

/// How long the publisher's writers may be kept waiting for the moment of the snapshot.
const LOCK_PATIENCE: Duration = Duration::from_millis(300);
/// How long the stream may take to arrive at the marker.
const STREAM_PATIENCE: Duration = Duration::from_secs(60);
/// How soon to look again whether it has.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// Differences that are named; more are counted.
const NAMED: usize = 20;

/// Tables whose rows are each database's own.
const OWN: &str = "('platform.site_authority'::regclass, 'platform.move_marker'::regclass)";

/// What was compared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Comparison {
    /// Tables.
    pub tables: usize,
    /// Rows in them.
    pub rows: i64,
    /// Definitions, grants and settings.
    pub definitions: usize,
    /// SHA-256 over all of it, in hexadecimal: the same whenever the content is.
    pub digest: String,
    /// The place in the publisher's log at which both were read.
    pub lsn: String,
    /// What differs. Empty: nothing.
    pub differences: Vec<Difference>,
}

/// Something that is not the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// `table course`, `indexes`, `grants` …
    pub what: String,
    /// In words.
    pub detail: String,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.what, self.detail)
    }
}

/// Of a table's rows, in whatever order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct TableSum {
    rows: i64,
    xor: i64,
    sum: i128,
}

impl TableSum {
    /// Adds what a server says of a piece.
    fn add(&mut self, piece: &str) -> Result<(), sqlx::Error> {
        let wrong = || sqlx::Error::Decode(format!("sums of a piece: '{piece}'").into());
        let numbers: Vec<i128> = piece.split(' ').filter_map(|part| part.parse().ok()).collect();
        let [rows, xor, sum] = numbers.as_slice() else { return Err(wrong()) };
        self.rows += i64::try_from(*rows).map_err(|_| wrong())?;
        self.xor ^= i64::try_from(*xor).map_err(|_| wrong())?;
        self.sum = self.sum.wrapping_add(*sum);
        Ok(())
    }
}

struct Contents {
    tables: BTreeMap<String, TableSum>,
    lines: Vec<Line>,
}

impl SiteDatabases {
    /// Compares the database with the one that follows it. None when there was no moment for it:
    /// writers who do not end, or a stream that is too far behind.
    ///
    /// # Errors
    /// When one of the clusters is down or refuses.
    pub async fn compare(
        &self,
        name: &SiteDatabaseName,
        follower: &Self,
        follower_name: &SiteDatabaseName,
        reading: &Reading<'_>,
    ) -> Result<Option<Comparison>, SiteDatabaseError> {
        let mut here = self.connect(Some(name)).await?;
        let mut there = follower.connect(Some(follower_name)).await?;
        let mut turnstile = follower.connect(Some(follower_name)).await?;
        let outcome = async {
            let Some(lsn) =
                self.at_one_place(name, &mut here, follower, &mut turnstile, &mut there).await?
            else {
                return Ok(None);
            };
            let (ours, theirs) = tokio::join!(read(reading, &mut here), read(reading, &mut there));
            let ours = ours.map_err(|error| self.sort("read all tables", error))?;
            let theirs = theirs.map_err(|error| follower.sort("read all tables", error))?;
            Ok(Some(compared(&ours, &theirs, lsn)))
        }
        .await;
        for connection in [here, there, turnstile] {
            let _ = connection.close().await;
        }
        outcome
    }

    /// Opens a snapshot in `here` and one in `there` that see the same.
    async fn at_one_place(
        &self,
        name: &SiteDatabaseName,
        here: &mut PgConnection,
        follower: &Self,
        turnstile: &mut PgConnection,
        there: &mut PgConnection,
    ) -> Result<Option<String>, SiteDatabaseError> {
        const ACTION: &str = "stop the stream for a moment";
        let of_follower = |error| follower.sort(ACTION, error);
        sqlx::raw_sql(
            "begin; set local idle_in_transaction_session_timeout = '90s';
             lock table platform.move_marker in share mode",
        )
        .execute(&mut *turnstile)
        .await
        .map_err(of_follower)?;
        let Some(lsn) = self.snapshot_before_marker(name, here).await? else {
            return Ok(None);
        };
        let until = Instant::now() + STREAM_PATIENCE;
        loop {
            let waits: bool = sqlx::query_scalar(
                "select exists (select from pg_locks
                     where not granted and relation = 'platform.move_marker'::regclass
                         and database = (select oid from pg_database
                                         where datname = current_database()))",
            )
            .persistent(false)
            .fetch_one(&mut *turnstile)
            .await
            .map_err(of_follower)?;
            if waits {
                break;
            }
            if Instant::now() > until {
                return Ok(None);
            }
            // A lock that somebody waits for tells nobody.
            sleep(LOOK_AGAIN).await;
        }
        snapshot(there).await.map_err(of_follower)?;
        sqlx::raw_sql("rollback").execute(turnstile).await.map_err(of_follower)?;
        Ok(Some(lsn))
    }

    /// A snapshot in `here` with everything that comes before the marker in the stream, and nothing
    /// else.
    async fn snapshot_before_marker(
        &self,
        name: &SiteDatabaseName,
        here: &mut PgConnection,
    ) -> Result<Option<String>, SiteDatabaseError> {
        const ACTION: &str = "stop writers for a moment";
        let mut locker = self.connect(Some(name)).await?;
        let outcome = async {
            let lock = format!(
                "begin;
                 set local lock_timeout = '{}ms';
                 do $lock$ begin
                     if (select rolsuper from pg_roles where rolname = current_user) then
                         set local deadlock_timeout = '10ms';
                     end if;
                     execute 'lock table ' || (
                         select string_agg(prrelid::regclass::text, ', ' order by prrelid)
                         from pg_publication_rel) || ' in share mode';
                 end $lock$",
                LOCK_PATIENCE.as_millis()
            );
            sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut locker).await?;
            snapshot(here).await?;
            // The number is of no attempt.
            let lsn: String = sqlx::query_scalar(
                "insert into platform.move_marker (generation, fence_lsn)
                 values (0, pg_current_wal_insert_lsn())
                 on conflict (generation) do update set fence_lsn = excluded.fence_lsn,
                     at = clock_timestamp()
                 returning fence_lsn::text",
            )
            .persistent(false)
            .fetch_one(&mut locker)
            .await?;
            sqlx::raw_sql("commit").execute(&mut locker).await?;
            Ok(Some(lsn))
        }
        .await;
        let _ = locker.close().await;
        match outcome {
            Err(error) if matches!(sqlstate(&error).as_deref(), Some("55P03" | "40P01")) => {
                Ok(None)
            }
            outcome => outcome.map_err(|error| self.sort(ACTION, error)),
        }
    }
}

/// A snapshot that stays. The settings decide how values become text, on both sides alike.
async fn snapshot(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "set statement_timeout = 0; set timezone = 'UTC'; set datestyle = 'ISO, YMD';
         set intervalstyle = 'postgres'; set extra_float_digits = 1; set bytea_output = 'hex';
         begin isolation level repeatable read read only; select 1",
    )
    .execute(connection)
    .await?;
    Ok(())
}

async fn read(
    reading: &Reading<'_>,
    connection: &mut PgConnection,
) -> Result<Contents, sqlx::Error> {
    if reading.rest > 0.0 {
        let named = format!("set application_name = '{BACKGROUND}'");
        sqlx::raw_sql(AssertSqlSafe(named)).execute(&mut *connection).await?;
    }
    let tables = reading.tables(connection).await?;
    let lines = catalog::lines(connection).await?;
    Ok(Contents { tables, lines })
}

fn compared(ours: &Contents, theirs: &Contents, lsn: String) -> Comparison {
    let mut differences = Vec::new();
    let mut differs = |what: String, detail: String| differences.push(Difference { what, detail });
    for (table, sum) in &ours.tables {
        match theirs.tables.get(table) {
            None => differs(format!("table {table}"), "is missing at the target".to_owned()),
            Some(other) if other.rows != sum.rows => differs(
                format!("table {table}"),
                format!("{} rows at the source, {} at the target", sum.rows, other.rows),
            ),
            Some(other) if other != sum => {
                differs(
                    format!("table {table}"),
                    "rows have other values at the target".to_owned(),
                );
            }
            Some(_) => {}
        }
    }
    for table in theirs.tables.keys().filter(|table| !ours.tables.contains_key(*table)) {
        differs(format!("table {table}"), "is not at the source".to_owned());
    }
    for line in ours.lines.iter().filter(|line| theirs.lines.binary_search(line).is_err()) {
        differs(line.aspect.to_owned(), format!("not at the target: {}", line.text));
    }
    for line in theirs.lines.iter().filter(|line| ours.lines.binary_search(line).is_err()) {
        differs(line.aspect.to_owned(), format!("only at the target: {}", line.text));
    }
    let n_different = differences.len();
    if n_different > NAMED {
        differences.truncate(NAMED);
        differences.push(Difference {
            what: "and".to_owned(),
            detail: format!("{} more", n_different - NAMED),
        });
    }
    Comparison {
        tables: ours.tables.len(),
        rows: ours.tables.values().map(|sum| sum.rows).sum(),
        definitions: ours.lines.len(),
        digest: digest(ours),
        lsn,
        differences,
    }
}

fn digest(read: &Contents) -> String {
    let mut hash = Sha256::new();
    for (table, sum) in &read.tables {
        hash.update(format!("{table}\0{}\0{} {}\0", sum.rows, sum.xor, sum.sum));
    }
    for line in &read.lines {
        hash.update(format!("{}\0{}\0", line.aspect, line.text));
    }
    hex::encode(hash.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_of(tables: &[(&str, i64, i64)], lines: &[(&'static str, &str)]) -> Contents {
        let sum = |rows, xor| TableSum { rows, xor, sum: 0 };
        let mut lines: Vec<_> =
            lines.iter().map(|(aspect, text)| Line { aspect, text: (*text).to_owned() }).collect();
        lines.sort();
        Contents {
            tables: tables
                .iter()
                .map(|(name, rows, xor)| ((*name).to_owned(), sum(*rows, *xor)))
                .collect(),
            lines,
        }
    }

    #[test]
    fn every_kind_of_difference_is_named() {
        let ours = read_of(
            &[("a", 1, 5), ("b", 2, 5), ("c", 1, 5), ("e", 1, 5)],
            &[("indexes", "i"), ("grants", "g")],
        );
        let theirs = read_of(
            &[("a", 1, 5), ("b", 1, 5), ("c", 1, 6), ("d", 1, 5)],
            &[("grants", "g"), ("grants", "h")],
        );
        let found = compared(&ours, &theirs, "0/1".to_owned());
        let told: Vec<_> = found.differences.iter().map(ToString::to_string).collect();
        assert_eq!(
            told,
            [
                "table b: 2 rows at the source, 1 at the target",
                "table c: rows have other values at the target",
                "table e: is missing at the target",
                "table d: is not at the source",
                "indexes: not at the target: i",
                "grants: only at the target: h",
            ]
        );
        assert_eq!(compared(&ours, &ours, String::new()).differences, []);
    }
}
