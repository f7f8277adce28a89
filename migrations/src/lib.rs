//! The shape of both kinds of database, and nothing that runs at request time. How to write a
//! migration is in `README.md` beside this crate.

use std::time::Duration;

use refinery::{Report, Runner, Target};
use tokio_postgres::Client;

mod embedded_control {
    #![allow(missing_docs, reason = "made by refinery's macro")]
    refinery::embed_migrations!("control");
}

mod embedded_site {
    #![allow(missing_docs, reason = "made by refinery's macro")]
    refinery::embed_migrations!("site");
}

/// How long a migration waits for a lock on a table before it gives up, so that it never holds
/// back the people who use the database.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);

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
    Prepare(#[source] tokio_postgres::Error),
    /// A migration failed. Nothing of it remains.
    #[error("a migration of the {0:?} schema failed")]
    Migration(Schema, #[source] Box<refinery::Error>),
}

impl Schema {
    fn runner(self) -> Runner {
        let mut runner = match self {
            Self::Control => embedded_control::migrations::runner(),
            Self::Site => embedded_site::migrations::runner(),
        };
        runner.set_migration_table_name(match self {
            Self::Control => "control_schema_history",
            Self::Site => "platform.site_schema_history",
        });
        runner
    }

    /// The newest version that this binary carries.
    pub fn latest_version(self) -> u32 {
        let runner = self.runner();
        let versions = runner.get_migrations().iter().map(refinery::Migration::version);
        versions.map(|version| u32::try_from(version).unwrap_or(0)).max().unwrap_or(0)
    }

    /// Brings the database to the newest version under an advisory lock, so that two callers do not
    /// meet, and notes the version where one query per cluster can read it
    /// (`COMMENT ON DATABASE`). Returns the versions applied.
    ///
    /// # Errors
    /// When Postgres refuses; what was applied before the failing migration stays.
    pub async fn migrate(self, client: &mut Client) -> Result<Vec<u32>, MigrateError> {
        client
            .batch_execute(&format!(
                "select pg_advisory_lock(hashtext('ta3lem schema'));
                 set lock_timeout = '{}ms';",
                LOCK_TIMEOUT.as_millis()
            ))
            .await
            .map_err(MigrateError::Prepare)?;
        if self == Self::Site {
            client
                .batch_execute("create schema if not exists platform")
                .await
                .map_err(MigrateError::Prepare)?;
        }
        let report: Report = self
            .runner()
            .set_target(Target::Latest)
            .run_async(client)
            .await
            .map_err(|source| MigrateError::Migration(self, Box::new(source)))?;
        client
            .batch_execute(&format!(
                "do $$ begin execute format('comment on database %I is %L', current_database(),
                     'ta3lem_schema={}'); end $$;
                 reset lock_timeout;
                 select pg_advisory_unlock(hashtext('ta3lem schema'));",
                self.latest_version()
            ))
            .await
            .map_err(MigrateError::Prepare)?;
        let applied = report.applied_migrations().iter();
        Ok(applied.map(|m| u32::try_from(m.version()).unwrap_or(0)).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_schemas_have_migrations() {
        assert!(Schema::Control.latest_version() >= 5);
        assert!(Schema::Site.latest_version() >= 1);
    }
}
