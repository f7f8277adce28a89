//! Files going out: who may have them, whole or in part, streamed from the object store. What came
//! in from people never runs in a browser: only known pictures, video, audio and PDF are shown, all
//! else is downloaded, and a policy of its own keeps even those from doing anything.

pub mod media_type;
pub mod name;
pub mod range;

use axum::{
    body::Body,
    extract::Path,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use sqlx::{Postgres, Transaction};
use uuid::Uuid;

use crate::{
    accounts::{Account, Role},
    enrolments::{Access, State},
    rejection::Rejection,
    storage::{ContentHash, Stored},
    visit::Visit,
};
use media_type::MediaType;
use range::Wanted;

const POLICY: &str = "default-src 'none'; img-src 'self'; media-src 'self'; sandbox";
/// Browsers do not open their PDF viewer in a sandbox; the viewer is one itself.
const PDF_POLICY: &str = "default-src 'none'; object-src 'self'; style-src 'unsafe-inline'";

struct File {
    name: String,
    media_type: String,
    hash: ContentHash,
    size: u64,
}

/// The path of a file; its name is only for people.
pub fn path(id: Uuid, name: &str) -> String {
    format!("/files/{id}/{}", name::encoded(name))
}

/// `GET /files/{id}/{name}`
pub async fn download(
    visit: Visit,
    Path((id, _name)): Path<(Uuid, String)>,
    headers: HeaderMap,
) -> Result<Response, Rejection> {
    let (file, public) = find(&visit, id).await?;
    let etag = format!("\"{}\"", hex::encode(file.hash.0));
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let known = text(header::IF_NONE_MATCH).is_some_and(|tags| {
        tags.split(',').any(|tag| matches!(tag.trim(), "*") || tag.trim() == etag)
    });
    // Bytes of an earlier content must not be joined to these.
    let same = text(header::IF_RANGE).is_none_or(|tag| tag == etag);
    let wanted = match text(header::RANGE) {
        Some(range) if same => range::parse(range, file.size),
        _ => Wanted::Whole,
    };
    let mut response = if known {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        match wanted {
            Wanted::Nothing => return Err(Rejection::Range(file.size)),
            Wanted::Whole => {
                let content = visit.site.storage.read(file.hash, None).await?;
                let mut response = Body::from_stream(content).into_response();
                response.headers_mut().insert(header::CONTENT_LENGTH, file.size.into());
                response
            }
            Wanted::Part(first, last) => {
                let content = visit.site.storage.read(file.hash, Some((first, last))).await?;
                let body = Body::from_stream(content);
                let mut response = (StatusCode::PARTIAL_CONTENT, body).into_response();
                let part = format!("bytes {first}-{last}/{}", file.size);
                let answer = response.headers_mut();
                answer.insert(header::CONTENT_LENGTH, (last - first + 1).into());
                insert(answer, header::CONTENT_RANGE, &part);
                response
            }
        }
    };
    describe(response.headers_mut(), &file, &etag, public);
    Ok(response)
}

fn insert(answer: &mut HeaderMap, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        answer.insert(name, value);
    }
}

fn describe(answer: &mut HeaderMap, file: &File, etag: &str, public: bool) {
    let kind = MediaType::of_stored(&file.media_type);
    let disposition = if kind.shown { "inline" } else { "attachment" };
    insert(answer, header::CONTENT_TYPE, kind.name);
    insert(answer, header::ETAG, etag);
    insert(
        answer,
        header::CONTENT_DISPOSITION,
        &format!("{disposition}; filename*=UTF-8''{}", name::encoded(&file.name)),
    );
    answer.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    let policy = if kind == media_type::PDF { PDF_POLICY } else { POLICY };
    answer.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(policy));
    // The id's content never changes; who may see it may.
    let keep = if public { "public, max-age=3600" } else { "private, no-cache" };
    answer.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
}

