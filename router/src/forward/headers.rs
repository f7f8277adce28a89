//! Which headers pass, in both directions. Pure. What concerns one connection only stays on it;
//! what a program behind could take for the router's word never comes in; what is between router
//! and instance never goes out.

use control_types::{Generation, SiteId};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Version,
    header::{
        CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, HOST, STRICT_TRANSPORT_SECURITY, TE,
        UPGRADE,
    },
};
use uuid::Uuid;

use crate::{
    host::{is_forbidden_name, tokens},
    traces,
    upstream::http1::line,
};

/// For requests: the client's address.
pub const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// For requests: always `https`.
pub const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// For requests: the authority that the client asked for.
pub const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// For requests and answers.
pub const REQUEST_ID: HeaderName = HeaderName::from_static(control_types::headers::REQUEST_ID);
const SITE: HeaderName = HeaderName::from_static(control_types::headers::SITE);
const GENERATION: HeaderName = HeaderName::from_static(control_types::headers::GENERATION);
const WEBSOCKET: HeaderValue = HeaderValue::from_static("websocket");
const UPGRADE_TOKEN: HeaderValue = HeaderValue::from_static("upgrade");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");

/// What the router says of a request, in the place of whatever the client said.
pub struct Stamp<'a> {
    /// The authority that the client asked for, in canonical form.
    pub authority: &'a HeaderValue,
    /// The client's address.
    pub client: &'a HeaderValue,
    /// The request's id.
    pub request_id: &'a HeaderValue,
    /// The site.
    pub site: SiteId,
    /// The site's generation.
    pub generation: Generation,
    /// Whether the request asks for a WebSocket.
    pub websocket: bool,
    /// Whether it goes to a router of another region.
    pub relayed: bool,
}

/// Whether a request asks for a WebSocket. No other upgrade passes: `h2c` would be a second way in
/// that none of the rules above see.
pub fn asks_for_websocket(method: &Method, version: Version, headers: &HeaderMap) -> bool {
    method == Method::GET
        && version == Version::HTTP_11
        && has_token(headers, &CONNECTION, "upgrade")
        && is_websocket(headers)
}

