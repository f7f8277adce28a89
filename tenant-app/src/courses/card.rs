//! Courses as cards, on the home page and in the catalogue.

use serde::Serialize;
use sqlx::PgPool;

use super::{Level, Pricing};
use crate::{covers, lessons::markdown, rejection::Rejection, settings::Settings};

/// Which courses.
#[derive(Debug)]
pub struct Filter {
    /// Words in title or overview.
    pub words: Option<String>,
    /// A subject's slug.
    pub subject: Option<String>,
    /// How hard.
    pub level: Option<Level>,
    /// At most so many.
    pub limit: i64,
    /// After so many.
    pub offset: i64,
}

impl Default for Filter {
    fn default() -> Self {
        Self { words: None, subject: None, level: None, limit: 12, offset: 0 }
    }
}

/// One card.
#[derive(Serialize)]
pub struct Card {
    slug: String,
    title: String,
    excerpt: String,
    subject: String,
    language: String,
    level: Option<Level>,
    hours: Option<i32>,
    lessons: i64,
    free: bool,
    cover: String,
}

/// Published courses, the newest first; with words, the best match first.
///
/// # Errors
/// When the database does not answer.
pub async fn published(
    database: &PgPool,
    settings: &Settings,
    filter: &Filter,
) -> Result<Vec<Card>, Rejection> {
    let rows = sqlx::query!(
        r#"select c.id, c.slug, c.title, left(c.overview, 1000) as "overview!",
                  s.title as subject, c.language, c.difficulty_level as "level: Level",
                  c.estimated_hours, c.pricing as "pricing: Pricing",
                  f.id as "cover_id?", f.name as "cover_name?",
                  (select count(*) from content t join module m on m.id = t.module_id
                   where m.course_id = c.id) as "lessons!"
           from course c join subject s on s.id = c.subject_id
           left join file f on f.id = c.cover_file_id
           where c.status = 'published'
             and ($1::text is null or c.search @@ websearch_to_tsquery('simple', $1)
                  or strpos(lower(c.title), lower($1)) > 0)
             and ($2::text is null or s.slug = $2)
             and ($3::difficulty_level is null or c.difficulty_level = $3)
           order by case when $1::text is null then 0
                         else -ts_rank(c.search, websearch_to_tsquery('simple', $1)) end,
                    c.published_at desc, c.id
           limit $4 offset $5"#,
        filter.words,
        filter.subject,
        filter.level as Option<Level>,
        filter.limit,
        filter.offset
    )
    .fetch_all(database)
    .await?;
    let cards = rows.into_iter().map(|row| Card {
        cover: covers::path(row.id, row.cover_id.zip(row.cover_name), settings),
        excerpt: markdown::excerpt(&row.overview, 140),
        slug: row.slug,
        title: row.title,
        subject: row.subject,
        language: row.language,
        level: row.level,
        hours: row.estimated_hours,
        lessons: row.lessons,
        free: row.pricing == Pricing::Free,
    });
    Ok(cards.collect())
}
