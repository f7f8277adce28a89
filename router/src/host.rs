//! Which hostname a request is for, and whether the request is one that every HTTP program reads
//! alike. Pure: it looks at the head of the request and nothing else. What is ambiguous is refused
//! here, so that no two programs behind can disagree about it.

use control_types::hostname;
use http::{
    HeaderMap, Method, Uri, Version,
    header::{CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING},
};

use crate::rejection::Reason;

/// The authority of a request, as the client wrote it.
#[derive(Debug, PartialEq, Eq)]
pub struct Asked<'a> {
    /// The hostname in canonical form.
    pub host: &'a str,
    /// `:port` as the client wrote it, or nothing.
    pub port: &'a str,
}

/// The one authority that the request names.
///
/// # Errors
/// When it names none, more than one, or one that is no hostname.
pub fn asked<'a>(
    version: Version,
    uri: &'a Uri,
    headers: &'a HeaderMap,
    scratch: &'a mut String,
) -> Result<Asked<'a>, Reason> {
    let mut lines = headers.get_all(HOST).iter();
    let header = match (lines.next(), lines.next()) {
        (_, Some(_)) => return Err(Reason::BadHost),
        (Some(line), None) => Some(line.to_str().map_err(|_| Reason::BadHost)?),
        (None, None) => None,
    };
    let authority = uri.authority().map(http::uri::Authority::as_str);
    let text = match (authority, header) {
        // HTTP/1.1 wants a Host even where the request line names the authority.
        (Some(_), None) if version <= Version::HTTP_11 => return Err(Reason::BadHost),
        (Some(authority), Some(header)) => {
            if !same_authority(authority, header) {
                return Err(Reason::BadHost);
            }
            authority
        }
        (Some(authority), None) => authority,
        (None, Some(header)) => header,
        (None, None) => return Err(Reason::BadHost),
    };
    let port = text.rfind(':').map_or("", |at| &text[at..]);
    let host = hostname::canonical_authority(text, scratch).map_err(|_| Reason::BadHost)?;
    Ok(Asked { host, port })
}

fn same_authority(one: &str, other: &str) -> bool {
    if one == other {
        return true;
    }
    let (mut scratch_one, mut scratch_other) = (String::new(), String::new());
    let port = |text: &str| text.rsplit_once(':').map(|(_, port)| port.to_owned());
    match (
        hostname::canonical_authority(one, &mut scratch_one),
        hostname::canonical_authority(other, &mut scratch_other),
    ) {
        (Ok(a), Ok(b)) => a == b && port(one) == port(other),
        _ => false,
    }
}

/// Refuses what different HTTP programs read differently, or what no site needs.
///
/// # Errors
/// The reason that the client is told.
pub fn check_head(method: &Method, uri: &Uri, headers: &HeaderMap) -> Result<(), Reason> {
    match *method {
        Method::GET
        | Method::HEAD
        | Method::POST
        | Method::PUT
        | Method::PATCH
        | Method::DELETE
        | Method::OPTIONS => {}
        Method::CONNECT | Method::TRACE => return Err(Reason::MethodNotAllowed),
        _ => return Err(Reason::MethodUnknown),
    }
    if uri.path() == "*" {
        if method != Method::OPTIONS {
            return Err(Reason::BadRequest);
        }
    } else if !uri.path().starts_with('/') {
        return Err(Reason::BadRequest);
    }
    // Bytes beyond ASCII are in no URI (RFC 3986); the parser lets them pass, other programs read them
    // in several ways or not at all.
    if !uri.path_and_query().is_some_and(|text| text.as_str().is_ascii()) {
        return Err(Reason::BadRequest);
    }
    if uri.scheme_str().is_some_and(|scheme| !matches!(scheme, "http" | "https")) {
        return Err(Reason::BadRequest);
    }
    check_transfer_encoding(headers)?;
    check_content_length(headers)?;
    for line in headers.get_all(EXPECT) {
        if !line.as_bytes().eq_ignore_ascii_case(b"100-continue") {
            return Err(Reason::ExpectationFailed);
        }
    }
    Ok(())
}

/// Only a single `chunked` is read alike everywhere.
fn check_transfer_encoding(headers: &HeaderMap) -> Result<(), Reason> {
    let mut lines = headers.get_all(TRANSFER_ENCODING).iter();
    match (lines.next(), lines.next()) {
        (None, _) => Ok(()),
        (Some(line), None) if line.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        _ => Err(Reason::BadRequest),
    }
}

/// One number, in digits. HTTP/2 lets an empty one pass, and nobody agrees about two.
fn check_content_length(headers: &HeaderMap) -> Result<(), Reason> {
    let mut lines = headers.get_all(CONTENT_LENGTH).iter();
    match (lines.next().map(HeaderValue::as_bytes), lines.next()) {
        (None, _) => Ok(()),
        (Some(number @ [_, ..]), None) if number.iter().all(u8::is_ascii_digit) => Ok(()),
        _ => Err(Reason::BadRequest),
    }
}

