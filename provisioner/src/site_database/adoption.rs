//! A database that came out of a backup becomes one of ours: what was its owner's and its site's is
//! its new owner's and its new site's, with the rights that every site's database has.

use migrations::Schema;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use super::{
    Authority, SiteDatabaseError, SiteDatabaseName, SiteDatabases, database::grants_sql, pace,
    template,
};

const ACTION: &str = "make a restored database a site's own";

/// What a restored database becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Adopted {
    /// The site itself: it serves, and may be read only as long as the login role may only read.
    AsSite,
    /// It stands by, to become the site.
    StandingBy,
}

impl Adopted {
    const fn state(self) -> &'static str {
        match self {
            Self::AsSite => "primary",
            Self::StandingBy => "standby",
        }
    }
}

impl SiteDatabases {
    /// Hands what was restored into an empty database, without rights, to the roles of that database;
    /// brings its schema up to ours; says whose it is. Run again it changes nothing. False when it was no site's at the
    /// moment that it is of.
    ///
    /// # Errors
    /// When the cluster is down or refuses, or the schema is newer than ours.
    pub async fn adopt(
        &self,
        name: &SiteDatabaseName,
        authority: &Authority,
        adopted: Adopted,
    ) -> Result<bool, SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let outcome = self.adopt_in(&mut connection, name, authority, adopted).await;
        let _ = connection.close().await;
        outcome
    }

    async fn adopt_in(
        &self,
        connection: &mut PgConnection,
        name: &SiteDatabaseName,
        authority: &Authority,
        adopted: Adopted,
    ) -> Result<bool, SiteDatabaseError> {
        let owner = name.owner();
        self.tell(connection, format!("set role {owner}")).await?;
        Schema::Site.migrate(connection).await.map_err(|source| SiteDatabaseError::Schema {
            cluster: self.cluster().to_owned(),
            source,
        })?;
        // A backup made while the site moved has what slowed that down.
        let rights = format!(
            "begin;
             drop schema if exists {pace} cascade;
             {take_from_public};
             reset role;
             {no_large_objects};
             {grants};
             {note_version};
             commit",
            pace = pace::SCHEMA,
            take_from_public = template::TAKE_FROM_PUBLIC,
            no_large_objects = template::NO_LARGE_OBJECTS,
            grants = grants_sql(name),
            note_version = Schema::Site.note_version_sql(),
        );
        self.tell(connection, rights).await?;
        let claimed = async {
            let mut transaction = connection.begin().await?;
            sqlx::query("delete from platform.move_marker")
                .persistent(false)
                .execute(&mut *transaction)
                .await?;
            let claimed = sqlx::query(
                "update platform.site_authority set site_id = $1, generation = $2, cluster = $3,
                     state = $4::text::platform.authority_state, moving_to = null,
                     open_lsn = null",
            )
            .persistent(false)
            .bind(authority.site_id)
            .bind(authority.generation)
            .bind(&authority.cluster)
            .bind(adopted.state())
            .execute(&mut *transaction)
            .await?;
            transaction.commit().await?;
            Ok(claimed.rows_affected() == 1)
        };
        claimed.await.map_err(|error| self.sort(ACTION, error))
    }

    async fn tell(
        &self,
        connection: &mut PgConnection,
        sql: String,
    ) -> Result<(), SiteDatabaseError> {
        let outcome = sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await;
        outcome.map(drop).map_err(|error| self.sort(ACTION, error))
    }
}
