//! Everything about a site's database that is no row of a table, as lines of text that are equal in
//! two databases of the same shape: names of roles are written without the database's own name.

use sqlx::{PgConnection, Row};

/// Lines by what they are about. `$1` is the database's name, `@` stands for it in the answers.
const ASPECTS: &[(&str, &str)] = &[
    (
        "the database",
        "select format('encoding %s collate %s ctype %s', pg_encoding_to_char(encoding), datcollate,
                       datctype)
         from pg_database where datname = $1",
    ),
    (
        "settings",
        "select replace(format('%s %s', coalesce(r.rolname, 'everybody'), setting), $1, '@')
         from pg_db_role_setting s
         left join pg_roles r on r.oid = s.setrole, unnest(s.setconfig) setting
         where (s.setdatabase = 0
                or s.setdatabase = (select oid from pg_database where datname = $1))
             and (s.setrole = 0 or r.rolname in ($1, $1 || '_owner', $1 || '_rw', $1 || '_ro'))
             and not (s.setdatabase = 0 and s.setrole = 0)",
    ),
    (
        "extensions",
        "select format('%s %s', extname, extversion) from pg_extension",
    ),
    (
        "columns",
        "select format('%s.%s.%s %s null:%s identity:%s generated:%s collation:%s default:%s',
                       n.nspname, c.relname, a.attname, format_type(a.atttypid, a.atttypmod),
                       not a.attnotnull, a.attidentity, a.attgenerated, l.collname,
                       pg_get_expr(d.adbin, d.adrelid))
         from pg_attribute a
         join pg_class c on c.oid = a.attrelid
         join pg_namespace n on n.oid = c.relnamespace
         left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
         left join pg_collation l on l.oid = a.attcollation
         where n.nspname in ('public', 'platform') and c.relkind in ('r', 'p', 'v', 'm')
             and a.attnum > 0 and not a.attisdropped",
    ),
    (
        "constraints",
        "select format('%s %s %s valid:%s', conrelid::regclass, conname, pg_get_constraintdef(oid),
                       convalidated)
         from pg_constraint
         where connamespace in ('public'::regnamespace, 'platform'::regnamespace)",
    ),
    (
        "indexes",
        "select format('%s valid:%s ready:%s', pg_get_indexdef(indexrelid), indisvalid, indisready)
         from pg_index join pg_class on pg_class.oid = indexrelid
         where relnamespace in ('public'::regnamespace, 'platform'::regnamespace)",
    ),
    (
        "triggers",
        "select format('%s enabled:%s', pg_get_triggerdef(t.oid), tgenabled)
         from pg_trigger t join pg_class c on c.oid = tgrelid
         where not tgisinternal
             and relnamespace in ('public'::regnamespace, 'platform'::regnamespace)",
    ),
    (
        "functions",
        "select format('%s %s', oid::regprocedure, md5(replace(pg_get_functiondef(oid), $1, '@')))
         from pg_proc
         where pronamespace in ('public'::regnamespace, 'platform'::regnamespace)
             and prokind in ('f', 'p')",
    ),
    (
        "types",
        "select format('%s %s', t.oid::regtype,
                       (select string_agg(enumlabel, ',' order by enumsortorder) from pg_enum
                        where enumtypid = t.oid))
         from pg_type t
         where typtype in ('e', 'd')
             and typnamespace in ('public'::regnamespace, 'platform'::regnamespace)",
    ),
    (
        "sequences",
        "select format('%s.%s %s start:%s min:%s max:%s step:%s cycle:%s cache:%s', schemaname,
                       sequencename, data_type, start_value, min_value, max_value, increment_by,
                       cycle, cache_size)
         from pg_sequences where schemaname in ('public', 'platform')",
    ),
    (
        "owners",
        "select replace(format('%s %s', c.oid::regclass, pg_get_userbyid(relowner)), $1, '@')
         from pg_class c
         where relnamespace in ('public'::regnamespace, 'platform'::regnamespace)",
    ),
    (
        "grants",
        "select replace(format('%s %s %s', what, coalesce(grantee.rolname, 'PUBLIC'), privilege), $1,
                        '@')
         from (
             select c.oid::regclass::text as what, acl.grantee, acl.privilege_type as privilege
             from pg_class c, aclexplode(c.relacl) acl
             where c.relnamespace in ('public'::regnamespace, 'platform'::regnamespace)
             union all
             select p.oid::regprocedure::text, acl.grantee, acl.privilege_type
             from pg_proc p, aclexplode(p.proacl) acl
             where p.pronamespace in ('public'::regnamespace, 'platform'::regnamespace)
             union all
             select 'schema ' || n.nspname, acl.grantee, acl.privilege_type
             from pg_namespace n, aclexplode(n.nspacl) acl
             where n.nspname in ('public', 'platform')
             union all
             select 'default ' || d.defaclobjtype::text || ' ' || pg_get_userbyid(d.defaclrole),
                    acl.grantee, acl.privilege_type
             from pg_default_acl d, aclexplode(d.defaclacl) acl
         ) granted
         left join pg_roles grantee on grantee.oid = granted.grantee",
    ),
];

/// One thing that holds in a database.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Line {
    /// What it is about.
    pub aspect: &'static str,
    /// What holds.
    pub text: String,
}

/// All lines, sorted.
pub(super) async fn lines(connection: &mut PgConnection) -> Result<Vec<Line>, sqlx::Error> {
    let name: String = sqlx::query_scalar("select current_database()::text")
        .persistent(false)
        .fetch_one(&mut *connection)
        .await?;
    let mut lines = Vec::new();
    for (aspect, query) in ASPECTS {
        let rows =
            sqlx::query(*query).persistent(false).bind(&name).fetch_all(&mut *connection).await?;
        lines.extend(
            rows.iter().map(|row| Line {
                aspect,
                text: row.get::<Option<String>, _>(0).unwrap_or_default(),
            }),
        );
    }
    lines.sort();
    Ok(lines)
}
