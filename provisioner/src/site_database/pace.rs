//! A copy that leaves time to others. Postgres copies a table into the follower as fast as it can, and
//! knows no limit for it. So for the time of the copy a trigger at the follower lets it rest now and
//! then, in proportion to the time that it worked; the publisher, whose answers nobody takes
//! meanwhile, rests as well. It is in the database, so it goes on when the provisioner ends.

use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{SiteDatabaseError, SiteDatabaseName, SiteDatabases};

/// Holds everything of it, and is dropped with it.
pub(super) const SCHEMA: &str = "ta3lem_pace";
/// Bytes of a table that is copied so quickly that nobody notices.
const SMALL: i64 = 4 * 1024 * 1024;
/// The part of the rows after which there is a rest: a quarter of a millisecond of work, so that nobody
/// waits long for a processor. A server sleeps for a millisecond at least.
const RESTS_PER_ROW: f64 = 0.1;
/// Longest rest, in seconds: time without work was no work.
const LONGEST_REST: f64 = 0.1;

impl SiteDatabases {
    /// The names of the site's tables whose copy takes a while.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn large_tables(
        &self,
        name: &SiteDatabaseName,
    ) -> Result<Vec<String>, SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let tables = sqlx::query_scalar(
            "select oid::regclass::text from pg_class
             where relkind = 'r' and relnamespace = 'public'::regnamespace
                 and pg_table_size(oid) > $1
             order by 1",
        )
        .persistent(false)
        .bind(SMALL)
        .fetch_all(&mut connection)
        .await;
        let _ = connection.close().await;
        tables.map_err(|error| self.sort("measure the site's tables", error))
    }

    /// From now on whatever is copied into one of these tables rests for `rest` times as long as it
    /// works.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn pace_copy(
        &self,
        name: &SiteDatabaseName,
        tables: &[String],
        rest: f64,
    ) -> Result<(), SiteDatabaseError> {
        // Once: a table that is being copied cannot get a trigger.
        if tables.is_empty() || self.is_paced(name).await? {
            return Ok(());
        }
        let triggers: Vec<String> = tables
            .iter()
            .map(|table| {
                format!(
                    "create trigger {SCHEMA} before insert on {table} for each row
                         when (random() < {RESTS_PER_ROW}) execute function {SCHEMA}.rest();
                     alter table {table} enable replica trigger {SCHEMA};"
                )
            })
            .collect();
        let sql = format!(
            "create schema {SCHEMA};
             create function {SCHEMA}.rest() returns trigger language plpgsql as $rest$
             declare
                 since text := current_setting('{SCHEMA}.since', true);
                 worked double precision := extract(epoch from clock_timestamp()) - since::float8;
             begin
                 if worked > 0 then
                     perform pg_sleep(least(worked * {rest}, {LONGEST_REST}));
                 end if;
                 perform set_config(
                     '{SCHEMA}.since', extract(epoch from clock_timestamp())::text, false);
                 return new;
             end $rest$;
             {}",
            triggers.join("\n")
        );
        self.run_in(name, "slow the copy down", &sql).await
    }

    async fn is_paced(&self, name: &SiteDatabaseName) -> Result<bool, SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let is_paced =
            sqlx::query_scalar("select exists (select from pg_namespace where nspname = $1)")
                .persistent(false)
                .bind(SCHEMA)
                .fetch_one(&mut connection)
                .await;
        let _ = connection.close().await;
        is_paced.map_err(|error| self.sort("slow the copy down", error))
    }

    /// Nothing is slowed down any more.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn end_pace(&self, name: &SiteDatabaseName) -> Result<(), SiteDatabaseError> {
        let sql = format!("drop schema if exists {SCHEMA} cascade");
        self.run_in(name, "stop slowing the copy down", &sql).await
    }

    /// One transaction in the site's database.
    async fn run_in(
        &self,
        name: &SiteDatabaseName,
        action: &'static str,
        sql: &str,
    ) -> Result<(), SiteDatabaseError> {
        let mut connection: PgConnection = self.connect(Some(name)).await?;
        let sql = format!("set client_min_messages = warning; begin; {sql}; commit");
        let outcome = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await;
        let _ = connection.close().await;
        outcome.map(drop).map_err(|error| self.sort(action, error))
    }
}
