//! `site`: the sites. How they are shown over the API is in `shown`.

mod shown;

pub(super) use shown::port_suffix;
pub use shown::{get, list};

use control_types::{SiteId, Slug, state::SiteState};
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

use crate::control_db::broken_constraint;

/// A site as it is first stored.
pub struct NewSite<'a> {
    /// Its id.
    pub id: SiteId,
    /// Its short name.
    pub slug: &'a Slug,
    /// The institution's name.
    pub name: &'a str,
    /// Its plan's name.
    pub plan: &'a str,
    /// Where its data may be.
    pub allowed_regions: &'a [String],
    /// `id` or `en`.
    pub default_language: &'a str,
}

/// Why a site cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum InsertSiteError {
    /// Another site has the slug.
    #[error("another site has this slug")]
    SlugTaken,
    /// There is no such plan.
    #[error("there is no such plan")]
    UnknownPlan,
    /// The control database does not answer.
    #[error("control database")]
    Database(#[from] sqlx::Error),
}

/// Stores a site in state `creating`.
///
/// # Errors
/// When its slug is taken or its plan unknown.
pub async fn insert(
    connection: &mut PgConnection,
    site: &NewSite<'_>,
) -> Result<(), InsertSiteError> {
    let outcome = sqlx::query!(
        "insert into site (id, slug, name, plan, allowed_regions, default_language)
         values ($1, $2, $3, $4, $5, $6)",
        site.id.0,
        site.slug.as_str(),
        site.name,
        site.plan,
        site.allowed_regions,
        site.default_language,
    )
    .execute(connection)
    .await;
    match outcome {
        Ok(_) => Ok(()),
        Err(error) => Err(match broken_constraint(&error) {
            Some("one_live_site_per_slug") => InsertSiteError::SlugTaken,
            Some("site_plan_fkey") => InsertSiteError::UnknownPlan,
            _ => error.into(),
        }),
    }
}

/// A site's state, with its row locked until the transaction ends.
///
/// # Errors
/// When the database does not answer.
pub async fn lock_state(
    connection: &mut PgConnection,
    site: SiteId,
) -> Result<Option<SiteState>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select state as "state: SiteState" from site where id = $1 for update"#,
        site.0
    )
    .fetch_optional(connection)
    .await
}

/// Moves a site from one of `from` to `to`; false when it is in none of them.
///
/// # Errors
/// When the database does not answer.
pub async fn set_state(
    connection: &mut PgConnection,
    site: SiteId,
    from: &[SiteState],
    to: SiteState,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update site set state = $3,
             deleted_at = case when $3 = 'deleted'::site_state then now() end,
             suspended_reason =
                 case when $3 in ('suspended'::site_state, 'deleting') then suspended_reason end
         where id = $1 and state = any ($2)",
        site.0,
        from as &[SiteState],
        to as SiteState,
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Closes a site that serves.
///
/// # Errors
/// When the database does not answer.
pub async fn suspend(
    connection: &mut PgConnection,
    site: SiteId,
    reason: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update site set state = 'suspended', suspended_reason = $2
         where id = $1 and state = 'active'",
        site.0,
        reason
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Begins a deletion: notes the state to go back to, and until when.
///
/// # Errors
/// When the database does not answer.
pub async fn begin_deletion(
    connection: &mut PgConnection,
    site: SiteId,
    delete_after: OffsetDateTime,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update site set state = 'deleting', state_before_deletion = state, delete_after = $2
         where id = $1 and state in ('active', 'suspended')",
        site.0,
        delete_after,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Takes a deletion back.
///
/// # Errors
/// When the database does not answer.
pub async fn cancel_deletion(
    connection: &mut PgConnection,
    site: SiteId,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update site set state = state_before_deletion, state_before_deletion = null,
             delete_after = null
         where id = $1 and state = 'deleting' and state_before_deletion is not null",
        site.0
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Sets where a site's data may be. Whether it was set: not while something of the site is elsewhere.
///
/// # Errors
/// When the database does not answer.
pub async fn set_regions(
    connection: &mut PgConnection,
    site: SiteId,
    regions: &[String],
) -> Result<bool, sqlx::Error> {
    let outcome = sqlx::query!(
        "update site set allowed_regions = $2, updated_at = now() where id = $1",
        site.0,
        regions
    )
    .execute(connection)
    .await;
    match outcome {
        Ok(_) => Ok(true),
        Err(error) if broken_constraint(&error) == Some("site_allowed_regions") => Ok(false),
        Err(error) => Err(error),
    }
}

/// A number that no attempt to give the site another place ever had.
///
/// # Errors
/// When the database does not answer, or there is no such site.
pub async fn draw_attempt(connection: &mut PgConnection, site: SiteId) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar!(
        "update site set last_attempt = last_attempt + 1 where id = $1 returning last_attempt",
        site.0
    )
    .fetch_one(connection)
    .await
}

/// The name of a site's plan.
///
/// # Errors
/// When the database does not answer, or there is no such site.
pub async fn plan(pool: &PgPool, site: SiteId) -> Result<String, sqlx::Error> {
    sqlx::query_scalar!("select plan from site where id = $1", site.0).fetch_one(pool).await
}

/// The id of a live site by slug or id.
///
/// # Errors
/// When the database does not answer.
pub async fn find(pool: &PgPool, site: &str) -> Result<Option<SiteId>, sqlx::Error> {
    if let Ok(id) = site.parse::<SiteId>() {
        return sqlx::query_scalar!(r#"select id as "id: SiteId" from site where id = $1"#, id.0)
            .fetch_optional(pool)
            .await;
    }
    sqlx::query_scalar!(
        r#"select id as "id: SiteId" from site where slug = $1 and state <> 'deleted'"#,
        site
    )
    .fetch_optional(pool)
    .await
}

/// Whether a site that is being deleted was suspended before.
///
/// # Errors
/// When the database does not answer.
pub async fn was_suspended(
    connection: &mut PgConnection,
    site: SiteId,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select coalesce(state_before_deletion = 'suspended', false) as "suspended!"
           from site where id = $1"#,
        site.0
    )
    .fetch_one(connection)
    .await
}

/// What a router of a region must have of a site: its version, and one of its hostnames.
///
/// # Errors
/// When the database does not answer.
pub async fn routed(pool: &PgPool, site: SiteId) -> Result<Option<(String, i64)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select route.hostname as "hostname!", route.version as "version!"
           from routing.route where site_id = $1 order by hostname limit 1"#,
        site.0
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| (row.hostname, row.version)))
}
