//! Bringing in a whole course in one request: its description and its files. All of it or nothing;
//! a slug that is taken is refused.

use std::collections::BTreeMap;

use axum::{
    extract::Multipart,
    response::{IntoResponse as _, Redirect, Response},
};
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use super::{
    bundle::{Bundle, Item, Module},
    upload,
};
use crate::{
    courses::{EnrolmentType, Level, Status},
    files::{self, media_type, name},
    lessons::Kind,
    rejection::Rejection,
    storage::Stored,
    visit::Visit,
};

/// Most files of one course.
const MAX_FILES: usize = 500;

/// Files by the path that the description uses.
type Sent = BTreeMap<String, Stored>;

/// `POST /studio/import`
pub async fn import(visit: Visit, mut multipart: Multipart) -> Result<Response, Rejection> {
    visit.teacher()?;
    upload::check_token(&visit, &mut multipart).await?;
    let limit = super::max_upload_bytes(&visit).await?;
    let (mut course, mut sent) = (None, Sent::new());
    while let Some(field) = multipart.next_field().await? {
        match field.name() {
            Some("course") => course = Some(upload::text(field).await?),
            Some("file") => {
                let path = field.file_name().unwrap_or_default().to_owned();
                // A form without a chosen file sends one empty part.
                if path.is_empty() {
                    continue;
                }
                if sent.len() >= MAX_FILES {
                    return Err(Rejection::Invalid(
                        "invalid-too-many-files",
                        MAX_FILES.to_string(),
                    ));
                }
                let stored = visit.site.storage.store(upload::stream(field), limit).await?;
                sent.insert(path, stored);
            }
            _ => return Err(Rejection::Invalid("invalid-form", "unknown field".to_owned())),
        }
    }
    let course = course.ok_or_else(|| Rejection::Invalid("invalid-bundle", "course".to_owned()))?;
    let bundle: Bundle = serde_json::from_str(&course)
        .map_err(|error| Rejection::Invalid("invalid-bundle", error.to_string()))?;
    let mistakes = bundle.mistakes(&sent.keys().map(String::as_str).collect());
    if !mistakes.is_empty() {
        return Err(Rejection::Invalid("invalid-bundle", mistakes.join("; ")));
    }
    let mut transaction = visit.site.database().await?.begin().await?;
    insert(&mut transaction, &visit, &bundle, &sent).await?;
    transaction.commit().await?;
    Ok(Redirect::to(&format!("/courses/{}", bundle.slug)).into_response())
}

async fn insert(
    transaction: &mut Transaction<'_, Postgres>,
    visit: &Visit,
    bundle: &Bundle,
    sent: &Sent,
) -> Result<(), Rejection> {
    let account = visit.teacher()?;
    check_room(transaction, &bundle.slug).await?;
    let mut files = BTreeMap::new();
    for (path, stored) in sent {
        let recorded = files::record(transaction, stored, path, account.id).await?;
        files.insert(path.as_str(), recorded);
    }
    let course = insert_course(transaction, bundle, &files, account.id).await?;
    for (position, module) in (0..).zip(&bundle.modules) {
        insert_module(transaction, course, position, module, &files).await?;
    }
    super::note(transaction, visit, "course.import", course).await
}

/// Files by path: their rows and kinds.
type Recorded<'a> = BTreeMap<&'a str, (Uuid, media_type::MediaType)>;

/// The slug must be free, and the plan must have room for one more course.
async fn check_room(
    transaction: &mut Transaction<'_, Postgres>,
    slug: &str,
) -> Result<(), Rejection> {
    sqlx::query!("select pg_advisory_xact_lock(hashtext('site courses'))")
        .execute(&mut **transaction)
        .await?;
    let room = sqlx::query!(
        r#"select exists (select from course where slug = $1) as "taken!",
                  coalesce((select max_courses from platform.site_limit)
                           <= (select count(*) from course), false) as "full!""#,
        slug
    )
    .fetch_one(&mut **transaction)
    .await?;
    if room.taken {
        return Err(Rejection::Conflict("conflict-slug", slug.to_owned()));
    }
    if room.full {
        return Err(Rejection::Conflict("conflict-courses", String::new()));
    }
    Ok(())
}

