//! A preview: a site as it was at some moment, restored into a database of its own and served at a
//! hostname of its own, beside the site. Here is who may see it, as whom, what every page of it says,
//! and that nothing can be changed.
//!
//! A preview's role in the database can only read, and so can its key to the object store. What is
//! here does not make it mute, then; it keeps people from what could only fail, and strangers from all
//! of it. Whoever has the link is let in, and is nobody of the site: its accounts and sessions came
//! with the database, and none of them counts here.

use std::sync::Arc;

use anyhow::Context as _;
use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header},
    middleware::Next,
    response::{IntoResponse as _, Redirect, Response},
};
use control_types::instance_config::PreviewConfig;
use hmac::digest::CtOutput;
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use time::{OffsetDateTime, UtcOffset};
use uuid::Uuid;

use crate::{
    accounts::{Account, Role},
    rejection::Rejection,
    site::Site,
    visit::cookie,
};

/// The path of the link that opens a preview. The key is in the query: paths are logged, queries never.
pub const PATH: &str = "/preview";
/// What the browser keeps of the link.
const COOKIE: &str = "__Host-preview";
/// The longest key.
const MAX_KEY_BYTES: usize = 128;

/// That the site is a preview, and which.
pub struct Preview {
    key_hash: [u8; 32],
    expires_at: OffsetDateTime,
    banner: Banner,
}

/// What every page of a preview says of it.
#[derive(Clone, Debug, Serialize)]
pub struct Banner {
    moment: Stamp,
    until: Stamp,
}

/// A second, for people and for programs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Stamp {
    text: String,
    datetime: String,
}

impl Stamp {
    fn of(at: OffsetDateTime) -> Self {
        let at = at.to_offset(UtcOffset::UTC);
        let (year, month, day) = (at.year(), u8::from(at.month()), at.day());
        let (hour, minute, second) = (at.hour(), at.minute(), at.second());
        let (date, time) = (
            format!("{year:04}-{month:02}-{day:02}"),
            format!("{hour:02}:{minute:02}:{second:02}"),
        );
        Self { text: format!("{date} {time} UTC"), datetime: format!("{date}T{time}Z") }
    }
}

impl Preview {
    /// As the process was told.
    ///
    /// # Errors
    /// When the key's hash is none.
    pub fn new(config: &PreviewConfig) -> anyhow::Result<Self> {
        let mut key_hash = [0; 32];
        hex::decode_to_slice(&config.key_hash, &mut key_hash).context("preview.key_hash")?;
        let banner =
            Banner { moment: Stamp::of(config.moment), until: Stamp::of(config.expires_at) };
        Ok(Self { key_hash, expires_at: config.expires_at, banner })
    }

    /// What its pages say of it.
    pub fn banner(&self) -> &Banner {
        &self.banner
    }

    /// Whether the request comes from somebody who opened the link, while there is something to see.
    pub fn lets_in(&self, headers: &HeaderMap) -> bool {
        !self.is_over(OffsetDateTime::now_utc()) && self.knows(headers)
    }

    fn is_over(&self, now: OffsetDateTime) -> bool {
        now >= self.expires_at
    }

    fn knows(&self, headers: &HeaderMap) -> bool {
        cookie(headers, COOKIE).is_some_and(|key| self.is_key(key))
    }

    fn is_key(&self, key: &str) -> bool {
        // What a cookie holds as it is.
        let fits = key.len() <= MAX_KEY_BYTES
            && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        // Compared in a time that tells nothing.
        let hash = CtOutput::<Sha256>::new(Sha256::digest(key));
        fits && hash == CtOutput::new(self.key_hash.into())
    }

    /// The cookie for whoever came with this key, if it is the one.
    fn cookie_for(&self, key: &str, now: OffsetDateTime) -> Option<HeaderValue> {
        let seconds = (self.expires_at - now).whole_seconds();
        if seconds <= 0 || !self.is_key(key) {
            return None;
        }
        let cookie =
            format!("{COOKIE}={key}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax");
        HeaderValue::try_from(cookie).ok()
    }

    /// Why a request is not let through.
    fn refusal(&self, request: &Request, now: OffsetDateTime) -> Option<Rejection> {
        let (path, method) = (request.uri().path(), request.method());
        let reads = matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
        // What is in every site's binary and says nothing of this one.
        if reads && (is_asset(path) || path == "/robots.txt") {
            return None;
        }
        if self.is_over(now) {
            return Some(Rejection::PreviewOver);
        }
        if reads && path == PATH {
            return None;
        }
        if !self.knows(request.headers()) {
            return Some(Rejection::PreviewClosed);
        }
        (!reads).then_some(Rejection::PreviewReadOnly)
    }
}

/// Refuses who did not open the link, and whatever would change something, before its body is read.
pub async fn admit(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let preview = site.preview.as_ref();
    match preview.and_then(|preview| preview.refusal(&request, OffsetDateTime::now_utc())) {
        Some(rejection) => rejection.into_response(),
        None => next.run(request).await,
    }
}

/// `GET /preview?key=…`
pub async fn open(State(site): State<Arc<Site>>, uri: Uri) -> Result<Response, Rejection> {
    let preview = site.preview.as_ref().ok_or(Rejection::NotFound)?;
    let query = uri.query().unwrap_or_default();
    let cookie = url::form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "key")
        .and_then(|(_, key)| preview.cookie_for(&key, OffsetDateTime::now_utc()))
        .ok_or(Rejection::PreviewClosed)?;
    Ok(([(header::SET_COOKIE, cookie)], Redirect::to("/")).into_response())
}

