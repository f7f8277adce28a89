//! What operations write of instances: what shall be. The reconciler makes it so.

use control_types::{InstanceId, SiteId, state::InstanceDesired};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// What somebody waits for, of all instances of a site.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Awaited {
    /// One takes connections.
    Listening,
    /// None is there.
    Absent,
    /// Each is as it is wanted.
    AsDesired,
}

/// Wants an instance that listens. The same again changes nothing.
///
/// # Errors
/// When the database does not answer.
pub async fn insert(
    connection: &mut PgConnection,
    id: InstanceId,
    site: SiteId,
    placement: Uuid,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into instance (id, site_id, placement_id, desired) values ($1, $2, $3, $4)
         on conflict (id) do update set desired = excluded.desired
         where instance.desired <> excluded.desired",
        id.0,
        site.0,
        placement,
        InstanceDesired::Listening as InstanceDesired,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Wants no instance of a site any more.
///
/// # Errors
/// When the database does not answer.
pub async fn want_absent(connection: &mut PgConnection, site: SiteId) -> Result<(), sqlx::Error> {
    want(connection, site, InstanceDesired::Absent).await
}

/// Wants the instances of a site back.
///
/// # Errors
/// When the database does not answer.
pub async fn want_listening(
    connection: &mut PgConnection,
    site: SiteId,
) -> Result<(), sqlx::Error> {
    want(connection, site, InstanceDesired::Listening).await
}

async fn want(
    connection: &mut PgConnection,
    site: SiteId,
    desired: InstanceDesired,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update instance set desired = $2 where site_id = $1 and desired <> $2",
        site.0,
        desired as InstanceDesired
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets the instances of a site; they must be absent.
///
/// # Errors
/// When the database does not answer.
pub async fn delete_of_site(
    connection: &mut PgConnection,
    site: SiteId,
) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from instance where site_id = $1", site.0).execute(connection).await?;
    Ok(())
}

/// Whether the instances of a site are as somebody waits for.
///
/// # Errors
/// When the database does not answer.
pub async fn are(pool: &PgPool, site: SiteId, awaited: Awaited) -> Result<bool, sqlx::Error> {
    let counts = sqlx::query!(
        r#"select count(*) as "all!",
               count(*) filter (where address is not null
                   and observed in ('sleeping', 'running', 'failing')) as "listening!",
               count(*) filter (where observed = 'absent') as "absent!",
               count(*) filter (where case desired
                   when 'absent' then observed = 'absent'
                   else address is not null
                       and observed in ('sleeping', 'running', 'failing') end) as "as_desired!"
           from instance where site_id = $1"#,
        site.0
    )
    .fetch_one(pool)
    .await?;
    Ok(match awaited {
        Awaited::Listening => counts.listening > 0,
        Awaited::Absent => counts.absent == counts.all,
        Awaited::AsDesired => counts.as_desired == counts.all,
    })
}

/// Connections to its database that a site's plan allows.
///
/// # Errors
/// When the database does not answer.
pub async fn connection_limit(pool: &PgPool, site: SiteId) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar!(
        "select plan.max_database_connections from site join plan on plan.name = site.plan
         where site.id = $1",
        site.0
    )
    .fetch_one(pool)
    .await
}
