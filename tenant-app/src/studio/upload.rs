//! Adding a file to a lesson: it streams into the object store while it arrives, its bytes say what
//! it is, and it becomes a picture, a video or a download.

use axum::{
    extract::{Multipart, Path, multipart::Field},
    response::{IntoResponse as _, Redirect, Response},
};
use bytes::Bytes;
use futures_util::{Stream, TryStreamExt as _};
use uuid::Uuid;

use crate::{
    courses::keeps,
    files::{self, media_type, name},
    lessons::Kind,
    rejection::Rejection,
    storage::Stored,
    visit::Visit,
};

/// Most bytes of a field that is text.
pub const MAX_TEXT: usize = 2 * 1024 * 1024;

impl From<axum::extract::multipart::MultipartError> for Rejection {
    fn from(error: axum::extract::multipart::MultipartError) -> Self {
        Self::Invalid("invalid-form", error.body_text())
    }
}

/// A field that is text.
///
/// # Errors
/// When it is too long or no UTF-8.
pub async fn text(mut field: Field<'_>) -> Result<String, Rejection> {
    let mut bytes = Vec::new();
    while let Some(piece) = field.chunk().await? {
        bytes.extend_from_slice(&piece);
        if bytes.len() > MAX_TEXT {
            return Err(Rejection::TooLarge { limit: MAX_TEXT as u64 });
        }
    }
    String::from_utf8(bytes).map_err(|error| Rejection::Invalid("invalid-form", error.to_string()))
}

/// The bytes of a field that is a file.
pub fn stream(field: Field<'_>) -> impl Stream<Item = Result<Bytes, Rejection>> {
    field.map_err(Rejection::from)
}

/// Only forms of this site: the token must come before any file.
///
/// # Errors
/// When the first field is not the right token.
pub async fn check_token(visit: &Visit, multipart: &mut Multipart) -> Result<(), Rejection> {
    match multipart.next_field().await? {
        Some(field) if field.name() == Some("csrf") => visit.csrf.check(&text(field).await?),
        _ => Err(Rejection::Csrf),
    }
}

struct Lesson {
    owner: Uuid,
    course: Uuid,
    slug: String,
}

/// `POST /studio/lessons/{content}/items`
pub async fn add_item(
    visit: Visit,
    Path(content): Path<Uuid>,
    mut multipart: Multipart,
) -> Result<Response, Rejection> {
    let account = visit.teacher()?;
    let lesson = sqlx::query_as!(
        Lesson,
        "select c.owner_id as owner, c.id as course, c.slug from content t
         join module m on m.id = t.module_id join course c on c.id = m.course_id where t.id = $1",
        content
    )
    .fetch_optional(visit.site.database().await?)
    .await?
    .filter(|lesson| keeps(account.role, account.id, lesson.owner))
    .ok_or(Rejection::NotFound)?;
    check_token(&visit, &mut multipart).await?;
    let limit = super::max_upload_bytes(&visit).await?;
    let (mut title, mut alt, mut file) = (String::new(), String::new(), None);
    while let Some(field) = multipart.next_field().await? {
        match field.name() {
            Some("title") => title = text(field).await?.trim().chars().take(250).collect(),
            Some("alt") => alt = text(field).await?.trim().chars().take(1000).collect(),
            Some("file") if file.is_none() => {
                let sent = field.file_name().unwrap_or_default().to_owned();
                if sent.is_empty() {
                    return Err(Rejection::Invalid("invalid-no-file", String::new()));
                }
                file = Some((sent, visit.site.storage.store(stream(field), limit).await?));
            }
            _ => return Err(Rejection::Invalid("invalid-form", "unknown field".to_owned())),
        }
    }
    let Some((sent, stored)) = file else {
        return Err(Rejection::Invalid("invalid-no-file", String::new()));
    };
    attach(&visit, content, &lesson, &sent, &stored, &title, alt).await?;
    Ok(Redirect::to(&format!("/courses/{}/lessons/{content}", lesson.slug)).into_response())
}

async fn attach(
    visit: &Visit,
    content: Uuid,
    lesson: &Lesson,
    sent: &str,
    stored: &Stored,
    title: &str,
    alt: String,
) -> Result<(), Rejection> {
    let account = visit.teacher()?;
    let mut transaction = visit.site.database().await?.begin().await?;
    let (file, kind) = files::record(&mut transaction, stored, sent, account.id).await?;
    let kind = match kind.role {
        media_type::Role::Image => Kind::Image,
        media_type::Role::Video => Kind::Video,
        media_type::Role::File => Kind::File,
    };
    let fallback = name::cleaned(sent);
    let title = if title.is_empty() { &fallback } else { title };
    // The lesson's row is locked, so that two uploads at once get two positions.
    sqlx::query!("select id from content where id = $1 for update", content)
        .fetch_one(&mut *transaction)
        .await?;
    sqlx::query!(
        "insert into content_item (content_id, position, kind, title, file_id, alt)
         select $1, coalesce(max(position) + 1, 0), $2, $3, $4, $5
         from content_item where content_id = $1",
        content,
        kind as Kind,
        title,
        file,
        (kind == Kind::Image).then_some(alt)
    )
    .execute(&mut *transaction)
    .await?;
    sqlx::query!("update course set updated_at = now() where id = $1", lesson.course)
        .execute(&mut *transaction)
        .await?;
    super::note(&mut transaction, visit, "file.upload", file).await?;
    transaction.commit().await?;
    Ok(())
}
