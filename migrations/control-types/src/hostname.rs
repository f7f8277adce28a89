//! The one canonical form of a hostname. It is used for SNI, `Host`, `:authority` and for what is
//! written into the control database, so that the four can be compared byte by byte.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Longest hostname in bytes, without the trailing dot (RFC 1035 section 2.3.4).
pub const MAX_HOSTNAME_BYTES: usize = 253;
/// Longest label in bytes (RFC 1035 section 2.3.4).
pub const MAX_LABEL_BYTES: usize = 63;

/// Why a text is not a hostname.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostnameError {
    /// Nothing was given.
    #[error("a hostname must not be empty")]
    Empty,
    /// Over [`MAX_HOSTNAME_BYTES`].
    #[error("a hostname has at most 253 characters")]
    TooLong,
    /// An empty label, one over [`MAX_LABEL_BYTES`], or one that begins or ends with a hyphen.
    #[error("each part of a hostname has 1 to 63 characters and neither begins nor ends with '-'")]
    BadLabel,
    /// A character that no hostname has.
    #[error("a hostname consists of letters, digits, '-' and '.'")]
    BadCharacter,
    /// An IP address, or something that other programs would read as one.
    #[error("an IP address is not a hostname")]
    Address,
    /// Not valid internationalised text (UTS 46).
    #[error("the hostname is not valid internationalised text (IDNA)")]
    Idna,
    /// The part after ':' is not a port.
    #[error("the port after ':' must be a number from 1 to 65535")]
    BadPort,
}

/// A hostname in canonical form: lower case, ASCII (A-labels), no trailing dot, no port.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Hostname(Box<str>);

impl Hostname {
    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The hostname of a site on the platform's own domain: `<slug>.<platform>`.
    ///
    /// # Errors
    /// When the two together are no hostname.
    pub fn on_platform(slug: &crate::Slug, platform: &Self) -> Result<Self, HostnameError> {
        format!("{slug}.{platform}").parse()
    }

    /// As people write it: with the letters that its A-labels stand for.
    pub fn to_unicode(&self) -> String {
        if !has_a_label(&self.0) {
            return self.0.to_string();
        }
        match idna::domain_to_unicode(&self.0) {
            (unicode, Ok(())) => unicode,
            (_, Err(_)) => self.0.to_string(),
        }
    }

    /// Whether this is below `parent` (not `parent` itself).
    pub fn is_below(&self, parent: &Self) -> bool {
        self.0.strip_suffix(parent.as_str()).is_some_and(|rest| rest.ends_with('.'))
    }
}

/// Whether a name in canonical form is this machine, whatever any DNS says (RFC 6761 section 6.3).
pub fn is_local(name: &str) -> bool {
    name.strip_suffix("localhost").is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// Whether a name is one label below `parent`: what a wildcard certificate of `parent` covers.
pub fn is_right_below(name: &str, parent: &str) -> bool {
    let label = name.strip_suffix(parent).and_then(|rest| rest.strip_suffix('.'));
    label.is_some_and(|label| !label.is_empty() && !label.contains('.'))
}

/// The canonical form of `input`, without allocating where `input` is canonical already. `scratch`
/// holds the text otherwise.
///
/// # Errors
/// When `input` is no hostname.
pub fn canonical<'a>(input: &'a str, scratch: &'a mut String) -> Result<&'a str, HostnameError> {
    let trimmed = input.strip_suffix('.').unwrap_or(input);
    let plain = trimmed.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.'));
    if plain && !has_a_label(trimmed) {
        check(trimmed)?;
        return Ok(trimmed);
    }
    if trimmed.is_ascii() && !has_a_label(trimmed) {
        scratch.clear();
        scratch.extend(trimmed.chars().map(|c| c.to_ascii_lowercase()));
    } else {
        *scratch = to_ascii(trimmed)?;
    }
    check(scratch)?;
    Ok(scratch)
}

/// The canonical hostname of an authority as in a `Host` header: `host` or `host:port`.
///
/// # Errors
/// When the authority has user information, a bad port, or no valid hostname.
pub fn canonical_authority<'a>(
    authority: &'a str,
    scratch: &'a mut String,
) -> Result<&'a str, HostnameError> {
    let host = match authority.rsplit_once(':') {
        None => authority,
        Some((host, port)) => {
            let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
            match port.parse::<u16>() {
                Ok(number) if digits && number > 0 => host,
                _ => return Err(HostnameError::BadPort),
            }
        }
    };
    canonical(host, scratch)
}

/// Whether a label claims to be an A-label ("xn--"), in any case.
fn has_a_label(text: &str) -> bool {
    text.split('.').any(|label| {
        label.as_bytes().get(..4).is_some_and(|start| start.eq_ignore_ascii_case(b"xn--"))
    })
}

