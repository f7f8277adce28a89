//! Looks whether a site's database is as isolated as the law says. Reads only: `ta3lem doctor` and
//! the tests ask it.

use sqlx::Connection;

use super::{SiteDatabaseError, SiteDatabaseName, SiteDatabases};

impl SiteDatabases {
    /// What is not as it should be, as sentences; nothing when all is well.
    ///
    /// # Errors
    /// When the cluster is down or refuses.
    pub async fn check_isolation(
        &self,
        name: &SiteDatabaseName,
    ) -> Result<Vec<String>, SiteDatabaseError> {
        let mut connection = self.connect(Some(name)).await?;
        let outcome = async {
            let mut findings: Vec<String> = Vec::new();
            for query in [ROLES, DATABASES, OWNERSHIP, PRIVILEGES, MOVABLE] {
                let found: Vec<String> =
                    sqlx::query_scalar(query).bind(name.login()).fetch_all(&mut connection).await?;
                findings.extend(found);
            }
            Ok(findings)
        }
        .await;
        let _ = connection.close().await;
        outcome.map_err(|error| self.sort("check the site's isolation", error))
    }
}

/// The login role may nothing by itself and is in no group but its own two.
const ROLES: &str = "
    select 'the login role is missing' where not exists (select from pg_roles where rolname = $1)
    union all
    select format('role %s has an attribute that it must not have', rolname)
    from pg_roles
    where rolname in ($1, $1 || '_owner', $1 || '_rw', $1 || '_ro')
      and (rolsuper or rolcreatedb or rolcreaterole or rolreplication or rolbypassrls
           or rolcanlogin <> (rolname = $1) or not rolinherit)
    union all
    select format('role %s is in group %s', $1, granted.rolname)
    from pg_auth_members
    join pg_roles granted on granted.oid = roleid
    join pg_roles this on this.oid = member
    where this.rolname = $1 and granted.rolname not in ($1 || '_rw', $1 || '_ro')
    union all
    select format('group %s is in group %s', this.rolname, granted.rolname)
    from pg_auth_members
    join pg_roles granted on granted.oid = roleid
    join pg_roles this on this.oid = member
    where this.rolname in ($1 || '_rw', $1 || '_ro', $1 || '_owner')
    union all
    select format('role %s has no limit of connections', $1)
    from pg_roles where rolname = $1 and rolconnlimit < 0";

/// It connects to its own database and to no other; PUBLIC connects nowhere.
const DATABASES: &str = "
    select format('PUBLIC has %s on database %s', acl.privilege_type, datname)
    from pg_database, aclexplode(coalesce(datacl, acldefault('d', datdba))) acl
    where datallowconn and acl.grantee = 0
    union all
    select format('role %s has %s on database %s', $1, privilege, datname)
    from pg_database, unnest(array['CONNECT', 'TEMPORARY', 'CREATE']) privilege
    where datallowconn and exists (select from pg_roles where rolname = $1)
      and has_database_privilege($1, oid, privilege)
      and not (datname = $1 and privilege = 'CONNECT')
    union all
    select format('database %s does not belong to %s_owner', datname, $1)
    from pg_database where datname = $1 and pg_get_userbyid(datdba) <> $1 || '_owner'";

/// All belongs to the owner, nothing to those whom the app is.
const OWNERSHIP: &str = "
    select format('%s owns %s', rolname, pg_describe_object(classid, objid, objsubid))
    from pg_shdepend join pg_roles on pg_roles.oid = refobjid
    where refclassid = 'pg_authid'::regclass and deptype = 'o'
      and (dbid = 0 or dbid = (select oid from pg_database where datname = current_database()))
      and rolname in ($1, $1 || '_rw', $1 || '_ro')
    union all
    select format('relation %s belongs to %s', pg_class.oid::regclass, pg_get_userbyid(relowner))
    from pg_class
    where relnamespace in (select oid from pg_namespace where nspname in ('public', 'platform'))
      and pg_get_userbyid(relowner) <> $1 || '_owner'
    union all
    select format('function %s belongs to %s', pg_proc.oid::regprocedure, pg_get_userbyid(proowner))
    from pg_proc
    where pronamespace in (select oid from pg_namespace where nspname in ('public', 'platform'))
      and pg_get_userbyid(proowner) <> $1 || '_owner'
    union all
    select format('schema %s belongs to %s', nspname, pg_get_userbyid(nspowner))
    from pg_namespace
    where nspname !~ '^pg_' and nspname <> 'information_schema'
      and pg_get_userbyid(nspowner) not in ($1 || '_owner', 'pg_database_owner')";