/// Whether an answer is a stream of events, which has no end of its own.
pub fn is_event_stream(headers: &HeaderMap) -> bool {
    let value = headers.get(CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    let name = value.split(|byte| *byte == b';').next().unwrap_or_default();
    name.trim_ascii().eq_ignore_ascii_case(b"text/event-stream")
}

/// Whether the `Upgrade` header says `websocket` and nothing else.
pub fn is_websocket(headers: &HeaderMap) -> bool {
    let mut upgrades = tokens(headers.get_all(UPGRADE));
    let first = upgrades.next();
    first.is_some_and(|token| token.eq_ignore_ascii_case("websocket")) && upgrades.next().is_none()
}

fn has_token(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    tokens(headers.get_all(name)).any(|found| found.eq_ignore_ascii_case(token))
}

/// Takes out of a request what must not pass. Done once; [`write`] then for every attempt. `traced`:
/// what it says of a trace is a router's word and not a client's.
pub fn clean_request(headers: &mut HeaderMap, traced: bool) {
    let unwanted = |name: &HeaderName| {
        is_forbidden_name(name) || is_for_routers(name) || !traced && traces::is_context(name)
    };
    // Most requests have nothing to remove, and no line twice.
    if headers.keys().any(unwanted) {
        let trailers = has_token(headers, &TE, "trailers");
        // What is left of traces is this router's word.
        remove_connection_named(headers, |name| {
            *name == HOST || *name == CONTENT_LENGTH || traces::is_context(name)
        });
        remove_names(headers, unwanted);
        if trailers {
            headers.insert(TE, TRAILERS);
        }
    }
    if headers.len() > headers.keys_len() {
        join_cookies(headers);
    }
}

/// Appends the lines of a request's head: what passes of the client's, and what only the router can
/// say. Not how long the body is: whoever sends it says that.
pub fn write(to: &mut Vec<u8>, headers: &HeaderMap, stamp: &Stamp<'_>) {
    line(to, "host", stamp.authority.as_bytes());
    for (name, value) in headers {
        let is_said_elsewhere = name == HOST || name == CONTENT_LENGTH;
        if !is_said_elsewhere {
            line(to, name.as_str(), value.as_bytes());
        }
    }
    // Another region's router says the rest itself.
    if !stamp.relayed {
        line(to, FORWARDED_FOR.as_str(), stamp.client.as_bytes());
        line(to, FORWARDED_PROTO.as_str(), b"https");
        line(to, FORWARDED_HOST.as_str(), stamp.authority.as_bytes());
        line(to, REQUEST_ID.as_str(), stamp.request_id.as_bytes());
        let mut text = Uuid::encode_buffer();
        let site = stamp.site.0.hyphenated().encode_lower(&mut text);
        line(to, SITE.as_str(), site.as_bytes());
        let mut text = itoa::Buffer::new();
        line(to, GENERATION.as_str(), text.format(stamp.generation.0).as_bytes());
    }
    if stamp.websocket {
        line(to, "connection", UPGRADE_TOKEN.as_bytes());
        line(to, "upgrade", WEBSOCKET.as_bytes());
    }
}

/// Takes out of an answer what must not pass, and adds what the router adds.
pub fn clean_answer(
    headers: &mut HeaderMap,
    request_id: &HeaderValue,
    hsts: Option<HeaderValue>,
    tunnel: bool,
) {
    let unwanted = |name: &HeaderName| is_forbidden_name(name) || is_of_upstream(name);
    if headers.keys().any(unwanted) {
        remove_connection_named(headers, |name| *name == CONTENT_LENGTH);
        remove_names(headers, unwanted);
    }
    headers.insert(REQUEST_ID, request_id.clone());
    if let Some(hsts) = hsts
        && !headers.contains_key(STRICT_TRANSPORT_SECURITY)
    {
        headers.insert(STRICT_TRANSPORT_SECURITY, hsts);
    }
    if tunnel {
        headers.insert(CONNECTION, UPGRADE_TOKEN);
        headers.insert(UPGRADE, WEBSOCKET);
    }
}

/// Takes out of trailers what must not pass, in either direction.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    remove_names(trailers, |name| {
        is_forbidden_name(name)
            || is_for_routers(name)
            || is_of_upstream(name)
            || matches!(
                name.as_str(),
                "host" | "content-length" | "authorization" | "cookie" | "set-cookie"
            )
    });
}

fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "te"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// What clients must not say to an instance.
fn is_for_routers(name: &HeaderName) -> bool {
    let name = name.as_str();
    is_hop_by_hop(name)
        || name.starts_with("x-forwarded")
        || matches!(
            name,
            "forwarded"
                | "x-real-ip"
                | "x-client-ip"
                | "true-client-ip"
                | "x-request-id"
                | "x-original-url"
                | "x-rewrite-url"
                | "x-http-method-override"
                | "proxy"
                | "expect"
        )
}

/// What instances must not say to clients.
fn is_of_upstream(name: &HeaderName) -> bool {
    let name = name.as_str();
    is_hop_by_hop(name) || matches!(name, "alt-svc" | "x-request-id")
}

/// RFC 9110 section 7.6.1. What frames and routes the message stays, whatever the client names.
fn remove_connection_named(headers: &mut HeaderMap, kept: impl Fn(&HeaderName) -> bool) {
    if !headers.contains_key(CONNECTION) {
        return;
    }
    // What says how the connection goes on is no header, but for one that always goes.
    let says = |token: &str, word: &str| token.eq_ignore_ascii_case(word);
    let named: Vec<HeaderName> = tokens(headers.get_all(CONNECTION))
        .filter(|token| !says(token, "close") && !says(token, "keep-alive"))
        .filter_map(|token| token.parse::<HeaderName>().ok())
        .filter(|name| !kept(name))
        .collect();
    for name in named {
        headers.remove(name);
    }
}

