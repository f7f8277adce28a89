//! Who is in a course, and how people get in and out.

use axum::{
    extract::Path,
    response::{IntoResponse as _, Redirect, Response},
};
use serde::{Deserialize, Serialize};
use sqlx::{PgPool, Postgres, Transaction};
use uuid::Uuid;

use crate::{
    courses::{Course, EnrolmentType, Pricing, Status, keeps},
    form::{Form, Nothing},
    rejection::Rejection,
    visit::Visit,
};

/// How far the relation of a person to a course is. The diagram is in `migrations/site`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, sqlx::Type)]
#[sqlx(type_name = "enrolment_state", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Asked to be let in.
    Pending,
    /// In.
    Enrolled,
    /// Has done everything, and stays in.
    Completed,
    /// Was in; the subscription ended.
    Paused,
    /// Left.
    Withdrawn,
    /// Not let in.
    Rejected,
}

/// By which right somebody is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::Type)]
#[sqlx(type_name = "enrolment_access", rename_all = "lowercase")]
pub enum Access {
    /// The course is free.
    Free,
    /// Paid for, for good.
    Purchased,
    /// While a subscription runs.
    Subscription,
}

impl State {
    /// Whether lessons can be read.
    pub fn opens_lessons(self, access: Access) -> bool {
        match self {
            Self::Enrolled | Self::Completed => true,
            Self::Paused => access != Access::Subscription,
            Self::Pending | Self::Withdrawn | Self::Rejected => false,
        }
    }
}

/// A person in a course.
#[derive(Clone, Debug, Serialize)]
pub struct Enrolment {
    /// The id.
    #[serde(skip)]
    pub id: Uuid,
    /// How far.
    pub state: State,
    /// By which right.
    #[serde(skip)]
    pub access: Access,
    /// Why not let in.
    pub rejection_reason: Option<String>,
    /// Where to go on.
    #[serde(skip)]
    pub last_content_id: Option<Uuid>,
}

impl Enrolment {
    /// Whether lessons can be read.
    pub fn opens_lessons(&self) -> bool {
        self.state.opens_lessons(self.access)
    }

    /// A person's enrolment in a course.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn find(
        database: &PgPool,
        course: Uuid,
        account: Uuid,
    ) -> Result<Option<Self>, Rejection> {
        let enrolment = sqlx::query_as!(
            Self,
            r#"select id, state as "state: State", access as "access: Access", rejection_reason,
                      last_content_id
               from enrolment where course_id = $1 and account_id = $2"#,
            course,
            account
        )
        .fetch_optional(database)
        .await?;
        Ok(enrolment)
    }
}

/// `POST /courses/{slug}/enrol`. Can be sent twice.
pub async fn enrol(
    Path(slug): Path<String>,
    Form(visit, Nothing {}): Form<Nothing>,
) -> Result<Response, Rejection> {
    let course = Course::find(&visit, &slug).await?;
    let page = format!("/courses/{}", course.slug);
    let Some(account) = &visit.account else { return Err(Rejection::SignIn(page)) };
    if course.status != Status::Published {
        return Err(Rejection::NotFound);
    }
    if course.pricing != Pricing::Free {
        return Err(Rejection::Conflict("enrol-not-free", course.title));
    }
    let state = match course.enrolment_type {
        EnrolmentType::Open => State::Enrolled,
        EnrolmentType::Approval => State::Pending,
        EnrolmentType::Restricted => {
            return Err(Rejection::Conflict("enrol-restricted", course.title));
        }
    };
    let mut transaction = visit.site.database().await?.begin().await?;
    take_seat(&mut transaction, &course, account.id).await?;
    let row = sqlx::query!(
        r#"insert into enrolment as e (course_id, account_id, state, enrolled_at)
           values ($1, $2, $3, case when $3 = 'enrolled'::enrolment_state then now() end)
           on conflict (course_id, account_id) do update set
               -- Whoever left may come back, and finds what was done.
               state = case when e.state <> 'withdrawn' then e.state
                            when $3 = 'enrolled' and e.completed_at is not null then 'completed'
                            else $3 end,
               requested_at = case when e.state = 'withdrawn' then now() else e.requested_at end,
               enrolled_at = coalesce(e.enrolled_at, excluded.enrolled_at)
           returning state as "state: State", access as "access: Access""#,
        course.id,
        account.id,
        state as State
    )
    .fetch_one(&mut *transaction)
    .await?;
    transaction.commit().await?;
    let to = if row.state.opens_lessons(row.access) { format!("{page}/learn") } else { page };
    Ok(Redirect::to(&to).into_response())
}