/// PUBLIC may nothing; the app changes nothing in `platform` and makes nothing anywhere.
const PRIVILEGES: &str = "
    select format('PUBLIC has %s on schema %s', acl.privilege_type, nspname)
    from pg_namespace, aclexplode(coalesce(nspacl, acldefault('n', nspowner))) acl
    where nspname in ('public', 'platform') and acl.grantee = 0
    union all
    select format('PUBLIC has %s on %s', acl.privilege_type, pg_class.oid::regclass)
    from pg_class, aclexplode(relacl) acl
    where relnamespace in (select oid from pg_namespace where nspname in ('public', 'platform'))
      and acl.grantee = 0
    union all
    select format('PUBLIC has %s on function %s', acl.privilege_type, pg_proc.oid::regprocedure)
    from pg_proc, aclexplode(coalesce(proacl, acldefault('f', proowner))) acl
    where pronamespace in (select oid from pg_namespace where nspname in ('public', 'platform'))
      and acl.grantee = 0
    union all
    select format('PUBLIC has %s on type %s', acl.privilege_type, pg_type.oid::regtype)
    from pg_type, aclexplode(coalesce(typacl, acldefault('T', typowner))) acl
    where typnamespace in (select oid from pg_namespace where nspname in ('public', 'platform'))
      and typtype in ('e', 'd', 'r') and acl.grantee = 0
    union all
    select format('role %s may make objects in schema %s', $1, nspname)
    from pg_namespace
    where exists (select from pg_roles where rolname = $1)
      and has_schema_privilege($1, oid, 'CREATE')
    union all
    select format('role %s has %s on %s', $1, privilege, pg_class.oid::regclass)
    from pg_class, unnest(array['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) privilege
    where relnamespace in (select oid from pg_namespace where nspname = 'platform')
      and relkind in ('r', 'p', 'v', 'm', 'f') and exists (select from pg_roles where rolname = $1)
      and has_table_privilege($1, pg_class.oid, privilege)
    union all
    select format('role %s may run %s, which runs as its owner', $1, pg_proc.oid::regprocedure)
    from pg_proc
    where prosecdef and exists (select from pg_roles where rolname = $1)
      and has_function_privilege($1, pg_proc.oid, 'EXECUTE')
    union all
    select format('role %s may run %s', $1, pg_proc.oid::regprocedure)
    from pg_proc
    where pronamespace in (select oid from pg_namespace where nspname = 'platform')
      and exists (select from pg_roles where rolname = $1)
      and has_function_privilege($1, pg_proc.oid, 'EXECUTE')";

/// Nothing is there that a move would lose.
const MOVABLE: &str = "
    select format('table %s has no primary key (database %s)', pg_class.oid::regclass, $1::text)
    from pg_class
    where relkind in ('r', 'p')
      and relnamespace in (select oid from pg_namespace where nspname in ('public', 'platform'))
      and not exists (select from pg_index where indrelid = pg_class.oid and indisprimary)
    union all
    select format('table %s is unlogged', pg_class.oid::regclass)
    from pg_class
    where relkind in ('r', 'p') and relpersistence = 'u'
    union all
    select format('there are %s large objects', count(*)) from pg_largeobject_metadata
    having count(*) > 0";
