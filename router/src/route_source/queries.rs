//! All SQL of the router: selections from the views of schema `routing`.

use std::sync::Arc;

use control_types::{
    Generation, SiteId,
    seal::KeyRing,
    state::{AcmeChallengeKind, DomainKind, SiteState},
};
use futures_util::TryStreamExt as _;
use sqlx::{PgPool, Postgres, Transaction};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    certificates::{CertificateError, SealedCertificate},
    challenge::{Challenge, ChallengeRow},
    route_table::{EdgeRow, RouteRow, Table},
};

type At<'a, 'c> = &'a mut Transaction<'c, Postgres>;

/// The moment of a reading.
pub struct Head {
    /// No transaction before this one is still running.
    pub horizon: u64,
    /// The database's clock.
    pub now: OffsetDateTime,
}

/// An entry of the feed.
pub struct Change {
    /// Its number.
    pub seq: i64,
    /// The site; none for what belongs to no site.
    pub site_id: Option<SiteId>,
    /// When it was made.
    pub at: OffsetDateTime,
}

/// A certificate as it lies in the view.
struct Row {
    id: Uuid,
    site_id: Option<SiteId>,
    hostname: String,
    chain_pem: String,
    sealed_key: Vec<u8>,
    not_after: OffsetDateTime,
    version: i64,
}

/// The moment that the transaction sees.
pub async fn head(at: At<'_, '_>) -> Result<Head, sqlx::Error> {
    let row = sqlx::query!(
        r#"select pg_snapshot_xmin(pg_current_snapshot())::text as "horizon!", now() as "now!""#
    )
    .fetch_one(&mut **at)
    .await?;
    let horizon = row.horizon.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
    Ok(Head { horizon, now: row.now })
}

/// When the oldest change of the feed was made.
pub async fn oldest_change(at: At<'_, '_>) -> Result<Option<OffsetDateTime>, sqlx::Error> {
    sqlx::query_scalar!("select min(at) from routing.change").fetch_one(&mut **at).await
}

/// The changes of all transactions from `horizon` on.
pub async fn changes_since(at: At<'_, '_>, horizon: u64) -> Result<Vec<Change>, sqlx::Error> {
    sqlx::query_as!(
        Change,
        r#"select seq as "seq!", site_id as "site_id: SiteId", at as "at!"
        from routing.change where transaction_id >= $1::text::xid8"#,
        horizon.to_string()
    )
    .fetch_all(&mut **at)
    .await
}

/// All routes: the rows of those that are not as `known` has them, and the hostnames of those that
/// are.
pub async fn all_routes(
    at: At<'_, '_>,
    known: &Table,
) -> Result<(Vec<RouteRow>, Vec<Arc<str>>), sqlx::Error> {
    let mut rows = sqlx::query_as!(
        RouteRow,
        r#"select hostname as "hostname!", domain_kind as "domain_kind!: DomainKind",
            is_primary as "is_primary!", primary_hostname as "primary_hostname?",
            site_id as "site_id!: SiteId", slug as "slug!", site_name as "site_name!",
            default_language as "default_language!", site_state as "site_state!: SiteState",
            generation as "generation!: Generation", region as "region!",
            upstream as "upstream?", max_body_bytes as "max_body_bytes!", version as "version!",
            requests_per_second as "requests_per_second!", request_burst as "request_burst!",
            max_concurrent_requests as "max_concurrent_requests!",
            hsts_max_age_secs as "hsts_max_age_secs!", hold_id as "hold_id?",
            hold_deadline as "hold_deadline?"
        from routing.route"#
    )
    .fetch(&mut **at);
    let (mut new, mut same) = (Vec::new(), Vec::with_capacity(known.len()));
    while let Some(row) = rows.try_next().await? {
        match known.route(&row.hostname) {
            Some(route) if route.to_row() == row => same.push(Arc::clone(&route.hostname)),
            _ => new.push(row),
        }
    }
    Ok((new, same))
}

/// The routes of some sites.
pub async fn routes_of(at: At<'_, '_>, sites: &[SiteId]) -> Result<Vec<RouteRow>, sqlx::Error> {
    sqlx::query_as!(
        RouteRow,
        r#"select hostname as "hostname!", domain_kind as "domain_kind!: DomainKind",
            is_primary as "is_primary!", primary_hostname as "primary_hostname?",
            site_id as "site_id!: SiteId", slug as "slug!", site_name as "site_name!",
            default_language as "default_language!", site_state as "site_state!: SiteState",
            generation as "generation!: Generation", region as "region!",
            upstream as "upstream?", max_body_bytes as "max_body_bytes!", version as "version!",
            requests_per_second as "requests_per_second!", request_burst as "request_burst!",
            max_concurrent_requests as "max_concurrent_requests!",
            hsts_max_age_secs as "hsts_max_age_secs!", hold_id as "hold_id?",
            hold_deadline as "hold_deadline?"
        from routing.route where site_id = any($1)"#,
        &uuids(sites)
    )
    .fetch_all(&mut **at)
    .await
}

