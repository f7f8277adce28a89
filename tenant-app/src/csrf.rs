//! Forms of this site, from this browser only. Two walls: what the browser says about where the
//! request came from, and a token in the form that only this browser's cookie can confirm.
//!
//! A token is a nonce and its MAC under the cookie's secret, so it differs in every page and
//! compression cannot leak it.

use axum::{
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, header},
    middleware::Next,
    response::{IntoResponse as _, Response},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use crate::{accounts::sessions, rejection::Rejection, visit::cookie};

/// Of people who are not signed in yet: binds the sign-in form to the browser.
const COOKIE: &str = "__Host-visitor";
const NONCE_BYTES: usize = 16;

/// The secret that binds forms to a browser.
pub struct Binding {
    secret: [u8; 32],
    is_new: bool,
}

impl Binding {
    /// From the session if there is one, else from the visitor's cookie, else a new one.
    pub fn of(headers: &HeaderMap, session: Option<&sessions::Secret>) -> Self {
        if let Some(session) = session {
            return Self { secret: *session.bytes(), is_new: false };
        }
        let known = cookie(headers, COOKIE)
            .and_then(|text| URL_SAFE_NO_PAD.decode(text).ok())
            .and_then(|bytes| bytes.try_into().ok());
        match known {
            Some(secret) => Self { secret, is_new: false },
            None => Self { secret: rand::random(), is_new: true },
        }
    }

    /// A token for the forms of one page.
    pub fn token(&self) -> String {
        let nonce: [u8; NONCE_BYTES] = rand::random();
        let mut token = nonce.to_vec();
        token.extend_from_slice(&self.mac(&nonce).finalize().into_bytes());
        URL_SAFE_NO_PAD.encode(token)
    }

    /// Checks the token that came with a form.
    ///
    /// # Errors
    /// When it was not made for this browser.
    pub fn check(&self, token: &str) -> Result<(), Rejection> {
        let bytes = URL_SAFE_NO_PAD.decode(token).map_err(|_| Rejection::Csrf)?;
        let (nonce, mac) = bytes.split_at_checked(NONCE_BYTES).ok_or(Rejection::Csrf)?;
        self.mac(nonce).verify_slice(mac).map_err(|_| Rejection::Csrf)
    }

    /// The cookie to set with a page whose form needs it.
    pub fn new_cookie(&self) -> Option<HeaderValue> {
        let value = URL_SAFE_NO_PAD.encode(self.secret);
        let cookie = format!("{COOKIE}={value}; Path=/; Secure; HttpOnly; SameSite=Lax");
        self.is_new.then(|| HeaderValue::try_from(cookie).ok()).flatten()
    }

    fn mac(&self, nonce: &[u8]) -> Hmac<Sha256> {
        // HMAC takes keys of any length; this one has the right one by type.
        let mut mac = <Hmac<Sha256> as hmac::digest::KeyInit>::new(&self.secret.into_block());
        mac.update(b"form");
        mac.update(nonce);
        mac
    }
}

/// HMAC's infallible constructor wants a whole block.
trait IntoBlock {
    fn into_block(self) -> hmac::digest::Key<Hmac<Sha256>>;
}

impl IntoBlock for [u8; 32] {
    fn into_block(self) -> hmac::digest::Key<Hmac<Sha256>> {
        let mut block = hmac::digest::Key::<Hmac<Sha256>>::default();
        block[..32].copy_from_slice(&self);
        block
    }
}

/// Refuses a request that changes something when the browser says that another site sent it.
pub async fn same_origin(request: Request, next: Next) -> Response {
    let safe = matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
    if !safe && is_foreign(request.headers()) {
        return Rejection::Csrf.into_response();
    }
    next.run(request).await
}

fn is_foreign(headers: &HeaderMap) -> bool {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or("unreadable"));
    if let Some(from) = text("sec-fetch-site")
        && from != "same-origin"
        && from != "none"
    {
        return true;
    }
    let Some(origin) = text("origin") else { return false };
    let host = text(header::HOST.as_str()).unwrap_or_default();
    origin.split_once("://").is_none_or(|(_, from)| !from.eq_ignore_ascii_case(host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_belong_to_one_secret() {
        let mine = Binding { secret: [1; 32], is_new: false };
        let other = Binding { secret: [2; 32], is_new: false };
        assert!(mine.check(&mine.token()).is_ok());
        assert_ne!(mine.token(), mine.token());
        assert!(mine.check(&other.token()).is_err());
        for bad in ["", "AAAA", "not base64!", &"A".repeat(64)] {
            assert!(mine.check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn foreign_requests_are_told_by_their_headers() {
        let headers = |pairs: &[(&'static str, &str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().expect("a header"));
            }
            headers
        };
        let host = ("host", "acme.test:8443");
        assert!(!is_foreign(&headers(&[host])));
        assert!(!is_foreign(&headers(&[host, ("origin", "https://acme.test:8443")])));
        assert!(!is_foreign(&headers(&[host, ("sec-fetch-site", "same-origin")])));
        assert!(is_foreign(&headers(&[host, ("sec-fetch-site", "cross-site")])));
        assert!(is_foreign(&headers(&[host, ("sec-fetch-site", "same-site")])));
        assert!(is_foreign(&headers(&[host, ("origin", "https://evil.test")])));
        assert!(is_foreign(&headers(&[host, ("origin", "null")])));
    }
}
