//! The one place where a reason becomes an answer: a page or problem JSON, in the site's language,
//! under the site's name where the site is known. It never shows what went wrong inside.

use std::sync::LazyLock;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{
        ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_LANGUAGE, CONTENT_SECURITY_POLICY, CONTENT_TYPE,
        RETRY_AFTER, VARY, X_CONTENT_TYPE_OPTIONS,
    },
};
use sha2::{Digest, Sha256};

mod wording;

use wording::{Language, wording};

/// Why a request was not forwarded, or its answer not passed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The head of the request is ambiguous or malformed.
    BadRequest,
    /// None or more than one valid hostname.
    BadHost,
    /// The body of the request is malformed or ended too early.
    BadBody,
    /// No site has the hostname.
    UnknownHost,
    /// A method that no site answers.
    MethodNotAllowed,
    /// A method that is none.
    MethodUnknown,
    /// An `Expect` other than `100-continue`.
    ExpectationFailed,
    /// The connection was made for another site's hostname.
    Misdirected,
    /// The body is longer than the site's plan allows.
    BodyTooLarge,
    /// The client stopped sending its body.
    BodyTimeout,
    /// The site was closed by an operator.
    Suspended,
    /// The site is being deleted.
    Deleting,
    /// The site's instance does not answer yet.
    Starting,
    /// The site's route or data is on its way to another place.
    Relocating,
    /// The site is held for longer than the request waits, or too many wait already.
    Held,
    /// More requests for the site than its instance takes at once.
    Busy,
    /// More requests for the site in a second than its plan allows.
    SiteOverLimit,
    /// More requests from the client's address in a second than anybody may send.
    ClientOverLimit,
    /// The instance closed the connection or answered nonsense.
    UpstreamFailed,
    /// The instance did not answer in time.
    UpstreamTimeout,
    /// This router has no routes yet.
    NoRoutes,
}

impl Reason {
    /// All reasons, in the order of their declaration.
    pub const ALL: [Self; 21] = [
        Self::BadRequest,
        Self::BadHost,
        Self::BadBody,
        Self::UnknownHost,
        Self::MethodNotAllowed,
        Self::MethodUnknown,
        Self::ExpectationFailed,
        Self::Misdirected,
        Self::BodyTooLarge,
        Self::BodyTimeout,
        Self::Suspended,
        Self::Deleting,
        Self::Starting,
        Self::Relocating,
        Self::Held,
        Self::Busy,
        Self::SiteOverLimit,
        Self::ClientOverLimit,
        Self::UpstreamFailed,
        Self::UpstreamTimeout,
        Self::NoRoutes,
    ];

    /// The text in metrics, logs and problem JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad_request",
            Self::BadHost => "bad_host",
            Self::BadBody => "bad_body",
            Self::UnknownHost => "unknown_host",
            Self::MethodNotAllowed => "method_not_allowed",
            Self::MethodUnknown => "method_unknown",
            Self::ExpectationFailed => "expectation_failed",
            Self::Misdirected => "misdirected",
            Self::BodyTooLarge => "body_too_large",
            Self::BodyTimeout => "body_timeout",
            Self::Suspended => "suspended",
            Self::Deleting => "deleting",
            Self::Starting => "starting",
            Self::Relocating => "relocating",
            Self::Held => "held",
            Self::Busy => "busy",
            Self::SiteOverLimit => "site_over_limit",
            Self::ClientOverLimit => "client_over_limit",
            Self::UpstreamFailed => "upstream_failed",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::NoRoutes => "no_routes",
        }
    }

    /// The status of the answer.
    pub const fn status(self) -> StatusCode {
        match self {
            Self::BadRequest | Self::BadHost | Self::BadBody => StatusCode::BAD_REQUEST,
            Self::UnknownHost => StatusCode::NOT_FOUND,
            Self::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
            Self::MethodUnknown => StatusCode::NOT_IMPLEMENTED,
            Self::ExpectationFailed => StatusCode::EXPECTATION_FAILED,
            Self::Misdirected => StatusCode::MISDIRECTED_REQUEST,
            Self::BodyTooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::BodyTimeout => StatusCode::REQUEST_TIMEOUT,
            Self::SiteOverLimit | Self::ClientOverLimit => StatusCode::TOO_MANY_REQUESTS,
            Self::UpstreamFailed => StatusCode::BAD_GATEWAY,
            Self::UpstreamTimeout => StatusCode::GATEWAY_TIMEOUT,
            Self::Suspended
            | Self::Deleting
            | Self::Starting
            | Self::Relocating
            | Self::Held
            | Self::Busy
            | Self::NoRoutes => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// Seconds after which trying again makes sense.
    const fn retry_after_secs(self) -> Option<u32> {
        match self {
            // The rates are at least one in a second.
            Self::SiteOverLimit | Self::ClientOverLimit => Some(1),
            Self::Starting | Self::Relocating | Self::Held | Self::Busy => Some(2),
            Self::NoRoutes => Some(5),
            _ => None,
        }
    }
}

/// Under whose name the page stands.
#[derive(Clone, Copy)]
pub struct Brand<'a> {
    /// The site's name.
    pub site_name: &'a str,
    /// The site's default language.
    pub language: &'a str,
}

const METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";
const STYLE: &str = include_str!("../pages/rejection.css");
const PAGE: &str = include_str!("../pages/rejection.html");

/// Nothing but the page's own style; known by its hash, so that nothing else can run or load.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let hash = BASE64.encode(Sha256::digest(STYLE));
    let policy = format!(
        "default-src 'none'; style-src 'sha256-{hash}'; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    HeaderValue::from_str(&policy).unwrap_or(HeaderValue::from_static("default-src 'none'"))
});

/// The answer for `reason`.
pub fn answer(
    reason: Reason,
    asked: &HeaderMap,
    brand: Option<Brand<'_>>,
    request_id: &str,
) -> Response<Bytes> {
    let language = match brand {
        Some(brand) => Language::of_site(brand.language),
        None => Language::accepted(asked),
    };
    let (body, content_type) = if wants_json(asked) {
        (problem(reason, language, request_id), "application/problem+json")
    } else {
        (page(reason, language, brand, request_id), "text/html; charset=utf-8")
    };
    let mut response = Response::new(Bytes::from(body));
    *response.status_mut() = reason.status();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CONTENT_LANGUAGE, HeaderValue::from_static(language.tag()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(VARY, HeaderValue::from_static("accept, accept-language"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, POLICY.clone());
    if let Some(seconds) = reason.retry_after_secs() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if reason == Reason::MethodNotAllowed {
        headers.insert(ALLOW, HeaderValue::from_static(METHODS));
    }
    response
}

/// Whether the client asked for JSON and not for a page.
fn wants_json(asked: &HeaderMap) -> bool {
    let mut json = false;
    for line in asked.get_all(ACCEPT) {
        let Ok(line) = line.to_str() else { continue };
        if line.contains("text/html") {
            return false;
        }
        json |= line.contains("application/json") || line.contains("+json");
    }
    json
}

fn problem(reason: Reason, language: Language, request_id: &str) -> String {
    let (title, detail) = wording(reason, language);
    serde_json::json!({
        "type": "about:blank",
        "title": title,
        "status": reason.status().as_u16(),
        "detail": detail,
        "reason": reason.as_str(),
        "request_id": request_id,
    })
    .to_string()
}

fn page(reason: Reason, language: Language, brand: Option<Brand<'_>>, request_id: &str) -> String {
    let (title, detail) = wording(reason, language);
    let site = brand.map_or_else(String::new, |brand| {
        format!("<p class=\"site\">{}</p>\n", escaped(brand.site_name))
    });
    let (status_label, request_label) = language.labels();
    let status = reason.status();
    let values = [
        ("language", language.tag()),
        ("title", title),
        ("detail", detail),
        ("style", STYLE),
        ("site", &site),
        ("status_label", status_label),
        ("status", status.as_str()),
        ("request_label", request_label),
        ("request_id", request_id),
    ];
    let mut out = String::with_capacity(PAGE.len() + STYLE.len() + 512);
    let mut rest = PAGE;
    // One pass over the page's own text: what is filled in is never looked at for names again.
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let Some((name, after)) = after.split_once('}') else { break };
        let value = values.iter().find(|(key, _)| *key == name).map_or("", |(_, value)| value);
        out.push_str(value);
        rest = after;
    }
    out.push_str(rest);
    out
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(reason: Reason, site_name: &str) -> String {
        let brand = Brand { site_name, language: "id" };
        let answer = answer(reason, &HeaderMap::new(), Some(brand), "abc123");
        String::from_utf8(answer.into_body().to_vec()).expect("is text")
    }

    #[test]
    fn every_reason_has_a_whole_page_in_both_languages() {
        for (index, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "ALL is in the order of the declaration");
            let page = html(reason, "Akademi");
            assert!(page.contains("lang=\"id\"") && page.contains("abc123"));
            assert!(page.ends_with("</html>\n"), "{page}");
            assert!(!page.contains("{title}") && !page.contains("{site}"));
            let (indonesian, english) =
                (wording(reason, Language::Indonesian), wording(reason, Language::English));
            assert_ne!(indonesian.0, english.0, "{reason:?}");
        }
    }

    #[test]
    fn a_site_name_cannot_break_out() {
        let page = html(Reason::Suspended, "<script>{request_id}</script>&\"");
        assert!(page.contains("&lt;script&gt;{request_id}&lt;/script&gt;&amp;&quot;"));
    }

    #[test]
    fn json_is_for_those_who_ask_for_it() {
        let mut asked = HeaderMap::new();
        asked.insert(ACCEPT, HeaderValue::from_static("application/json"));
        let json = answer(Reason::Starting, &asked, None, "id1");
        assert_eq!(json.headers()[CONTENT_TYPE], "application/problem+json");
        assert_eq!(json.headers()[RETRY_AFTER], "2");
        let body: serde_json::Value = serde_json::from_slice(json.body()).expect("is JSON");
        assert_eq!(
            (body["status"].as_u64(), body["reason"].as_str()),
            (Some(503), Some("starting"))
        );
        asked.insert(ACCEPT, HeaderValue::from_static("text/html,application/json;q=0.9"));
        assert!(!wants_json(&asked));
    }
}