/// Checks that one more fits. The course's row is locked, so that two do not take the last seat.
async fn take_seat(
    transaction: &mut Transaction<'_, Postgres>,
    course: &Course,
    account: Uuid,
) -> Result<(), Rejection> {
    let Some(most) = course.max_capacity else { return Ok(()) };
    sqlx::query!("select id from course where id = $1 for update", course.id)
        .fetch_one(&mut **transaction)
        .await?;
    let taken = sqlx::query_scalar!(
        r#"select count(*) as "taken!" from enrolment
           where course_id = $1 and account_id <> $2
             and state in ('pending', 'enrolled', 'completed', 'paused')"#,
        course.id,
        account
    )
    .fetch_one(&mut **transaction)
    .await?;
    if taken >= i64::from(most) {
        return Err(Rejection::Conflict("enrol-full", course.title.clone()));
    }
    Ok(())
}

/// `POST /courses/{slug}/withdraw`. What was done is kept.
pub async fn withdraw(
    Path(slug): Path<String>,
    Form(visit, Nothing {}): Form<Nothing>,
) -> Result<Response, Rejection> {
    let account = visit.signed_in()?;
    let course = Course::find(&visit, &slug).await?;
    sqlx::query!(
        "update enrolment set state = 'withdrawn'
         where course_id = $1 and account_id = $2
           and state in ('pending', 'enrolled', 'completed', 'paused')",
        course.id,
        account.id
    )
    .execute(visit.site.database().await?)
    .await?;
    Ok(Redirect::to(&format!("/courses/{}", course.slug)).into_response())
}

/// `POST /studio/enrolments/{enrolment}/approve`
pub async fn approve(
    Path(enrolment): Path<Uuid>,
    Form(visit, Nothing {}): Form<Nothing>,
) -> Result<Response, Rejection> {
    decide(&visit, enrolment, State::Enrolled, None).await
}

/// The form.
#[derive(Deserialize)]
pub struct Refusal {
    reason: String,
}

/// `POST /studio/enrolments/{enrolment}/reject`
pub async fn reject(
    Path(enrolment): Path<Uuid>,
    Form(visit, refusal): Form<Refusal>,
) -> Result<Response, Rejection> {
    let reason: String = refusal.reason.trim().chars().take(1000).collect();
    decide(&visit, enrolment, State::Rejected, Some(reason)).await
}

async fn decide(
    visit: &Visit,
    enrolment: Uuid,
    state: State,
    reason: Option<String>,
) -> Result<Response, Rejection> {
    let account = visit.teacher()?;
    let database = visit.site.database().await?;
    let course = sqlx::query!(
        "select c.owner_id, c.slug from enrolment e join course c on c.id = e.course_id
         where e.id = $1",
        enrolment
    )
    .fetch_optional(database)
    .await?
    .ok_or(Rejection::NotFound)?;
    if !keeps(account.role, account.id, course.owner_id) {
        return Err(Rejection::NotFound);
    }
    let mut transaction = database.begin().await?;
    let decided = sqlx::query!(
        "update enrolment set state = $2, decided_at = now(), decided_by = $3,
             rejection_reason = $4,
             enrolled_at = case when $2 = 'enrolled'::enrolment_state then now() end
         where id = $1 and state = 'pending'",
        enrolment,
        state as State,
        account.id,
        reason
    )
    .execute(&mut *transaction)
    .await?;
    if decided.rows_affected() > 0 {
        let action =
            if state == State::Enrolled { "enrolment.approve" } else { "enrolment.reject" };
        crate::studio::note(&mut transaction, visit, action, enrolment).await?;
    }
    transaction.commit().await?;
    Ok(Redirect::to(&format!("/studio/courses/{}", course.slug)).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_who_is_in_reads_lessons() {
        use Access::{Free, Purchased, Subscription};
        use State::{Completed, Enrolled, Paused, Pending, Rejected, Withdrawn};
        for access in [Free, Purchased, Subscription] {
            for (state, opens) in [(Enrolled, true), (Completed, true), (Pending, false)] {
                assert_eq!(state.opens_lessons(access), opens);
            }
            assert!(!Withdrawn.opens_lessons(access) && !Rejected.opens_lessons(access));
        }
        assert!(Paused.opens_lessons(Purchased));
        assert!(!Paused.opens_lessons(Subscription));
    }
}