async fn insert_course(
    transaction: &mut Transaction<'_, Postgres>,
    bundle: &Bundle,
    files: &Recorded<'_>,
    owner: Uuid,
) -> Result<Uuid, Rejection> {
    let subject = sqlx::query_scalar!(
        "insert into subject (slug, title) values ($1, $2)
         on conflict (slug) do update set title = subject.title returning id",
        bundle.subject.slug,
        bundle.subject.title
    )
    .fetch_one(&mut **transaction)
    .await?;
    let cover = bundle.cover.as_deref().and_then(|path| files.get(path));
    if cover.is_some_and(|(_, kind)| kind.role != media_type::Role::Image) {
        return Err(Rejection::Invalid("invalid-bundle", "cover: not a picture".to_owned()));
    }
    let id = Uuid::now_v7();
    sqlx::query!(
        "insert into course (id, slug, title, overview, subject_id, owner_id, language, status,
             published_at, difficulty_level, estimated_hours, enrollment_type, cover_file_id)
         values ($1, $2, $3, $4, $5, $6, $7, $8,
             case when $8 = 'published'::course_status then now() end, $9, $10, $11, $12)",
        id,
        bundle.slug,
        bundle.title.trim(),
        bundle.overview,
        subject,
        owner,
        bundle.language.code(),
        bundle.status as Status,
        bundle.difficulty_level as Option<Level>,
        bundle.estimated_hours,
        bundle.enrollment_type as EnrolmentType,
        cover.map(|(id, _)| *id)
    )
    .execute(&mut **transaction)
    .await?;
    Ok(id)
}

async fn insert_module(
    transaction: &mut Transaction<'_, Postgres>,
    course: Uuid,
    position: i32,
    module: &Module,
    files: &Recorded<'_>,
) -> Result<(), Rejection> {
    let id = Uuid::now_v7();
    sqlx::query!(
        "insert into module (id, course_id, position, title, description)
         values ($1, $2, $3, $4, $5)",
        id,
        course,
        position,
        module.title.trim(),
        module.description
    )
    .execute(&mut **transaction)
    .await?;
    for (position, content) in (0..).zip(&module.contents) {
        let lesson = Uuid::now_v7();
        sqlx::query!(
            "insert into content (id, module_id, position, title) values ($1, $2, $3, $4)",
            lesson,
            id,
            position,
            content.title.trim()
        )
        .execute(&mut **transaction)
        .await?;
        for (position, item) in (0..).zip(&content.items) {
            insert_item(transaction, lesson, position, item, files).await?;
        }
    }
    Ok(())
}

async fn insert_item(
    transaction: &mut Transaction<'_, Postgres>,
    content: Uuid,
    position: i32,
    item: &Item,
    files: &Recorded<'_>,
) -> Result<(), Rejection> {
    let file = item.file().and_then(|path| Some((path, files.get(path)?)));
    let wanted = match item {
        Item::Image { .. } => Some(media_type::Role::Image),
        Item::Video { .. } => Some(media_type::Role::Video),
        Item::Text { .. } | Item::File { .. } => None,
    };
    if let (Some(wanted), Some((path, (_, kind)))) = (wanted, file)
        && kind.role != wanted
    {
        let about = format!("{}: {} is no {wanted:?}", name::cleaned(path), kind.name);
        return Err(Rejection::Invalid("invalid-bundle", about.to_lowercase()));
    }
    let (kind, markdown, alt) = match item {
        Item::Text { markdown, .. } => (Kind::Text, Some(markdown), None),
        Item::Image { alt, .. } => (Kind::Image, None, Some(alt)),
        Item::File { .. } => (Kind::File, None, None),
        Item::Video { .. } => (Kind::Video, None, None),
    };
    let (url, transcript, duration) = match item {
        Item::Video { url, transcript, duration_secs, .. } => (url, transcript, *duration_secs),
        _ => (&None, &None, None),
    };
    sqlx::query!(
        "insert into content_item (id, content_id, position, kind, title, markdown, alt, file_id,
             video_url, transcript, duration_secs)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        Uuid::now_v7(),
        content,
        position,
        kind as Kind,
        item.title().trim(),
        markdown.map(String::as_str),
        alt.map(String::as_str),
        file.map(|(_, (id, _))| *id),
        url.as_deref(),
        transcript.as_deref(),
        duration
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
