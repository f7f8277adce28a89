//! Payloads in HTTP/1.1: a request that is odd in one or several ways, with another one inside or
//! behind. Whatever must not reach an instance has `evil` in its name or value.

use super::chance::Chance;

const METHODS: &[&str] = &[
    "GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "get", "TRACE", "CONNECT", "PRI",
    "G\tET", "POST\0", "X-ODD", "", "GET GET",
];
const VERSIONS: &[&str] = &[
    "HTTP/1.0",
    "HTTP/1.2",
    "HTTP/2.0",
    "HTTP/0.9",
    "http/1.1",
    "HTTP/1.1 ",
    "HTTP/1.1\t",
    "",
    "HTTP/1.1 HTTP/1.0",
    "HTTP/11",
    "HTTP/1.1\0",
];
/// What stands in the place of a line's end now and then.
const LINE_ENDS: &[&str] =
    &["\n", "\r", "\r\r\n", "\n\r", "\r\n ", "\r\n\t", "\0\r\n", "\x0b\r\n", "\r\n\r\n"];

/// Names that no instance may see from outside.
const FORBIDDEN: &[&str] = &[
    "X-Forwarded-For: evil",
    "X-Forwarded-Host: evil",
    "X-Forwarded-Proto: evil",
    "X-Forwarded-Port: evil",
    "X-Forwarded-Evil: 1",
    "X-Real-IP: evil",
    "Forwarded: for=evil",
    "X-Request-Id: evil",
    "Ta3lem-Site: evil",
    "Ta3lem-Generation: evil",
    "ta3lem-evil: 1",
    "TA3LEM_SITE: evil",
    "X_Forwarded_For: evil",
    "X.Forwarded.For: evil",
    "X_Evil: 1",
    "Evil.Name: 1",
    "Proxy: evil",
    "Proxy-Connection: evil",
    "Proxy-Authorization: evil",
    "Proxy-Authenticate: evil",
    "Keep-Alive: evil",
    "HTTP2-Settings: evil",
    "Upgrade: evil",
    "TE: evil",
    "X-Original-URL: /evil",
    "X-Rewrite-URL: /evil",
    "X-HTTP-Method-Override: EVIL",
    "X-Client-IP: evil",
    "True-Client-IP: evil",
    "Connection: x-named\r\nX-Named: evil",
    "Connection: close, X-Named\r\nx-named: evil",
    "X-Named: evil\r\nConnection: x-named ,,",
    "Connection: x-named\r\nX-Named: evil\r\nX-Named: evil",
    "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: evil",
];
/// What concerns routing and framing, and odd but allowed things.
const ODD: &[&str] = &[
    "Connection: host",
    "Connection: content-length",
    "Connection: transfer-encoding",
    "Connection: x-forwarded-for, x-request-id, ta3lem-site",
    "Connection: close",
    "Connection: keep-alive",
    "Connection: \0",
    "Connection: upgrade\r\nUpgrade: websocket",
    "Expect: 100-continue",
    "Expect: 100-Continue, x",
    "Expect: 200-ok",
    "Expect:",
    "Expect: \0",
    "TE: trailers",
    "Trailer: x-sum",
    "Content-Encoding: chunked",
    "Range: bytes=0-",
    "Cookie: a=1\r\nCookie: b=2",
    "X-A : b",
    " X-A: b",
    "X-A\0: b",
    "X-A",
    ": b",
    "X-A:",
    "X-A:b",
    "X-A: \x7f",
    "X-A: \u{e9}",
    "X\u{e9}: b",
    "X-(A): b",
    "X-A: b\r\n folded",
    "X-A: b\n folded",
    "X-A: b\rGET / HTTP/1.1",
    "X-A: b\r\r\nX-B: c",
    "Max-Forwards: 0",
    "Date: x\r\nDate: y",
    "Content-Type: multipart/byteranges",
    "Accept-Encoding: chunked",
    "X-A: \t b \t",
];

