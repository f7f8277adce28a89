//! The shape of both kinds of database, and nothing that runs at request time. How to write a
//! migration is in `README.md` beside this crate.

use refinery::{Report, Runner, Target};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, PgConnection};

mod session;

use session::Session;

mod embedded_control {
    #![allow(missing_docs, reason = "made by refinery's macro")]
    refinery::embed_migrations!("control");
}

mod embedded_site {
    #![allow(missing_docs, reason = "made by refinery's macro")]
    refinery::embed_migrations!("site");
}

/// Two runners on one database wait for each other here. A migration gives up on a table's lock
/// soon, so that it never holds back the people who use the database.
const PREPARE: &str = "select pg_advisory_lock(hashtext('ta3lem schema'));
    set lock_timeout = '2s';
    set idle_in_transaction_session_timeout = '60s'";
const RELEASE: &str = "reset lock_timeout;
    reset idle_in_transaction_session_timeout;
    select pg_advisory_unlock(hashtext('ta3lem schema'))";

/// How the comment on a database begins that tells its schema's version.
const VERSION_NOTE: &str = "ta3lem_schema=";

/// Which of the two schemas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Schema {
    /// The provisioner's own database.
    Control,
    /// The database of one site.
    Site,
}

/// Why a schema could not be brought to its version.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// Postgres refused something outside the migrations themselves.
    #[error("the database refused to prepare for migration")]
    Prepare(#[source] sqlx::Error),
    /// A migration failed. Nothing of it remains.
    #[error("a migration of the {0:?} schema failed")]
    Migration(Schema, #[source] Box<refinery::Error>),
}

impl MigrateError {
    /// What Postgres or the connection to it said, for those who decide whether to try again.
    pub fn database_error(&self) -> Option<&sqlx::Error> {
        let mut cause: &(dyn std::error::Error + 'static) = self;
        loop {
            if let Some(error) = cause.downcast_ref() {
                return Some(error);
            }
            cause = cause.source()?;
        }
    }
}

impl Schema {
    const fn history(self) -> &'static str {
        match self {
            Self::Control => "control_schema_history",
            Self::Site => "platform.site_schema_history",
        }
    }

    fn runner(self) -> Runner {
        let mut runner = match self {
            Self::Control => embedded_control::migrations::runner(),
            Self::Site => embedded_site::migrations::runner(),
        };
        runner.set_migration_table_name(self.history());
        runner
    }

    /// The newest version that this binary carries.
    pub fn latest_version(self) -> u32 {
        let runner = self.runner();
        let versions = runner.get_migrations().iter().map(refinery::Migration::version);
        versions.map(|version| u32::try_from(version).unwrap_or(0)).max().unwrap_or(0)
    }

    /// A checksum over the text of all migrations that this binary carries, as hexadecimal digits:
    /// what was built from the same version but other text has another one.
    pub fn checksum(self) -> String {
        let mut hash = Sha256::new();
        let mut migrations = self.runner().get_migrations().clone();
        migrations.sort();
        for migration in &migrations {
            hash.update(migration.to_string());
            hash.update([0]);
            hash.update(migration.sql().unwrap_or_default());
            hash.update([0]);
        }
        hex::encode(&hash.finalize()[..16])
    }

    /// Brings the database to the newest version under an advisory lock, so that two callers do not
    /// meet. The version is noted where one query per cluster can read it (`COMMENT ON DATABASE`),
    /// in the same transaction as the statements that made it. The role must own the database.
    /// Returns the versions applied.
    ///
    /// # Errors
    /// When Postgres refuses; what was applied before the failing migration stays.
    pub async fn migrate(self, connection: &mut PgConnection) -> Result<Vec<u32>, MigrateError> {
        self.migrate_to(self.latest_version(), connection).await
    }

    /// Like [`Schema::migrate`], but not beyond `version`.
    ///
    /// # Errors
    /// As of [`Schema::migrate`].
    pub async fn migrate_to(
        self,
        version: u32,
        connection: &mut PgConnection,
    ) -> Result<Vec<u32>, MigrateError> {
        let target = Target::Version(i32::try_from(version).unwrap_or(i32::MAX));
        sqlx::raw_sql(PREPARE).execute(&mut *connection).await.map_err(MigrateError::Prepare)?;
        let outcome = self.run(target, connection).await;
        // A connection that broke has lost the lock with its session: then `outcome` says so.
        let released = sqlx::raw_sql(RELEASE).execute(connection).await;
        let report = outcome?;
        released.map_err(MigrateError::Prepare)?;
        let applied = report.applied_migrations().iter();
        Ok(applied.map(|m| u32::try_from(m.version()).unwrap_or(0)).collect())
    }

    async fn run(
        self,
        target: Target,
        connection: &mut PgConnection,
    ) -> Result<Report, MigrateError> {
        if self == Self::Site {
            sqlx::raw_sql("create schema if not exists platform")
                .execute(&mut *connection)
                .await
                .map_err(MigrateError::Prepare)?;
        }
        let mut session = Session { connection, history: self.history() };
        self.runner()
            .set_target(target)
            .run_async(&mut session)
            .await
            .map_err(|source| MigrateError::Migration(self, Box::new(source)))
    }

    /// Notes the version of the database's schema in its comment again, as [`Schema::migrate`] does.
    /// For a database that was cloned: a comment is not copied.
    ///
    /// # Errors
    /// When Postgres refuses.
    pub async fn note_version(self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        sqlx::raw_sql(AssertSqlSafe(self.note_version_sql())).execute(connection).await?;
        Ok(())
    }

    /// The statement of [`Schema::note_version`], for a batch.
    pub fn note_version_sql(self) -> String {
        session::note_version(self.history())
    }
}

/// The version that the comment on a database tells, if it is one of ours.
pub fn noted_version(comment: &str) -> Option<u32> {
    comment.strip_prefix(VERSION_NOTE)?.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_schemas_have_migrations() {
        assert!(Schema::Control.latest_version() >= 5);
        assert!(Schema::Site.latest_version() >= 1);
        assert_ne!(Schema::Control.checksum(), Schema::Site.checksum());
        assert_eq!(Schema::Site.checksum(), Schema::Site.checksum());
    }

    #[test]
    fn a_comment_tells_the_version_or_nothing() {
        assert_eq!(noted_version("ta3lem_schema=12"), Some(12));
        assert_eq!(noted_version("ta3lem_schema=12 sealed"), Some(12));
        for other in ["", "ta3lem_schema=", "ta3lem_schema=x", "default template", "schema=1"] {
            assert_eq!(noted_version(other), None, "{other}");
        }
    }
}
