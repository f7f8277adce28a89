//! The two statements of a move for which requests wait: the fence in the source, the opening of the
//! target. Each is one round trip. What they mean and why they are enough is in `fence.rs`.

use std::{io, time::Duration};

use control_types::Generation;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, postgres::PgRow};
use tokio::time::timeout;

use super::{
    Attempt, BlobRow, SiteDatabaseError, SiteDatabaseName, SiteDatabases,
    error::sqlstate,
    fence::{let_write, no_write, retire_sql},
};

/// A sequence and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SequenceValue {
    /// With its schema, quoted where needed.
    pub name: String,
    /// The last value it gave.
    pub last_value: i64,
}

/// What the source says once nothing is written there any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fenced {
    /// Where its sequences stand; those that were never used are not listed.
    pub sequences: Vec<SequenceValue>,
    /// The place of the marker in its log.
    pub fence_lsn: String,
    /// Files that were noted in the last minutes: their objects may not be at the target yet.
    pub files: Vec<BlobRow>,
}

/// What [`SiteDatabases::open`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The target is the site now, or was already. The place in its log from which everything was
    /// written here.
    Primary {
        /// In the target's log.
        open_lsn: String,
    },
    /// All before the fence has not arrived in time. Nothing was changed.
    NotArrived,
    /// The attempt was given up.
    GivenUp,
}

/// Longest wait for a table's lock behind transactions of the site, before they are ended.
const PATIENCE_FOR_WRITERS: Duration = Duration::from_millis(1000);
/// How long an answer may take beside the time that the server may take: then it is taken for lost,
/// since people wait.
pub(super) const ANSWER: Duration = Duration::from_secs(3);
/// How long a look at what is there may take.
pub(super) const LOOK: Duration = Duration::from_secs(1);
/// Our own code for a marker that has not arrived in time.
const NOT_ARRIVED: &str = "TM002";
/// Longer than a transaction of an instance can take between a file's row and its commit.
pub const LATELY: Duration = Duration::from_secs(180);

impl SiteDatabases {
    /// A connection for the moment in which requests wait: opened before it.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn switch(&self, name: &SiteDatabaseName) -> Result<Switch, SiteDatabaseError> {
        let connection = self.connect(Some(name)).await?;
        Ok(Switch { databases: self.clone(), name: name.clone(), connection: Some(connection) })
    }
}

/// A connection to a source or a target, for the moment in which requests wait: each verb is one
/// round trip.
pub struct Switch {
    databases: SiteDatabases,
    name: SiteDatabaseName,
    /// None after an answer was lost.
    connection: Option<PgConnection>,
}

impl Switch {
    /// Takes the right to write away, waits until everything that was being written has ended, and
    /// puts the marker behind it. None when transactions of the site did not end in time: the fence
    /// stays, so either try again or un-fence.
    ///
    /// # Errors
    /// When the cluster is down or refuses, or the attempt is not the source's any more.
    pub async fn fence(
        &mut self,
        generation: Generation,
        attempt: &Attempt,
    ) -> Result<Option<Fenced>, SiteDatabaseError> {
        let sql = fence_sql(&self.name, generation, attempt);
        let rows = match self.ask(sql, PATIENCE_FOR_WRITERS).await {
            Ok(rows) => rows,
            // The locks did not come.
            Err(error)
                if matches!(sqlstate(&error).as_deref(), Some("57014" | "55P03" | "40P01")) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(self.databases.sort("fence the site", error)),
        };
        let mut fenced = Fenced::default();
        for row in rows.iter().filter(|row| !row.is_empty()) {
            let (name, value): (String, i64) = (row.get("name"), row.get("value"));
            match row.get::<&str, _>("what") {
                "lsn" => fenced.fence_lsn = name,
                "sequence" => fenced.sequences.push(SequenceValue { name, last_value: value }),
                _ => fenced.files.extend(BlobRow::named(&name, value)),
            }
        }
        Ok(Some(fenced))
    }

    /// Makes the target the site: waits until the marker has arrived, sets the sequences, and swaps.
    ///
    /// # Errors
    /// When the cluster is down or refuses: then it may be open or not.
    pub async fn open(
        &mut self,
        attempt: &Attempt,
        sequences: &[SequenceValue],
        at_most: Duration,
    ) -> Result<Opened, SiteDatabaseError> {
        let sql = open_sql(&self.name, attempt, sequences, at_most);
        let rows = match self.ask(sql, at_most).await {
            Ok(rows) => rows,
            Err(error) if sqlstate(&error).as_deref() == Some(NOT_ARRIVED) => {
                return Ok(Opened::NotArrived);
            }
            Err(error) => {
                return Err(self.databases.sort("open the site at its new place", error));
            }
        };
        let Some(row) = rows.iter().rfind(|row| !row.is_empty()) else {
            return Ok(Opened::GivenUp);
        };
        let state: String = row.get("state");
        let moving_to: Option<String> = row.get("moving_to");
        let open_lsn: Option<String> = row.get("open_lsn");
        Ok(match (state.as_str(), open_lsn) {
            ("primary", Some(open_lsn)) if moving_to == Some(attempt.armed()) => {
                Opened::Primary { open_lsn }
            }
            _ => Opened::GivenUp,
        })
    }

