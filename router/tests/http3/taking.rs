//! Held sites, and what an address may take.

use bytes::Bytes;

use crate::{
    A, B, connect,
    http3_client::{Http3, get, post, read},
    stack::Stack,
};

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_held_site_wait_here_too() {
    let stack = Stack::start_with_http3(serde_json::json!({ "hold_secs": 20 })).await;
    let a = stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    let mut client = connect(&stack, A).await;
    // A stream without an end is told, after a whole event.
    let mut events = client.begin(get(A, "/events")).await.expect("begins");
    events.finish().await.expect("ends");
    assert_eq!(events.recv_response().await.expect("answers").status(), 200);
    a.instance.tell("data: 1\n\n");
    assert!(events.recv_data().await.expect("comes").is_some());

    stack.hold(&a, 20.0).await;
    while events.recv_data().await.expect("ends well").is_some() {}
    let mut asked = Vec::new();
    for number in 0..3 {
        let mut one = client.begin(post(A, "/write")).await.expect("begins");
        one.send_data(Bytes::from(number.to_string())).await.expect("sends");
        one.finish().await.expect("ends");
        asked.push(one);
    }
    stack.site_until(&a, |seen| seen["held"] == 3).await;
    // Who gives a request up frees its place; so does who leaves.
    let mut given_up = asked.pop().expect("is there");
    given_up.stop_sending(h3::error::Code::H3_REQUEST_CANCELLED);
    stack.site_until(&a, |seen| seen["held"] == 2).await;
    let mut leaving = connect(&stack, A).await;
    let waiting = leaving.begin(get(A, "/who")).await.expect("begins");
    let (mut upload, _download) = waiting.split();
    upload.finish().await.expect("ends");
    stack.site_until(&a, |seen| seen["held"] == 3).await;
    drop(leaving);
    stack.site_until(&a, |seen| seen["held"] == 2).await;
    assert!(a.instance.writes().is_empty());
    stack.end_hold(&a).await;
    for one in asked {
        assert_eq!(read(one).await.expect("answers").text(), "written");
    }
    let mut writes = a.instance.writes();
    writes.sort_unstable();
    assert_eq!(writes, ["0", "1"]);
    stack.site_until(&a, |seen| seen["requests_in_flight"] == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_has_one_share_over_all_versions() {
    let stack = Stack::start_with_http3(serde_json::json!({
        "exempt": [], "connections_per_address": 8, "handshakes_per_second": 1000,
        "handshake_burst": 1000, "requests_per_second": 1, "request_burst": 20,
    }))
    .await;
    stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    let mut client = connect(&stack, A).await;
    let mut answered = 0;
    for _ in 0..30 {
        let answer = client.ask(get(A, "/who"), "").await.expect("answers");
        answered += usize::from(answer.status == 200);
        assert!(answer.status == 200 || answer.status == 429, "{answer:?}");
    }
    assert!((20..30).contains(&answered), "{answered}");
    // A connection over TCP and those over UDP are counted together, and one too many is refused at
    // once. Before that the client must show that the address is its own.
    let mut kept = vec![client];
    let tcp = stack.connect(A).await;
    while kept.len() < 7 {
        let mut next = connect(&stack, A).await;
        // The client is through with the handshake before the router is; whoever was asked has counted.
        next.ask(get(A, "/who"), "").await.expect("answers");
        kept.push(next);
    }
    let again = || Http3::connect(stack.http3(), A, stack.authority(), true);
    assert!(again().await.is_err());
    let text = stack.admin("/metrics").await;
    assert!(!text.contains("router_http3_address_checks_total 0"), "{text}");
    assert!(!text.contains("router_connections_refused_total{cause=\"connections\"} 0"), "{text}");
    drop((kept, tcp));
    while again().await.is_err() {}
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_have_a_rate() {
    let stack = Stack::start_with_http3(serde_json::json!({
        "exempt": [], "handshakes_per_second": 1, "handshake_burst": 40,
    }))
    .await;
    stack.site("beta", &[B]).await;
    stack.arrived(B).await;
    let mut refused = 0;
    for _ in 0..60 {
        let connected = Http3::connect(stack.http3(), B, stack.authority(), true).await;
        refused += usize::from(connected.is_err());
    }
    assert!(refused > 0);
    let text = stack.admin("/metrics").await;
    assert!(!text.contains("router_connections_refused_total{cause=\"handshakes\"} 0"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_moves_is_followed() {
    let stack = Stack::start_with_http3(serde_json::json!({ "exempt": [] })).await;
    stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    let mut client = connect(&stack, A).await;
    assert!(client.page(A, "/head").await.contains("x-forwarded-for: 127.0.0.1"));
    client.move_to([127, 0, 0, 2].into());
    assert!(client.page(A, "/head").await.contains("x-forwarded-for: 127.0.0.2"));
    // Another port of the same address is nothing new.
    client.move_to([127, 0, 0, 2].into());
    assert!(client.page(A, "/head").await.contains("x-forwarded-for: 127.0.0.2"));
    // The log is written by a thread of its own.
    while stack.log().matches("\"client\":\"127.0.0.2\"").count() < 2 {
        tokio::task::yield_now().await;
    }
}
