//! `operation` and `operation_event`, as far as others than the engine touch them.

use control_types::{
    OperationId, SiteId, Slug,
    state::{OperationKind, OperationState, StepEvent},
};
use provisioner_api::operations::{Operation, OperationEvent, OperationFilter, StepProgress};
use serde_json::Value;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

use crate::{control_db::broken_constraint, operations::planned};

/// An operation as it is first stored.
pub struct NewOperation<'a> {
    /// Its id.
    pub id: OperationId,
    /// What it does.
    pub kind: OperationKind,
    /// Its site.
    pub site: SiteId,
    /// What was asked for. Never a secret.
    pub params: Value,
    /// Who asked.
    pub requested_by: &'a str,
    /// Why.
    pub reason: Option<&'a str>,
    /// The same key again is the same operation.
    pub idempotency_key: Option<&'a str>,
}

/// Why an operation cannot be stored.
#[derive(Debug, thiserror::Error)]
pub enum InsertOperationError {
    /// Another one is unfinished on the site.
    #[error("another operation on the site is unfinished")]
    SiteBusy,
    /// The same request is being stored right now.
    #[error("the same request was made already")]
    Repeated,
    /// The control database does not answer.
    #[error("control database")]
    Database(#[from] sqlx::Error),
}

/// Stores an operation.
///
/// # Errors
/// When another one is unfinished on the site, or the idempotency key was used.
pub async fn insert(
    connection: &mut PgConnection,
    operation: &NewOperation<'_>,
) -> Result<(), InsertOperationError> {
    let outcome = sqlx::query!(
        "insert into operation (id, kind, plan_version, site_id, params, requested_by, reason,
             idempotency_key)
         values ($1, $2, $3, $4, $5, $6, $7, $8)",
        operation.id.0,
        operation.kind as OperationKind,
        planned(operation.kind).plan_version,
        operation.site.0,
        operation.params,
        operation.requested_by,
        operation.reason,
        operation.idempotency_key,
    )
    .execute(connection)
    .await;
    match outcome {
        Ok(_) => Ok(()),
        Err(error) => Err(match broken_constraint(&error) {
            Some("one_live_operation_per_site") => InsertOperationError::SiteBusy,
            Some("operation_idempotency_key_key") => InsertOperationError::Repeated,
            _ => error.into(),
        }),
    }
}

/// The operation that was asked for with this key.
///
/// # Errors
/// When the database does not answer.
pub async fn by_key(pool: &PgPool, key: &str) -> Result<Option<OperationId>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select id as "id: OperationId" from operation where idempotency_key = $1"#,
        key
    )
    .fetch_optional(pool)
    .await
}

/// One operation.
///
/// # Errors
/// When the database does not answer.
pub async fn get(pool: &PgPool, id: OperationId) -> Result<Option<Operation>, sqlx::Error> {
    Ok(select(pool, Some(id), None, false, 1).await?.pop())
}

/// What the operation that made a site was asked for, of this kind; none when another one made it.
///
/// # Errors
/// When the database does not answer.
pub async fn params_of_making(
    pool: &PgPool,
    site: SiteId,
    kind: OperationKind,
) -> Result<Option<Value>, sqlx::Error> {
    sqlx::query_scalar!(
        "select params from operation where site_id = $1 and kind = $2 order by created_at limit 1",
        site.0,
        kind as OperationKind
    )
    .fetch_optional(pool)
    .await
}

/// An operation's site, and what was asked for.
///
/// # Errors
/// When the database does not answer, or the operation is unknown.
pub async fn params(pool: &PgPool, id: OperationId) -> Result<(SiteId, Value), sqlx::Error> {
    let row = sqlx::query!(
        r#"select site_id as "site: SiteId", params from operation where id = $1"#,
        id.0
    )
    .fetch_one(pool)
    .await?;
    Ok((row.site, row.params))
}

/// Operations, the newest first.
///
/// # Errors
/// When the database does not answer.
pub async fn list(
    pool: &PgPool,
    site: Option<SiteId>,
    filter: &OperationFilter,
) -> Result<Vec<Operation>, sqlx::Error> {
    select(pool, None, site, filter.live, filter.limit.unwrap_or(50).clamp(1, 1000)).await
}

