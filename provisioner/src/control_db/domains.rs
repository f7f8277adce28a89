//! `domain`: the hostnames that sites claim.

use control_types::{
    DomainId, Hostname, SiteId,
    state::{DomainKind, DomainState},
};
use sqlx::{PgConnection, PgPool};

use crate::control_db::broken_constraint;

/// Why a hostname cannot be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimHostnameError {
    /// Another site has it.
    #[error("the hostname {0} belongs to another site")]
    Taken(Hostname),
    /// The control database does not answer.
    #[error("control database")]
    Database(#[from] sqlx::Error),
}

/// Claims a hostname for a site; it does not serve yet.
///
/// # Errors
/// When another site has it.
pub async fn claim(
    connection: &mut PgConnection,
    site: SiteId,
    hostname: &Hostname,
    kind: DomainKind,
    is_primary: bool,
) -> Result<(), ClaimHostnameError> {
    let outcome = sqlx::query!(
        "insert into domain (id, site_id, hostname, kind, state, is_primary)
         values ($1, $2, $3, $4, $5, $6)",
        DomainId::generate().0,
        site.0,
        hostname.as_str(),
        kind as DomainKind,
        DomainState::Verified as DomainState,
        is_primary,
    )
    .execute(connection)
    .await;
    match outcome {
        Ok(_) => Ok(()),
        Err(error) if broken_constraint(&error) == Some("one_claim_per_hostname") => {
            Err(ClaimHostnameError::Taken(hostname.clone()))
        }
        Err(error) => Err(error.into()),
    }
}

/// All hostnames that a site claims.
///
/// # Errors
/// When the database does not answer.
pub async fn of_site(
    connection: &mut PgConnection,
    site: SiteId,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "select hostname from domain where site_id = $1 and state <> 'released' order by hostname",
        site.0
    )
    .fetch_all(connection)
    .await
}

/// The primary hostname of a site, whether or not it serves already.
///
/// # Errors
/// When the database does not answer.
pub async fn primary(pool: &PgPool, site: SiteId) -> Result<Option<String>, sqlx::Error> {
    sqlx::query_scalar!("select hostname from domain where site_id = $1 and is_primary", site.0)
        .fetch_optional(pool)
        .await
}

/// Lets the verified hostnames of a site serve.
///
/// # Errors
/// When the database does not answer.
pub async fn activate(connection: &mut PgConnection, site: SiteId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update domain set state = 'active' where site_id = $1 and state = 'verified'",
        site.0
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Makes the active hostnames of a site wait again.
///
/// # Errors
/// When the database does not answer.
pub async fn deactivate(connection: &mut PgConnection, site: SiteId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update domain set state = 'verified' where site_id = $1 and state = 'active'",
        site.0
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives all hostnames of a site up.
///
/// # Errors
/// When the database does not answer.
pub async fn release(connection: &mut PgConnection, site: SiteId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update domain set state = 'released', is_primary = false, released_at = now()
         where site_id = $1 and state <> 'released'",
        site.0
    )
    .execute(connection)
    .await?;
    Ok(())
}
