//! A site's database itself: cloned from the template, opened to its site alone, closed, dropped.

use sqlx::{AssertSqlSafe, Connection, Row};

use super::{SiteDatabaseError, SiteDatabaseName, SiteDatabases, Template, error::sqlstate};

/// How often to look for sessions that began while others were ended.
const CLOSE_ATTEMPTS: u32 = 5;

/// A site's database, as the catalog that all databases share tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteDatabase {
    /// Its name.
    pub name: SiteDatabaseName,
    /// The version of its schema; none while it is being made.
    pub schema_version: Option<u32>,
    /// Whether anybody can connect; not while it is being made.
    pub allows_connections: bool,
}

impl SiteDatabases {
    /// Makes the site's database from the template and gives everything in it to the site's roles,
    /// which must exist. A database that exists is finished, whatever is missing; one that was
    /// closed stays closed.
    ///
    /// # Errors
    /// When the cluster is down, full or refuses.
    pub async fn create_database(
        &self,
        name: &SiteDatabaseName,
        template: &Template,
    ) -> Result<(), SiteDatabaseError> {
        self.clone_database(name, &template.database).await?;
        self.open_new(name).await?;
        self.own_contents(name).await
    }

    /// Makes a database with nothing in it for something that was restored; see
    /// [`SiteDatabases::adopt`].
    ///
    /// # Errors
    /// When the cluster is down, full or refuses.
    pub async fn create_empty_database(
        &self,
        name: &SiteDatabaseName,
    ) -> Result<(), SiteDatabaseError> {
        self.clone_database(name, "template0").await?;
        self.open_new(name).await
    }

    async fn clone_database(
        &self,
        name: &SiteDatabaseName,
        template: &str,
    ) -> Result<(), SiteDatabaseError> {
        match self.is_valid(name).await? {
            Some(true) => return Ok(()),
            // The rest of a drop that was interrupted.
            Some(false) => self.drop_database(name).await?,
            None => {}
        }
        // Closed semaphores are not in use here, so there always is a permit.
        let _permit = self.0.creating.acquire().await;
        let sql = format!(
            "create database {name} with owner {} template {template} encoding 'UTF8' \
             strategy wal_log allow_connections false",
            name.owner(),
        );
        match sqlx::raw_sql(AssertSqlSafe(sql)).execute(&self.0.pool).await {
            Ok(_) => Ok(()),
            // Another run of the same step was faster.
            Err(error) if matches!(sqlstate(&error).as_deref(), Some("42P04" | "23505")) => Ok(()),
            Err(error) => Err(self.explain("make the site's database", error).await),
        }
    }

    /// Takes everything from PUBLIC before anybody can connect: a clone does not inherit the
    /// privileges on the database itself. A database that was opened once is left as it is.
    async fn open_new(&self, name: &SiteDatabaseName) -> Result<(), SiteDatabaseError> {
        let login = name.login();
        let sql = format!(
            "do $open$ begin
                 if not (select datallowconn from pg_database where datname = '{name}') then
                     revoke all on database {name} from public;
                     grant connect on database {name} to {login};
                     alter database {name} with allow_connections true;
                 end if;
             end $open$"
        );
        self.run("open the site's database", sql).await
    }

    /// Gives the contents to the owner and their use to the groups; notes the schema's version. One
    /// round trip, one transaction.
    async fn own_contents(&self, name: &SiteDatabaseName) -> Result<(), SiteDatabaseError> {
        let sql = format!(
            "reassign owned by {template_owner} to {owner}; {grants}; {note_version}",
            template_owner = super::template::OWNER,
            owner = name.owner(),
            grants = grants_sql(name),
            note_version = migrations::Schema::Site.note_version_sql(),
        );
        let mut connection = self.connect(Some(name)).await?;
        let outcome = sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await;
        let _ = connection.close().await;
        outcome.map(|_| ()).map_err(|error| self.sort("hand the database to its roles", error))
    }

    /// Lets the site's login role connect again after [`SiteDatabases::close`].
    ///
    /// # Errors
    /// When the cluster is down or refuses, as when the database is not there.
    pub async fn reopen(&self, name: &SiteDatabaseName) -> Result<(), SiteDatabaseError> {
        let sql = format!("grant connect on database {name} to {}", name.login());
        self.run("open the site's database again", sql).await
    }

