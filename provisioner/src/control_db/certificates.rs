//! `certificate`: chains and sealed keys, one per hostname and region.

mod shown;

pub use shown::{alarm, list};

use control_types::{SiteId, state::CertificateSource};
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
    /// Who issued it: `local`, `uploaded` or the name of an authority in the configuration.
    pub issuer: &'a str,
    /// Where it came from.
    pub source: CertificateSource,
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
        "insert into certificate (id, site_id, hostname, region, issuer, source, chain_pem,
             sealed_key, not_before, not_after)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
         on conflict (hostname, region) do update set
             id = excluded.id, site_id = excluded.site_id, issuer = excluded.issuer,
             source = excluded.source, chain_pem = excluded.chain_pem, sealed_key = excluded.sealed_key,
             not_before = excluded.not_before, not_after = excluded.not_after,
             created_at = now()",
        certificate.id,
        certificate.site.map(|id| id.0),
        certificate.hostname,
        certificate.region,
        certificate.issuer,
        certificate.source as CertificateSource,
        certificate.chain_pem,
        certificate.sealed_key,
        certificate.not_before,
        certificate.not_after,
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes the certificates of a site, in one region or in all. Of which hostnames.
///
/// # Errors
/// When the database does not answer.
pub async fn delete(
    connection: &mut PgConnection,
    site: SiteId,
    region: Option<&str>,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "delete from certificate where site_id = $1 and ($2::text is null or region = $2)
         returning hostname",
        site.0,
        region
    )
    .fetch_all(connection)
    .await
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

/// What the local authority shall issue now: for all names, or for those below `localhost` alone
/// when there is a public authority too. A third of a certificate's life is kept for renewing it.
///
/// # Errors
/// When the database does not answer.
pub async fn due_locally(
    pool: &PgPool,
    platform_domain: &str,
    all_names: bool,
) -> Result<Vec<Due>, sqlx::Error> {
    sqlx::query_as!(
        Due,
        r#"select wanted.site_id as "site: SiteId", wanted.hostname as "hostname!",
               wanted.region as "region!"
           from certificate_wanted($1, now()) wanted
           left join certificate on certificate.hostname = wanted.hostname
               and certificate.region = wanted.region
           where ($2 or wanted.hostname = 'localhost' or wanted.hostname like '%.localhost')
               and (certificate.id is null
                   or (certificate.source <> 'uploaded' and certificate.not_after
                       - (certificate.not_after - certificate.not_before) / 3 < now()))"#,
        platform_domain,
        all_names,
    )
    .fetch_all(pool)
    .await
}

/// A certificate without its key.
#[derive(Clone, Debug)]
pub struct Held {
    /// Who issued it.
    pub issuer: String,
    /// Where it came from.
    pub source: CertificateSource,
    /// Leaf first.
    pub chain_pem: String,
    /// Valid from.
    pub not_before: OffsetDateTime,
    /// Valid until.
    pub not_after: OffsetDateTime,
}

/// The certificate of a hostname in a region.
///
/// # Errors
/// When the database does not answer.
pub async fn get(pool: &PgPool, hostname: &str, region: &str) -> Result<Option<Held>, sqlx::Error> {
    sqlx::query_as!(
        Held,
        r#"select issuer, source as "source: CertificateSource", chain_pem, not_before, not_after
           from certificate where hostname = $1 and region = $2"#,
        hostname,
        region
    )
    .fetch_optional(pool)
    .await
}

/// A certificate with its sealed key.
pub struct Sealed {
    /// For whose row the key is sealed.
    pub id: Uuid,
    /// The certificate.
    pub held: Held,
    /// The key, sealed with that of the region.
    pub sealed_key: Vec<u8>,
}

/// The certificate of a hostname in a region, with its key.
///
/// # Errors
/// When the database does not answer.
pub async fn sealed(
    connection: &mut PgConnection,
    hostname: &str,
    region: &str,
) -> Result<Option<Sealed>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select id, issuer, source as "source: CertificateSource", chain_pem, sealed_key,
               not_before, not_after
           from certificate where hostname = $1 and region = $2"#,
        hostname,
        region
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Sealed {
        id: row.id,
        sealed_key: row.sealed_key,
        held: Held {
            issuer: row.issuer,
            source: row.source,
            chain_pem: row.chain_pem,
            not_before: row.not_before,
            not_after: row.not_after,
        },
    }))
}

/// Whether a hostname has a certificate in a region that is good until `until` at least.
///
/// # Errors
/// When the database does not answer.
pub async fn holds(
    connection: &mut PgConnection,
    hostname: &str,
    region: &str,
    until: OffsetDateTime,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (select from certificate where hostname = $1 and region = $2
               and not_after > $3) as "exists!""#,
        hostname,
        region,
        until,
    )
    .fetch_one(connection)
    .await
}

/// Whether a certificate for all names of the platform serves in a region until `until` at least.
///
/// # Errors
/// When the database does not answer.
pub async fn has_wildcard(
    connection: &mut PgConnection,
    platform_domain: &str,
    region: &str,
    until: OffsetDateTime,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (select from certificate where hostname = '*.' || $1::text
               and region = $2 and not_after > $3) as "exists!""#,
        platform_domain,
        region,
        until,
    )
    .fetch_one(connection)
    .await
}

/// Removes the certificates of single names of the platform that its wildcard covers in a region,
/// since nobody will renew them. Uploaded ones stay.
///
/// # Errors
/// When the database does not answer.
pub async fn delete_covered(
    connection: &mut PgConnection,
    platform_domain: &str,
    region: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from certificate using domain
         where certificate.hostname = domain.hostname and domain.kind = 'platform'
             and domain.state <> 'released' and certificate.region = $2
             and certificate.source <> 'uploaded'
             and exists (select from certificate wildcard
                 where wildcard.hostname = '*.' || $1::text and wildcard.region = $2
                     and wildcard.not_after > now())",
        platform_domain,
        region,
    )
    .execute(connection)
    .await?;
    Ok(())
}
