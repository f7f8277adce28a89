//! The real router against a real control database and an instance on a unix socket. Every story is
//! a few lines; the parts are in `edge/`.

#![allow(clippy::expect_used, clippy::panic, reason = "a test ends where it is disappointed")]
#![allow(dead_code, reason = "the parts are shared, and no story uses all of them")]

#[path = "edge/instance.rs"]
mod instance;
#[path = "edge/client.rs"]
#[allow(dead_code, reason = "another test uses more of it")]
mod client;
#[path = "edge/control_database.rs"]
mod control_database;
#[path = "edge/stack.rs"]
mod stack;
#[path = "edge/handover.rs"]
mod handover;
#[path = "edge/siblings.rs"]
mod siblings;
#[path = "edge/collector.rs"]
mod collector;
#[path = "edge/traces.rs"]
mod traces;
#[path = "edge/many.rs"]
mod many;
#[path = "edge/gone.rs"]
mod gone;

use std::time::Duration;

use client::{Answer, ask_for_websocket, get, post};
use http_body_util::{BodyExt, Full};
use stack::Stack;

const A: &str = "alpha.platform.test";
const A_OWN: &str = "www.alpha.test";
const B: &str = "beta.platform.test";

async fn status(stack: &Stack, server_name: &str, request: &str) -> u16 {
    stack.https(server_name, request.as_bytes()).await.status
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_reach_their_own_site_and_nothing_else_does() {
    let mut stack = Stack::start().await;
    let a = stack.site("alpha", &[A]).await;
    let b = stack.site("beta", &[B]).await;
    stack.arrived(A).await;
    stack.arrived(B).await;

    hosts_and_names(&stack).await;
    headers(&stack, &a.id.to_string()).await;
    pages(&stack).await;
    bodies(&stack, &a).await;
    malformed(&stack, &a).await;
    websocket(&stack).await;
    stale_generation(&stack, &a, &b).await;
    redirects(&stack, &a).await;
    states(&stack, &b).await;
    metrics(&stack).await;
    http2(&stack).await;
    let mut last = stack.connect(A_OWN).await;
    last.send(format!(
        "POST /echo HTTP/1.1\r\nHost: {A_OWN}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
    ))
    .await;
    last.read_until("one").await;
    stack.tell_router_to_stop();
    while !stack.admin("/readyz").await.contains("stopping") {}
    last.send("3\r\ntwo\r\n0\r\n\r\n".to_owned()).await;
    last.read_until("0\r\n\r\n").await;
    drop(last);
    let (clean, log) = stack.stop_router().await;
    assert!(clean, "the router drains and exits with 0: {log}");
    assert!(log.contains("\"target\":\"access\"") && !log.contains("hush"), "{log}");
}

async fn hosts_and_names(stack: &Stack) {
    let answer = stack.https(A, get(A, "/who?x=1").as_bytes()).await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "alpha"));
    let upper = "GET /who HTTP/1.1\r\nHost: ALPHA.platform.test.:443\r\nConnection: close\r\n\r\n";
    assert_eq!(stack.https(A, upper.as_bytes()).await.body, "alpha");
    let absolute =
        format!("GET https://{A}/who HTTP/1.1\r\nHost: {A}\r\nConnection: close\r\n\r\n");
    assert_eq!(stack.https(A, absolute.as_bytes()).await.body, "alpha");
    assert_eq!(status(stack, A, &get(B, "/who")).await, 421);
    assert_eq!(status(stack, "platform.test", &get(A, "/who")).await, 421);
    let nobody = "nobody.platform.test";
    assert_eq!(status(stack, nobody, &get(nobody, "/")).await, 404);
    assert_eq!(stack.http(get("nobody.test", "/").as_bytes()).await.status, 404);
    let plain = stack.http(get(A, "/a%20b?c=d").as_bytes()).await;
    let port = stack.https_port();
    assert_eq!(plain.status, 301);
    assert_eq!(plain.header("location"), Some(&*format!("https://{A}:{port}/a%20b?c=d")));
    let post = format!("POST /p HTTP/1.1\r\nHost: {A}\r\nContent-Length: 3\r\n\r\nabc");
    assert_eq!(stack.http(post.as_bytes()).await.status, 308);
}