/// The file, if this visitor may have it, and whether everybody may.
async fn find(visit: &Visit, id: Uuid) -> Result<(File, bool), Rejection> {
    let row = sqlx::query!(
        r#"select f.name, f.media_type, f.blob_sha256, f.uploaded_by, b.size_bytes,
                  (exists (select from course c where c.cover_file_id = f.id
                           and c.status = 'published')
                   or exists (select from site_settings s
                              where f.id in (s.logo_file_id, s.favicon_file_id))) as "public!"
           from file f join blob b on b.sha256 = f.blob_sha256 where f.id = $1"#,
        id
    )
    .fetch_optional(visit.site.database().await?)
    .await?
    .ok_or(Rejection::NotFound)?;
    let account = visit.account.as_ref();
    let own = account.is_some_and(|account| row.uploaded_by == Some(account.id));
    let sees_all = account.is_some_and(|account| account.role.sees_all_courses());
    if !row.public && !own && !sees_all {
        // Not there and not allowed look the same.
        let account = account.ok_or_else(|| Rejection::SignIn(visit.path.clone()))?;
        if !is_in_a_lesson_of(visit, id, account).await? {
            return Err(Rejection::NotFound);
        }
    }
    let hash = row.blob_sha256.try_into().map_err(|_| {
        Rejection::Internal(anyhow::anyhow!("file {id}: its hash is not 32 bytes long"))
    })?;
    let size = u64::try_from(row.size_bytes).unwrap_or(0);
    let file = File { name: row.name, media_type: row.media_type, hash: ContentHash(hash), size };
    Ok((file, row.public))
}

/// Whether a course that the person is in, or makes, uses the file.
async fn is_in_a_lesson_of(
    visit: &Visit,
    file: Uuid,
    account: &Account,
) -> Result<bool, Rejection> {
    let rows = sqlx::query!(
        r#"select c.owner_id, e.state as "state?: State", e.access as "access?: Access"
           from (select m.course_id from content_item i join content t on t.id = i.content_id
                 join module m on m.id = t.module_id where i.file_id = $1
                 union select id from course where cover_file_id = $1) used
           join course c on c.id = used.course_id
           left join enrolment e on e.course_id = c.id and e.account_id = $2"#,
        file,
        account.id
    )
    .fetch_all(visit.site.database().await?)
    .await?;
    Ok(rows.into_iter().any(|row| {
        let keeps = account.role != Role::Student && row.owner_id == account.id;
        let is_in =
            row.state.zip(row.access).is_some_and(|(state, access)| state.opens_lessons(access));
        keeps || is_in
    }))
}

/// Records a stored content as a file. The object is there already.
///
/// # Errors
/// When its kind is not taken, the plan's storage is full, or the database refuses.
pub async fn record(
    transaction: &mut Transaction<'_, Postgres>,
    stored: &Stored,
    sent_name: &str,
    account: Uuid,
) -> Result<(Uuid, MediaType), Rejection> {
    let name = name::cleaned(sent_name);
    let kind = MediaType::sniffed(&stored.head, &name)
        .ok_or_else(|| Rejection::Invalid("invalid-file-type", name.clone()))?;
    let size = i64::try_from(stored.size_bytes).unwrap_or(i64::MAX);
    // One at a time, so that two do not fill the same space.
    sqlx::query!("select pg_advisory_xact_lock(hashtext('site storage'))")
        .execute(&mut **transaction)
        .await?;
    let fits = sqlx::query_scalar!(
        r#"select exists (select from blob where sha256 = $1)
               or coalesce((select storage_bytes from platform.site_limit) >=
                           (select coalesce(sum(size_bytes), 0)::bigint from blob) + $2, true)
               as "fits!""#,
        &stored.hash.0[..],
        size
    )
    .fetch_one(&mut **transaction)
    .await?;
    if !fits {
        return Err(Rejection::StorageFull);
    }
    sqlx::query!(
        "insert into blob (sha256, size_bytes) values ($1, $2) on conflict do nothing",
        &stored.hash.0[..],
        size
    )
    .execute(&mut **transaction)
    .await?;
    let id = Uuid::now_v7();
    sqlx::query!(
        "insert into file (id, blob_sha256, name, media_type, uploaded_by)
         values ($1, $2, $3, $4, $5)",
        id,
        &stored.hash.0[..],
        name,
        kind.name,
        account
    )
    .execute(&mut **transaction)
    .await?;
    Ok((id, kind))
}
