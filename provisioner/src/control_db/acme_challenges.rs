//! `acme_challenge`: what routers answer to authorities, for as long as an order needs it.

use control_types::{SiteId, state::AcmeChallengeKind};
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

/// A challenge as stored.
pub struct NewChallenge<'a> {
    /// Its id; the key of `certificate` is sealed for the row of this id.
    pub id: Uuid,
    /// The order that it is of.
    pub order: Uuid,
    /// Whose; none for the platform's own.
    pub site: Option<SiteId>,
    /// The name that is to be shown.
    pub hostname: &'a str,
    /// The answer.
    pub proof: Proof<'a>,
    /// Until when anybody will ask.
    pub expires_at: OffsetDateTime,
}

/// The answer to a challenge.
pub enum Proof<'a> {
    /// A file.
    Http {
        /// Its name.
        token: &'a str,
        /// Its content.
        key_authorization: &'a str,
    },
    /// A certificate.
    TlsAlpn {
        /// Whose routers can open the key.
        region: &'a str,
        /// The certificate.
        chain_pem: &'a str,
        /// Its sealed key.
        sealed_key: &'a [u8],
    },
}

/// Stores a challenge in the place of those that the order had.
///
/// # Errors
/// When the database does not answer.
pub async fn replace(
    connection: &mut PgConnection,
    challenge: &NewChallenge<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from acme_challenge where order_id = $1", challenge.order)
        .execute(&mut *connection)
        .await?;
    let (kind, token, key_authorization, region, chain_pem, sealed_key) = match challenge.proof {
        Proof::Http { token, key_authorization } => {
            (AcmeChallengeKind::Http01, Some(token), Some(key_authorization), None, None, None)
        }
        Proof::TlsAlpn { region, chain_pem, sealed_key } => {
            let kind = AcmeChallengeKind::TlsAlpn01;
            (kind, None, None, Some(region), Some(chain_pem), Some(sealed_key))
        }
    };
    sqlx::query!(
        "insert into acme_challenge (id, order_id, site_id, hostname, kind, token,
             key_authorization, region, chain_pem, sealed_key, expires_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        challenge.id,
        challenge.order,
        challenge.site.map(|site| site.0),
        challenge.hostname,
        kind as AcmeChallengeKind,
        token,
        key_authorization,
        region,
        chain_pem,
        sealed_key,
        challenge.expires_at,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes what nobody will ask for any more.
///
/// # Errors
/// When the database does not answer.
pub async fn prune(pool: &PgPool) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from acme_challenge where expires_at < now()").execute(pool).await?;
    Ok(())
}