async fn headers(stack: &Stack, site_id: &str) {
    let request = format!(
        "GET /head HTTP/1.1\r\nHost: {A}\r\nTa3lem-Site: evil\r\nTA3LEM_SITE: evil\r\n\
         X-Forwarded-For: 6.6.6.6\r\nX_Forwarded_For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n\
         X-Request-Id: evil\r\nX-Secret: evil\r\nConnection: close, x-secret\r\n\
         HTTP2-Settings: evil\r\nUpgrade: h2c\r\nX-Fine: yes\r\n\r\n"
    );
    let answer = stack.https(A, request.as_bytes()).await;
    assert!(!answer.body.contains("evil") && !answer.body.contains("6.6.6.6"), "{}", answer.body);
    for expected in [
        &*format!("ta3lem-site: {site_id}"),
        "ta3lem-generation: 1",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: https",
        &*format!("x-forwarded-host: {A}"),
        &*format!("host: {A}"),
        "x-fine: yes",
    ] {
        assert!(answer.body.contains(expected), "{expected} in {}", answer.body);
    }
    let id = answer.header("x-request-id").expect("has an id").to_owned();
    assert!(answer.body.contains(&format!("x-request-id: {id}")) && id.len() == 32);
    assert_eq!(answer.header("alt-svc"), None);
    assert_eq!(answer.header("ta3lem-secret"), None);
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"));
}

async fn pages(stack: &Stack) {
    let json = "GET / HTTP/1.1\r\nHost: nobody.test\r\nAccept: application/json\r\nConnection: close\r\n\r\n";
    let answer = stack.https("nobody.test", json.as_bytes()).await;
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    let problem: serde_json::Value = serde_json::from_str(&answer.body).expect("is JSON");
    assert_eq!(problem["request_id"].as_str(), answer.header("x-request-id"));
}

async fn bodies(stack: &Stack, a: &stack::Site) {
    for body in [10_usize, 900_000] {
        let text = "x".repeat(body);
        let request = post(A, "/echo", &text);
        let answer = stack.https(A, request.as_bytes()).await;
        assert_eq!((answer.status, answer.body.len()), (200, body));
    }
    let chunked = format!(
        "POST /echo HTTP/1.1\r\nHost: {A}\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\n\
         Connection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
    );
    let answer = stack.https(A, chunked.as_bytes()).await;
    let echoed: String = answer.body.lines().skip(1).step_by(2).collect();
    assert!(echoed == "abcde" && answer.body.ends_with("0\r\n\r\n"), "{}", answer.raw);
    let too_large =
        format!("POST /echo HTTP/1.1\r\nHost: {A}\r\nContent-Length: 99999999999\r\n\r\n");
    assert_eq!(status(stack, A, &too_large).await, 413);

    // An answer that comes before the body has ended: what follows on the connection is not taken
    // for a request.
    let before = a.instance.requests();
    let early = format!(
        "POST /early HTTP/1.1\r\nHost: {A}\r\nContent-Length: 50\r\n\r\nGET /smuggled HTTP/1.1\r\n"
    );
    assert_eq!(status(stack, A, &early).await, 200);
    assert_eq!(status(stack, A, &get(A, "/who")).await, 200);
    let after: Vec<String> = a.instance.requests().split_off(before.len());
    assert!(after.iter().all(|path| path != "/smuggled"), "{after:?}");

    // The same with far more than fits on the way: the answer is not lost over the body.
    for _ in 0..20 {
        let large = format!(
            "POST /early HTTP/1.1\r\nHost: {A}\r\nContent-Length: 900000\r\n\r\n{}",
            "x".repeat(900_000)
        );
        assert_eq!(stack.https(A, large.as_bytes()).await.status, 200);
    }

    // Both ways at once: each piece comes back before the next is sent.
    let mut stream = stack.connect(A).await;
    stream
        .send(format!("POST /echo HTTP/1.1\r\nHost: {A}\r\nTransfer-Encoding: chunked\r\n\r\n"))
        .await;
    for piece in ["one", "two", "three"] {
        stream.send(format!("{:x}\r\n{piece}\r\n", piece.len())).await;
        stream.read_until(piece).await;
    }
    stream.send("0\r\n\r\n".to_owned()).await;
    stream.read_until("0\r\n\r\n").await;
    // And the connection is good for another request.
    stream.send(get(A, "/who")).await;
    stream.read_until("alpha").await;
}