fn host_lines(chance: &mut Chance, host: &str) -> Vec<String> {
    let one = format!("Host: {host}");
    if chance.percent(90) {
        return vec![one];
    }
    let other = "evil.test";
    let line = |text: String| vec![text];
    match chance.below(18) {
        0 => vec![],
        1 => vec![one.clone(), one],
        2 => vec![one, format!("Host: {other}")],
        3 => vec![format!("Host: {other}"), one],
        4 => line(format!("host:{host}")),
        5 => line(format!("Host: {}.:443", host.to_uppercase())),
        6 => line(format!("Host: {host}:99999")),
        7 => line(format!("Host: {other}@{host}")),
        8 => line(format!("Host: {host}, {other}")),
        9 => line(format!("Host: {host}/{other}")),
        10 => line(format!("Host: {host}\r\n {other}")),
        11 => line(format!("Host : {host}")),
        12 => line(format!(" Host: {host}")),
        13 => line(format!("Host: {host}\0{other}")),
        14 => line(format!("Host: {host} {other}")),
        15 => line(format!("Host:\t{host}\t")),
        16 => line(format!("Host: {host}:")),
        _ => line(format!("Host: {host}:+80")),
    }
}

fn target(chance: &mut Chance, host: &str, path: &str) -> String {
    if chance.percent(90) {
        return path.to_owned();
    }
    match chance.below(20) {
        0 => format!("https://{host}{path}"),
        1 => format!("http://{host}{path}"),
        2 => format!("https://evil.test{path}"),
        3 => format!("https://evil.test@{host}{path}"),
        4 => format!("//evil.test{path}"),
        5 => format!("{path} x"),
        6 => format!("{path}\tx"),
        7 => format!("{path}\0"),
        8 => format!("{path}#x"),
        9 => format!("{path}?a=%0d%0aX-Evil: 1"),
        10 => format!("{path}%00%0a%2f..%2f"),
        11 => format!("{path}/../../x\\y"),
        12 => format!("{path}\u{e9}"),
        13 => "*".to_owned(),
        14 => path.trim_start_matches('/').to_owned(),
        15 => format!("{path}?{}", "q".repeat(9_000)),
        16 => format!("ftp://{host}{path}"),
        17 => format!("https://{host}:443{path}"),
        18 => format!("{path}{{}}|\"<>^`"),
        _ => String::new(),
    }
}

