//! What the DNS says of domains: whose turn it is to be looked at, what was seen, what follows.

use control_types::{DomainId, SiteId, state::DomainState};
use provisioner_api::domains::DomainCheck;
use sqlx::{PgConnection, PgExecutor, PgPool, types::Json};
use time::{Duration, OffsetDateTime};

/// How long a claim lasts whose ownership is not shown.
pub const CLAIM_LASTS: Duration = Duration::days(30);

/// A domain to be looked at, with what the DNS should say of it.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its id.
    pub id: DomainId,
    /// Whose.
    pub site: SiteId,
    /// The site's short name.
    pub slug: String,
    /// The name.
    pub hostname: String,
    /// How far it is.
    pub state: DomainState,
    /// What its TXT record shall hold.
    pub token: String,
    /// When it was claimed.
    pub created_at: OffsetDateTime,
    /// Whether its records were as they shall be when they were last looked at.
    pub was_well: bool,
    /// Whether neither the hostname nor the site's platform name was another site's before.
    pub cname_proves: bool,
    /// Where visitors of its region arrive.
    pub edge: Vec<String>,
    /// Where visitors of the other regions arrive.
    pub other_edges: Vec<String>,
}

/// A domain of an institution's own; none when it was given up, or its site is not placed.
///
/// # Errors
/// When the database does not answer.
pub async fn target(
    executor: impl PgExecutor<'_>,
    id: DomainId,
) -> Result<Option<Target>, sqlx::Error> {
    sqlx::query_as!(
        Target,
        r#"select domain.id as "id: DomainId", domain.site_id as "site: SiteId", site.slug,
               domain.hostname, domain.state as "state: DomainState", domain.token,
               domain.created_at, home.edge_addresses as edge,
               coalesce(domain.report -> 'to_do' = '[]', false) as "was_well!",
               array(select unnest(region.edge_addresses) from region
                     where region.name <> home.name) as "other_edges!",
               not exists (select from domain before
                   where before.hostname = domain.hostname and before.site_id <> domain.site_id
                       and before.state = 'released' and before.verified_at is not null)
               and not exists (select from site before
                   join placement on placement.site_id = before.id
                   where before.slug = site.slug and before.id <> site.id) as "cname_proves!"
           from domain
           join site on site.id = domain.site_id
           join placement on placement.site_id = site.id and placement.state = 'current'
           join region home on home.name = placement.region
           where domain.id = $1 and domain.kind = 'custom' and domain.state <> 'released'"#,
        id.0
    )
    .fetch_optional(executor)
    .await
}

/// Takes up to `limit` domains whose turn it is. Another provisioner does not take them too: their
/// next turn is put off by `lease`.
///
/// # Errors
/// When the database does not answer.
pub async fn take_due(
    pool: &PgPool,
    limit: i64,
    lease: Duration,
) -> Result<Vec<DomainId>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"update domain set next_check_at = $2
           where id in (
               select domain.id from domain
               join placement on placement.site_id = domain.site_id
                   and placement.state = 'current'
               where domain.kind = 'custom' and domain.state <> 'released'
                   and domain.next_check_at <= now()
               order by domain.next_check_at limit $1 for update of domain skip locked)
           returning id as "id: DomainId""#,
        limit,
        OffsetDateTime::now_utc() + lease,
    )
    .fetch_all(pool)
    .await
}

/// Keeps what was seen, and says when to look again.
///
/// # Errors
/// When the database does not answer.
pub async fn store(
    pool: &PgPool,
    id: DomainId,
    check: &DomainCheck,
    points_here: bool,
    next_check_at: OffsetDateTime,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update domain set report = $2, points_here = $3, checked_at = $4, next_check_at = $5
         where id = $1 and state <> 'released'",
        id.0,
        Json(check) as _,
        points_here,
        check.checked_at,
        next_check_at,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Says when to look again, and nothing else.
///
/// # Errors
/// When the database does not answer.
pub async fn put_off(
    pool: &PgPool,
    id: DomainId,
    next_check_at: OffsetDateTime,
) -> Result<(), sqlx::Error> {
    sqlx::query!("update domain set next_check_at = $2 where id = $1", id.0, next_check_at)
        .execute(pool)
        .await?;
    Ok(())
}

/// A domain that can go on by itself.
pub struct Candidate {
    /// Its id.
    pub id: DomainId,
    /// Whose.
    pub site: SiteId,
    /// The name.
    pub hostname: String,
    /// Whether it shall become the primary one.
    pub primary_when_active: bool,
}

/// Verified hostnames that have a certificate in their site's region.
///
/// # Errors
/// When the database does not answer.
pub async fn certified(pool: &PgPool) -> Result<Vec<Candidate>, sqlx::Error> {
    sqlx::query_as!(
        Candidate,
        r#"select domain.id as "id: DomainId", domain.site_id as "site: SiteId",
               domain.hostname, domain.primary_when_active
           from domain
           join site on site.id = domain.site_id
               and site.state in ('active', 'suspended', 'deleting')
           join placement on placement.site_id = site.id and placement.state = 'current'
           join certificate on certificate.hostname = domain.hostname
               and certificate.region = placement.region
               and certificate.site_id = domain.site_id and certificate.not_after > now()
           where domain.state = 'verified'"#
    )
    .fetch_all(pool)
    .await
}

/// Lets a verified hostname serve; false when it is not verified any more.
///
/// # Errors
/// When the database does not answer.
pub async fn activate(connection: &mut PgConnection, id: DomainId) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update domain set state = 'active' where id = $1 and state = 'verified'",
        id.0
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Claims whose ownership was not shown in time.
///
/// # Errors
/// When the database does not answer.
pub async fn expired(
    pool: &PgPool,
    claimed_before: OffsetDateTime,
) -> Result<Vec<Candidate>, sqlx::Error> {
    sqlx::query_as!(
        Candidate,
        r#"select id as "id: DomainId", site_id as "site: SiteId", hostname, primary_when_active
           from domain
           where state = 'pending' and kind = 'custom' and created_at < $1"#,
        claimed_before,
    )
    .fetch_all(pool)
    .await
}

/// Gives a pending claim up; false when it is not pending any more.
///
/// # Errors
/// When the database does not answer.
pub async fn give_up(connection: &mut PgConnection, id: DomainId) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update domain set state = 'released', released_at = now(), primary_when_active = false
         where id = $1 and state = 'pending'",
        id.0
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// How many domains of institutions' own are in a state.
pub struct Count {
    /// The state.
    pub state: DomainState,
    /// All of them.
    pub n: i64,
    /// Those that lead elsewhere or nowhere.
    pub n_elsewhere: i64,
}

/// How many there are of each.
///
/// # Errors
/// When the database does not answer.
pub async fn counts(pool: &PgPool) -> Result<Vec<Count>, sqlx::Error> {
    sqlx::query_as!(
        Count,
        r#"select state as "state: DomainState", count(*) as "n!",
               count(*) filter (where points_here = false) as "n_elsewhere!"
           from domain where kind = 'custom' and state <> 'released' group by state"#
    )
    .fetch_all(pool)
    .await
}
