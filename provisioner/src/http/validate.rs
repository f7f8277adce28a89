//! Checks of what came in, before anything is recorded. Each refusal names the field and what to do.

use std::net::IpAddr;

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::StatusCode,
};
use control_types::{
    Hostname, Slug,
    hostname::{HostnameError, MAX_HOSTNAME_BYTES},
    slug,
};
use serde::de::DeserializeOwned;

use crate::{domain_check::TXT_PREFIX, http::refusal::Refusal};

/// Longest name of an institution or a person, in characters.
const MAX_NAME_CHARS: usize = 200;
/// Longest mail address, in bytes (RFC 5321 section 4.5.3.1.3).
const MAX_EMAIL_BYTES: usize = 254;
/// Shortest password, in characters.
const MIN_PASSWORD_CHARS: usize = 10;
/// Longest hostname that still leaves room for the name of its TXT record.
const MAX_DOMAIN_BYTES: usize = MAX_HOSTNAME_BYTES - TXT_PREFIX.len();

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
    if text.starts_with(slug::PREVIEW) {
        let detail = format!("'{text}': the names of previews begin with '{}'", slug::PREVIEW);
        return Err(Refusal::invalid("slug", detail));
    }
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

/// IP addresses; they come out in canonical form.
pub fn ip_addresses(field: &str, texts: &mut Vec<String>) -> Result<(), Refusal> {
    for text in texts.iter_mut() {
        let address: IpAddr = text
            .trim()
            .parse()
            .map_err(|_| Refusal::invalid(field, format!("'{text}' is not an IP address")))?;
        *text = address.to_canonical().to_string();
    }
    texts.sort();
    texts.dedup();
    Ok(())
}

/// A hostname of an institution's own.
pub fn custom_domain(field: &str, text: &str, platform: &Hostname) -> Result<Hostname, Refusal> {
    let refuse = |detail: String| Refusal::invalid(field, detail);
    let text = text.trim();
    if text.contains('/') {
        return Err(refuse(format!("'{text}': only the name is wanted, as belajar.example.ac.id")));
    }
    if text.contains('*') {
        return Err(refuse(format!(
            "'{text}': a wildcard cannot be claimed; add each hostname by itself"
        )));
    }
    if text.trim_matches(['[', ']']).parse::<IpAddr>().is_ok() {
        return Err(refuse(format!("'{text}': {}", HostnameError::Address)));
    }
    let hostname: Hostname = text.parse().map_err(|error| refuse(format!("'{text}': {error}")))?;
    let Some((_, parent)) = hostname.as_str().split_once('.') else {
        return Err(refuse("a domain has at least two parts, as in a.example".to_owned()));
    };
    if hostname.as_str().len() > MAX_DOMAIN_BYTES {
        return Err(refuse(format!("'{hostname}' is longer than {MAX_DOMAIN_BYTES} characters")));
    }
    // Every name below `localhost` is this machine. One label below it is a site's platform name.
    let is_local = platform.as_str() == "localhost" && parent != platform.as_str();
    if hostname == *platform || (hostname.is_below(platform) && !is_local) {
        return Err(refuse(format!(
            "'{hostname}' belongs to the platform; a site gets its name there by its slug"
        )));
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
        let good = |text: &str, platform: &str| {
            let platform: Hostname = platform.parse().expect("a hostname");
            custom_domain("hostname", text, &platform).map(String::from).ok()
        };
        for bad in [
            "localhost",
            "acme.localhost",
            "single",
            "a_b.example",
            "10.0.0.1",
            "[::1]",
            "*.acme.example",
            "https://acme.example/",
        ] {
            assert_eq!(good(bad, "localhost"), None, "{bad}");
        }
        for name in ["belajar.acme.localhost", "acme.example", "notlocalhost.x"] {
            assert_eq!(good(name, "localhost").as_deref(), Some(name));
        }
        assert_eq!(good("Bücher.example.", "localhost").as_deref(), Some("xn--bcher-kva.example"));
        for bad in ["sites.example", "acme.sites.example", "www.acme.sites.example"] {
            assert_eq!(good(bad, "sites.example"), None, "{bad}");
        }
        assert!(good("example", "sites.example").is_none());
        assert!(good("mysites.example", "sites.example").is_some());
        assert!(good(&format!("{}a.test", "abcde.".repeat(41)), "sites.example").is_none());
    }

    #[test]
    fn edge_addresses_have_one_form() {
        let mut texts = vec!["::FFFF:192.0.2.1".to_owned(), "2001:DB8:0::1".to_owned()];
        ip_addresses("edge_addresses", &mut texts).expect("addresses");
        assert_eq!(texts, ["192.0.2.1", "2001:db8::1"]);
        assert!(ip_addresses("edge_addresses", &mut vec!["a.test".to_owned()]).is_err());
    }
}
