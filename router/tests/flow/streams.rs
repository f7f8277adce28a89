//! What streams: events without delay, ranges, and a gigabyte each way in flat memory. And what is
//! said of a request in its head.

use std::time::Duration;

use crate::{A, get, stack::Stack};

const GIGABYTE: u64 = 1 << 30;
/// Far more than all buffers on the way, far less than what passes.
const FLAT: u64 = 64 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_in_flat_memory() {
    let stack = Stack::start().await;
    let a = stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    stack.raise_upload_limit(2 * GIGABYTE).await;
    stack.site_until(&a, |seen| seen["version"].as_i64() > Some(0)).await;
    events_are_not_delayed(&stack, &a).await;
    assert_eq!(stack.https(A, get(A, "/who").as_bytes()).await.status, 200);

    let before = stack.resident_bytes();
    let mut most = 0;
    let mut down = stack.connect(A).await;
    down.send(get(A, &format!("/large?{GIGABYTE}"))).await;
    down.read_until("\r\n\r\n").await;
    let mut received = down.buffered() as u64;
    while received < GIGABYTE {
        let piece = down.read_some().await;
        assert!(!piece.is_empty(), "cut off after {received}");
        received += piece.len() as u64;
        most = most.max(stack.resident_bytes());
    }
    assert_eq!(received, GIGABYTE);
    assert!(most < before + FLAT, "{before} -> {most}");

    let mut up = stack.connect(A).await;
    up.send(format!("POST /sink HTTP/1.1\r\nHost: {A}\r\nContent-Length: {GIGABYTE}\r\n\r\n"))
        .await;
    let piece = vec![b'x'; 1 << 20];
    for _ in 0..GIGABYTE / (1 << 20) {
        assert!(up.send_bytes(&piece).await, "cut off after {}", a.instance.sunk_bytes());
        most = most.max(stack.resident_bytes());
    }
    up.read_until(&GIGABYTE.to_string()).await;
    assert_eq!(a.instance.sunk_bytes(), GIGABYTE);
    assert!(most < before + FLAT, "{before} -> {most}");
}

async fn events_are_not_delayed(stack: &Stack, a: &crate::stack::Site) {
    let mut events = stack.connect(A).await;
    events.send(get(A, "/events")).await;
    events.read_until("\r\n\r\n").await;
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        // The next is sent only when this one has come.
        a.instance.tell(event);
        events.read_until(event).await;
    }
    drop(events);
    stack.site_until(a, |seen| seen["requests_in_flight"] == 0).await;
}