/// Whoever looks at a preview: as much as an administrator sees, and nobody.
pub fn viewer() -> Account {
    Account {
        id: Uuid::nil(),
        name: "Preview".to_owned(),
        email: String::new(),
        role: Role::Admin,
        language: None,
        teaches: Role::Admin.teaches(),
    }
}

/// Says with an answer that no search engine lists it and that nobody keeps what is the site's.
pub fn set_headers(answer: &mut HeaderMap, path: &str) {
    let robots = HeaderName::from_static("x-robots-tag");
    answer.insert(robots, HeaderValue::from_static("noindex, nofollow"));
    if !is_asset(path) {
        answer.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    if path == PATH {
        // A key that was wrong or came too late is still in the page's own address.
        answer.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    }
}

fn is_asset(path: &str) -> bool {
    path.starts_with("/assets/")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use time::Duration;

    use super::*;

    const KEY: &str = "Zm9v-YmFy_0123456789";

    fn noon() -> OffsetDateTime {
        OffsetDateTime::from_unix_timestamp(1_796_040_000).expect("a time")
    }

    /// Until noon.
    fn preview() -> Preview {
        let config = PreviewConfig {
            moment: noon() - Duration::days(1),
            key_hash: hex::encode(Sha256::digest(KEY)),
            expires_at: noon(),
        };
        Preview::new(&config).expect("a preview")
    }

    #[test]
    fn only_the_key_is_the_key() {
        let preview = preview();
        assert!(preview.is_key(KEY));
        let (long, less) = (format!("{KEY}0"), &KEY[1..]);
        for wrong in ["", " ", "Zm9v", &long, less, &KEY.to_lowercase(), &"a".repeat(5000)] {
            assert!(!preview.is_key(wrong), "{wrong:?}");
        }
        let config =
            |key_hash: String| PreviewConfig { moment: noon(), key_hash, expires_at: noon() };
        // A cookie could not hold it, or would be told more than it should be.
        for odd in ["a;b", "a b", "a=b", "a\r\nb", "é"] {
            let preview = Preview::new(&config(hex::encode(Sha256::digest(odd)))).expect("one");
            assert!(!preview.is_key(odd), "{odd:?}");
        }
        assert!(Preview::new(&config("abc".to_owned())).is_err());
    }

    #[test]
    fn the_cookie_lasts_as_long_as_the_preview() {
        let cookie = preview().cookie_for(KEY, noon() - Duration::seconds(90));
        let right =
            format!("__Host-preview={KEY}; Path=/; Max-Age=90; Secure; HttpOnly; SameSite=Lax");
        assert_eq!(cookie.expect("a cookie"), right);
        assert_eq!(preview().cookie_for("wrong", noon() - Duration::seconds(90)), None);
        for late in [noon(), noon() + Duration::days(1), noon() - Duration::milliseconds(900)] {
            assert_eq!(preview().cookie_for(KEY, late), None);
        }
    }

    #[test]
    fn who_is_let_through() {
        let refused = |method: Method, path: &str, key: &str, now| {
            let request = Request::builder()
                .method(method)
                .uri(path)
                .header("cookie", format!("a=b; __Host-preview={key}"))
                .body(Body::empty());
            let rejection = preview().refusal(&request.expect("a request"), now);
            rejection.map(|rejection| match rejection {
                Rejection::PreviewClosed => "closed",
                Rejection::PreviewOver => "over",
                Rejection::PreviewReadOnly => "read only",
                _ => "else",
            })
        };
        let now = noon() - Duration::seconds(1);
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert_eq!(refused(method.clone(), "/courses?a=b", KEY, now), None);
            assert_eq!(refused(method.clone(), "/courses", "wrong", now), Some("closed"));
            assert_eq!(refused(method.clone(), "/courses", KEY, noon()), Some("over"));
            for open in ["/assets/app.css", "/robots.txt"] {
                assert_eq!(refused(method.clone(), open, "", noon()), None, "{open}");
            }
            assert_eq!(refused(method.clone(), "/preview?key=a", "", now), None);
            assert_eq!(refused(method.clone(), "/preview?key=a", "", noon()), Some("over"));
            assert_eq!(refused(method, "/previews", "", now), Some("closed"));
        }
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
            for path in ["/sign-out", "/preview", "/assets/app.css"] {
                assert_eq!(refused(method.clone(), path, KEY, now), Some("read only"));
                assert_eq!(refused(method.clone(), path, "wrong", now), Some("closed"));
                assert_eq!(refused(method.clone(), path, KEY, noon()), Some("over"));
            }
        }
    }

    #[test]
    fn the_moment_is_told_in_utc_and_to_the_second() {
        let text = "2026-11-30T17:42:05.987+07:00";
        let at = OffsetDateTime::parse(text, &time::format_description::well_known::Rfc3339);
        let told = Stamp::of(at.expect("a time"));
        assert_eq!(told.text, "2026-11-30 10:42:05 UTC");
        assert_eq!(told.datetime, "2026-11-30T10:42:05Z");
    }
}
