//! `certificate`: chains and sealed keys, one per hostname and region.

use control_types::SiteId;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

/// A certificate as stored.
pub struct NewCertificate<'a> {
    /// Its id; the key is sealed for the row of this id.
    pub id: Uuid,
    /// Whose; none for the platform's own.
    pub site: Option<SiteId>,
    /// The name that it certifies.
    pub hostname: &'a str,
    /// The region whose key seals it.
    pub region: &'a str,
    /// Who issued it.
    pub issuer: &'a str,
    /// Leaf first.
    pub chain_pem: &'a str,
    /// The sealed private key.
    pub sealed_key: &'a [u8],
    /// Valid from.
    pub not_before: OffsetDateTime,
    /// Valid until.
    pub not_after: OffsetDateTime,
}

/// Stores a certificate in the place of the one that the hostname had in the region.
///
/// # Errors
/// When the database does not answer, or refuses the region.
pub async fn put(
    connection: &mut PgConnection,
    certificate: &NewCertificate<'_>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into certificate (id, site_id, hostname, region, issuer, chain_pem, sealed_key,
             not_before, not_after)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
         on conflict (hostname, region) do update set
             id = excluded.id, site_id = excluded.site_id, issuer = excluded.issuer,
             chain_pem = excluded.chain_pem, sealed_key = excluded.sealed_key,
             not_before = excluded.not_before, not_after = excluded.not_after,
             created_at = now()",
        certificate.id,
        certificate.site.map(|id| id.0),
        certificate.hostname,
        certificate.region,
        certificate.issuer,
        certificate.chain_pem,
        certificate.sealed_key,
        certificate.not_before,
        certificate.not_after,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes all certificates of a site.
///
/// # Errors
/// When the database does not answer.
pub async fn delete_of_site(
    connection: &mut PgConnection,
    site: SiteId,
) -> Result<(), sqlx::Error> {
    sqlx::query!("delete from certificate where site_id = $1", site.0).execute(connection).await?;
    Ok(())
}

/// A hostname that must have a certificate in a region and has none, or one that ends soon.
pub struct Due {
    /// Whose; none for the platform's own.
    pub site: Option<SiteId>,
    /// The name.
    pub hostname: String,
    /// Where it serves.
    pub region: String,
}

/// What to issue now: for the hostnames of placed sites in their region, and for the platform's own
/// name in every region.
///
/// # Errors
/// When the database does not answer.
pub async fn due(
    pool: &PgPool,
    platform_domain: &str,
    renew_before: OffsetDateTime,
) -> Result<Vec<Due>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select wanted.site_id as "site_id: SiteId", wanted.hostname as "hostname!",
               wanted.region as "region!"
           from (
               select domain.site_id, domain.hostname, placement.region
               from domain
               join placement on placement.site_id = domain.site_id
                   and placement.state = 'current'
               join site on site.id = domain.site_id
               where domain.state in ('verified', 'active')
                   and site.state in ('active', 'suspended', 'deleting')
               union all
               select null::uuid, $1::text, region.name from region
           ) wanted
           left join certificate on certificate.hostname = wanted.hostname
               and certificate.region = wanted.region
           where certificate.id is null or certificate.not_after < $2"#,
        platform_domain,
        renew_before,
    )
    .fetch_all(pool)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| Due { site: row.site_id, hostname: row.hostname, region: row.region })
        .collect())
}
