//! The answer to `GET /.well-known/acme-challenge/<token>` (RFC 8555 section 8.3), for any region's
//! hostname and before any routing: the hostname may have no route yet.

use bytes::Bytes;
use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{CACHE_CONTROL, CONTENT_TYPE},
};

use crate::{Edge, host::Asked};

const PATH: &str = "/.well-known/acme-challenge/";
/// RFC 8555 wants at least 22; the control database takes no more than this.
const TOKEN_MAX_LENGTH: usize = 128;
const OCTETS: HeaderValue = HeaderValue::from_static("application/octet-stream");
const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");

/// The token of a request that asks for a challenge's answer.
pub fn token<'a>(method: &Method, path: &'a str) -> Option<&'a str> {
    let token = path.strip_prefix(PATH)?;
    let is_token = !token.is_empty()
        && token.len() <= TOKEN_MAX_LENGTH
        && token.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    (is_token && matches!(*method, Method::GET | Method::HEAD)).then_some(token)
}

/// The answer, if there is such a challenge for the hostname.
pub async fn answer(edge: &Edge, asked: &Asked<'_>, token: &str) -> Option<Response<Bytes>> {
    let known = edge.routes.load().challenges.http(token).cloned();
    let challenge = match known {
        Some(known) => Some(known),
        None => edge.challenges.http(token).await,
    };
    let body = challenge?.http_body(asked.host)?;
    edge.metrics.challenges_http.increment(1);
    tracing::info!(host = asked.host, "answered a challenge of a certificate authority");
    Some(respond(StatusCode::OK, OCTETS, body))
}

/// What is said to somebody who asks over plain HTTP for a challenge that there is not.
pub fn none() -> Response<Bytes> {
    respond(StatusCode::NOT_FOUND, TEXT, Bytes::from_static(b"There is no such challenge.\n"))
}

fn respond(status: StatusCode, content_type: HeaderValue, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response.headers_mut().insert(CACHE_CONTROL, NO_STORE);
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_token_is_looked_up() {
        let of = |path: &'static str| token(&Method::GET, path);
        assert_eq!(of("/.well-known/acme-challenge/a_B-9"), Some("a_B-9"));
        for path in [
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/a/b",
            "/.well-known/acme-challenge/a%41",
            "/.well-known/acme-challenge/a.b",
            "/.well-known/acme-challeng",
            "/",
        ] {
            assert_eq!(of(path), None, "{path}");
        }
        assert_eq!(token(&Method::POST, "/.well-known/acme-challenge/a"), None);
        assert_eq!(token(&Method::GET, &format!("{PATH}{}", "a".repeat(129))), None);
    }
}
