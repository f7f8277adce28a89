//! The right to drive an operation for a while. Whoever claims later has the higher token, and
//! every write of a step is conditional on it, so a worker that was away too long changes nothing.

use std::time::Duration;

use control_types::{
    OperationId, SiteId,
    state::{OperationKind, OperationState},
};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

use crate::engine::decide::Journal;

/// Why a claim does not hold.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// Another worker has the operation, or it ended.
    #[error("another worker drives the operation")]
    Lost,
    /// The control database does not answer, or refuses.
    #[error("control database")]
    Database(#[from] sqlx::Error),
}

/// A claim on one operation.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The operation.
    pub operation: OperationId,
    /// The token that this claim raised.
    pub token: i64,
    /// How long it holds without a heartbeat.
    pub lease: Duration,
}

/// An operation just claimed.
#[derive(Clone, Debug)]
pub struct Claimed {
    /// The claim.
    pub claim: Claim,
    /// What it does.
    pub kind: OperationKind,
    /// The version of its list of steps.
    pub plan_version: i32,
    /// Its site.
    pub site: SiteId,
    /// What was asked for.
    pub params: Value,
    /// What steps noted.
    pub progress: Value,
    /// Where it stands.
    pub journal: Journal,
    /// When the step at hand was first tried.
    pub step_since: Option<OffsetDateTime>,
}

/// Claims the operation that has waited longest, if any can be driven now.
///
/// # Errors
/// When the control database does not answer.
pub async fn next(
    pool: &PgPool,
    worker: &str,
    lease: Duration,
) -> Result<Option<Claimed>, sqlx::Error> {
    let row = sqlx::query!(
        r#"update operation set
               claimed_by = $1,
               claim_token = claim_token + 1,
               claim_expires_at = now() + make_interval(secs => $2),
               started_at = coalesce(started_at, now())
           where id = (
               select id from operation
               where state in ('queued', 'running', 'unwinding')
                   and wake_at <= now()
                   and (claim_expires_at is null or claim_expires_at < now())
               order by wake_at
               limit 1
               for update skip locked)
           returning id as "id: OperationId", kind as "kind: OperationKind", plan_version,
               site_id as "site_id: SiteId", params, progress, state as "state: OperationState",
               steps_done, attempt, claim_token, cancel_requested_at is not null as "cancelled!",
               (select min(event.at) from operation_event event
                where event.operation_id = operation.id and event.event = 'started'
                    and event.seq > coalesce((
                        select max(done.seq) from operation_event done
                        where done.operation_id = operation.id and done.event = 'succeeded'), 0)
               ) as step_since"#,
        worker,
        lease.as_secs_f64(),
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| Claimed {
        claim: Claim { operation: row.id, token: row.claim_token, lease },
        kind: row.kind,
        plan_version: row.plan_version,
        site: row.site_id,
        params: row.params,
        progress: row.progress,
        journal: Journal {
            state: row.state,
            steps_done: usize::try_from(row.steps_done).unwrap_or(0),
            attempts: u32::try_from(row.attempt).unwrap_or(0),
            cancel_requested: row.cancelled,
        },
        step_since: row.step_since,
    }))
}

/// Lets go of what an earlier process of this name held when it ended.
///
/// # Errors
/// When the control database does not answer.
pub async fn release_own(pool: &PgPool, worker: &str) -> Result<u64, sqlx::Error> {
    let released = sqlx::query!(
        "update operation set claimed_by = null, claim_expires_at = null where claimed_by = $1",
        worker
    )
    .execute(pool)
    .await?;
    Ok(released.rows_affected())
}

/// How long until an operation that waits goes on by itself; none when none waits.
///
/// # Errors
/// When the control database does not answer.
pub async fn next_due(pool: &PgPool) -> Result<Option<Duration>, sqlx::Error> {
    let secs = sqlx::query_scalar!(
        "select extract(epoch from min(wake_at) - now())::float8 from operation
         where state in ('queued', 'running', 'unwinding') and claimed_by is null"
    )
    .fetch_one(pool)
    .await?;
    Ok(secs.map(|secs| Duration::try_from_secs_f64(secs.max(0.0)).unwrap_or_default()))
}

impl Claim {
    /// Locks the operation's row in `connection`'s transaction, if it is still ours. Returns whether
    /// a cancel was asked for.
    ///
    /// # Errors
    /// When it is not ours, or the database does not answer.
    pub async fn check(&self, connection: &mut PgConnection) -> Result<bool, ClaimError> {
        sqlx::query_scalar!(
            r#"select cancel_requested_at is not null as "cancelled!" from operation
               where id = $1 and claim_token = $2 and claimed_by is not null for update"#,
            self.operation.0,
            self.token,
        )
        .fetch_optional(connection)
        .await?
        .ok_or(ClaimError::Lost)
    }

    /// Prolongs the claim again and again; returns only when it is lost.
    pub async fn hold(&self, pool: &PgPool) -> ClaimError {
        let mut held_until = tokio::time::Instant::now() + self.lease;
        loop {
            tokio::time::sleep(self.lease / 4).await;
            let asked_at = tokio::time::Instant::now();
            let beat = sqlx::query!(
                "update operation set claim_expires_at = now() + make_interval(secs => $3)
                 where id = $1 and claim_token = $2 and claimed_by is not null",
                self.operation.0,
                self.token,
                self.lease.as_secs_f64(),
            )
            .execute(pool);
            match tokio::time::timeout_at(held_until, beat).await {
                Ok(Ok(done)) if done.rows_affected() == 1 => held_until = asked_at + self.lease,
                Ok(Ok(_)) => return ClaimError::Lost,
                Ok(Err(_)) if tokio::time::Instant::now() < held_until => {}
                // The database was away for a whole lease: somebody else may have it by now.
                Ok(Err(error)) => return ClaimError::Database(error),
                Err(_) => return ClaimError::Lost,
            }
        }
    }

    /// Whether a cancel was asked for since the operation was claimed.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn cancel_requested(&self, pool: &PgPool) -> Result<bool, sqlx::Error> {
        sqlx::query_scalar!(
            r#"select cancel_requested_at is not null as "cancelled!" from operation where id = $1"#,
            self.operation.0
        )
        .fetch_one(pool)
        .await
    }
}