/// All certificates of a region. What `known` has already is not read again.
pub async fn all_certificates(
    at: At<'_, '_>,
    region: &str,
    known: &Table,
    ring: &KeyRing,
) -> Result<Vec<Arc<SealedCertificate>>, sqlx::Error> {
    let heads = sqlx::query!(
        r#"select id as "id!", site_id as "site_id: SiteId", hostname as "hostname!",
            version as "version!"
        from routing.certificate where region = $1"#,
        region
    )
    .fetch_all(&mut **at)
    .await?;
    let mut certificates = Vec::with_capacity(heads.len());
    let mut unknown = Vec::new();
    for head in heads {
        match known.certificate(&head.hostname) {
            // What belongs to no site has no version.
            Some(certificate)
                if head.site_id.is_some()
                    && certificate.site_id == head.site_id
                    && certificate.id == head.id
                    && certificate.version == head.version =>
            {
                certificates.push(Arc::clone(certificate));
            }
            _ => unknown.push(head.id),
        }
    }
    // One after the other: their text together is more than the whole table.
    let mut rows = sqlx::query_as!(
        Row,
        r#"select id as "id!", site_id as "site_id: SiteId", hostname as "hostname!",
            chain_pem as "chain_pem!", sealed_key as "sealed_key!", not_after as "not_after!",
            version as "version!"
        from routing.certificate where id = any($1)"#,
        &unknown
    )
    .fetch(&mut **at);
    while let Some(row) = rows.try_next().await? {
        certificates.extend(taken(row, known, ring));
    }
    Ok(certificates)
}

/// The certificates of some sites in a region, and those of no site if `platform`.
pub async fn certificates_of(
    at: At<'_, '_>,
    region: &str,
    sites: &[SiteId],
    platform: bool,
    known: &Table,
    ring: &KeyRing,
) -> Result<Vec<Arc<SealedCertificate>>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"select id as "id!", site_id as "site_id: SiteId", hostname as "hostname!",
            chain_pem as "chain_pem!", sealed_key as "sealed_key!", not_after as "not_after!",
            version as "version!"
        from routing.certificate
        where region = $1 and (site_id = any($2) or ($3 and site_id is null))"#,
        region,
        &uuids(sites),
        platform
    )
    .fetch_all(&mut **at)
    .await?;
    Ok(rows.into_iter().filter_map(|row| taken(row, known, ring)).collect())
}

/// The open challenges of some sites, and those of no site if `platform`; all of them without
/// `sites`. There are few, so nothing is lost where the database looks at each.
pub async fn challenges(
    at: At<'_, '_>,
    sites: Option<&[SiteId]>,
    platform: bool,
) -> Result<Vec<Challenge>, sqlx::Error> {
    let sites = sites.map(uuids);
    let rows = sqlx::query_as!(
        ChallengeRow,
        r#"select id as "id!", site_id as "site_id: SiteId", hostname as "hostname!",
            kind as "kind!: AcmeChallengeKind", token, key_authorization, region, chain_pem,
            sealed_key, expires_at as "expires_at!"
        from routing.challenge
        where $1::uuid[] is null or site_id = any($1) or ($2 and site_id is null)"#,
        sites.as_deref(),
        platform
    )
    .fetch_all(&mut **at)
    .await?;
    Ok(rows.into_iter().filter_map(challenge).collect())
}

/// The open challenge with a token.
///
/// # Errors
/// When the control database does not answer.
pub async fn challenge_with_token(
    pool: &PgPool,
    token: &str,
) -> Result<Option<Challenge>, sqlx::Error> {
    let row = sqlx::query_as!(
        ChallengeRow,
        r#"select id as "id!", site_id as "site_id: SiteId", hostname as "hostname!",
            kind as "kind!: AcmeChallengeKind", token, key_authorization, region, chain_pem,
            sealed_key, expires_at as "expires_at!"
        from routing.challenge where token = $1
        order by expires_at desc limit 1"#,
        token
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.and_then(challenge))
}

fn challenge(row: ChallengeRow) -> Option<Challenge> {
    let hostname = row.hostname.clone();
    match Challenge::try_from(row) {
        Ok(challenge) => Some(challenge),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(host = %hostname, error, "a challenge cannot be used");
            None
        }
    }
}

/// The routers of all regions that take connections over.
pub async fn edges(at: At<'_, '_>) -> Result<Vec<EdgeRow>, sqlx::Error> {
    sqlx::query_as!(
        EdgeRow,
        r#"select name as "name!", region as "region!",
            passthrough_address as "passthrough_address!"
        from routing.edge order by name"#
    )
    .fetch_all(&mut **at)
    .await
}

/// The certificate of a row. One that cannot be used does not push out one that can.
fn taken(row: Row, known: &Table, ring: &KeyRing) -> Option<Arc<SealedCertificate>> {
    let old = known.certificate(&row.hostname).filter(|old| old.site_id == row.site_id);
    let new = SealedCertificate::from_pem(
        row.id,
        row.site_id,
        &row.hostname,
        &row.chain_pem,
        row.sealed_key,
        row.not_after.unix_timestamp(),
        row.version,
    );
    let checked = new.and_then(|new| {
        if old.is_some() {
            new.open(ring)?;
        }
        Ok::<_, CertificateError>(new)
    });
    match checked {
        Ok(new) => Some(Arc::new(new)),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            let kept = old.is_some();
            tracing::error!(host = %row.hostname, kept, error, "a new certificate cannot be used");
            old.map(Arc::clone)
        }
    }
}

fn uuids(sites: &[SiteId]) -> Vec<Uuid> {
    sites.iter().map(|site| site.0).collect()
}
