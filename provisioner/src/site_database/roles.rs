//! The four roles of a site.

use sqlx::Row;

use super::{SiteDatabaseError, SiteDatabaseName, SiteDatabases};
use crate::secrets::ScramVerifier;

/// What a new login role may do with its database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rights {
    /// Read and write: the database is the site.
    Write,
    /// Read: the site is elsewhere still.
    Read,
}

impl SiteDatabases {
    /// Makes the site's roles. The login role gets this password and limit also when it exists;
    /// its membership in the group that writes it gets only when it is made, so that running this
    /// late never opens a fence.
    ///
    /// # Errors
    /// When the cluster is down, full or refuses.
    pub async fn ensure_roles(
        &self,
        name: &SiteDatabaseName,
        verifier: &ScramVerifier,
        connection_limit: u32,
        rights: Rights,
    ) -> Result<(), SiteDatabaseError> {
        let (login, owner, rw, ro) = (name.login(), name.owner(), name.rw(), name.ro());
        let group = match rights {
            Rights::Write => &rw,
            Rights::Read => &ro,
        };
        let verifier = verifier.as_str();
        let attributes = format!(
            "login inherit nosuperuser nocreatedb nocreaterole noreplication nobypassrls \
             connection limit {connection_limit} password '{verifier}'"
        );
        let sql = format!(
            "do $roles$
             declare
                 admin_is_superuser boolean :=
                     (select rolsuper from pg_roles where rolname = current_user);
                 this_group text;
             begin
                 perform pg_advisory_xact_lock(hashtext('ta3lem roles'), hashtext('{login}'));
                 foreach this_group in array array['{owner}', '{rw}', '{ro}'] loop
                     if not exists (select from pg_roles where rolname = this_group) then
                         execute format('create role %I nologin', this_group);
                     end if;
                 end loop;
                 -- A superuser needs no membership to give a database to its owner.
                 if not admin_is_superuser
                    and not pg_has_role(current_user, '{owner}', 'usage') then
                     grant {owner} to current_user;
                 end if;
                 if exists (select from pg_roles where rolname = '{login}') then
                     alter role {login} {attributes};
                 else
                     create role {login} {attributes} in role {group};
                 end if;
                 alter role {login} set statement_timeout = '60s';
                 alter role {login} set idle_in_transaction_session_timeout = '60s';
                 if admin_is_superuser then
                     alter role {login} set temp_file_limit = '1GB';
                 end if;
             end $roles$"
        );
        self.run("make the site's roles", sql).await
    }

    /// Drops the site's roles, those that exist. The database must be gone.
    ///
    /// # Errors
    /// When the cluster is down or refuses, as when the database is still there.
    pub async fn drop_roles(&self, name: &SiteDatabaseName) -> Result<(), SiteDatabaseError> {
        let (login, owner, rw, ro) = (name.login(), name.owner(), name.rw(), name.ro());
        let sql = format!(
            "select pg_advisory_xact_lock(hashtext('ta3lem roles'), hashtext('{login}'));
             drop role if exists {mover}, {login}, {rw}, {ro}, {owner}",
            mover = name.mover(),
        );
        self.run("drop the site's roles", sql).await
    }

    /// The sites that have any role here.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn list_site_roles(&self) -> Result<Vec<SiteDatabaseName>, SiteDatabaseError> {
        let rows = sqlx::query(
            "select distinct substr(rolname, 1, 34) as name from pg_roles
             where rolname ~ '^s_[0-9a-f]{32}(_owner|_rw|_ro|_mover)?$' order by 1",
        )
        .fetch_all(&self.0.pool)
        .await;
        match rows {
            Ok(rows) => {
                Ok(rows.iter().filter_map(|row| row.get::<&str, _>("name").parse().ok()).collect())
            }
            Err(error) => Err(self.explain("list its roles", error).await),
        }
    }
}