/// Each row: what a client says, what must reach the instance, what must not.
const HEADS: &[(&str, &[&str], &[&str])] = &[
    (
        "X-Forwarded-For: 6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\n",
        &["x-forwarded-for: 127.0.0.1"],
        &["6.6.6.6"],
    ),
    ("X-Forwarded-Proto: http\r\n", &["x-forwarded-proto: https"], &["proto: http\n"]),
    ("X-Forwarded-Host: evil.test\r\nX-Forwarded-Port: 1\r\n", &[], &["evil", "port"]),
    ("Forwarded: for=6.6.6.6;host=evil.test\r\n", &[], &["6.6.6.6", "evil", "forwarded: "]),
    ("X_Forwarded_For: 6.6.6.6\r\nX.Forwarded.For: 6.6.6.6\r\n", &[], &["6.6.6.6"]),
    ("Fine-Name: 1\r\nNot_Fine: 2\r\nNot.Fine: 3\r\n", &["fine-name: 1"], &["not"]),
    ("Connection: close, x-named\r\nX-Named: evil\r\n", &[], &["evil", "x-named"]),
    // What frames and routes a message stays, whatever the client names.
    (
        "Connection: close, host, x-forwarded-for, x-request-id\r\n",
        &["host: alpha.platform.test", "x-forwarded-for: 127.0.0.1", "x-request-id: "],
        &[],
    ),
    (
        "Connection: close, ta3lem-site, ta3lem-generation\r\n",
        &["ta3lem-site: ", "ta3lem-generation: 1"],
        &[],
    ),
    (
        "Keep-Alive: timeout=5\r\nProxy-Connection: keep-alive\r\nProxy: http://evil.test\r\n",
        &[],
        &["evil", "keep-alive", "proxy"],
    ),
    (
        "Proxy-Authorization: Basic ZXZpbA==\r\nAuthorization: Bearer mine\r\n",
        &["authorization: Bearer mine"],
        &["ZXZpbA"],
    ),
    ("TE: trailers, gzip\r\n", &["\nte: trailers"], &["gzip"]),
    ("TE: gzip\r\n", &[], &["\nte: "]),
    (
        "Upgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nConnection: Upgrade, HTTP2-Settings\r\n",
        &[],
        &["h2c", "http2-settings", "upgrade"],
    ),
    ("Expect: 100-continue\r\n", &[], &["expect"]),
    (
        "X-HTTP-Method-Override: DELETE\r\nX-Original-URL: /admin\r\nX-Rewrite-URL: /admin\r\n",
        &[],
        &["delete", "/admin"],
    ),
    (
        "X-Request-Id: mine\r\nTa3lem-Site: evil\r\nTA3LEM_GENERATION: 9\r\n",
        &["ta3lem-generation: 1"],
        &["mine", "evil", ": 9"],
    ),
    ("Cookie: a=1\r\nCookie: b=2\r\n", &["cookie: a=1; b=2"], &[]),
    ("Range: bytes=5-9\r\nIf-Range: \"x\"\r\n", &["range: bytes=5-9", "if-range: \"x\""], &[]),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_sees_only_what_it_may() {
    let stack = Stack::start().await;
    let a = stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    for (said, seen, unseen) in HEADS {
        let request = format!("GET /head HTTP/1.1\r\nHost: {A}\r\n{said}\r\n");
        let answer = stack.https(A, request.as_bytes()).await;
        assert_eq!(answer.status, 200, "{said:?}: {}", answer.raw);
        let text = format!("\n{}\n", answer.body);
        for text_seen in *seen {
            assert!(text.contains(text_seen), "{said:?}: no {text_seen:?} in {text}");
        }
        for text_unseen in *unseen {
            assert!(
                !text.to_lowercase().contains(text_unseen),
                "{said:?}: {text_unseen:?} in {text}"
            );
        }
    }
    expectations(&stack, &a).await;
    bodies_of_unusual_methods(&stack, &a).await;
    trailers(&stack).await;
    unexpected_bytes(&stack, &a).await;
}

async fn expectations(stack: &Stack, a: &crate::stack::Site) {
    let before = a.instance.requests().len();
    for (expect, status) in [
        ("junk", 417),
        ("100-continue, junk", 417),
        ("100-continued", 417),
        ("", 417),
        ("100-Continue", 200),
    ] {
        let request = format!(
            "POST /echo HTTP/1.1\r\nHost: {A}\r\nExpect: {expect}\r\nContent-Length: 3\r\n\r\nabc"
        );
        let answer = stack.https(A, request.as_bytes()).await;
        assert_eq!(answer.status, status, "{expect:?}: {}", answer.raw);
    }
    assert_eq!(a.instance.requests().len(), before + 1);
}

/// A length that one side sees and the other does not is a second request for somebody (CL.0).
async fn bodies_of_unusual_methods(stack: &Stack, a: &crate::stack::Site) {
    for method in ["GET", "HEAD", "DELETE", "OPTIONS", "PUT", "PATCH"] {
        let before = a.instance.requests().len();
        let inner = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
        let request = format!(
            "{method} /sink HTTP/1.1\r\nHost: {A}\r\nContent-Length: {}\r\n\r\n{inner}",
            inner.len()
        );
        let mut stream = stack.connect(A).await;
        stream.send(request).await;
        stream.read_until("200 OK").await;
        stream.send(get(A, "/who")).await;
        stream.read_until("alpha").await;
        let seen = a.instance.requests().split_off(before);
        assert_eq!(seen, ["/sink", "/who"], "{method}");
    }
}

async fn trailers(stack: &Stack) {
    let request = format!(
        "POST /trailers HTTP/1.1\r\nHost: {A}\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum, host\r\n\
         Connection: close\r\n\r\n3\r\nabc\r\n0\r\nX-Sum: fine\r\nHost: evil.test\r\nTa3lem-Site: evil\r\n\
         X-Forwarded-For: evil\r\nX_Under: evil\r\nContent-Length: 9\r\nCookie: evil=1\r\n\r\n"
    );
    let answer = stack.https(A, request.as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.raw);
    assert!(!answer.body.contains("evil") && !answer.body.contains("length"), "{}", answer.body);
}

/// An instance that says more than was asked has that connection thrown away.
async fn unexpected_bytes(stack: &Stack, a: &crate::stack::Site) {
    a.instance.babble(true);
    for _ in 0..10 {
        let answer = stack.https(A, get(A, "/who").as_bytes()).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "alpha"), "{}", answer.raw);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    a.instance.babble(false);
}
