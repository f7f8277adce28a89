//! Checks of what came in, before anything is recorded. Each refusal names the field and what to do.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::StatusCode,
};
use control_types::{Hostname, Slug};
use serde::de::DeserializeOwned;

use crate::http::refusal::Refusal;

/// Longest name of an institution or a person, in characters.
const MAX_NAME_CHARS: usize = 200;
/// Longest mail address, in bytes (RFC 5321 section 4.5.3.1.3).
const MAX_EMAIL_BYTES: usize = 254;
/// Shortest password, in characters.
const MIN_PASSWORD_CHARS: usize = 10;

/// A JSON body, whose mistakes are told as a problem that names the field.
pub struct Body<T>(pub T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, state: &S) -> Result<Self, Refusal> {
        let bytes = Bytes::from_request(request, state).await.map_err(|_| {
            Refusal::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                "The request is too large",
                "a request has at most 256 KiB",
            )
        })?;
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        serde_json::from_slice(bytes).map(Self).map_err(|error| {
            Refusal::new(
                StatusCode::BAD_REQUEST,
                "malformed",
                "The request cannot be read",
                format!("the body is not the expected JSON: {error}"),
            )
        })
    }
}

/// A slug.
pub fn slug(text: &str) -> Result<Slug, Refusal> {
    text.parse().map_err(|error| Refusal::invalid("slug", format!("'{text}': {error}")))
}

/// A name for people.
pub fn name(field: &str, text: &str) -> Result<String, Refusal> {
    let text = text.trim();
    if text.is_empty() || text.chars().count() > MAX_NAME_CHARS {
        return Err(Refusal::invalid(field, "a name has 1 to 200 characters"));
    }
    if text.chars().any(char::is_control) {
        return Err(Refusal::invalid(field, "a name has no control characters"));
    }
    Ok(text.to_owned())
}

/// A mail address: one `@` with something on both sides, and a domain that is a hostname. Whether
/// mail arrives there is seen when it is sent.
pub fn email(field: &str, text: &str) -> Result<String, Refusal> {
    let refuse = || Refusal::invalid(field, format!("'{text}' is not a mail address"));
    let text = text.trim();
    let (local, domain) = text.rsplit_once('@').ok_or_else(refuse)?;
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '@';
    let fits = text.len() <= MAX_EMAIL_BYTES && local.len() <= 64;
    if local.is_empty() || !fits || !local.chars().all(plain) {
        return Err(refuse());
    }
    let domain: Hostname = domain.parse().map_err(|_| refuse())?;
    Ok(format!("{local}@{domain}"))
}

/// A password that somebody chose.
pub fn password(field: &str, text: &str) -> Result<(), Refusal> {
    let count = text.chars().count();
    if (MIN_PASSWORD_CHARS..=MAX_NAME_CHARS).contains(&count) {
        return Ok(());
    }
    Err(Refusal::invalid(field, "a password has 10 to 200 characters"))
}

/// A hostname of an institution's own.
pub fn custom_domain(text: &str, platform: &Hostname) -> Result<Hostname, Refusal> {
    let hostname: Hostname =
        text.parse().map_err(|error| Refusal::invalid("domain", format!("'{text}': {error}")))?;
    if !hostname.as_str().contains('.') {
        return Err(Refusal::invalid("domain", "a domain has at least two parts, as in a.example"));
    }
    // One label below the platform's domain is a site's platform name.
    let label = hostname.as_str().strip_suffix(platform.as_str());
    let is_platform_name = hostname == *platform
        || label.is_some_and(|rest| rest.ends_with('.') && !rest[..rest.len() - 1].contains('.'));
    if is_platform_name {
        return Err(Refusal::invalid(
            "domain",
            format!("'{hostname}' belongs to the platform; a site gets its name there by its slug"),
        ));
    }
    Ok(hostname)
}

/// A language that the LMS speaks.
pub fn language(text: &str) -> Result<&'static str, Refusal> {
    match text {
        "id" => Ok("id"),
        "en" => Ok("en"),
        _ => Err(Refusal::invalid("default_language", "the languages are 'id' and 'en'")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        assert_eq!(email("e", " Admin@ACME.test ").ok().as_deref(), Some("Admin@acme.test"));
        for bad in ["", "a", "@b.c", "a@", "a b@c.d", "a@b@c.d", "a@b..c", "a@127.0.0.1"] {
            assert!(email("e", bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_platform_name_is_no_custom_domain() {
        let platform: Hostname = "localhost".parse().expect("a hostname");
        for bad in ["localhost", "acme.localhost", "single", "a_b.example", "10.0.0.1"] {
            assert!(custom_domain(bad, &platform).is_err(), "{bad}");
        }
        for good in ["belajar.acme.localhost", "acme.example", "notlocalhost.x"] {
            assert!(custom_domain(good, &platform).is_ok(), "{good}");
        }
    }
}