async fn select(
    pool: &PgPool,
    id: Option<OperationId>,
    site: Option<SiteId>,
    live: bool,
    limit: i64,
) -> Result<Vec<Operation>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select operation.id as "id: OperationId", operation.kind as "kind: OperationKind",
               operation.site_id as "site_id: SiteId", site.slug,
               operation.state as "state: OperationState", operation.steps_done,
               operation.attempt, operation.cancel_requested_by, operation.last_error,
               operation.requested_by, operation.reason, operation.wake_at, operation.created_at,
               operation.finished_at
           from operation join site on site.id = operation.site_id
           where ($1::uuid is null or operation.id = $1)
               and ($2::uuid is null or operation.site_id = $2)
               and (not $3 or operation.state in ('queued', 'running', 'unwinding', 'stuck'))
           order by operation.created_at desc, operation.id desc limit $4"#,
        id.map(|id| id.0),
        site.map(|id| id.0),
        live,
        limit,
    )
    .fetch_all(pool)
    .await?;
    rows.into_iter()
        .map(|row| {
            let planned = planned(row.kind);
            let done = usize::try_from(row.steps_done).unwrap_or(0);
            let attempts = u32::try_from(row.attempt).unwrap_or(0);
            let forward = matches!(row.state, OperationState::Queued | OperationState::Running);
            let steps = planned.steps.iter().enumerate().map(|(index, step)| StepProgress {
                step: step.clone(),
                done: index < done,
                is_pivot: Some(index) == planned.shape.pivot,
            });
            let slug: Slug =
                row.slug.parse().map_err(|error| sqlx::Error::Decode(Box::new(error)))?;
            let waits = !row.state.is_final() && row.wake_at > OffsetDateTime::now_utc();
            Ok(Operation {
                id: row.id,
                kind: row.kind,
                site_id: row.site_id,
                site: slug,
                state: row.state,
                steps: steps.collect(),
                steps_done: u32::try_from(row.steps_done).unwrap_or(0),
                can_cancel: forward && !planned.shape.is_past_pivot(done, attempts),
                cancel_requested_by: row.cancel_requested_by,
                last_error: row.last_error,
                runbook: (row.state == OperationState::Stuck)
                    .then(|| "ops/runbooks/stuck_operation.md".to_owned()),
                requested_by: row.requested_by,
                reason: row.reason,
                waits_until: waits.then_some(row.wake_at),
                created_at: row.created_at,
                finished_at: row.finished_at,
            })
        })
        .collect()
}

/// The events of an operation after a place in its log.
///
/// # Errors
/// When the database does not answer.
pub async fn events(
    pool: &PgPool,
    id: OperationId,
    after_seq: i32,
) -> Result<Vec<OperationEvent>, sqlx::Error> {
    sqlx::query_as!(
        OperationEvent,
        r#"select seq, step, event as "event: StepEvent", attempt, detail, at
           from operation_event where operation_id = $1 and seq > $2 order by seq"#,
        id.0,
        after_seq
    )
    .fetch_all(pool)
    .await
}

/// Notes that somebody wants the operation to stop, and wakes it. False when it has ended or is
/// past its pivot.
///
/// # Errors
/// When the database does not answer.
pub async fn request_cancel(
    connection: &mut PgConnection,
    id: OperationId,
    actor: &str,
) -> Result<bool, sqlx::Error> {
    let row = sqlx::query!(
        r#"select kind as "kind: OperationKind", state as "state: OperationState", steps_done,
               attempt
           from operation where id = $1 for update"#,
        id.0
    )
    .fetch_one(&mut *connection)
    .await?;
    let forward = matches!(row.state, OperationState::Queued | OperationState::Running);
    let done = usize::try_from(row.steps_done).unwrap_or(0);
    let attempts = u32::try_from(row.attempt).unwrap_or(0);
    if !forward || planned(row.kind).shape.is_past_pivot(done, attempts) {
        return Ok(false);
    }
    sqlx::query!(
        "update operation set wake_at = now(),
             cancel_requested_by = coalesce(cancel_requested_by, $2),
             cancel_requested_at = coalesce(cancel_requested_at, now())
         where id = $1",
        id.0,
        actor
    )
    .execute(connection)
    .await?;
    Ok(true)
}

/// How long the last operations of a kind worked, in milliseconds: the median over the last 50 that
/// succeeded, of their steps that did not wait for something elsewhere.
///
/// # Errors
/// When the database does not answer.
pub async fn typical_ms(pool: &PgPool, kind: OperationKind) -> Result<Option<u64>, sqlx::Error> {
    let ms = sqlx::query_scalar!(
        "select percentile_cont(0.5) within group (order by took) from (
             select sum(step.took) as took from (
                 select id from operation where kind = $1 and state = 'succeeded'
                 order by created_at desc limit 50) recent
             cross join lateral (
                 select extract(epoch from max(at) filter (where event = 'succeeded')
                     - min(at) filter (where event = 'started'))::float8 * 1000 as took
                 from operation_event where operation_id = recent.id
                 group by step having not bool_or(event = 'waiting')) step
             group by recent.id) operation",
        kind as OperationKind
    )
    .fetch_one(pool)
    .await?;
    Ok(ms
        .map(|ms| std::time::Duration::from_secs_f64(ms.max(0.0) / 1000.0))
        .map(|took| u64::try_from(took.as_millis()).unwrap_or(u64::MAX)))
}

/// How many operations are unfinished, and how many of these are stuck.
///
/// # Errors
/// When the database does not answer.
pub async fn count_live(pool: &PgPool) -> Result<(i64, i64), sqlx::Error> {
    let counts = sqlx::query!(
        r#"select count(*) as "live!", count(*) filter (where state = 'stuck') as "stuck!"
           from operation where state in ('queued', 'running', 'unwinding', 'stuck')"#
    )
    .fetch_one(pool)
    .await?;
    Ok((counts.live, counts.stuck))
}

/// Lets a stuck operation try again where it stopped. False when it is not stuck.
///
/// # Errors
/// When the database does not answer.
pub async fn retry(connection: &mut PgConnection, id: OperationId) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update operation set state = stuck_while, stuck_while = null, wake_at = now()
         where id = $1 and state = 'stuck'",
        id.0
    )
    .execute(connection)
    .await?;
    Ok(done.rows_affected() == 1)
}
