//! A lesson: one content with its items, the outline beside it, the way to the next.

pub mod markdown;
pub mod video;

use axum::{
    extract::Path,
    response::{IntoResponse as _, Redirect, Response},
};
use serde::Serialize;
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    courses::{Course, outline},
    enrolments::Enrolment,
    files,
    rejection::Rejection,
    values,
    visit::Visit,
};

/// What an item of a lesson is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, sqlx::Type)]
#[sqlx(type_name = "item_kind", rename_all = "lowercase")]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Markdown.
    Text,
    /// A picture.
    Image,
    /// Something to download.
    File,
    /// Moving.
    Video,
}

/// An item, ready to be shown.
#[derive(Serialize)]
struct Item {
    kind: Kind,
    title: String,
    html: Option<String>,
    alt: Option<String>,
    file: Option<ItemFile>,
    embed: Option<video::Embed>,
    transcript: Option<String>,
}

#[derive(Serialize)]
struct ItemFile {
    path: String,
    name: String,
    media_type: String,
    size: i64,
}

/// `GET /courses/{slug}/lessons/{content}`
pub async fn show(
    visit: Visit,
    Path((slug, content)): Path<(String, Uuid)>,
) -> Result<Response, Rejection> {
    let account = visit.signed_in()?;
    let course = Course::find(&visit, &slug).await?;
    let database = visit.site.database().await?;
    let enrolment = Enrolment::find(database, course.id, account.id).await?;
    let is_in = enrolment.as_ref().is_some_and(Enrolment::opens_lessons);
    let keeper = course.is_kept_by(Some(account));
    if !is_in && !keeper {
        return Ok(Redirect::to(&format!("/courses/{}", course.slug)).into_response());
    }
    let modules = outline::of(database, course.id, enrolment.as_ref().map(|one| one.id)).await?;
    let here = modules.iter().find_map(|module| {
        let content = module.contents.iter().find(|one| one.id == content)?;
        Some((module.title.clone(), content.clone()))
    });
    let Some((module, lesson)) = here else { return Err(Rejection::NotFound) };
    if let (Some(enrolment), true) = (&enrolment, is_in) {
        // While the site moves nothing can be written; the lesson can still be read.
        if let Err(rejection) = crate::progress::seen(database, enrolment.id, content).await {
            tracing::debug!("a visit is not recorded: {rejection}");
        }
    }
    let items = items(database, content).await?;
    let (before, after) = outline::around(&modules, content);
    let values = values! {
        course, lesson, module, items, keeper, is_in, before, after,
        progress => outline::progress(&modules),
        modules,
    };
    visit.page("lesson.html", values)
}

async fn items(database: &PgPool, content: Uuid) -> Result<Vec<Item>, Rejection> {
    let rows = sqlx::query!(
        r#"select i.kind as "kind: Kind", i.title, i.markdown, i.alt, i.video_url, i.transcript,
                  f.id as "file_id?", f.name as "file_name?", f.media_type as "media_type?",
                  b.size_bytes as "size_bytes?"
           from content_item i left join file f on f.id = i.file_id
           left join blob b on b.sha256 = f.blob_sha256
           where i.content_id = $1 order by i.position, i.id"#,
        content
    )
    .fetch_all(database)
    .await?;
    let items = rows.into_iter().enumerate().map(|(index, row)| {
        let prefix = format!("i{index}-");
        let file = match (row.file_id, row.file_name, row.media_type, row.size_bytes) {
            (Some(id), Some(name), Some(media_type), Some(size)) => {
                Some(ItemFile { path: files::path(id, &name), name, media_type, size })
            }
            _ => None,
        };
        Item {
            kind: row.kind,
            html: row.markdown.map(|text| markdown::to_html(&text, &prefix)),
            alt: row.alt,
            embed: row.video_url.as_deref().and_then(video::Embed::of),
            transcript: row
                .transcript
                .filter(|text| !text.is_empty())
                .map(|text| markdown::to_html(&text, &format!("{prefix}t-"))),
            title: row.title,
            file,
        }
    });
    Ok(items.collect())
}
