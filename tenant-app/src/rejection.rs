//! The one place where an error becomes an answer: a page under the site's own name, or problem
//! JSON (RFC 9457) for whoever asks for it. Handlers return a [`Rejection`]; [`explain`], around
//! all of them, writes the page and logs the chain of causes, once.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Redirect, Response},
};
use control_types::{Generation, headers};
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::{
    authority::Place,
    locales, pages,
    preview::{self, Preview},
    site::Site,
    values,
    visit::local_path,
};

/// Why a request was not done.
#[derive(Debug, thiserror::Error)]
pub enum Rejection {
    /// Nothing here, or nothing that this person may know of.
    #[error("not found")]
    NotFound,
    /// Signed in, but not allowed.
    #[error("forbidden")]
    Forbidden,
    /// Has to sign in first; then goes on to this path.
    #[error("sign-in needed")]
    SignIn(String),
    /// A form that this site did not hand to this browser.
    #[error("forged or outdated form")]
    Csrf,
    /// What was sent cannot be used. The key of a message in `locales/`, and what it is about.
    #[error("invalid input: {0} {1}")]
    Invalid(&'static str, String),
    /// What was sent collides with what is there. As [`Rejection::Invalid`].
    #[error("conflict: {0} {1}")]
    Conflict(&'static str, String),
    /// More bytes than allowed.
    #[error("more than {limit} bytes")]
    TooLarge {
        /// What is allowed.
        limit: u64,
    },
    /// The plan's storage is full.
    #[error("the site's storage is full")]
    StorageFull,
    /// Too many attempts; come back after so many seconds.
    #[error("too many attempts")]
    Throttled(u32),
    /// No byte of the asked range exists; the length.
    #[error("range not satisfiable")]
    Range(u64),
    /// Routed here by mistake.
    #[error("this is another site's instance")]
    OtherSite,
    /// Routed by a stale route; the generation served here.
    #[error("this instance serves generation {0}")]
    OtherGeneration(Generation),
    /// The site has gone from here for good; where to, if its database says so.
    #[error("the site has gone to {0:?}")]
    Moved(Option<Place>),
    /// A preview, and whoever asks has not opened its link.
    #[error("a preview that was not opened")]
    PreviewClosed,
    /// A preview whose time has passed.
    #[error("a preview that is over")]
    PreviewOver,
    /// A preview, in which somebody wanted to change something.
    #[error("nothing can be changed in a preview")]
    PreviewReadOnly,
    /// The database took the right to write away: the site is moving.
    #[error("the site is fenced here")]
    Fenced(#[source] sqlx::Error),
    /// The database or the object store does not answer now.
    #[error("a part of the platform is unavailable")]
    Unavailable(#[source] anyhow::Error),
    /// A fault of ours.
    #[error("internal error")]
    Internal(#[source] anyhow::Error),
}

impl From<sqlx::Error> for Rejection {
    fn from(error: sqlx::Error) -> Self {
        let database = error.as_database_error();
        let code = database.and_then(|error| error.code());
        // What ends a session, or lets none begin, is no statement's fault: 42501 too, when the right
        // to connect was taken away.
        let is_fatal = database
            .and_then(|error| error.try_downcast_ref::<PgDatabaseError>())
            .is_some_and(|error| matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic));
        match (&error, code.as_deref()) {
            _ if is_fatal => Self::Unavailable(error.into()),
            (_, Some("42501")) => Self::Fenced(error),
            // Connection refused or lost, too many connections, shutting down, statement timeout.
            (_, Some(code))
                if ["08", "53", "57"].iter().any(|class| code.starts_with(class))
                    || matches!(code, "3D000" | "28000" | "28P01") =>
            {
                Self::Unavailable(error.into())
            }
            (
                sqlx::Error::Io(_)
                | sqlx::Error::Tls(_)
                | sqlx::Error::PoolTimedOut
                | sqlx::Error::PoolClosed
                | sqlx::Error::Protocol(_),
                _,
            ) => Self::Unavailable(error.into()),
            _ => Self::Internal(error.into()),
        }
    }
}

impl From<minijinja::Error> for Rejection {
    fn from(error: minijinja::Error) -> Self {
        Self::Internal(error.into())
    }
}

impl Rejection {
    fn status(&self) -> StatusCode {
        match self {
            Self::NotFound => StatusCode::NOT_FOUND,
            Self::Forbidden | Self::Csrf | Self::PreviewClosed | Self::PreviewReadOnly => {
                StatusCode::FORBIDDEN
            }
            Self::PreviewOver => StatusCode::GONE,
            Self::SignIn(_) => StatusCode::UNAUTHORIZED,
            Self::Invalid(..) => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Conflict(..) => StatusCode::CONFLICT,
            Self::TooLarge { .. } | Self::StorageFull => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Throttled(_) => StatusCode::TOO_MANY_REQUESTS,
            Self::Range(_) => StatusCode::RANGE_NOT_SATISFIABLE,
            Self::OtherSite | Self::OtherGeneration(_) | Self::Moved(_) => {
                StatusCode::MISDIRECTED_REQUEST
            }
            Self::Fenced(_) | Self::Unavailable(_) => StatusCode::SERVICE_UNAVAILABLE,
            Self::Internal(_) => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    /// The stem of the messages' keys in `locales/`.
    fn key(&self) -> &'static str {
        match self {
            Self::NotFound => "error-not-found",
            Self::Forbidden => "error-forbidden",
            Self::SignIn(_) => "error-sign-in",
            Self::Csrf => "error-csrf",
            Self::Invalid(..) => "error-invalid",
            Self::Conflict(..) => "error-conflict",
            Self::TooLarge { .. } => "error-too-large",
            Self::StorageFull => "error-storage-full",
            Self::Throttled(_) => "error-throttled",
            Self::Range(_) => "error-range",
            Self::OtherSite | Self::OtherGeneration(_) | Self::Moved(_) => "error-misdirected",
            Self::PreviewClosed => "error-preview-closed",
            Self::PreviewOver => "error-preview-over",
            Self::PreviewReadOnly => "error-preview-read-only",
            Self::Fenced(_) | Self::Unavailable(_) => "error-unavailable",
            Self::Internal(_) => "error-internal",
        }
    }

    fn set_headers(&self, answer: &mut HeaderMap) {
        let mut set = |name: &'static str, value: HeaderValue| {
            answer.insert(name, value);
        };
        match self {
            Self::OtherSite => {
                set(headers::REFUSED, HeaderValue::from_static(headers::REFUSED_SITE));
            }
            Self::OtherGeneration(generation) => {
                set(headers::REFUSED, HeaderValue::from_static(headers::REFUSED_GENERATION));
                set(headers::SERVES_GENERATION, generation.0.into());
            }
            Self::Moved(place) => {
                set(headers::REFUSED, HeaderValue::from_static(headers::REFUSED_MOVED));
                let place = place.as_ref();
                if let Some((place, region)) =
                    place.and_then(|place| Some((place, place.region.parse().ok()?)))
                {
                    set(headers::MOVED_GENERATION, place.generation.0.into());
                    set(headers::MOVED_REGION, region);
                }
            }
            Self::Fenced(_) => {
                set(headers::REFUSED, HeaderValue::from_static(headers::REFUSED_FENCED));
                set("retry-after", 2.into());
            }
            Self::Unavailable(_) => set("retry-after", 5.into()),
            Self::Throttled(seconds) => set("retry-after", (*seconds).into()),
            Self::Range(length) => {
                if let Ok(value) = HeaderValue::try_from(format!("bytes */{length}")) {
                    set("content-range", value);
                }
            }
            _ => {}
        }
        set("cache-control", HeaderValue::from_static("no-store"));
    }

    /// Logs the whole chain where a person has to look.
    fn log(&self, site: &Site, request_id: &str, trace_id: Option<&str>) {
        let chain = || {
            let mut text = self.to_string();
            let mut cause = std::error::Error::source(self);
            while let Some(error) = cause {
                text = format!("{text}: {error}");
                cause = error.source();
            }
            text
        };
        match self {
            Self::Internal(_) => tracing::error!(
                site.id = %site.id, request.id = request_id, trace.id = trace_id,
                "site {}: {}", site.slug, chain()
            ),
            Self::Unavailable(_) | Self::Fenced(_) => tracing::warn!(
                site.id = %site.id, request.id = request_id, trace.id = trace_id,
                "site {}: {}", site.slug, chain()
            ),
            _ => {}
        }
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let mut response = self.status().into_response();
        self.set_headers(response.headers_mut());
        response.extensions_mut().insert(Arc::new(self));
        response
    }
}

/// The trace that the request belongs to (W3C Trace Context): the router's word where it sends spans.
/// It lets no client say one that it does not believe.
fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut parts = headers.get("traceparent")?.to_str().ok()?.split('-');
    let (_version, id) = (parts.next()?, parts.next()?);
    let is_id = id.len() == 32 && id.bytes().all(|digit| digit.is_ascii_hexdigit());
    is_id.then_some(id)
}

/// What of a request decides how an error is told.
struct Asked {
    json: bool,
    /// Not sending anything.
    reads: bool,
    headers: HeaderMap,
    path: String,
}

impl Asked {
    fn of(request: &Request) -> Self {
        let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok());
        let accept = accept.unwrap_or_default();
        let uri = request.uri();
        Self {
            json: accept.contains("json") && !accept.contains("text/html"),
            reads: matches!(*request.method(), Method::GET | Method::HEAD),
            headers: request.headers().clone(),
            path: match uri.path() {
                // Not its query: a key is not repeated.
                preview::PATH => preview::PATH.to_owned(),
                _ => local_path(uri.path_and_query().map_or("/", |path| path.as_str())),
            },
        }
    }
}

/// Turns every rejection of what is inside into its page.
pub async fn explain(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let asked = Asked::of(&request);
    let mut response = next.run(request).await;
    let own = response.extensions().get::<Arc<Rejection>>();
    if own.is_some_and(|rejection| matches!(**rejection, Rejection::Fenced(_)))
        && let Some(more) = site.fence.after_refusal().await
    {
        response = more.into_response();
    }
    // axum's own refusals (a path that is no UUID, a method that a route lacks) carry none.
    let own = response.extensions_mut().remove::<Arc<Rejection>>();
    let rejection = match (own, response.status()) {
        (Some(rejection), _) => rejection,
        (None, status) if !has_page(&response) => match foreign(status, asked.reads) {
            Some(rejection) => Arc::new(rejection),
            None => return response,
        },
        _ => return response,
    };
    let request_id = asked.headers.get(headers::REQUEST_ID).and_then(|id| id.to_str().ok());
    let request_id = request_id.unwrap_or_default().to_owned();
    rejection.log(&site, &request_id, trace_id(&asked.headers));
    if let (Rejection::SignIn(next), false) = (&*rejection, asked.json) {
        return sign_in_first(next);
    }
    let (status, kept) = (rejection.status(), response.headers().clone());
    let mut answer = if asked.json {
        problem(&rejection, status, &asked, &request_id)
    } else {
        page(&rejection, status, &site, &asked, &request_id).await
    };
    for (name, value) in &kept {
        if name != header::CONTENT_LENGTH && name != header::CONTENT_TYPE {
            answer.headers_mut().insert(name, value.clone());
        }
    }
    rejection.set_headers(answer.headers_mut());
    answer
}

/// What axum itself refused, in our words.
fn foreign(status: StatusCode, reads: bool) -> Option<Rejection> {
    match status {
        StatusCode::PAYLOAD_TOO_LARGE => {
            Some(Rejection::TooLarge { limit: crate::form::MAX_BYTES as u64 })
        }
        StatusCode::NOT_FOUND => Some(Rejection::NotFound),
        StatusCode::BAD_REQUEST if reads => Some(Rejection::NotFound),
        StatusCode::BAD_REQUEST | StatusCode::UNSUPPORTED_MEDIA_TYPE => {
            Some(Rejection::Invalid("invalid-form", status.to_string()))
        }
        _ => None,
    }
}

/// A handler that panicked: a fault of ours like any other.
pub fn panicked(panic: Box<dyn std::any::Any + Send>) -> Response {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word");
    Rejection::Internal(anyhow::anyhow!("a handler panicked: {text}")).into_response()
}

fn has_page(response: &Response) -> bool {
    let kind = response.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"))
}

fn sign_in_first(next: &str) -> Response {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("next", next);
    Redirect::to(&format!("/sign-in?{}", query.finish())).into_response()
}

fn problem(rejection: &Rejection, status: StatusCode, asked: &Asked, request_id: &str) -> Response {
    let language = locales::Language::English;
    let detail = match rejection {
        Rejection::Invalid(key, about) | Rejection::Conflict(key, about) => {
            locales::text(language, key, &[("about", about.clone().into())])
        }
        _ => locales::text(language, &format!("{}-text", rejection.key()), &[]),
    };
    let body = serde_json::json!({
        "type": "about:blank",
        "title": locales::text(language, &format!("{}-title", rejection.key()), &[]),
        "status": status.as_u16(),
        "detail": detail,
        "instance": asked.path,
        "request_id": request_id,
    });
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

async fn page(
    rejection: &Rejection,
    status: StatusCode,
    site: &Site,
    asked: &Asked,
    request_id: &str,
) -> Response {
    // Who is not let into a preview learns nothing of the site, not even its name.
    let preview = site.preview.as_ref();
    let let_in = preview.is_none_or(|preview| preview.lets_in(&asked.headers))
        && !matches!(rejection, Rejection::PreviewClosed | Rejection::PreviewOver);
    let settings = if let_in { Some(site.settings.last_known(site).await) } else { None };
    let default = settings.as_ref().map_or(locales::Language::Indonesian, |known| known.language);
    let language = locales::Language::of(&asked.headers, None, default);
    let detail = match rejection {
        Rejection::Invalid(key, about) | Rejection::Conflict(key, about) => {
            Some(locales::text(language, key, &[("about", about.clone().into())]))
        }
        Rejection::TooLarge { limit } => Some(locales::text(
            language,
            "error-too-large-limit",
            &[("size", locales::bytes(language, *limit).into())],
        )),
        _ => None,
    };
    let html = pages::render(
        "error.html",
        values! {
            lang => language.code(), site => settings.as_deref(), status => status.as_u16(),
            key => rejection.key(), detail, request_id,
            preview => preview.filter(|_| let_in).map(Preview::banner),
        },
    );
    match html {
        Ok(html) => (status, html).into_response(),
        Err(error) => {
            tracing::error!(site.id = %site.id, "the error page cannot be shown: {error:#}");
            status.into_response()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trace_is_in_the_log_if_there_is_one() {
        let mut headers = HeaderMap::new();
        assert_eq!(trace_id(&headers), None);
        let id = "0af7651916cd43dd8448eb211c80319c";
        let value = format!("00-{id}-b7ad6b7169203331-01").parse().expect("is a value");
        headers.insert("traceparent", value);
        assert_eq!(trace_id(&headers), Some(id));
        headers.insert("traceparent", HeaderValue::from_static("00-not an id-1-01"));
        assert_eq!(trace_id(&headers), None);
    }
}