    /// Marks the source as what was left: its instance says where the site went.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn retire(&mut self, attempt: &Attempt) -> Result<(), SiteDatabaseError> {
        let outcome = self.ask(retire_sql(attempt), Duration::ZERO).await;
        outcome.map(drop).map_err(|error| self.databases.sort("mark the database as left", error))
    }

    /// Several transactions in one round trip, which the server works on for `at_most`. After an error
    /// the session is outside of any, or is not used again.
    pub(super) async fn ask(
        &mut self,
        sql: String,
        at_most: Duration,
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let lost = |text| sqlx::Error::Io(io::Error::new(io::ErrorKind::TimedOut, text));
        let Some(mut connection) = self.connection.take() else {
            return Err(lost("an earlier answer was lost"));
        };
        let asked = sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(&mut connection);
        let Ok(outcome) = timeout(at_most + ANSWER, asked).await else {
            return Err(lost("no answer came in time"));
        };
        if outcome.is_err() {
            let back = sqlx::raw_sql("rollback").execute(&mut connection);
            if timeout(ANSWER, back).await.is_err() {
                return outcome;
            }
        }
        self.connection = Some(connection);
        outcome
    }

    /// The cluster.
    pub(super) const fn databases(&self) -> &SiteDatabases {
        &self.databases
    }

    /// The session, if no answer was lost.
    pub(super) fn session(&mut self) -> Result<&mut PgConnection, sqlx::Error> {
        self.connection.as_mut().ok_or_else(|| sqlx::Error::Io(io::ErrorKind::NotConnected.into()))
    }

    /// Ends the session.
    pub async fn close(self) {
        if let Some(connection) = self.connection {
            let _ = timeout(ANSWER, connection.close()).await;
        }
    }
}

/// Two transactions: the fence, and the barrier behind everything that was written before it.
fn fence_sql(name: &SiteDatabaseName, generation: Generation, attempt: &Attempt) -> String {
    let (token, marker) = (attempt.armed(), attempt.number);
    let no_more = no_write(name);
    format!(
        "begin;
         set local synchronous_commit = on;
         do $fence$ begin
             update platform.site_authority set state = 'fenced'
             where state in ('primary', 'fenced') and generation = {generation}
                 and moving_to = '{token}';
             if not found then
                 raise 'another attempt has the source' using errcode = 'TM001';
             end if;
             {no_more}
         end $fence$;
         commit;
         begin;
         set local synchronous_commit = on;
         set local statement_timeout = '{patience}ms';
         {SOON}
         do $barrier$
         declare
             everything text := (
                 select string_agg(prrelid::regclass::text, ', ' order by prrelid)
                 from pg_publication_rel
                 where prrelid <> 'platform.move_marker'::regclass);
         begin
             execute 'lock table ' || everything || ' in exclusive mode';
             if exists (select from pg_class
                        where relkind = 'r' and relnamespace = 'public'::regnamespace
                            and oid not in (select prrelid from pg_publication_rel)) then
                 raise 'a table was made since the copy began' using errcode = 'TM003';
             end if;
             perform 1 from platform.site_authority
             where state = 'fenced' and moving_to = '{token}' for update;
             if not found then
                 raise 'another attempt has the source' using errcode = 'TM001';
             end if;
             insert into platform.move_marker (generation, fence_lsn)
             values ({marker}, pg_current_wal_insert_lsn())
             on conflict (generation) do nothing;
         end $barrier$;
         select 'lsn' as what, fence_lsn::text as name, 0::bigint as value
         from platform.move_marker where generation = {marker}
         union all
         select 'sequence', format('%I.%I', schemaname, sequencename), last_value
         from pg_sequences where schemaname = 'public' and last_value is not null
         union all
         select 'file', encode(sha256, 'hex'), size_bytes
         from public.blob where created_at > now() - interval '{lately} s';
         commit",
        lately = LATELY.as_secs(),
        patience = PATIENCE_FOR_WRITERS.as_millis(),
    )
}

/// Two transactions: the sequences when all has arrived, and the swap.
fn open_sql(
    name: &SiteDatabaseName,
    attempt: &Attempt,
    sequences: &[SequenceValue],
    at_most: Duration,
) -> String {
    let (token, marker) = (attempt.armed(), attempt.number);
    let values: Vec<String> = sequences
        .iter()
        .map(|sequence| {
            let name = sequence.name.replace('\'', "''");
            format!("perform setval('{name}', {}, true);", sequence.last_value)
        })
        .collect();
    format!(
        "begin;
         set local synchronous_commit = on;
         do $arrive$
         declare
             until timestamptz := clock_timestamp() + interval '{patience} ms';
         begin
             while not exists (select from platform.move_marker where generation = {marker}) loop
                 if clock_timestamp() > until then
                     raise 'the marker has not arrived' using errcode = '{NOT_ARRIVED}';
                 end if;
                 perform pg_sleep(0.001);
             end loop;
             -- Nobody opens it between this and the sequences. Written for its commit's sake too:
             -- what replication wrote before is then on disk, and the place that is read below
             -- lies behind it.
             update platform.site_authority set moving_to = moving_to
             where state = 'standby' and moving_to = '{token}';
             if found then
                 {values}
             end if;
         end $arrive$;
         commit;
         begin;
         set local synchronous_commit = on;
         do $open$ begin
             update platform.site_authority
             set state = 'primary', open_lsn = pg_current_wal_flush_lsn()
             where state = 'standby' and moving_to = '{token}'
                 and exists (select from platform.move_marker where generation = {marker});
             if found then
                 {may_write}
             end if;
         end $open$;
         select state::text as state, open_lsn::text as open_lsn, moving_to
         from platform.site_authority;
         commit",
        patience = at_most.as_millis(),
        values = values.join("\n"),
        may_write = let_write(name),
    )
}

/// An autovacuum in the way gives way at once and not after a second.
const SOON: &str = "do $soon$ begin
    if (select rolsuper from pg_roles where rolname = current_user) then
        set local deadlock_timeout = '10ms';
    end if;
end $soon$;";