/// Every line is refused or harmless; in no case does the instance see a request that the router did
/// not route, or a header that the router did not set.
async fn malformed(stack: &Stack, a: &stack::Site) {
    let h = format!("Host: {A}\r\n");
    let with_host = |start: &str, rest: &str| format!("{start}\r\n{h}{rest}\r\n");
    let cases = [
        (400, format!("GET / HTTP/1.1\r\n{h}{h}\r\n")),
        (400, "GET / HTTP/1.1\r\n\r\n".to_owned()),
        (400, "GET / HTTP/1.1\r\nHost: \r\n\r\n".to_owned()),
        (400, format!("GET / HTTP/1.1\r\nHost: u@{A}\r\n\r\n")),
        (400, format!("GET / HTTP/1.1\r\nHost: {A}/b\r\n\r\n")),
        (400, format!("GET / HTTP/1.1\r\nHost: {A}, b.test\r\n\r\n")),
        (400, format!("GET / HTTP/1.1\r\nHost: {A}:99999\r\n\r\n")),
        (400, with_host("GET http://evil.test/x HTTP/1.1", "")),
        (
            400,
            with_host(
                "POST / HTTP/1.1",
                "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            ),
        ),
        (400, with_host("POST / HTTP/1.1", "Transfer-Encoding: gzip, chunked\r\n")),
        (
            400,
            with_host(
                "POST / HTTP/1.1",
                "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
            ),
        ),
        (400, with_host("POST / HTTP/1.1", "Content-Length: 1\r\nContent-Length: 2\r\n")),
        (400, with_host("POST / HTTP/1.1", "Content-Length: +1\r\n")),
        (400, with_host("GET / HTTP/1.1", "X : y\r\n")),
        (400, with_host("GET * HTTP/1.1", "")),
        (400, with_host("GET /caf\u{e9} HTTP/1.1", "")),
        (405, with_host("CONNECT alpha.platform.test:443 HTTP/1.1", "")),
        (405, with_host("TRACE / HTTP/1.1", "")),
        (501, with_host("get / HTTP/1.1", "")),
        (417, with_host("POST / HTTP/1.1", "Expect: junk\r\nContent-Length: 1\r\n")),
        (431, with_host("GET / HTTP/1.1", &"X-Y: z\r\n".repeat(120))),
        (204, with_host("OPTIONS * HTTP/1.1", "Connection: close\r\n")),
    ];
    let before = a.instance.requests().len();
    for (expected, request) in cases {
        let answer = stack.https(A, request.as_bytes()).await;
        // A CONNECT names the authority in the request line, so some are refused as a bad host.
        let refused = request.starts_with("CONNECT") && answer.status == 400;
        assert!(answer.status == expected || refused, "{request:?} -> {}", answer.raw);
    }
    assert_eq!(a.instance.requests().len(), before, "{:?}", a.instance.requests());
    let both =
        with_host("POST /echo HTTP/1.1", "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n")
            + "0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    let _ = stack.https(A, both.as_bytes()).await;
    assert!(a.instance.requests().iter().all(|path| path != "/smuggled"));
}

async fn websocket(stack: &Stack) {
    let mut stream = stack.connect(A).await;
    stream.send(ask_for_websocket(A, "/socket")).await;
    stream.read_until("101 Switching Protocols").await;
    for word in ["hello", "again"] {
        stream.send(word.to_owned()).await;
        stream.read_until(word).await;
    }
    drop(stream);
    // An instance that does not switch: what follows is a request to the router, not to it.
    let mut stream = stack.connect(A).await;
    stream.send(ask_for_websocket(A, "/who")).await;
    stream.read_until("alpha").await;
    stream.send(get(B, "/who")).await;
    stream.read_until(" 421 ").await;
}

async fn stale_generation(stack: &Stack, a: &stack::Site, b: &stack::Site) {
    // The instance is one generation ahead of the control database: the request waits for the route.
    a.instance.serve_generation(2);
    let post = post(A, "/echo", "again");
    let (answer, ()) = futures_util::future::join(stack.https(A, post.as_bytes()), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        stack.raise_generation(a, 2).await;
    })
    .await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "again"));

    // No newer route comes: an honest answer, not somebody else's page.
    b.instance.serve_generation(7);
    let answer = stack.https(B, get(B, "/who").as_bytes()).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")));
    // Too long to be sent again.
    let large = format!(
        "POST /echo HTTP/1.1\r\nHost: {B}\r\nContent-Length: 900000\r\n\r\n{}",
        "x".repeat(900_000)
    );
    assert_eq!(status(stack, B, &large).await, 503);
    b.instance.serve_generation(1);
    b.instance.serve_site("someone-else");
    let answer = stack.https(B, get(B, "/who").as_bytes()).await;
    assert_eq!(answer.status, 503);
    assert_eq!(answer.header("ta3lem-refused"), None);
    b.instance.serve_site(&b.id.to_string());
    assert_eq!(status(stack, B, &get(B, "/who")).await, 200);
}

async fn redirects(stack: &Stack, a: &stack::Site) {
    stack.add_primary(a, A_OWN).await;
    stack.arrived(A_OWN).await;
    stack.until(A, |answer| answer.status == 301, &get(A, "/x?y=1")).await;
    let port = stack.https_port();
    let request = format!("GET /x?y=1 HTTP/1.1\r\nHost: {A}:{port}\r\nConnection: close\r\n\r\n");
    let answer = stack.https(A, request.as_bytes()).await;
    assert_eq!(answer.header("location"), Some(&*format!("https://{A_OWN}:{port}/x?y=1")));
    assert_eq!(stack.https(A_OWN, get(A_OWN, "/who").as_bytes()).await.body, "alpha");
    // A connection made for one hostname of a site may ask for another one of it.
    assert_eq!(stack.https(A, get(A_OWN, "/who").as_bytes()).await.body, "alpha");
}

