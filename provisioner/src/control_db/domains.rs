//! `domain`: the hostnames that sites claim. How they are shown over the API is in `shown`, what the
//! DNS says of them in `checks`.

pub mod checks;
mod shown;

pub use shown::{get, list};

use control_types::{
    DomainId, Hostname, SiteId,
    state::{DomainKind, DomainProof, DomainState},
};
use sqlx::{PgConnection, PgPool};

use crate::control_db::broken_constraint;

/// Why a hostname cannot be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimHostnameError {
    /// Another site has it.
    #[error("the hostname {0} belongs to another site")]
    Taken(Hostname),
    /// This site claims it already.
    #[error("the site has the hostname {0} already")]
    Repeated(Hostname),
    /// The control database does not answer.
    #[error("control database")]
    Database(#[from] sqlx::Error),
}

/// A claim as it is first stored.
pub struct NewDomain<'a> {
    /// Whose.
    pub site: SiteId,
    /// The name.
    pub hostname: &'a Hostname,
    /// The platform's or the institution's own.
    pub kind: DomainKind,
    /// How it was shown to be the site's own; none leaves the claim pending.
    pub proof: Option<DomainProof>,
    /// Whether it is to become the primary one.
    pub primary_when_active: bool,
}

/// Stores a claim; the name does not serve yet.
///
/// # Errors
/// When the site or another one has it already.
pub async fn insert(
    connection: &mut PgConnection,
    new: &NewDomain<'_>,
) -> Result<(), ClaimHostnameError> {
    let is_owned = new.proof.is_some() || new.kind == DomainKind::Platform;
    let state = if is_owned { DomainState::Verified } else { DomainState::Pending };
    let outcome = sqlx::query!(
        "insert into domain (id, site_id, hostname, kind, state, proof, verified_at,
             primary_when_active)
         values ($1, $2, $3, $4, $5, $6, case when $6::domain_proof is not null then now() end, $7)",
        DomainId::generate().0,
        new.site.0,
        new.hostname.as_str(),
        new.kind as DomainKind,
        state as DomainState,
        new.proof as Option<DomainProof>,
        new.primary_when_active,
    )
    .execute(connection)
    .await;
    outcome.map(drop).map_err(|error| claim_error(error, new.hostname))
}

fn claim_error(error: sqlx::Error, hostname: &Hostname) -> ClaimHostnameError {
    match broken_constraint(&error) {
        Some("one_owner_per_hostname") => ClaimHostnameError::Taken(hostname.clone()),
        Some("one_claim_per_site_and_hostname") => ClaimHostnameError::Repeated(hostname.clone()),
        _ => error.into(),
    }
}

/// Claims a hostname for a site that is being made; it does not serve yet. The operator vouches for
/// one of the institution's own.
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
    let proof = (kind == DomainKind::Custom).then_some(DomainProof::Vouched);
    let new = NewDomain { site, hostname, kind, proof, primary_when_active: false };
    insert(connection, &new).await?;
    if is_primary {
        make_primary(connection, site, hostname).await?;
    }
    Ok(())
}

/// What is known of a claim.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// Its id.
    pub id: DomainId,
    /// The platform's or the institution's own.
    pub kind: DomainKind,
    /// How far it is.
    pub state: DomainState,
    /// Whether the others redirect to it.
    pub is_primary: bool,
}

/// A site's claim of a hostname.
///
/// # Errors
/// When the database does not answer.
pub async fn find(
    connection: &mut PgConnection,
    site: SiteId,
    hostname: &Hostname,
) -> Result<Option<Claim>, sqlx::Error> {
    sqlx::query_as!(
        Claim,
        r#"select id as "id: DomainId", kind as "kind: DomainKind", state as "state: DomainState",
               is_primary
           from domain where site_id = $1 and hostname = $2 and state <> 'released'"#,
        site.0,
        hostname.as_str(),
    )
    .fetch_optional(connection)
    .await
}

/// How many hostnames of its own a site claims, and how many its plan lets it have.
///
/// # Errors
/// When the database does not answer.
pub async fn count(
    connection: &mut PgConnection,
    site: SiteId,
) -> Result<(i64, i32, String), sqlx::Error> {
    let row = sqlx::query!(
        r#"select plan.max_custom_domains, plan.name as plan,
               (select count(*) from domain where domain.site_id = site.id
                    and domain.kind = 'custom' and domain.state <> 'released') as "n!"
           from site join plan on plan.name = site.plan where site.id = $1"#,
        site.0
    )
    .fetch_one(connection)
    .await?;
    Ok((row.n, row.max_custom_domains, row.plan))
}

