//! What operations write of instances: what shall be. The reconciler makes it so.

use control_types::{InstanceId, SiteId, state::InstanceDesired};
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

/// Whose instances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whose {
    /// All of a site.
    Site(SiteId),
    /// Those that serve one of its placements.
    Placement(Uuid),
}

impl Whose {
    const fn ids(self) -> (Option<Uuid>, Option<Uuid>) {
        match self {
            Self::Site(site) => (Some(site.0), None),
            Self::Placement(placement) => (None, Some(placement)),
        }
    }
}

/// What somebody waits for, of all those instances.
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

/// Wants those instances no more.
///
/// # Errors
/// When the database does not answer.
pub async fn want_absent(connection: &mut PgConnection, whose: Whose) -> Result<(), sqlx::Error> {
    want(connection, whose, InstanceDesired::Absent).await
}

/// Wants those instances back.
///
/// # Errors
/// When the database does not answer.
pub async fn want_listening(
    connection: &mut PgConnection,
    whose: Whose,
) -> Result<(), sqlx::Error> {
    want(connection, whose, InstanceDesired::Listening).await
}

async fn want(
    connection: &mut PgConnection,
    whose: Whose,
    desired: InstanceDesired,
) -> Result<(), sqlx::Error> {
    let (site, placement) = whose.ids();
    sqlx::query!(
        "update instance set desired = $3
         where (site_id = $1 or placement_id = $2) and desired <> $3",
        site,
        placement,
        desired as InstanceDesired
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Forgets those instances; they must be absent.
///
/// # Errors
/// When the database does not answer.
pub async fn delete(connection: &mut PgConnection, whose: Whose) -> Result<(), sqlx::Error> {
    let (site, placement) = whose.ids();
    sqlx::query!("delete from instance where site_id = $1 or placement_id = $2", site, placement)
        .execute(connection)
        .await?;
    Ok(())
}

/// Whether those instances are as somebody waits for.
///
/// # Errors
/// When the database does not answer.
pub async fn are(pool: &PgPool, whose: Whose, awaited: Awaited) -> Result<bool, sqlx::Error> {
    let (site, placement) = whose.ids();
    let counts = sqlx::query!(
        r#"select count(*) as "all!",
               count(*) filter (where address is not null
                   and observed in ('sleeping', 'running', 'failing')) as "listening!",
               count(*) filter (where observed = 'absent') as "absent!",
               count(*) filter (where case desired
                   when 'absent' then observed = 'absent'
                   else address is not null
                       and observed in ('sleeping', 'running', 'failing') end) as "as_desired!"
           from instance where site_id = $1 or placement_id = $2"#,
        site,
        placement
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
