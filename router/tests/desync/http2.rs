//! Payloads in HTTP/2, frame by frame: what becomes something else when it is written down as
//! HTTP/1.1.

use super::{
    chance::Chance,
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PREFACE, SETTINGS, frame, literal,
    },
};

type Field = (Vec<u8>, Vec<u8>);

fn field(name: &str, value: &str) -> Field {
    (name.into(), value.into())
}

/// Fields that must not pass, or that must not become lines.
const FORBIDDEN: &[(&str, &str)] = &[
    ("connection", "evil"),
    ("keep-alive", "evil"),
    ("proxy-connection", "evil"),
    ("transfer-encoding", "chunked"),
    ("transfer-encoding", "evil"),
    ("upgrade", "evil"),
    ("te", "evil"),
    ("te", "trailers"),
    ("http2-settings", "evil"),
    ("x-forwarded-for", "evil"),
    ("x-forwarded-host", "evil"),
    ("forwarded", "for=evil"),
    ("x-request-id", "evil"),
    ("ta3lem-site", "evil"),
    ("ta3lem_generation", "evil"),
    ("x_forwarded_for", "evil"),
    ("x.evil", "1"),
    ("x_evil", "1"),
    ("proxy", "evil"),
    ("X-Upper", "evil"),
    ("x-a ", "evil"),
    ("x-a:", "evil"),
    ("x-a: b\r\nx-request-id", "evil"),
    ("x-a\n", "evil"),
    ("x-a\0", "evil"),
    ("", "evil"),
    (":evil", "1"),
    ("x-a", "b\r\nx-request-id: evil"),
    ("x-a", "b\nevil: 1"),
    ("x-a", "b\revil: 1"),
    ("x-a", "b\0evil"),
    ("x-a", "b\r\n\r\nGET /evil HTTP/1.1\r\n\r\n"),
    ("cookie", "a=1\r\nevil: 1"),
    ("content-length", "1\r\nevil: 1"),
    ("host", "evil.test"),
    ("host", "a\r\nevil: 1"),
    ("content-length ", "evil"),
    ("x-client-ip", "evil"),
    ("expect", "evil"),
    ("proxy-authorization", "evil"),
    ("x-original-url", "/evil"),
];
/// Fields that may be.
const ODD: &[(&str, &str)] = &[
    ("expect", "100-continue"),
    ("cookie", "a=1"),
    ("cookie", "b=2"),
    ("x-a", ""),
    ("x-a", " b "),
    ("x-a", "\t"),
    ("range", "bytes=0-"),
    ("content-encoding", "chunked"),
    ("trailer", "x-sum"),
    ("max-forwards", "0"),
    ("x-a", "\u{e9}"),
    ("x-a", "\x7f"),
    ("accept", "*/*"),
];

fn head(chance: &mut Chance, host: &str, path: &str, method: &str) -> Vec<Field> {
    let split = "\r\nx-request-id: evil\r\n\r\nGET /evil HTTP/1.1\r\nhost: x";
    let usual = |percent: usize, chance: &mut Chance| chance.percent(percent);
    let method = match (usual(90, chance), chance.below(12)) {
        (true, _) => method.to_owned(),
        (_, 0) => format!("GET {path} HTTP/1.1{split}\r\n\r\n"),
        (_, 1) => "GET\r\n".to_owned(),
        (_, 2) => "get".to_owned(),
        (_, 3) => "CONNECT".to_owned(),
        (_, 4) => "HEAD".to_owned(),
        (_, 5) => String::new(),
        (_, 6) => "G ET".to_owned(),
        (_, 7) => "OPTIONS".to_owned(),
        (_, 8) => "TRACE".to_owned(),
        _ => "DELETE".to_owned(),
    };
    let path = match (usual(90, chance), chance.below(14)) {
        (true, _) => path.to_owned(),
        (_, 0) => format!("{path} HTTP/1.1{split}"),
        (_, 1) => format!("{path}\r\nevil: 1"),
        (_, 2) => format!("{path}\n"),
        (_, 3) => format!("{path} x"),
        (_, 4) => format!("{path}#x"),
        (_, 5) => "*".to_owned(),
        (_, 6) => String::new(),
        (_, 7) => path.trim_start_matches('/').to_owned(),
        (_, 8) => format!("https://evil.test{path}"),
        (_, 9) => format!("//evil.test{path}"),
        (_, 10) => format!("{path}\u{e9}"),
        (_, 11) => format!("{path}\0"),
        _ => format!("{path}?a=b\tc"),
    };
    let authority = match (usual(90, chance), chance.below(12)) {
        (true, _) => host.to_owned(),
        (_, 0) => format!("{host}{split}"),
        (_, 1) => format!("{host}\r\nevil: 1"),
        (_, 2) => format!("evil.test@{host}"),
        (_, 3) => "evil.test".to_owned(),
        (_, 4) => String::new(),
        (_, 5) => format!("{host}:99999"),
        (_, 6) => format!("{host}/evil"),
        (_, 7) => format!("{host} evil"),
        (_, 8) => format!("{host}, evil.test"),
        (_, 9) => format!("{}.:443", host.to_uppercase()),
        _ => format!("{host}\0"),
    };
    let scheme = scheme(chance, host);
    let mut fields = vec![
        field(":method", &method),
        field(":scheme", &scheme),
        field(":authority", &authority),
        field(":path", &path),
    ];
    if chance.percent(15) {
        match chance.below(5) {
            0 => fields.push(field(":path", "/evil")),
            1 => fields.push(field(":authority", "evil.test")),
            2 => fields.push(field(":protocol", "websocket")),
            3 => {
                fields.remove(chance.below(fields.len()));
            }
            _ => {
                let place = chance.below(fields.len());
                fields.insert(place, field("x-early", "1"));
            }
        }
    }
    fields
}