fn to_ascii(text: &str) -> Result<String, HostnameError> {
    let ascii = idna::domain_to_ascii_strict(text).map_err(|_| HostnameError::Idna)?;
    // An A-label must be what its own Unicode form encodes to; else two spellings of one name
    // would be two hostnames (RUSTSEC-2024-0421).
    let (unicode, outcome) = idna::domain_to_unicode(&ascii);
    outcome.map_err(|_| HostnameError::Idna)?;
    match idna::domain_to_ascii_strict(&unicode) {
        Ok(again) if again == ascii => Ok(ascii),
        _ => Err(HostnameError::Idna),
    }
}

fn check(text: &str) -> Result<(), HostnameError> {
    if text.is_empty() {
        return Err(HostnameError::Empty);
    }
    if text.len() > MAX_HOSTNAME_BYTES {
        return Err(HostnameError::TooLong);
    }
    let mut last = "";
    for label in text.split('.') {
        let bytes = label.as_bytes();
        if bytes.is_empty() || bytes.len() > MAX_LABEL_BYTES {
            return Err(HostnameError::BadLabel);
        }
        if bytes[0] == b'-' || bytes[bytes.len() - 1] == b'-' {
            return Err(HostnameError::BadLabel);
        }
        if !bytes.iter().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-')) {
            return Err(HostnameError::BadCharacter);
        }
        last = label;
    }
    // A last label that is a number makes browsers read the whole as an IPv4 address
    // (WHATWG URL, "ends in a number").
    let number = last.bytes().all(|b| b.is_ascii_digit());
    let hexadecimal =
        last.strip_prefix("0x").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_hexdigit()));
    if number || hexadecimal { Err(HostnameError::Address) } else { Ok(()) }
}

impl FromStr for Hostname {
    type Err = HostnameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut scratch = String::new();
        canonical(text, &mut scratch).map(|name| Self(name.into()))
    }
}

impl TryFrom<String> for Hostname {
    type Error = HostnameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Hostname> for String {
    fn from(name: Hostname) -> Self {
        name.0.into()
    }
}

impl AsRef<str> for Hostname {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(text: &str) -> Result<String, HostnameError> {
        text.parse::<Hostname>().map(String::from)
    }

    #[test]
    fn case_dot_and_idna_have_one_form() {
        assert_eq!(parse("Acme.Example."), Ok("acme.example".into()));
        assert_eq!(parse("bücher.example"), Ok("xn--bcher-kva.example".into()));
        assert_eq!(parse("XN--BCHER-KVA.example"), Ok("xn--bcher-kva.example".into()));
        let shown = "bücher.example".parse::<Hostname>().map(|name| name.to_unicode());
        assert_eq!(shown, Ok("bücher.example".into()));
    }

    #[test]
    fn what_is_no_hostname_is_refused() {
        for (text, error) in [
            ("", HostnameError::Empty),
            (".", HostnameError::Empty),
            ("a..b", HostnameError::BadLabel),
            ("-a.b", HostnameError::BadLabel),
            ("a_b.c", HostnameError::BadCharacter),
            ("a b", HostnameError::BadCharacter),
            ("u@a", HostnameError::BadCharacter),
            ("a%41", HostnameError::BadCharacter),
            ("a,b", HostnameError::BadCharacter),
            ("127.0.0.1", HostnameError::Address),
            ("a.0x7f", HostnameError::Address),
            ("xn--abc-.com", HostnameError::Idna),
        ] {
            assert_eq!(parse(text), Err(error), "{text:?}");
        }
        assert_eq!(parse(&"a.".repeat(127)), Ok("a.".repeat(126) + "a"));
        assert_eq!(parse(&format!("{}.b", "a".repeat(64))), Err(HostnameError::BadLabel));
        assert_eq!(parse(&"abc.".repeat(70)), Err(HostnameError::TooLong));
    }

    #[test]
    fn an_authority_loses_its_port_only() {
        let mut scratch = String::new();
        assert_eq!(canonical_authority("Acme.test:8443", &mut scratch), Ok("acme.test"));
        for bad in ["a:", "a:0", "a:99999", "a:+1", "a:b", "[::1]:80"] {
            assert!(canonical_authority(bad, &mut String::new()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn canonical_form_is_a_fixed_point(text in "\\PC{0,80}") {
            if let Ok(once) = parse(&text) {
                prop_assert_eq!(parse(&once), Ok(once.clone()));
                prop_assert_eq!(parse(&once.to_uppercase()), Ok(once.clone()));
                prop_assert_eq!(parse(&format!("{once}.")), Ok(once));
            }
        }

        #[test]
        fn any_input_is_answered(text in any::<String>()) {
            let _ = parse(&text);
            let _ = canonical_authority(&text, &mut String::new());
        }
    }
}
