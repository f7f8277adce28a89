//! Where instructors see to their courses: the list, one course with its lessons and the people who
//! ask to be let in. Below: adding a file to a lesson, and bringing in a whole course.

pub mod bundle;
pub mod import;
pub mod upload;

use axum::{extract::Path, response::Response};
use serde::Serialize;
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use crate::{
    courses::{Course, Status, outline},
    covers,
    enrolments::State,
    rejection::Rejection,
    values,
    visit::Visit,
};

#[derive(Serialize)]
struct Own {
    slug: String,
    title: String,
    cover: String,
    status: Status,
    lessons: i64,
    learners: i64,
    pending: i64,
}

/// `GET /studio`
pub async fn courses(visit: Visit) -> Result<Response, Rejection> {
    let account = visit.teacher()?;
    let database = visit.site.database().await?;
    let rows = sqlx::query!(
        r#"select c.id, c.slug, c.title, c.status as "status: Status",
                  f.id as "cover_id?", f.name as "cover_name?",
                  (select count(*) from content t join module m on m.id = t.module_id
                   where m.course_id = c.id) as "lessons!",
                  (select count(*) from enrolment e where e.course_id = c.id
                   and e.state in ('enrolled', 'completed', 'paused')) as "learners!",
                  (select count(*) from enrolment e where e.course_id = c.id
                   and e.state = 'pending') as "pending!"
           from course c left join file f on f.id = c.cover_file_id
           where c.owner_id = $1 or $2 order by c.updated_at desc, c.id"#,
        account.id,
        account.role.sees_all_courses()
    )
    .fetch_all(database)
    .await?;
    let courses: Vec<_> = rows
        .into_iter()
        .map(|row| Own {
            cover: covers::path(row.id, row.cover_id.zip(row.cover_name), &visit.settings),
            slug: row.slug,
            title: row.title,
            status: row.status,
            lessons: row.lessons,
            learners: row.learners,
            pending: row.pending,
        })
        .collect();
    let storage = sqlx::query!(
        r#"select (select coalesce(sum(size_bytes), 0)::bigint from blob) as "used!",
                  (select storage_bytes from platform.site_limit) as most"#
    )
    .fetch_one(database)
    .await?;
    let percent = storage.most.map(|most| storage.used * 100 / most.max(1));
    let values = values! {
        courses, used => storage.used, most => storage.most, percent,
    };
    visit.page("studio/courses.html", values)
}

#[derive(Serialize)]
struct Asking {
    id: Uuid,
    name: String,
    email: String,
    since: String,
}

/// `GET /studio/courses/{slug}`
pub async fn course(visit: Visit, Path(slug): Path<String>) -> Result<Response, Rejection> {
    let account = visit.teacher()?;
    let course = Course::find(&visit, &slug).await?;
    if !course.is_kept_by(Some(account)) {
        return Err(Rejection::NotFound);
    }
    let database = visit.site.database().await?;
    let modules = outline::of(database, course.id, None).await?;
    let asking = sqlx::query_as!(
        Asking,
        r#"select e.id, a.name, a.email,
                  (e.requested_at at time zone $3)::date::text as "since!"
           from enrolment e join account a on a.id = e.account_id
           where e.course_id = $1 and e.state = $2 order by e.requested_at"#,
        course.id,
        State::Pending as State,
        visit.settings.time_zone
    )
    .fetch_all(database)
    .await?;
    let limit = max_upload_bytes(&visit).await?;
    visit.page("studio/course.html", values! { course, modules, asking, limit })
}

/// The most bytes of one file, as the site's plan says.
///
/// # Errors
/// When the database does not answer.
pub async fn max_upload_bytes(visit: &Visit) -> Result<u64, Rejection> {
    /// For a site whose plan was not written yet.
    const WITHOUT_PLAN: u64 = 50 * 1024 * 1024;
    let limit = sqlx::query_scalar!("select max_upload_bytes from platform.site_limit")
        .fetch_optional(visit.site.database().await?)
        .await?;
    Ok(limit.and_then(|limit| u64::try_from(limit).ok()).unwrap_or(WITHOUT_PLAN))
}

/// Notes what somebody did.
///
/// # Errors
/// When the database refuses.
pub async fn note(
    transaction: &mut Transaction<'_, Postgres>,
    visit: &Visit,
    action: &str,
    object: Uuid,
) -> Result<(), Rejection> {
    sqlx::query!(
        "insert into audit_event (id, account_id, action, object_id, address, request_id)
         values ($1, $2, $3, $4, $5::text::inet, $6)",
        Uuid::now_v7(),
        visit.account.as_ref().map(|account| account.id),
        action,
        object,
        visit.address.map(|address| address.to_string()),
        visit.request_id
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
