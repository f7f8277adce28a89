//! The home page: who the institution is, what it teaches.

use std::sync::Arc;

use axum::{extract::State, response::Response};
use serde::Serialize;

use crate::{catalogue, courses::card, rejection::Rejection, site::Site, values, visit::Visit};

/// How many courses the home page shows.
const NEWEST: i64 = 6;

#[derive(Serialize)]
struct Numbers {
    courses: i64,
    lessons: i64,
    subjects: i64,
    learners: i64,
}

/// `GET /`
pub async fn show(visit: Visit) -> Result<Response, Rejection> {
    let database = visit.site.database().await?;
    let numbers = sqlx::query_as!(
        Numbers,
        r#"select count(*) as "courses!",
                  count(distinct c.subject_id) as "subjects!",
                  coalesce(sum((select count(*) from content t join module m on m.id = t.module_id
                                where m.course_id = c.id)), 0)::bigint as "lessons!",
                  (select count(*) from account where role = 'student' and state <> 'disabled')
                      as "learners!"
           from course c where c.status = 'published'"#
    )
    .fetch_one(database)
    .await?;
    let subjects = catalogue::subjects(database).await?;
    let newest = card::Filter { limit: NEWEST, ..card::Filter::default() };
    let newest = card::published(database, &visit.settings, &newest).await?;
    visit.page("home.html", values! { numbers, subjects, newest })
}

/// `GET /robots.txt`
pub async fn robots(State(site): State<Arc<Site>>) -> &'static str {
    if site.preview.is_some() {
        return "User-agent: *\nDisallow: /\n";
    }
    "User-agent: *\nDisallow: /studio\nDisallow: /my-courses\nDisallow: /sign-in\nDisallow: /files/\n"
}