/// Takes a pending claim as shown.
///
/// # Errors
/// When another site has the name.
pub async fn verify(
    connection: &mut PgConnection,
    claim: DomainId,
    hostname: &Hostname,
    proof: DomainProof,
) -> Result<bool, ClaimHostnameError> {
    let outcome = sqlx::query!(
        "update domain set state = 'verified', proof = $2, verified_at = now(),
             next_check_at = now()
         where id = $1 and state = 'pending'",
        claim.0,
        proof as DomainProof,
    )
    .execute(connection)
    .await;
    match outcome {
        Ok(done) => Ok(done.rows_affected() == 1),
        Err(error) => Err(claim_error(error, hostname)),
    }
}

/// Wants a claim to become the primary hostname of its site as soon as it serves.
///
/// # Errors
/// When the database does not answer.
pub async fn want_primary(
    connection: &mut PgConnection,
    claim: DomainId,
) -> Result<(), sqlx::Error> {
    sqlx::query!("update domain set primary_when_active = true where id = $1", claim.0)
        .execute(connection)
        .await?;
    Ok(())
}

/// Makes a hostname the one that the site's others redirect to.
///
/// # Errors
/// When the database does not answer.
pub async fn make_primary(
    connection: &mut PgConnection,
    site: SiteId,
    hostname: &Hostname,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update domain set is_primary = false
         where site_id = $1 and is_primary and hostname <> $2",
        site.0,
        hostname.as_str(),
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "update domain set is_primary = true, primary_when_active = false
         where site_id = $1 and hostname = $2 and state in ('verified', 'active')",
        site.0,
        hostname.as_str(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Gives one hostname up. The row stays: nobody else can take the name over with what may still
/// point here. Where it was the primary one, the platform's name is it again.
///
/// # Errors
/// When the database does not answer.
pub async fn remove(
    connection: &mut PgConnection,
    site: SiteId,
    hostname: &Hostname,
) -> Result<(), sqlx::Error> {
    let released = sqlx::query_scalar!(
        r#"update domain set state = 'released', is_primary = false, released_at = now(),
               primary_when_active = false
           from (select id, is_primary from domain
                 where site_id = $1 and hostname = $2 and kind = 'custom'
                     and state <> 'released') before
           where domain.id = before.id
           returning before.is_primary"#,
        site.0,
        hostname.as_str(),
    )
    .fetch_optional(&mut *connection)
    .await?;
    if released == Some(true) {
        sqlx::query!(
            "update domain set is_primary = true where site_id = $1 and kind = 'platform'
                 and state in ('verified', 'active')",
            site.0
        )
        .execute(&mut *connection)
        .await?;
    }
    sqlx::query!(
        "delete from certificate where site_id = $1 and hostname = $2",
        site.0,
        hostname.as_str(),
    )
    .execute(&mut *connection)
    .await?;
    sqlx::query!(
        "delete from acme_challenge where site_id = $1 and hostname = $2",
        site.0,
        hostname.as_str(),
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// All hostnames that are a site's own.
///
/// # Errors
/// When the database does not answer.
pub async fn of_site(
    connection: &mut PgConnection,
    site: SiteId,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "select hostname from domain where site_id = $1 and state in ('verified', 'active')
         order by hostname",
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

/// Lets the verified hostnames of a placed site serve that have a certificate, and its platform
/// hostname.
///
/// # Errors
/// When the database does not answer.
pub async fn activate(connection: &mut PgConnection, site: SiteId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update domain set state = 'active'
         where site_id = $1 and state = 'verified' and (kind = 'platform' or exists (
             select from certificate join placement on placement.region = certificate.region
             where certificate.hostname = domain.hostname and placement.site_id = domain.site_id
                 and placement.state = 'current'))",
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
        "update domain set state = 'released', is_primary = false, released_at = now(),
             primary_when_active = false
         where site_id = $1 and state <> 'released'",
        site.0
    )
    .execute(connection)
    .await?;
    Ok(())
}