fn remove_names(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let names: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// HTTP/2 clients may send a cookie header in pieces; HTTP/1.1 has one (RFC 9113 section 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for line in std::iter::once(second).chain(lines) {
        joined.extend(b"; ");
        joined.extend(line.as_bytes());
    }
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        headers.insert(COOKIE, joined);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn map(lines: &[(&str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(
                name.parse::<HeaderName>().expect("a name"),
                value.parse().expect("a value"),
            );
        }
        headers
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn nothing_internal_or_of_one_connection_comes_in() {
        let mut headers = map(&[
            ("host", "a.test"),
            ("accept", "*/*"),
            ("ta3lem-site", "x"),
            ("ta3lem_site", "x"),
            ("x_forwarded_for", "1.1.1.1"),
            ("x.forwarded.for", "1.1.1.1"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-port", "1"),
            ("forwarded", "for=x"),
            ("x-request-id", "mine"),
            ("connection", "keep-alive, x-secret, host, content-length"),
            ("x-secret", "1"),
            ("content-length", "3"),
            ("keep-alive", "1"),
            ("transfer-encoding", "chunked"),
            ("te", "gzip, trailers"),
            ("upgrade", "h2c"),
            ("http2-settings", "AAA"),
            ("proxy", "x"),
            ("expect", "100-continue"),
        ]);
        clean_request(&mut headers, false);
        assert_eq!(names(&headers), ["accept", "content-length", "host", "te"]);
        assert_eq!(headers[TE], "trailers");
    }

    #[test]
    fn only_routers_say_to_which_trace_a_request_belongs() {
        let mut headers = map(&[
            ("accept", "*/*"),
            ("connection", "traceparent"),
            ("TraceParent", "00-1-2-01"),
            ("tracestate", "vendor=1"),
        ]);
        clean_request(&mut headers, true);
        assert_eq!(names(&headers), ["accept", "traceparent", "tracestate"]);
        clean_request(&mut headers, false);
        assert_eq!(names(&headers), ["accept"]);
    }

    #[test]
    fn nothing_internal_goes_out_and_hsts_is_the_sites_choice() {
        let id = HeaderValue::from_static("id");
        let mut headers = map(&[
            ("ta3lem-refused", "fenced"),
            ("alt-svc", "h3=\":1\""),
            ("connection", "close, x-hop"),
            ("x-hop", "1"),
            ("set-cookie", "a=1"),
            ("set-cookie", "b=1"),
        ]);
        let hsts = HeaderValue::from_static("max-age=31536000");
        clean_answer(&mut headers, &id, Some(hsts.clone()), false);
        assert_eq!(names(&headers), ["set-cookie", "strict-transport-security", "x-request-id"]);
        assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
        let mut own = map(&[("strict-transport-security", "max-age=0")]);
        clean_answer(&mut own, &id, Some(hsts), false);
        assert_eq!(own[STRICT_TRANSPORT_SECURITY], "max-age=0");
    }

    #[test]
    fn only_a_websocket_is_an_upgrade() {
        let ask = |upgrade: &str, connection: &str| {
            let headers = map(&[("upgrade", upgrade), ("connection", connection)]);
            asks_for_websocket(&Method::GET, Version::HTTP_11, &headers)
        };
        assert!(ask("WebSocket", "keep-alive, Upgrade"));
        assert!(!ask("h2c", "upgrade") && !ask("websocket, h2c", "upgrade"));
        assert!(!ask("websocket", "keep-alive"));
    }

    #[test]
    fn cookies_in_pieces_become_one() {
        let mut headers = map(&[("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")]);
        clean_request(&mut headers, false);
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2; c=3"]);
    }

    proptest! {
        #[test]
        fn no_name_slips_through(
            lines in proptest::collection::vec(("[a-zA-Z_.-]{1,24}", "[ -~]{0,20}"), 0..30),
            spiced in proptest::collection::vec(0_usize..9, 0..6),
        ) {
            const SPICE: [&str; 9] = ["Traceparent", "Ta3lem-Generation", "CONNECTION", "X-Forwarded-Host",
                "Transfer-Encoding", "TE", "ta3lem-x", "Upgrade", "X_Real_IP"];
            let mut headers = HeaderMap::new();
            for (name, value) in lines {
                if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), value.parse()) {
                    headers.append(name, value);
                }
            }
            for index in spiced {
                headers.append(SPICE[index].parse::<HeaderName>().expect("a name"),
                    HeaderValue::from_static("host, x"));
            }
            clean_request(&mut headers, false);
            for name in headers.keys() {
                prop_assert!(!is_forbidden_name(name) && !traces::is_context(name), "{name}");
                prop_assert!(name == TE || !is_for_routers(name), "{name}");
            }
        }
    }
}
