//! What a learner has done. A content is done when the learner says so; a module when all its
//! contents are; a course when all of its contents are. Percentages are computed, never stored.

use axum::{
    extract::Path,
    response::{IntoResponse as _, Redirect, Response},
};
use serde::Serialize;
use sqlx::{PgPool, Postgres, Transaction};
use uuid::Uuid;

use crate::{
    courses::{Course, outline},
    enrolments::Enrolment,
    form::{Form, Nothing},
    rejection::Rejection,
};

/// Pages opened with a longer pause between them belong to two stretches of study.
const PAUSE_MINUTES: i32 = 30;

/// How far somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Progress {
    /// Contents done.
    pub done: i64,
    /// Contents in all.
    pub all: i64,
    /// 100 only when everything is done, 0 only when nothing is.
    pub percent: i64,
}

impl Progress {
    /// Of so many contents so many.
    pub fn of(done: i64, all: i64) -> Self {
        let done = done.clamp(0, all.max(0));
        let percent = match (done, all) {
            (_, ..=0) | (0, _) => 0,
            (done, all) => (done * 100 / all).max(1),
        };
        Self { done, all, percent }
    }
}

/// `POST /courses/{slug}/lessons/{content}/done`. Can be sent twice.
pub async fn mark_done(
    Path((slug, content)): Path<(String, Uuid)>,
    Form(visit, Nothing {}): Form<Nothing>,
) -> Result<Response, Rejection> {
    let account = visit.signed_in()?;
    let course = Course::find(&visit, &slug).await?;
    let database = visit.site.database().await?;
    let enrolment = Enrolment::find(database, course.id, account.id).await?;
    let Some(enrolment) = enrolment.filter(Enrolment::opens_lessons) else {
        return Err(Rejection::Forbidden);
    };
    let mut transaction = database.begin().await?;
    record(&mut transaction, course.id, enrolment.id, content).await?;
    transaction.commit().await?;
    let modules = outline::of(database, course.id, Some(enrolment.id)).await?;
    let home = format!("/courses/{}/learn", course.slug);
    let to = match outline::around(&modules, content).1 {
        _ if outline::progress(&modules).percent == 100 => home,
        Some(next) => format!("/courses/{}/lessons/{}", course.slug, next.id),
        None => home,
    };
    Ok(Redirect::to(&to).into_response())
}

async fn record(
    transaction: &mut Transaction<'_, Postgres>,
    course: Uuid,
    enrolment: Uuid,
    content: Uuid,
) -> Result<(), Rejection> {
    // Two clicks at once on the last two contents: one waits here and sees what the other did.
    sqlx::query!("select id from enrolment where id = $1 for update", enrolment)
        .fetch_one(&mut **transaction)
        .await?;
    let module = sqlx::query_scalar!(
        "select t.module_id from content t join module m on m.id = t.module_id
         where t.id = $1 and m.course_id = $2",
        content,
        course
    )
    .fetch_optional(&mut **transaction)
    .await?
    .ok_or(Rejection::NotFound)?;
    sqlx::query!(
        "insert into content_progress as p (enrolment_id, content_id, completed_at)
         values ($1, $2, now())
         on conflict (enrolment_id, content_id)
             do update set completed_at = coalesce(p.completed_at, now())",
        enrolment,
        content
    )
    .execute(&mut **transaction)
    .await?;
    sqlx::query!(
        "insert into module_progress (enrolment_id, module_id)
         select $1, $2 where not exists (
             select from content t left join content_progress p
                 on p.content_id = t.id and p.enrolment_id = $1 and p.completed_at is not null
             where t.module_id = $2 and p.content_id is null)
         on conflict do nothing",
        enrolment,
        module
    )
    .execute(&mut **transaction)
    .await?;
    sqlx::query!(
        "update enrolment set last_activity_at = now(),
             state = case when state = 'enrolled' and all_done then 'completed' else state end,
             completed_at = case when all_done then coalesce(completed_at, now())
                                 else completed_at end
         from (select not exists (
                   select from content t join module m on m.id = t.module_id
                   left join content_progress p
                       on p.content_id = t.id and p.enrolment_id = $1 and p.completed_at is not null
                   where m.course_id = $2 and p.content_id is null) as all_done) seen
         where id = $1",
        enrolment,
        course
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Remembers that a content was opened, for going on later and for the time spent.
///
/// # Errors
/// When the database refuses; reading goes on without.
pub async fn seen(database: &PgPool, enrolment: Uuid, content: Uuid) -> Result<(), Rejection> {
    let mut transaction = database.begin().await?;
    sqlx::query!(
        "insert into content_progress as p (enrolment_id, content_id) values ($1, $2)
         on conflict (enrolment_id, content_id)
             do update set last_viewed_at = now(), view_count = p.view_count + 1",
        enrolment,
        content
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!(
        "update enrolment set last_content_id = $2, last_activity_at = now() where id = $1",
        enrolment,
        content
    )
    .execute(&mut *transaction)
    .await?;
    let going_on = sqlx::query!(
        "update learning_session set last_seen_at = now(), content_id = $2
         where id = (select id from learning_session where enrolment_id = $1
                     and last_seen_at > now() - make_interval(mins => $3)
                     order by last_seen_at desc limit 1)",
        enrolment,
        content,
        PAUSE_MINUTES
    )
    .execute(&mut *transaction)
    .await?;
    if going_on.rows_affected() == 0 {
        sqlx::query!(
            "insert into learning_session (enrolment_id, content_id) values ($1, $2)",
            enrolment,
            content
        )
        .execute(&mut *transaction)
        .await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// The time spent in a course.
///
/// # Errors
/// When the database does not answer.
pub async fn minutes(database: &PgPool, enrolment: Uuid) -> Result<i64, Rejection> {
    let minutes = sqlx::query_scalar!(
        r#"select coalesce(ceil(extract(epoch from sum(last_seen_at - started_at)) / 60), 0)::bigint
               as "minutes!"
           from learning_session where enrolment_id = $1"#,
        enrolment
    )
    .fetch_one(database)
    .await?;
    Ok(minutes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn percentages_are_honest(done in -5_i64..2000, all in -5_i64..2000) {
            let progress = Progress::of(done, all);
            prop_assert!((0..=100).contains(&progress.percent));
            prop_assert_eq!(progress.percent == 100, all > 0 && done >= all);
            prop_assert_eq!(progress.percent == 0, all <= 0 || done <= 0);
        }
    }
}
