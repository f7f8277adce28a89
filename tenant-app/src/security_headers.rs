//! The headers that every answer carries. Nothing inline is allowed: no script at all, styles only
//! from this site, frames only of the two video hosts that lessons can embed.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderName, HeaderValue, header},
    middleware::Next,
    response::Response,
};

use crate::{preview, site::Site};

const POLICY: &str = "default-src 'none'; style-src 'self'; img-src 'self'; media-src 'self'; \
     font-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; \
     frame-src https://www.youtube-nocookie.com https://player.vimeo.com";

static HEADERS: [(HeaderName, &str); 7] = [
    (header::CONTENT_SECURITY_POLICY, POLICY),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    // The video hosts refuse to play without knowing the embedding site's origin.
    (header::REFERRER_POLICY, "strict-origin-when-cross-origin"),
    (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
    (
        HeaderName::from_static("permissions-policy"),
        "camera=(), microphone=(), geolocation=(), payment=(), usb=(), browsing-topics=()",
    ),
];

/// Adds what is not set already (files have a stricter policy of their own).
pub async fn add(State(site): State<Arc<Site>>, request: Request, next: Next) -> Response {
    let path = site.preview.as_ref().map(|_| request.uri().path().to_owned());
    let mut response = next.run(request).await;
    let answer = response.headers_mut();
    if let Some(path) = path {
        preview::set_headers(answer, &path);
    }
    for (name, value) in &HEADERS {
        answer.entry(name).or_insert(HeaderValue::from_static(value));
    }
    answer.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("private, no-cache"));
    response
}