fn scheme(chance: &mut Chance, host: &str) -> String {
    match (chance.percent(90), chance.below(5)) {
        (true, _) => "https".to_owned(),
        (_, 0) => "http".to_owned(),
        (_, 1) => "ftp".to_owned(),
        (_, 2) => format!("https://{host}/evil?"),
        (_, 3) => "https\r\nevil: 1".to_owned(),
        _ => String::new(),
    }
}

fn block(fields: &[Field]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| literal(false, name, value)).collect()
}

/// The payload of this number.
pub fn payload(chance: &mut Chance, host: &str, number: u32) -> Vec<u8> {
    let path = |name: &str| format!("/p/{number}/{name}");
    let body = match chance.below(4) {
        0 => Vec::new(),
        1 => b"a=b".to_vec(),
        2 => b"0\r\n\r\nGET /p/hidden HTTP/1.1\r\nHost: x\r\nX-Request-Id: evil\r\n\r\n".to_vec(),
        _ => b"GET /p/hidden HTTP/1.1\r\nHost: x\r\nX-Request-Id: evil\r\n\r\n".to_vec(),
    };
    let usual = if body.is_empty() { "GET" } else { "POST" };
    let mut fields = head(chance, host, &path("a"), usual);
    match chance.below(8) {
        0 => fields.push(field("content-length", &chance.below(2 * body.len() + 4).to_string())),
        1 => fields.push(field("content-length", &body.len().to_string())),
        2 => fields.push(field("content-length", "0")),
        3 if chance.percent(30) => {
            let other = ["+3", "0x3", "3, 3", "3,4", "", "-1", "18446744073709551616", "3\0"];
            fields.push(field("content-length", chance.one_of(&other)));
        }
        4 if chance.percent(30) => {
            fields.push(field("content-length", &body.len().to_string()));
            fields.push(field("content-length", "1"));
        }
        _ => {}
    }
    for _ in 0..chance.below(4) {
        let all = if chance.percent(60) { FORBIDDEN } else { ODD };
        let (name, value) = all[chance.below(all.len())];
        fields.push(field(name, value));
    }
    let mut payload = PREFACE.to_vec();
    payload.extend(frame(SETTINGS, 0, 0, &[]));
    let trailers = chance.percent(15);
    let ends = body.is_empty() && !trailers;
    let block_of_head = block(&fields);
    let end = if ends { END_STREAM } else { 0 };
    if chance.percent(10) {
        let (one, other) = block_of_head.split_at(chance.below(block_of_head.len()));
        payload.extend(frame(HEADERS, end, 1, one));
        payload.extend(frame(CONTINUATION, END_HEADERS, 1, other));
    } else {
        payload.extend(frame(HEADERS, end | END_HEADERS, 1, &block_of_head));
    }
    if !body.is_empty() {
        let (one, other) = body.split_at(chance.below(body.len()));
        payload.extend(frame(DATA, 0, 1, one));
        // A request without an end is one, too.
        let end = if trailers || chance.percent(10) { 0 } else { END_STREAM };
        payload.extend(frame(DATA, end, 1, other));
    }
    if trailers {
        let mut fields = vec![field("x-sum", "1")];
        for _ in 0..3 {
            let (name, value) = FORBIDDEN[chance.below(FORBIDDEN.len())];
            fields.push(field(name, value));
        }
        payload.extend(frame(HEADERS, END_STREAM | END_HEADERS, 1, &block(&fields)));
    }
    let next = [
        field(":method", "GET"),
        field(":scheme", "https"),
        field(":authority", host),
        field(":path", &path("end")),
    ];
    payload.extend(frame(HEADERS, END_STREAM | END_HEADERS, 3, &block(&next)));
    payload
}
