//! Stories about HTTP/3 at the real router: what holds for the other versions holds here, and nothing
//! of it is there without its setting. The parts are those of `edge.rs`.

#![allow(clippy::expect_used, clippy::panic, reason = "a test ends where it is disappointed")]
#![allow(dead_code, reason = "the parts are shared, and no story uses all of them")]

#[path = "edge/instance.rs"]
mod instance;
#[path = "edge/client.rs"]
mod client;
#[path = "edge/control_database.rs"]
mod control_database;
#[path = "edge/stack.rs"]
mod stack;
#[path = "http3/client.rs"]
mod http3_client;
#[path = "http3/by_hand.rs"]
mod by_hand;
#[path = "http3/empty_data.rs"]
mod empty_data;
#[path = "http3/malformed.rs"]
mod malformed;
#[path = "http3/stopping.rs"]
mod stopping;
#[path = "http3/taking.rs"]
mod taking;

use bytes::Bytes;
use client::get;
use http::{HeaderMap, Request};
use http_body_util::Full;
use http3_client::{Http3, get as h3_get, post as h3_post};
use stack::Stack;

const A: &str = "alpha.platform.test";
const B: &str = "beta.platform.test";

async fn connect(stack: &Stack, server_name: &str) -> Http3 {
    let connected = Http3::connect(stack.http3(), server_name, stack.authority(), true).await;
    connected.expect("a handshake")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_for_other_versions_holds_for_http3() {
    let stack = Stack::start_with_http3(serde_json::json!({})).await;
    let a = stack.site("alpha", &[A]).await;
    let b = stack.site("beta", &[B]).await;
    stack.arrived(A).await;
    stack.arrived(B).await;

    offered_to_others(&stack).await;
    hosts_and_names(&stack).await;
    headers(&stack, &a.id.to_string()).await;
    bodies(&stack, &a).await;
    malformed::nothing_malformed_passes(&stack, &a).await;
    states(&stack, &b).await;

    let text = stack.admin("/metrics").await;
    assert!(text.contains("router_http3_connections "), "{text}");
    let log = stack.log();
    assert!(log.contains("\"protocol\":\"h3\"") && log.contains("\"path\":\"/echo\""), "{log}");
}

async fn offered_to_others(stack: &Stack) {
    let offer = format!("h3=\":{}\"; ma=3600", stack.http3().port());
    // What the instance says of it is not passed on.
    let answer = stack.https(A, get(A, "/head").as_bytes()).await;
    assert_eq!((answer.status, answer.header("alt-svc")), (200, Some(&*offer)));
    let request = Request::get(format!("https://{A}/who")).body(Full::default());
    let mut sender = stack.http2(A).await;
    let answer = sender.send_request(request.expect("is a request")).await.expect("answers");
    assert_eq!(answer.headers()["alt-svc"], *offer);
    let answer = connect(stack, A).await.ask(h3_get(A, "/who"), "").await.expect("answers");
    assert_eq!(answer.header("alt-svc"), Some(&*offer));
    // Nobody is home: nothing to offer.
    assert_eq!(
        stack.https("nobody.test", get("nobody.test", "/").as_bytes()).await.header("alt-svc"),
        None
    );
}

async fn hosts_and_names(stack: &Stack) {
    let mut client = connect(stack, A).await;
    assert_eq!(client.page(A, "/who?x=1").await, "alpha");
    let upper = Request::get("https://ALPHA.platform.test/who").body(()).expect("is a request");
    assert_eq!(client.ask(upper, "").await.expect("answers").text(), "alpha");
    // A connection for one site carries no other's requests, and does not say that site's name.
    let other = client.ask(h3_get(B, "/who"), "").await.expect("answers");
    assert_eq!(other.status, 421);
    assert!(!other.text().contains("Site beta"), "{}", other.text());
    let nobody = "nobody.platform.test";
    let address = stack.http3();
    let mut lost =
        Http3::connect(address, nobody, stack.authority(), false).await.expect("a handshake");
    let answer = lost.ask(h3_get(nobody, "/"), "").await.expect("answers");
    assert_eq!((answer.status.as_u16(), answer.header("alt-svc")), (404, None));
    // The certificate is the platform's: a client that looks leaves.
    assert!(Http3::connect(address, nobody, stack.authority(), true).await.is_err());
    let connect = Request::connect(format!("{A}:443")).body(()).expect("is a request");
    assert_eq!(client.ask(connect, "").await.expect("answers").status, 405);
    assert_eq!(client.page(A, "/who").await, "alpha");
}

async fn headers(stack: &Stack, site_id: &str) {
    let mut request = h3_get(A, "/head");
    for (name, value) in [
        ("ta3lem-site", "evil"),
        ("ta3lem_site", "evil"),
        ("x-forwarded-for", "6.6.6.6"),
        ("x_forwarded_for", "6.6.6.6"),
        ("forwarded", "for=6.6.6.6"),
        ("x-request-id", "evil"),
        ("x-fine", "yes"),
        ("cookie", "a=1"),
        ("cookie", "b=2"),
    ] {
        request.headers_mut().append(name, value.parse().expect("is a value"));
    }
    let answer = connect(stack, A).await.ask(request, "").await.expect("answers");
    let text = answer.text();
    assert!(!text.contains("evil") && !text.contains("6.6.6.6"), "{text}");
    // No body, and none announced to the instance.
    assert!(!text.contains("transfer-encoding") && !text.contains("content-length"), "{text}");
    for expected in [
        &*format!("ta3lem-site: {site_id}"),
        "ta3lem-generation: 1",
        "x-forwarded-for: 127.0.0.1",
        "x-forwarded-proto: https",
        &*format!("x-forwarded-host: {A}"),
        &*format!("host: {A}"),
        "x-fine: yes",
        "cookie: a=1; b=2",
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    let id = answer.header("x-request-id").expect("has an id");
    assert!(text.contains(&format!("x-request-id: {id}")) && id.len() == 32);
    assert_eq!(answer.header("ta3lem-secret"), None);
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536000"));
}

async fn bodies(stack: &Stack, a: &stack::Site) {
    let mut client = connect(stack, A).await;
    for length in [0_usize, 10, 900_000] {
        for announced in [true, false] {
            let mut request = h3_post(A, "/echo");
            if announced {
                request.headers_mut().insert("content-length", length.into());
            }
            let answer = client.ask(request, vec![b'x'; length]).await.expect("answers");
            assert_eq!((answer.status.as_u16(), answer.body.len()), (200, length), "{announced}");
        }
    }
    let answer = client.ask(h3_get(A, "/large?5000000"), "").await.expect("answers");
    assert_eq!(answer.body.len(), 5_000_000);
    let head = Request::head(format!("https://{A}/large?100")).body(()).expect("is a request");
    let answer = client.ask(head, "").await.expect("answers");
    assert_eq!((answer.body.len(), answer.header("content-length")), (0, Some("100")));
    let mut too_large = h3_post(A, "/echo");
    too_large.headers_mut().insert("content-length", 99_999_999_999_u64.into());
    assert_eq!(client.ask(too_large, "x").await.expect("answers").status, 413);
    // An answer that comes before the body has ended.
    for _ in 0..5 {
        let answer = client.ask(h3_post(A, "/early"), vec![b'x'; 900_000]).await;
        assert_eq!(answer.expect("answers").text(), "early");
    }
    // Both ways at once: each piece comes back before the next is sent.
    let mut asked = client.begin(h3_post(A, "/echo")).await.expect("begins");
    asked.send_data(Bytes::from_static(b"one")).await.expect("sends");
    assert_eq!(asked.recv_response().await.expect("answers").status(), 200);
    for piece in ["one", "two", "three"] {
        let mut came = Vec::new();
        while came.len() < piece.len() {
            let mut data = asked.recv_data().await.expect("comes").expect("is not the end");
            came.extend_from_slice(&bytes::Buf::copy_to_bytes(&mut data, piece.len() - came.len()));
        }
        assert_eq!(came, piece.as_bytes());
        let next = if piece == "one" { "two" } else { "three" };
        if piece != "three" {
            asked.send_data(Bytes::from(next)).await.expect("sends");
        }
    }
    asked.finish().await.expect("ends");
    assert!(asked.recv_data().await.expect("ends").is_none());
    // Trailers, without what must not pass.
    let mut request = h3_post(A, "/trailers");
    request.headers_mut().insert("trailer", "x-sum, ta3lem-site".parse().expect("is a value"));
    let mut asked = client.begin(request).await.expect("begins");
    asked.send_data(Bytes::from_static(b"body")).await.expect("sends");
    let mut trailers = HeaderMap::new();
    trailers.insert("x-sum", "7".parse().expect("is a value"));
    trailers.insert("ta3lem-site", "evil".parse().expect("is a value"));
    asked.send_trailers(trailers).await.expect("sends");
    asked.finish().await.expect("ends");
    let answer = http3_client::read(asked).await.expect("answers");
    assert_eq!(answer.text(), "x-sum: 7");
    // Many at once on one connection.
    let mut all = Vec::new();
    for _ in 0..50 {
        let mut asked = client.begin(h3_get(A, "/who")).await.expect("begins");
        asked.finish().await.expect("ends");
        all.push(asked);
    }
    for asked in all {
        assert_eq!(http3_client::read(asked).await.expect("answers").text(), "alpha");
    }
    assert!(a.instance.requests().len() > 60);
}

async fn states(stack: &Stack, b: &stack::Site) {
    stack.set_state(b, "suspended").await;
    stack.until(B, |answer| answer.status == 503, &get(B, "/who")).await;
    let answer = connect(stack, B).await.ask(h3_get(B, "/who"), "").await.expect("answers");
    assert_eq!(answer.status, 503);
    assert!(answer.text().contains("Site beta"), "{}", answer.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_setting_nothing_of_it_is_there() {
    let stack = Stack::start().await;
    stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    let answer = stack.https(A, get(A, "/who").as_bytes()).await;
    assert_eq!((answer.status, answer.header("alt-svc")), (200, None));
    assert!(!stack.log().contains("HTTP/3"));
}