/// Whether a header of this name must not pass, in either direction, whatever it says: internal
/// names, and names that programs behind could read as another header (CGI and WSGI read `_` and
/// some read `.` as `-`).
pub fn is_forbidden_name(name: &HeaderName) -> bool {
    let name = name.as_str();
    name.starts_with(control_types::headers::INTERNAL_PREFIX)
        // Without a way out on the way, so that it takes many bytes at once.
        || name.bytes().fold(false, |found, byte| found | (byte == b'_') | (byte == b'.'))
}

/// The tokens of a list header, over all of its lines.
pub fn tokens<'a>(
    lines: impl IntoIterator<Item = &'a HeaderValue>,
) -> impl Iterator<Item = &'a str> {
    lines
        .into_iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(','))
        .map(str::trim)
        .filter(|token| !token.is_empty())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn headers(lines: &[(&str, &str)]) -> HeaderMap {
        lines
            .iter()
            .map(|(name, value)| {
                (name.parse::<HeaderName>().expect("a name"), value.parse().expect("a value"))
            })
            .collect()
    }

    fn host_of(uri: &str, lines: &[(&str, &str)]) -> Result<String, Reason> {
        let uri = uri.parse().expect("a uri");
        let headers = headers(lines);
        asked(Version::HTTP_11, &uri, &headers, &mut String::new())
            .map(|asked| format!("{}{}", asked.host, asked.port))
    }

    #[test]
    fn exactly_one_valid_host_is_taken() {
        assert_eq!(host_of("/", &[("host", "Acme.Test.:8443")]), Ok("acme.test:8443".into()));
        assert_eq!(host_of("https://a.test/x", &[("host", "A.test")]), Ok("a.test".into()));
        for bad in [
            &[][..],
            &[("host", "")],
            &[("host", "a.test"), ("host", "a.test")],
            &[("host", "u@a.test")],
            &[("host", "a/b")],
            &[("host", "a, b")],
            &[("host", "a.test:99999")],
            &[("host", "127.0.0.1:80")],
        ] {
            assert_eq!(host_of("/", bad), Err(Reason::BadHost), "{bad:?}");
        }
        assert_eq!(host_of("http://evil/x", &[("host", "a.test")]), Err(Reason::BadHost));
        assert_eq!(host_of("http://a.test:1/x", &[("host", "a.test:2")]), Err(Reason::BadHost));
        assert_eq!(host_of("http://a.test/x", &[]), Err(Reason::BadHost));
    }

    #[test]
    fn what_programs_read_differently_is_refused() {
        let check = |method: &str, uri: &str, lines: &[(&str, &str)]| {
            let method = Method::from_bytes(method.as_bytes()).expect("a method");
            check_head(&method, &uri.parse().expect("a uri"), &headers(lines))
        };
        assert_eq!(check("GET", "/", &[("transfer-encoding", "Chunked")]), Ok(()));
        assert_eq!(check("OPTIONS", "*", &[]), Ok(()));
        assert_eq!(check("POST", "/", &[("content-length", "0")]), Ok(()));
        assert_eq!(check("POST", "/", &[("expect", "100-Continue")]), Ok(()));
        assert_eq!(check("GET", "*", &[]), Err(Reason::BadRequest));
        assert_eq!(check("GET", "/\u{e9}", &[]), Err(Reason::BadRequest));
        assert_eq!(check("GET", "/?a=\u{e9}", &[]), Err(Reason::BadRequest));
        assert_eq!(check("GET", "/%c3%a9?a={b}|c", &[]), Ok(()));
        assert_eq!(check("CONNECT", "a:1", &[]), Err(Reason::MethodNotAllowed));
        assert_eq!(check("get", "/", &[]), Err(Reason::MethodUnknown));
        assert_eq!(check("GET", "/", &[("expect", "junk")]), Err(Reason::ExpectationFailed));
        for lines in [
            &[("transfer-encoding", "gzip, chunked")][..],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "identity"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "chunked;a=b")],
            &[("content-length", "")],
            &[("content-length", "+1")],
            &[("content-length", "1, 1")],
            &[("content-length", "1"), ("content-length", "1")],
        ] {
            assert_eq!(check("POST", "/", lines), Err(Reason::BadRequest), "{lines:?}");
        }
    }

    proptest! {
        #[test]
        fn a_taken_host_is_canonical(value in "[ -~]{0,40}") {
            let Ok(value) = value.parse::<HeaderValue>() else { return Ok(()) };
            let mut map = HeaderMap::new();
            map.insert(HOST, value);
            let uri = Uri::from_static("/");
            if let Ok(asked) = asked(Version::HTTP_11, &uri, &map, &mut String::new()) {
                prop_assert!(asked.host.parse::<control_types::Hostname>().is_ok());
                prop_assert!(asked.port.is_empty() || asked.port.starts_with(':'));
            }
        }
    }
}
