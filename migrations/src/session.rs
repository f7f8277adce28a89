//! Refinery's traits over a connection of sqlx, so that a migration speaks to the server as the
//! rest of the platform does (TLS, unix sockets), and so that the version is noted in the same
//! transaction as the statements that made it.

use refinery::Migration;
use refinery_core::{
    AsyncMigrate,
    traits::r#async::{AsyncQuery, AsyncTransaction},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

/// A connection on which the migrations of one schema run.
pub(crate) struct Session<'c> {
    pub(crate) connection: &'c mut PgConnection,
    /// The table where refinery keeps its history.
    pub(crate) history: &'static str,
}

impl AsyncTransaction for Session<'_> {
    type Error = sqlx::Error;

    /// One transaction for all of `queries`: a migration and its line in the history. The comment
    /// on the database is last, so it is true exactly when the migration is there.
    async fn execute<'a, T: Iterator<Item = &'a str> + Send + 'a>(
        &'a mut self,
        queries: T,
    ) -> Result<usize, Self::Error> {
        let queries: Vec<String> = queries.map(str::to_owned).collect();
        let mut transaction = self.connection.begin().await?;
        let count = queries.len();
        for query in queries {
            sqlx::raw_sql(AssertSqlSafe(query)).execute(&mut *transaction).await?;
        }
        if count > 1 {
            let note = note_version(self.history);
            sqlx::raw_sql(AssertSqlSafe(note)).execute(&mut *transaction).await?;
        }
        transaction.commit().await?;
        Ok(count)
    }
}

impl AsyncQuery<Vec<Migration>> for Session<'_> {
    async fn query<'a>(&'a mut self, query: &'a str) -> Result<Vec<Migration>, Self::Error> {
        let rows: Vec<(i32, String, String, String)> =
            sqlx::query_as(AssertSqlSafe(query.to_owned()))
                .fetch_all(&mut *self.connection)
                .await?;
        rows.into_iter()
            .map(|(version, name, applied_on, checksum)| {
                let at = OffsetDateTime::parse(&applied_on, &Rfc3339).map_err(malformed)?;
                let checksum = checksum.parse::<u64>().map_err(malformed)?;
                Ok(Migration::applied(version, name, at, checksum))
            })
            .collect()
    }
}

impl AsyncMigrate for Session<'_> {}

/// SQL that notes the newest version of the history where one query per cluster reads the versions
/// of all databases.
pub(crate) fn note_version(history: &str) -> String {
    format!(
        "do $$ begin execute format('comment on database %I is %L', current_database(),
             (select 'ta3lem_schema=' || max(version) from {history})); end $$"
    )
}

fn malformed(error: impl std::error::Error + Send + Sync + 'static) -> sqlx::Error {
    sqlx::Error::Decode(Box::new(error))
}
