//! The template that sites' databases are cloned from: the current site schema with nothing in it,
//! which nobody can connect to. One per version of the schema; old ones are kept, since a rollout
//! still makes sites of the old version.
//!
//! It is built under a name of its own and becomes the template by one transaction, so a template
//! is either ready or not there. Whoever finds the rest of a broken build drops it.

use migrations::Schema;
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use super::{SiteDatabaseError, SiteDatabases};

/// Owns what is in the templates, so that a clone can hand all of it to its own owner.
pub(super) const OWNER: &str = "ta3lem_template";
/// Owns a template and its contents while it is built. Not [`OWNER`]: a clone that is handed over
/// meanwhile would take the unfinished database along.
const BUILDER: &str = "ta3lem_template_build";
/// The names of a template that is built and of one that was replaced. Under the lock there is at
/// most one of each.
const BUILDING: &str = "template_site_building";
const REPLACED: &str = "template_site_replaced";
/// Raised when what is done to a template beyond its migrations changes.
const LAYOUT: u32 = 1;

/// A template that is ready.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    /// The version of the site schema in it.
    pub version: u32,
    pub(super) database: String,
}

impl Template {
    /// The database's name.
    pub fn database(&self) -> &str {
        &self.database
    }
}

/// What there is under the template's name.
struct Found {
    is_ready: bool,
    exists: bool,
    /// Databases besides those of sites where PUBLIC may do something.
    open_to_public: Vec<String>,
}

impl SiteDatabases {
    /// The template of the site schema that this binary carries; built if it is not there, or if it
    /// was built from other text. Of several who call this at once, one builds.
    ///
    /// # Errors
    /// When the cluster is down, full or refuses, or a migration fails.
    pub async fn ensure_template(&self) -> Result<Template, SiteDatabaseError> {
        let template = current();
        let mut connection = self.connect(None).await?;
        let outcome = self.ensure_on(&mut connection, &template).await;
        // This also gives up the lock.
        let _ = connection.close().await;
        outcome.map(|()| template)
    }

    async fn ensure_on(
        &self,
        connection: &mut PgConnection,
        template: &Template,
    ) -> Result<(), SiteDatabaseError> {
        let found = self.find_template(connection, template).await?;
        if found.is_ready && found.open_to_public.is_empty() {
            return Ok(());
        }
        self.execute(
            connection,
            "wait for the template",
            "set lock_timeout = '120s'; select pg_advisory_lock(hashtext('ta3lem template'));
             reset lock_timeout"
                .to_owned(),
        )
        .await?;
        let found = self.find_template(connection, template).await?;
        self.close_to_public(connection, &found.open_to_public).await?;
        if found.is_ready {
            return Ok(());
        }
        tracing::info!(
            cluster = self.cluster(),
            version = template.version,
            "cluster {}: building the template of the site schema",
            self.cluster()
        );
        self.drop_leftovers(connection).await?;
        self.create_building(connection).await?;
        self.fill_building().await?;
        self.seal(connection, template, found.exists).await?;
        self.drop_leftovers(connection).await
    }