/// `Transfer-Encoding: chunked`, nearly.
fn transfer_encoding(chance: &mut Chance) -> Vec<u8> {
    let odd = [chance.byte()];
    let odd = &odd[..];
    let parts: Vec<&[u8]> = match chance.below(34) {
        0..=9 => vec![b"Transfer-Encoding: chunked"],
        10 => vec![b"Transfer-Encoding", odd, b": chunked"],
        11 => vec![b"Transfer-Encoding:", odd, b"chunked"],
        12 => vec![b"Transfer-Encoding: chunked", odd],
        13 => vec![odd, b"Transfer-Encoding: chunked"],
        14 => vec![b"Transfer-Encoding: ", odd, b"chunked", odd],
        15 => vec![b"Transfer", odd, b"Encoding: chunked"],
        16 => vec![b"Transfer-Encoding: chun", odd, b"ked"],
        17 => vec![b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"],
        18 => vec![b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked"],
        19 => vec![b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"],
        20 => vec![b"Transfer-Encoding: gzip, chunked"],
        21 => vec![b"Transfer-Encoding: chunked, gzip"],
        22 => vec![b"Transfer-Encoding: chunked, chunked"],
        23 => vec![b"Transfer-Encoding: chunked;q=1"],
        24 => vec![b"Transfer-Encoding:\r\n chunked"],
        25 => vec![b"Transfer-Encoding: \"chunked\""],
        26 => vec![b"TRANSFER-ENCODING: CHUNKED"],
        27 => vec![b"Transfer-Encoding:chunked"],
        28 => vec![b"Transfer-Encoding: xchunked"],
        29 => vec![b"Transfer_Encoding: chunked"],
        30 => vec![b"Transfer-Encoding:"],
        31 => vec![b"Transfer-Encoding: ,chunked,"],
        32 => vec![b"X: y\nTransfer-Encoding: chunked"],
        _ => vec![b"X: y\rTransfer-Encoding: chunked"],
    };
    parts.concat()
}

fn content_length(chance: &mut Chance, length: usize) -> Vec<u8> {
    let odd = char::from(chance.byte());
    let other = chance.below(2 * length + 2);
    let text = match chance.below(30) {
        0..=9 => format!("Content-Length: {length}"),
        10 => format!("Content-Length: {other}"),
        11 => format!("Content-Length: {length}\r\nContent-Length: {other}"),
        12 => format!("Content-Length: {other}\r\nContent-Length: {length}"),
        13 => format!("Content-Length: {length}\r\nContent-Length: {length}"),
        14 => format!("Content-Length: {length}, {length}"),
        15 => format!("Content-Length: {length}, {other}"),
        16 => format!("Content-Length: +{length}"),
        17 => format!("Content-Length: -{length}"),
        18 => format!("Content-Length: 0x{length:x}"),
        19 => format!("Content-Length: 000{length}"),
        20 => format!("Content-Length: {length}{odd}"),
        21 => format!("Content-Length: {odd}{length}"),
        22 => format!("Content-Length{odd}: {length}"),
        23 => format!("Content-Length: {length}.0"),
        24 => "Content-Length: 18446744073709551616".to_owned(),
        25 => "Content-Length:".to_owned(),
        26 => format!("Content-Length:\r\n {length}"),
        27 => format!("Content_Length: {length}"),
        28 => format!("Content-Length: {length} {other}"),
        _ => "Content-Length: 0".to_owned(),
    };
    text.chars().map(|letter| u8::try_from(letter).unwrap_or(b'?')).collect()
}

/// `content` in chunks, nearly.
fn chunked(chance: &mut Chance, content: &[u8]) -> Vec<u8> {
    let (first, second) = content.split_at(chance.below(content.len() + 1));
    let mut body = Vec::new();
    for piece in [first, second] {
        if piece.is_empty() {
            continue;
        }
        let length = piece.len();
        let size = match chance.below(40) {
            0 => format!("0x{length:x}"),
            1 => format!("{length:X}"),
            2 => format!("0000000{length:x}"),
            3 => format!("{length:x} "),
            4 => format!(" {length:x}"),
            5 => format!("{length:x};a=b"),
            6 => format!("{length:x};a=\"\r\n\""),
            7 => format!("{length:x};\nx"),
            8 => format!("-{length:x}"),
            9 => format!("+{length:x}"),
            10 => format!("1000000000000000{length:x}"),
            11 => format!("{length:x}\0"),
            12 => format!("{:x}", chance.below(2 * length + 2)),
            13 => String::new(),
            14 => format!("{length:x}\r"),
            15 => format!("{length:x}\t;\tx"),
            _ => format!("{length:x}"),
        };
        body.extend(size.as_bytes());
        body.extend(line_end(chance, 5).as_bytes());
        body.extend(piece);
        body.extend(line_end(chance, 5).as_bytes());
    }
    let last = match chance.below(24) {
        0 => "",
        1 => "0\r\n",
        2 => "0\r\nX-Sum: 1\r\n\r\n",
        3 => "0\r\nX-Forwarded-For: evil\r\nHost: evil.test\r\nContent-Length: 9\r\n\r\n",
        4 => "0\r\nX_Evil: 1\r\nTa3lem-Site: evil\r\nConnection: evil\r\n\r\n",
        5 => "0\r\nX-Sum: 1\r\n folded\r\n\r\n",
        6 => "0\r\nX-Sum\r\n\r\n",
        7 => "0\n\n",
        8 => "00000\r\n\r\n",
        9 => "0;x\r\n\r\n",
        10 => "0 \r\n\r\n",
        11 => "0\r\n\r",
        12 => "0\r\rX\r\n\r\n",
        13 => "0\r\nTransfer-Encoding: evil\r\nAuthorization: evil\r\n\r\n",
        _ => "0\r\n\r\n",
    };
    body.extend(last.as_bytes());
    body
}

fn line_end(chance: &mut Chance, percent: usize) -> &'static str {
    if chance.percent(percent) { chance.one_of(LINE_ENDS) } else { "\r\n" }
}

/// The payload of this number.
pub fn payload(chance: &mut Chance, host: &str, number: u32) -> Vec<u8> {
    let path = |name: &str| format!("/p/{number}/{name}");
    let hidden = format!(
        "GET {} HTTP/1.1\r\nHost: {host}\r\nX-Request-Id: evil\r\nX-Forwarded-For: evil\r\n\r\n",
        path("hidden")
    );
    let content = match chance.below(4) {
        0 => b"a=b".to_vec(),
        1 => [b"0\r\n\r\n", hidden.as_bytes()].concat(),
        2 => [b"x\r\n", hidden.as_bytes()].concat(),
        _ => hidden.clone().into_bytes(),
    };
    let mut lines: Vec<Vec<u8>> =
        host_lines(chance, host).into_iter().map(String::into_bytes).collect();
    let body = match chance.below(10) {
        0..=2 => {
            lines.push(content_length(chance, content.len()));
            content
        }
        3..=5 => {
            lines.push(transfer_encoding(chance));
            chunked(chance, &content)
        }
        6..=7 => {
            lines.push(transfer_encoding(chance));
            let body = chunked(chance, &content);
            let length = if chance.percent(50) { body.len() } else { 4 };
            lines.push(content_length(chance, length));
            body
        }
        8 => content,
        _ => Vec::new(),
    };
    // A changed letter makes another name of a forbidden one, which may pass.
    let is_mutated = chance.percent(15);
    for _ in 0..chance.below(5) {
        let all = if chance.percent(60) && !is_mutated { FORBIDDEN } else { ODD };
        let line: &str = chance.one_of(all);
        lines.push(line.as_bytes().to_vec());
    }
    for place in (1..lines.len()).rev() {
        let other = chance.below(place + 1);
        lines.swap(place, other);
    }
    let usual = if body.is_empty() { "GET" } else { "POST" };
    let method = if chance.percent(88) { usual } else { chance.one_of(METHODS) };
    let version = if chance.percent(96) { "HTTP/1.1" } else { chance.one_of(VERSIONS) };
    let target = target(chance, host, &path("a"));
    let mut payload = format!("{method} {target} {version}").into_bytes();
    for line in &lines {
        payload.extend(line_end(chance, 2).as_bytes());
        payload.extend(line);
    }
    payload.extend(line_end(chance, 2).as_bytes());
    payload.extend(line_end(chance, 3).as_bytes());
    if is_mutated {
        mutate(chance, &mut payload, &path(""));
    }
    payload.extend(body);
    for name in ["b", "end"].iter().skip(usize::from(chance.percent(50))) {
        let close = if *name == "end" { "Connection: close\r\n" } else { "" };
        let next = format!("GET {} HTTP/1.1\r\nHost: {host}\r\n{close}\r\n", path(name));
        payload.extend(next.as_bytes());
    }
    payload
}

/// Changes some bytes of a head, and nothing of `number`, by which the payload is known again.
fn mutate(chance: &mut Chance, head: &mut Vec<u8>, number: &str) {
    const SPECIAL: &[u8] = b"\r\n\0 \t:,;\"/\\\x0b\x0c\x7f\x80\xff#@";
    for _ in 0..=chance.below(3) {
        let place = chance.below(head.len());
        let known = head.windows(number.len()).position(|text| text == number.as_bytes());
        if known.is_some_and(|known| (known..known + number.len()).contains(&place)) {
            continue;
        }
        let byte =
            if chance.percent(70) { SPECIAL[chance.below(SPECIAL.len())] } else { chance.byte() };
        match chance.below(3) {
            0 => head[place] = byte,
            1 => head.insert(place, byte),
            _ => {
                head.remove(place);
            }
        }
    }
}