    /// Lets nobody of the site connect any more and ends the sessions that are there. A database
    /// that is not there is closed.
    ///
    /// # Errors
    /// When the cluster is down or refuses, or sessions do not end.
    pub async fn close(&self, name: &SiteDatabaseName) -> Result<(), SiteDatabaseError> {
        let login = name.login();
        let sql = format!(
            "do $close$ begin
                 if exists (select from pg_database where datname = '{name}')
                    and exists (select from pg_roles where rolname = '{login}') then
                     revoke connect on database {name} from {login};
                 end if;
             end $close$"
        );
        self.run("close the site's database", sql).await?;
        for _ in 0..CLOSE_ATTEMPTS {
            // A session that is starting shows itself a moment later, so look until there is none.
            let ended: Result<i64, sqlx::Error> = sqlx::query_scalar(
                "select count(pg_terminate_backend(pid, 1000)) from pg_stat_activity
                 where datname = $1 and usename = $1",
            )
            .bind(name.as_str())
            .fetch_one(&self.0.pool)
            .await;
            match ended {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(self.explain("end the site's sessions", error).await),
            }
        }
        Err(SiteDatabaseError::Refused {
            cluster: self.cluster().to_owned(),
            action: "end the site's sessions",
            source: sqlx::Error::Io(std::io::Error::other("new ones appear again and again")),
        })
    }

    /// Drops the site's database, if it is there, with all sessions in it. Waits for its turn:
    /// a cluster drops one at a time.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn drop_database(&self, name: &SiteDatabaseName) -> Result<(), SiteDatabaseError> {
        const ACTION: &str = "drop the site's database";
        if !self.exists(name).await? {
            return Ok(());
        }
        let _turn = self.0.dropping.lock().await;
        // The turn of this provisioner is in its memory, the turn among provisioners in the
        // cluster: held by a session of its own, so that it ends with it.
        let mut connection = self.connect(None).await?;
        let outcome = async {
            sqlx::query("select pg_advisory_lock(hashtext('ta3lem drop'))")
                .execute(&mut connection)
                .await?;
            let sql = format!("drop database if exists {name} with (force)");
            sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await
        }
        .await;
        let _ = connection.close().await;
        outcome.map(|_| ()).map_err(|error| self.sort(ACTION, error))
    }

    /// Whether the site's database is there, finished or not.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn exists(&self, name: &SiteDatabaseName) -> Result<bool, SiteDatabaseError> {
        Ok(self.is_valid(name).await?.is_some())
    }

    /// Whether it is there, and not merely what an interrupted drop left of it.
    async fn is_valid(&self, name: &SiteDatabaseName) -> Result<Option<bool>, SiteDatabaseError> {
        let row: Result<Option<bool>, sqlx::Error> =
            sqlx::query_scalar("select datconnlimit <> -2 from pg_database where datname = $1")
                .bind(name.as_str())
                .fetch_optional(&self.0.pool)
                .await;
        match row {
            Ok(is_valid) => Ok(is_valid),
            Err(error) => Err(self.explain("look for a database", error).await),
        }
    }

    /// The sites' databases here, in one query.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn list_site_databases(&self) -> Result<Vec<SiteDatabase>, SiteDatabaseError> {
        let rows = sqlx::query(
            "select datname::text as name, datallowconn and datconnlimit <> -2 as allows,
                    coalesce(shobj_description(oid, 'pg_database'), '') as note
             from pg_database where datname ~ '^s_[0-9a-f]{32}$' order by 1",
        )
        .fetch_all(&self.0.pool)
        .await;
        let rows = match rows {
            Ok(rows) => rows,
            Err(error) => return Err(self.explain("list its databases", error).await),
        };
        let database = |row: &sqlx::postgres::PgRow| {
            Some(SiteDatabase {
                name: row.get::<&str, _>("name").parse().ok()?,
                schema_version: migrations::noted_version(row.get("note")),
                allows_connections: row.get("allows"),
            })
        };
        Ok(rows.iter().filter_map(database).collect())
    }
}

/// What the groups may do with what is there and with what the owner will make.
pub(super) fn grants_sql(name: &SiteDatabaseName) -> String {
    let (owner, rw, ro) = (name.owner(), name.rw(), name.ro());
    format!(
        "grant usage on schema public, platform to {rw}, {ro};
         grant select on all tables in schema public, platform to {rw}, {ro};
         grant insert, update, delete on all tables in schema public to {rw};
         grant usage, select on all sequences in schema public to {rw};
         grant select on all sequences in schema public to {ro};
         grant execute on all routines in schema public to {rw}, {ro};
         alter default privileges for role {owner}
             revoke execute on routines from public;
         alter default privileges for role {owner} revoke usage on types from public;
         alter default privileges for role {owner} in schema public, platform
             grant select on tables to {rw}, {ro};
         alter default privileges for role {owner} in schema public
             grant insert, update, delete on tables to {rw};
         alter default privileges for role {owner} in schema public
             grant usage, select on sequences to {rw};
         alter default privileges for role {owner} in schema public
             grant select on sequences to {ro};
         alter default privileges for role {owner} in schema public
             grant execute on routines to {rw}, {ro}"
    )
}