    async fn find_template(
        &self,
        connection: &mut PgConnection,
        template: &Template,
    ) -> Result<Found, SiteDatabaseError> {
        let (is_ready, exists, open_to_public) = sqlx::query_as(
            "select coalesce(bool_or(datname = $1 and datistemplate and not datallowconn
                                     and shobj_description(oid, 'pg_database') = $2), false),
                    coalesce(bool_or(datname = $1), false),
                    coalesce(array_agg(datname::text) filter (
                        where datallowconn and datname !~ '^s_[0-9a-f]{32}$' and exists (
                            select from aclexplode(coalesce(datacl, acldefault('d', datdba)))
                            where grantee = 0)), '{}')
             from pg_database",
        )
        .bind(&template.database)
        .bind(note())
        .fetch_one(connection)
        .await
        .map_err(|error| self.sort("look for the template", error))?;
        Ok(Found { is_ready, exists, open_to_public })
    }

    /// The roles of sites shall reach no database but their own, so PUBLIC may nothing in the
    /// others either. (Where the administrator does not own one, Postgres only warns.)
    async fn close_to_public(
        &self,
        connection: &mut PgConnection,
        databases: &[String],
    ) -> Result<(), SiteDatabaseError> {
        for database in databases {
            let database = database.replace('"', "\"\"");
            let sql = format!("revoke all on database \"{database}\" from public");
            self.execute(connection, "close a database to PUBLIC", sql).await?;
        }
        Ok(())
    }

    async fn drop_leftovers(&self, connection: &mut PgConnection) -> Result<(), SiteDatabaseError> {
        const ACTION: &str = "drop the rest of a template";
        for leftover in [BUILDING, REPLACED] {
            let unmark = format!(
                "do $$ begin
                     if exists (select from pg_database where datname = '{leftover}') then
                         alter database {leftover} with is_template false;
                     end if;
                 end $$"
            );
            self.execute(connection, ACTION, unmark).await?;
            let sql = format!("drop database if exists {leftover} with (force)");
            self.execute(connection, ACTION, sql).await?;
        }
        Ok(())
    }

    async fn create_building(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(), SiteDatabaseError> {
        const ACTION: &str = "make the template's database";
        let roles = format!(
            "do $roles$
             declare this_role text;
             begin
                 foreach this_role in array array['{OWNER}', '{BUILDER}'] loop
                     if not exists (select from pg_roles where rolname = this_role) then
                         execute format('create role %I nologin', this_role);
                     end if;
                     if not (select rolsuper from pg_roles where rolname = current_user)
                        and not pg_has_role(current_user, this_role, 'usage') then
                         execute format('grant %I to current_user', this_role);
                     end if;
                 end loop;
             end $roles$"
        );
        self.execute(connection, ACTION, roles).await?;
        let create = format!(
            "create database {BUILDING} owner {BUILDER} template template0 encoding 'UTF8'"
        );
        self.execute(connection, ACTION, create).await?;
        let close = format!("revoke all on database {BUILDING} from public");
        self.execute(connection, ACTION, close).await
    }

    /// Inside the new database: the schema, without anything for PUBLIC, owned by [`OWNER`], and
    /// frozen (a clone is as old as its template).
    async fn fill_building(&self) -> Result<(), SiteDatabaseError> {
        const ACTION: &str = "fill the template";
        let mut connection = self.connect_into(BUILDING).await?;
        let outcome = async {
            self.execute(&mut connection, ACTION, format!("set role {BUILDER}")).await?;
            Schema::Site.migrate(&mut connection).await.map_err(|source| {
                SiteDatabaseError::Template { cluster: self.cluster().to_owned(), source }
            })?;
            self.execute(&mut connection, ACTION, TAKE_FROM_PUBLIC.to_owned()).await?;
            let hand_over = format!(
                "reset role;
                 alter database {BUILDING} owner to current_user;
                 reassign owned by {BUILDER} to {OWNER};
                 {NO_LARGE_OBJECTS}"
            );
            self.execute(&mut connection, ACTION, hand_over).await?;
            self.execute(&mut connection, ACTION, "vacuum (freeze, analyze)".to_owned()).await
        }
        .await;
        let _ = connection.close().await;
        outcome
    }

    /// Nobody may connect any more; then the name. A template of the same version that was built
    /// from other text makes room.
    async fn seal(
        &self,
        connection: &mut PgConnection,
        template: &Template,
        exists: bool,
    ) -> Result<(), SiteDatabaseError> {
        let name = &template.database;
        let make_room = if exists {
            format!("alter database {name} rename to {REPLACED};")
        } else {
            String::new()
        };
        let sql = format!(
            "comment on database {BUILDING} is '{}';
             alter database {BUILDING} with allow_connections false is_template true;
             {make_room}
             alter database {BUILDING} rename to {name}",
            note()
        );
        self.execute(connection, "seal the template", sql).await
    }

    async fn execute(
        &self,
        connection: &mut PgConnection,
        action: &'static str,
        sql: String,
    ) -> Result<(), SiteDatabaseError> {
        let outcome = sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection).await;
        outcome.map(|_| ()).map_err(|error| self.sort(action, error))
    }
}

/// Run as the owner of everything there.
pub(super) const TAKE_FROM_PUBLIC: &str = "
    revoke all on schema public, platform from public;
    revoke all on all tables in schema public, platform from public;
    revoke all on all sequences in schema public, platform from public;
    revoke all on all routines in schema public, platform from public;
    do $types$
    declare this_type regtype;
    begin
        for this_type in
            select oid from pg_type
            where typtype in ('e', 'd', 'r')
              and typnamespace in ('public'::regnamespace, 'platform'::regnamespace)
        loop
            execute format('revoke all on type %s from public', this_type);
        end loop;
    end $types$";

/// Large objects are not replicated, so a move would lose them: only who owns the server can make
/// them. (An administrator who is no superuser cannot take this away; the schema has none.)
pub(super) const NO_LARGE_OBJECTS: &str = "
    do $large$ begin
        if (select rolsuper from pg_roles where rolname = current_user) then
            revoke execute on function lo_creat(integer), lo_create(oid),
                lo_from_bytea(oid, bytea) from public;
        end if;
    end $large$";

fn current() -> Template {
    let version = Schema::Site.latest_version();
    Template { version, database: format!("template_site_v{version}") }
}

/// The comment on a template that is ready and current.
fn note() -> String {
    let (version, checksum) = (Schema::Site.latest_version(), Schema::Site.checksum());
    format!("ta3lem_schema={version} layout={LAYOUT} checksum={checksum}")
}