async fn states(stack: &Stack, b: &stack::Site) {
    stack.set_state(b, "suspended").await;
    stack.until(B, |answer| answer.status == 503, &get(B, "/who")).await;
    let page = stack.https(B, get(B, "/who").as_bytes()).await;
    assert!(page.body.contains("Site beta") && page.body.contains("lang=\"id\""), "{}", page.body);
    stack.set_state(b, "active").await;
    stack.until(B, |answer| answer.body == "beta", &get(B, "/who")).await;
    // Gone from the view: its hostnames are nobody's.
    stack.release(b).await;
    stack.until(B, |answer| answer.status == 404, &get(B, "/who")).await;
}

async fn http2(stack: &Stack) {
    let connects = |text: String| {
        let line = text.lines().find(|line| line.starts_with("router_upstream_connects_total "));
        line.and_then(|line| line.split(' ').nth(1)).and_then(|n| n.parse::<f64>().ok())
    };
    let before = connects(stack.admin("/metrics").await).expect("is counted");
    let mut sender = stack.http2(A_OWN).await;
    for _ in 0..20 {
        let request = http::Request::get(format!("https://{A_OWN}/head"))
            .header("cookie", "a=1")
            .header("cookie", "b=2")
            .body(Full::default());
        let answer = sender.send_request(request.expect("is a request")).await.expect("answers");
        let body = answer.into_body().collect().await.expect("ends").to_bytes();
        let text = String::from_utf8_lossy(&body);
        assert!(text.contains("cookie: a=1; b=2") && text.contains(&format!("host: {A_OWN}")));
    }
    // Connections to the instance are used again.
    let after = connects(stack.admin("/metrics").await).expect("is counted");
    assert!(after - before <= 2.0, "{before} {after}");
    for (request, status) in [
        (http::Request::post(format!("https://{A_OWN}/echo")), 200),
        (http::Request::get(format!("https://{B}/who")), 404),
        (http::Request::get(format!("https://{A_OWN}/who")).header("host", B), 400),
        (http::Request::get(format!("https://{A_OWN}/who")).header("content-length", "9"), 200),
    ] {
        let body = bytes::Bytes::from_static(b"some text");
        let request = request.body(Full::new(body)).expect("is a request");
        let answer = sender.send_request(request).await.expect("answers");
        assert_eq!(answer.status(), status);
    }
    let empty = http::Request::post(format!("https://{A_OWN}/echo")).header("content-length", "");
    let empty = empty.body(Full::default()).expect("is a request");
    assert_eq!(sender.send_request(empty).await.expect("answers").status(), 400);
}

async fn metrics(stack: &Stack) {
    let text = stack.admin("/metrics").await;
    for name in [
        "router_requests_total{class=\"2xx\"}",
        "router_rejections_total{reason=\"misdirected\"}",
        "router_handshakes_total",
        "router_retries_total{cause=\"stale_route\"}",
        "router_route_table_age_seconds",
    ] {
        assert!(text.contains(name), "{name} in {text}");
    }
    assert!(stack.admin("/readyz").await.contains("ready"));
}

#[tokio::test(flavor = "multi_thread")]
async fn known_sites_live_without_the_control_database() {
    let mut stack = Stack::start().await;
    let a = stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    assert_eq!(stack.https(A, get(A, "/who").as_bytes()).await.body, "alpha");
    stack.snapshot_with(A).await;
    stack.database.stop();
    assert_eq!(stack.https(A, get(A, "/who").as_bytes()).await.body, "alpha");
    let (clean, log) = stack.stop_router().await;
    assert!(clean, "{log}");
    stack.start_router().await;
    assert_eq!(stack.https(A, get(A, "/who").as_bytes()).await.body, "alpha");
    assert!(stack.admin("/readyz").await.contains("ready"));

    // An instance that restarts costs time and no request.
    a.instance.close().await;
    let request = get(A, "/who");
    let (answer, ()) = futures_util::future::join(stack.https(A, request.as_bytes()), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        a.instance.open().await;
    })
    .await;
    assert_eq!(answer.body, "alpha");

    // With neither routes nor a database the router says so, and gets on as soon as it can.
    assert!(stack.stop_router().await.0);
    stack.forget_snapshot();
    stack.start_router().await;
    while !stack.admin("/readyz").await.contains("there is no snapshot of routes, and cannot read")
    {
    }
    stack.database.start().await;
    stack.arrived(A).await;
    let second = stack.site("beta", &[B]).await;
    stack.until(B, |answer: &Answer| answer.body == "beta", &get(B, "/who")).await;
    drop(second);
}
