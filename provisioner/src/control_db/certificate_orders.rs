//! `certificate_order`: the work on the certificate of each hostname in each region. Who works on
//! one holds a claim, and every write is conditional on it, so that a worker that was away too long
//! changes nothing.

use std::time::Duration;

use control_types::{
    SiteId,
    state::{AcmeChallengeKind, CertificateFault},
};
use sqlx::{PgConnection, PgPool, postgres::PgQueryResult};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    acme::schedule::{TAKE_OVER, Window},
    control_db::certificates::{self, NewCertificate},
};

mod explain;
mod health;

pub use explain::explain;
pub use health::{Health, health};

/// Why a write was not done.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another worker has the name, or nobody wants it any more.
    #[error("another worker has the name now")]
    Lost,
    /// The control database does not answer, or refuses.
    #[error("control database")]
    Database(#[from] sqlx::Error),
}

/// The right to work on a name for a while.
#[derive(Clone, Copy, Debug)]
pub struct Claim {
    /// The row.
    pub order: Uuid,
    /// Drawn anew by everybody who claims.
    pub token: Uuid,
}

/// A name just claimed.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The row.
    pub id: Uuid,
    /// Whose; none for the platform's own.
    pub site: Option<SiteId>,
    /// The name.
    pub hostname: String,
    /// Where it serves.
    pub region: String,
    /// The authority whose turn it is; none for the first one.
    pub authority: Option<String>,
    /// How often that one failed in a row, by its own fault.
    pub authority_failures: i32,
    /// How to prove the name; none for the preferred way.
    pub challenge: Option<AcmeChallengeKind>,
    /// The open order.
    pub order_url: Option<String>,
    /// The certificate in the making, and its sealed key.
    pub certificate_id: Option<Uuid>,
    /// Sealed for the row that the certificate will have.
    pub sealed_key: Option<Vec<u8>>,
    /// Failures in a row.
    pub failures: i32,
    /// The window that the authority suggested.
    pub window_start: Option<OffsetDateTime>,
    /// Its end.
    pub window_end: Option<OffsetDateTime>,
    /// The moment drawn from it.
    pub renew_at: Option<OffsetDateTime>,
    /// When to ask for it again.
    pub window_check_at: Option<OffsetDateTime>,
    /// Whether somebody wants a new one now.
    pub renew_requested: bool,
    /// Of this claim.
    pub token: Uuid,
}

impl Claimed {
    /// The claim.
    pub fn claim(&self) -> Claim {
        Claim { order: self.id, token: self.token }
    }

    /// What the authority suggested.
    pub fn window(&self) -> Option<Window> {
        Some(Window { start: self.window_start?, end: self.window_end? })
    }
}

/// Brings the rows to what is wanted: one for every hostname that a public authority certifies,
/// none for others. Names below `localhost` are certified by the local authority alone.
///
/// # Errors
/// When the database does not answer.
pub async fn sync(pool: &PgPool, platform_domain: &str) -> Result<(), sqlx::Error> {
    let wildcard_until = OffsetDateTime::now_utc() + TAKE_OVER;
    let mut tx = pool.begin().await?;
    // A conflict locks the row, so those that are right already must not come to one: workers write
    // to them all the time.
    sqlx::query!(
        "insert into certificate_order (id, site_id, hostname, region)
         select gen_random_uuid(), wanted.site_id, wanted.hostname, wanted.region
         from certificate_wanted($1, $2) wanted
         where wanted.hostname <> 'localhost' and wanted.hostname not like '%.localhost'
             and not exists (
                 select from certificate_order known
                 where known.hostname = wanted.hostname and known.region = wanted.region
                     and known.site_id is not distinct from wanted.site_id)
         on conflict (hostname, region) do update
             set site_id = excluded.site_id, failures = 0, next_at = now()
             where certificate_order.site_id is distinct from excluded.site_id",
        platform_domain,
        wildcard_until,
    )
    .execute(&mut *tx)
    .await?;
    // A site that is being created, or moves, asks for its names itself.
    sqlx::query!(
        "delete from certificate_order
         where not exists (
                 select from certificate_wanted($1, $2) wanted
                 where wanted.hostname = certificate_order.hostname
                     and wanted.region = certificate_order.region)
             and not exists (
                 select from site where site.id = certificate_order.site_id
                     and site.state = 'creating')
             and not exists (
                 select from placement where placement.site_id = certificate_order.site_id
                     and placement.region = certificate_order.region
                     and placement.state = 'preparing')
             and (claim_expires_at is null or claim_expires_at < now())",
        platform_domain,
        wildcard_until,
    )
    .execute(&mut *tx)
    .await?;
    // The certificate went with a domain that came back.
    sqlx::query!(
        "update certificate_order
         set state = 'wanted', failures = 0, next_at = now()
         where state = 'issued' and not exists (
             select from certificate where certificate.hostname = certificate_order.hostname
                 and certificate.region = certificate_order.region)"
    )
    .execute(&mut *tx)
    .await?;
    tx.commit().await
}

