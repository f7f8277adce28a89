//! The catalogue: published courses, by subject, level and words.

use axum::{extract::Query, response::Response};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

use crate::{
    courses::{Level, card},
    rejection::Rejection,
    values,
    visit::Visit,
};

const PAGE: i64 = 12;

/// What a visitor looks for.
#[derive(Default, Deserialize)]
pub struct Search {
    q: Option<String>,
    subject: Option<String>,
    level: Option<String>,
    page: Option<String>,
}

/// A subject with its published courses.
#[derive(Serialize)]
pub struct Subject {
    /// In URLs.
    pub slug: String,
    /// For people.
    pub title: String,
    /// How many courses.
    pub courses: i64,
}

/// `GET /courses`
pub async fn show(visit: Visit, Query(search): Query<Search>) -> Result<Response, Rejection> {
    let database = visit.site.database().await?;
    let subjects = subjects(database).await?;
    let text = |field: Option<String>| {
        field
            .map(|text| text.trim().chars().take(200).collect::<String>())
            .filter(|t| !t.is_empty())
    };
    let words = text(search.q);
    let subject = text(search.subject);
    let level = search.level.as_deref().and_then(Level::from_name);
    let page = search.page.and_then(|page| page.parse::<i64>().ok()).unwrap_or(1).clamp(1, 10_000);
    let filter = card::Filter {
        words: words.clone(),
        subject: subject.clone(),
        level,
        limit: PAGE + 1,
        offset: (page - 1) * PAGE,
    };
    let mut courses = card::published(database, &visit.settings, &filter).await?;
    let more = courses.len() > usize::try_from(PAGE).unwrap_or(usize::MAX);
    courses.truncate(usize::try_from(PAGE).unwrap_or(usize::MAX));
    let current = subjects.iter().find(|one| Some(&one.slug) == subject.as_ref());
    let title = current.map(|subject| subject.title.clone());
    let values = values! {
        courses, subjects, words, subject, title, level, page, more,
        levels => Level::ALL,
    };
    visit.page("catalogue.html", values)
}

/// Subjects that have published courses.
///
/// # Errors
/// When the database does not answer.
pub async fn subjects(database: &PgPool) -> Result<Vec<Subject>, Rejection> {
    let subjects = sqlx::query_as!(
        Subject,
        r#"select s.slug, s.title, count(*) as "courses!"
           from subject s join course c on c.subject_id = s.id and c.status = 'published'
           group by s.id order by s.title"#
    )
    .fetch_all(database)
    .await?;
    Ok(subjects)
}