/// Wants a certificate before the site is placed. Nothing happens when the name has a row.
///
/// # Errors
/// When the database does not answer, or refuses the region.
pub async fn want(
    connection: &mut PgConnection,
    site: SiteId,
    hostname: &str,
    region: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into certificate_order (id, site_id, hostname, region)
         values (gen_random_uuid(), $1, $2, $3)
         on conflict (hostname, region) do update
             set site_id = excluded.site_id, failures = 0, next_at = now()
             where certificate_order.site_id is distinct from excluded.site_id",
        site.0,
        hostname,
        region
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Removes what a site ordered, in one region or in all.
///
/// # Errors
/// When the database does not answer.
pub async fn delete(
    connection: &mut PgConnection,
    site: SiteId,
    region: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from certificate_order where site_id = $1 and ($2::text is null or region = $2)",
        site.0,
        region
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Asks for a new certificate now. Says whether there is such a row.
///
/// # Errors
/// When the database does not answer.
pub async fn request_renewal(
    connection: &mut PgConnection,
    hostname: &str,
    region: &str,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update certificate_order set renew_requested = true, next_at = now()
         where hostname = $1 and region = $2",
        hostname,
        region
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Lets a name be looked at again, since its certificate was replaced.
///
/// # Errors
/// When the database does not answer.
pub async fn look_again(
    connection: &mut PgConnection,
    hostname: &str,
    region: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update certificate_order set next_at = now(), window_start = null, window_end = null,
             renew_at = null, window_check_at = null
         where hostname = $1 and region = $2",
        hostname,
        region
    )
    .execute(connection)
    .await?;
    Ok(())
}

/// Lets a hostname of a site be tried now that failed by what its DNS said: it says something else.
///
/// # Errors
/// When the database does not answer.
pub async fn dns_changed(pool: &PgPool, site: SiteId, hostname: &str) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update certificate_order set next_at = now()
         where site_id = $1 and hostname = $2 and state = 'failing' and last_fault = 'name'
             and next_at > now()",
        site.0,
        hostname
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Claims up to `n` names that have their time, those that failed least first: names that fail can
/// be many, and must not hold up others.
///
/// # Errors
/// When the database does not answer.
pub async fn claim(
    pool: &PgPool,
    worker: &str,
    lease: Duration,
    n: usize,
) -> Result<Vec<Claimed>, sqlx::Error> {
    sqlx::query_as!(
        Claimed,
        r#"update certificate_order
           set claimed_by = $1, claim_token = gen_random_uuid(),
               claim_expires_at = now() + make_interval(secs => $2)
           where id in (
               select id from certificate_order
               where next_at <= now() and (claim_expires_at is null or claim_expires_at < now())
               order by failures, next_at
               limit $3
               for update skip locked)
           returning id, site_id as "site: SiteId", hostname, region, authority,
               authority_failures, challenge as "challenge: AcmeChallengeKind", order_url,
               certificate_id, sealed_key, failures, window_start, window_end, renew_at,
               window_check_at, renew_requested, claim_token as "token!""#,
        worker,
        lease.as_secs_f64(),
        i64::try_from(n).unwrap_or(i64::MAX),
    )
    .fetch_all(pool)
    .await
}

/// In how long the next name has its time, if any has.
///
/// # Errors
/// When the database does not answer.
pub async fn next_due(pool: &PgPool) -> Result<Option<Duration>, sqlx::Error> {
    let secs = sqlx::query_scalar!(
        r#"select extract(epoch from min(greatest(next_at, coalesce(claim_expires_at, next_at)))
               - now())::float8 as "secs"
           from certificate_order"#
    )
    .fetch_one(pool)
    .await?;
    Ok(secs.map(|secs| Duration::try_from_secs_f64(secs.max(0.0)).unwrap_or(Duration::ZERO)))
}

fn held(done: &PgQueryResult) -> Result<(), ClaimError> {
    if done.rows_affected() == 1 { Ok(()) } else { Err(ClaimError::Lost) }
}

impl Claim {
    /// Holds on to the claim.
    ///
    /// # Errors
    /// When it does not hold any more, or the database does not answer.
    pub async fn extend(&self, pool: &PgPool, lease: Duration) -> Result<(), ClaimError> {
        let done = sqlx::query!(
            "update certificate_order set claim_expires_at = now() + make_interval(secs => $3)
             where id = $1 and claim_token = $2 and claim_expires_at > now()",
            self.order,
            self.token,
            lease.as_secs_f64(),
        )
        .execute(pool)
        .await?;
        held(&done)
    }

    /// Fails unless the claim holds; it does until the end of the transaction.
    ///
    /// # Errors
    /// When it does not hold any more, or the database does not answer.
    pub async fn check(&self, connection: &mut PgConnection) -> Result<(), ClaimError> {
        let found = sqlx::query_scalar!(
            "select id from certificate_order
             where id = $1 and claim_token = $2 and claim_expires_at > now() for update",
            self.order,
            self.token,
        )
        .fetch_optional(connection)
        .await?;
        found.map(drop).ok_or(ClaimError::Lost)
    }

    /// Notes the certificate that is to be, and its sealed key.
    ///
    /// # Errors
    /// When the claim does not hold any more, or the database does not answer.
    pub async fn note_key(
        &self,
        pool: &PgPool,
        certificate: Uuid,
        sealed_key: &[u8],
    ) -> Result<(), ClaimError> {
        let done = sqlx::query!(
            "update certificate_order set certificate_id = $3, sealed_key = $4
             where id = $1 and claim_token = $2 and claim_expires_at > now()",
            self.order,
            self.token,
            certificate,
            sealed_key,
        )
        .execute(pool)
        .await?;
        held(&done)
    }

    /// Notes that an authority is about to be asked for an order. Says whether one was asked
    /// before and nobody heard the answer: then it may have an order that nobody knows of.
    ///
    /// # Errors
    /// When the claim does not hold any more, or the database does not answer.
    pub async fn note_placing(&self, pool: &PgPool) -> Result<bool, ClaimError> {
        let is_unsure = sqlx::query_scalar!(
            r#"with before as (
                   select id, placing_since is not null as is_unsure from certificate_order
                   where id = $1 for update)
               update certificate_order
               set placing_since = now(), n_unsure = n_unsure + before.is_unsure::integer
               from before
               where certificate_order.id = before.id and claim_token = $2
                   and claim_expires_at > now()
               returning before.is_unsure as "is_unsure!""#,
            self.order,
            self.token,
        )
        .fetch_optional(pool)
        .await?;
        is_unsure.ok_or(ClaimError::Lost)
    }

    /// Notes that the authority took no order.
    ///
    /// # Errors
    /// When somebody else has the name, or the database does not answer.
    pub async fn note_refused(&self, pool: &PgPool) -> Result<(), ClaimError> {
        let done = sqlx::query!(
            "update certificate_order set placing_since = null
             where id = $1 and claim_token = $2",
            self.order,
            self.token,
        )
        .execute(pool)
        .await?;
        held(&done)
    }

    /// Notes an order at an authority. The claim may be over, if nobody else has claimed: who comes
    /// next needs to know of the order.
    ///
    /// # Errors
    /// When somebody else has the name, or the database does not answer.
    pub async fn note_order(
        &self,
        pool: &PgPool,
        authority: &str,
        order_url: &str,
    ) -> Result<(), ClaimError> {
        let done = sqlx::query!(
            "update certificate_order set authority = $3, order_url = $4, state = 'ordered',
                 placing_since = null
             where id = $1 and claim_token = $2",
            self.order,
            self.token,
            authority,
            order_url,
        )
        .execute(pool)
        .await?;
        held(&done)
    }

    /// Puts the new certificate in the place of the old one, and removes what was only needed on
    /// the way. `authority` issued it.
    ///
    /// # Errors
    /// When the claim does not hold any more, or the database does not answer or refuses the region.
    pub async fn finish(
        &self,
        pool: &PgPool,
        certificate: NewCertificate<'_>,
        renew_at: OffsetDateTime,
        challenge: Option<AcmeChallengeKind>,
    ) -> Result<(), ClaimError> {
        let mut tx = pool.begin().await?;
        self.check(&mut tx).await?;
        // The name may have gone to another site in the meantime.
        let site = sqlx::query_scalar!(
            r#"select site_id as "site: SiteId" from certificate_order where id = $1"#,
            self.order
        )
        .fetch_one(&mut *tx)
        .await?;
        certificates::put(&mut tx, &NewCertificate { site, ..certificate }).await?;
        sqlx::query!("delete from acme_challenge where order_id = $1", self.order)
            .execute(&mut *tx)
            .await?;
        sqlx::query!(
            "update certificate_order set state = 'issued', order_url = null, authority = null,
                 authority_failures = 0, certificate_id = null, sealed_key = null, failures = 0,
                 placing_since = null, last_error = null, last_fault = null, last_error_at = null,
                 window_start = null, window_end = null, renew_at = $2, window_check_at = now(), renew_requested = false,
                 challenge = $3, next_at = now(), claimed_by = null, claim_token = null,
                 claim_expires_at = null
             where id = $1",
            self.order,
            renew_at,
            challenge as Option<AcmeChallengeKind>,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Lets go of a name that has its certificate, until `next_at`.
    ///
    /// # Errors
    /// When the claim does not hold any more, or the database does not answer.
    pub async fn rest(&self, pool: &PgPool, rest: &Rest) -> Result<(), ClaimError> {
        let done = sqlx::query!(
            "update certificate_order set window_start = $3, window_end = $4, renew_at = $5,
                 window_check_at = $6, next_at = $7, state = 'issued', failures = 0,
                 placing_since = null, last_error = null, last_fault = null, last_error_at = null, claimed_by = null,
                 claim_token = null, claim_expires_at = null
             where id = $1 and claim_token = $2 and claim_expires_at > now()
                 and not renew_requested and order_url is null",
            self.order,
            self.token,
            rest.window.map(|window| window.start),
            rest.window.map(|window| window.end),
            rest.renew_at,
            rest.ask_at,
            rest.next_at,
        )
        .execute(pool)
        .await?;
        held(&done)
    }

    /// Lets go after a failure, or before the end. Removes the challenges unless the order stays.
    ///
    /// # Errors
    /// When the claim does not hold any more, or the database does not answer.
    pub async fn put_back(&self, pool: &PgPool, back: &PutBack<'_>) -> Result<(), ClaimError> {
        let mut tx = pool.begin().await?;
        self.check(&mut tx).await?;
        if !back.keeps_order {
            sqlx::query!("delete from acme_challenge where order_id = $1", self.order)
                .execute(&mut *tx)
                .await?;
        }
        sqlx::query!(
            "update certificate_order set
                 order_url = case when $2 then order_url end,
                 state = case when $2 and order_url is not null
                     then 'ordered'::certificate_order_state else 'failing' end,
                 authority = $3, authority_failures = $4, challenge = $5, failures = $6,
                 last_error = $7, last_fault = $8, last_error_at = now(), next_at = $9,
                 claimed_by = null, claim_token = null, claim_expires_at = null
             where id = $1",
            self.order,
            back.keeps_order,
            back.authority,
            back.authority_failures,
            back.challenge as Option<AcmeChallengeKind>,
            back.failures,
            back.error.0,
            back.error.1 as CertificateFault,
            back.next_at,
        )
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Gives the name to whoever comes next, as it is: the provisioner stops.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn release(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        sqlx::query!(
            "update certificate_order set claimed_by = null, claim_token = null,
                 claim_expires_at = null
             where id = $1 and claim_token = $2",
            self.order,
            self.token,
        )
        .execute(pool)
        .await?;
        Ok(())
    }
}

/// Until when a name rests.
#[derive(Clone, Copy, Debug)]
pub struct Rest {
    /// What the authority suggested.
    pub window: Option<Window>,
    /// When to renew.
    pub renew_at: Option<OffsetDateTime>,
    /// When to ask the authority again.
    pub ask_at: Option<OffsetDateTime>,
    /// The earlier of both.
    pub next_at: OffsetDateTime,
}

/// How a name is put back.
#[derive(Clone, Debug)]
pub struct PutBack<'a> {
    /// Whether the order can be taken up again.
    pub keeps_order: bool,
    /// Whose turn it is next; none for the first.
    pub authority: Option<&'a str>,
    /// That one's failures in a row.
    pub authority_failures: i32,
    /// How to prove the name next; none for the preferred way.
    pub challenge: Option<AcmeChallengeKind>,
    /// Failures in a row.
    pub failures: i32,
    /// The failure in words, and whose fault it is.
    pub error: (&'a str, CertificateFault),
    /// When to try again.
    pub next_at: OffsetDateTime,
}
