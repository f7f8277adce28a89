//! Connections for a site that is at home in the other region.

use http_body_util::{BodyExt, Full};
use router::proxy_protocol;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    client::{Stream, ask_for_websocket, get},
    stack::{SINGAPORE, Stack, tcp_from},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_goes_to_the_region_where_its_site_is_at_home() {
    let mut stack = Stack::start().await;
    let site = stack.site("alpha").await;
    let host = site.hostname.clone();

    // The instance in Jakarta sees the client's own address, not the router's of Singapore.
    let tcp = tcp_from("127.0.0.9", stack.singapore.https).await;
    let stream = Stream::tls_over(tcp, &host, stack.authority()).await.expect("shakes hands");
    let answer = stream.exchange(get(&host, "/head").as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.raw);
    assert!(answer.body.contains("x-forwarded-for: 127.0.0.9"), "{}", answer.body);
    assert_eq!(answer.header("strict-transport-security"), Some("max-age=31536001"));

    // One line for the connection, with its bytes and no request: nothing was decrypted there.
    let passed = ["\"message\":\"passed on\"", "r-id-jakarta", "127.0.0.9", &*host];
    let line = stack.singapore.logs(&passed).await;
    let line: serde_json::Value = serde_json::from_str(&line).expect("is JSON");
    assert!(line["received_bytes"].as_u64() > Some(300) && line["sent_bytes"].as_u64() > Some(500));
    assert!(!stack.singapore.log().contains("\"path\":\"/head\""));
    stack.jakarta.logs(&["\"path\":\"/head\"", "127.0.0.9"]).await;

    http2_and_websockets(&stack, &host).await;
    private_listener(&stack, &host).await;
    other_routers(&stack, &host).await;

    // Stopping waits for what goes through.
    let mut last = stack.connect(&stack.singapore, &host).await;
    last.send(format!(
        "POST /echo HTTP/1.1\r\nHost: {host}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
    ))
    .await;
    last.read_until("one").await;
    stack.singapore.tell_to_stop();
    stack.singapore.shows("/readyz", "stopping").await;
    last.send("3\r\ntwo\r\n0\r\n\r\n".to_owned()).await;
    last.read_until("0\r\n\r\n").await;
    drop(last);
    assert!(stack.singapore.ended().await, "{}", stack.singapore.log());
}

async fn http2_and_websockets(stack: &Stack, host: &str) {
    let mut sender = Stream::http2(stack.singapore.https, host, stack.authority()).await;
    for _ in 0..3 {
        let request = http::Request::post(format!("https://{host}/echo"));
        let request = request.body(Full::new(bytes::Bytes::from(vec![b'x'; 300_000])));
        let answer = sender.send_request(request.expect("is a request")).await.expect("answers");
        let body = answer.into_body().collect().await.expect("ends").to_bytes();
        assert_eq!(body.len(), 300_000);
    }
    let mut stream = stack.connect(&stack.singapore, host).await;
    stream.send(ask_for_websocket(host, "/socket")).await;
    stream.read_until("101 Switching Protocols").await;
    stream.send("hello".to_owned()).await;
    stream.read_until("hello").await;
}

/// The private listener takes nothing but what a router passes on, and never passes it on again.
async fn private_listener(stack: &Stack, host: &str) {
    // No header.
    let door = stack.jakarta.passthrough;
    let bare = Stream::tls_over(tcp_from("127.0.0.1", door).await, host, stack.authority()).await;
    assert!(bare.is_err(), "without a header nothing is answered");
    // With one, as a router would send it.
    let mut tcp = tcp_from("127.0.0.1", door).await;
    let client = "203.0.113.9:4000".parse().expect("an address");
    let header = proxy_protocol::header(client, stack.jakarta.https, false, None);
    tcp.write_all(&header).await.expect("writes");
    let stream = Stream::tls_over(tcp, host, stack.authority()).await.expect("shakes hands");
    let answer = stream.exchange(get(host, "/head").as_bytes()).await;
    assert!(answer.body.contains("x-forwarded-for: 203.0.113.9"), "{}", answer.raw);
    // What is said of a trace is the client's there, and the router's where that relays a request.
    let parent = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for relayed in [false, true] {
        let mut tcp = tcp_from("127.0.0.1", door).await;
        let header = proxy_protocol::header(client, stack.jakarta.https, relayed, None);
        tcp.write_all(&header).await.expect("writes");
        let stream = Stream::tls_over(tcp, host, stack.authority()).await.expect("shakes hands");
        let request = get(host, "/head").replace("\r\n\r\n", &format!("\r\n{parent}\r\n\r\n"));
        let answer = stream.exchange(request.as_bytes()).await;
        assert_eq!(answer.body.contains(parent), relayed, "{}", answer.raw);
    }
    // A site that is not at home there: closed, after waiting for news of it.
    let refusals = "router_connections_refused_total{cause=\"entrance\"}";
    let refused = stack.singapore.metric(refusals).await;
    let passed = stack.singapore.metric("router_passed_on_total{outcome=\"carried\"}").await;
    let mut tcp = tcp_from("127.0.0.1", stack.singapore.passthrough).await;
    tcp.write_all(&header).await.expect("writes");
    let wrong = Stream::tls_over(tcp, host, stack.authority()).await;
    assert!(wrong.is_err(), "it is not passed on again");
    stack.singapore.counted(refusals, refused).await;
    let now = stack.singapore.metric("router_passed_on_total{outcome=\"carried\"}").await;
    assert!((now - passed).abs() < 0.5, "{passed} {now}");
    // Somebody else's idea of a header.
    let mut tcp = tcp_from("127.0.0.1", door).await;
    tcp.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.expect("writes");
    let mut rest = Vec::new();
    let _ = tcp.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}

/// Routers that do not answer are stepped over; without any the connection ends.
async fn other_routers(stack: &Stack, host: &str) {
    let dead = {
        let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
        gone.local_addr().expect("has an address")
    };
    let others = format!(
        "insert into router (name, region, https_address, http_address, admin_url,
             passthrough_address)
         values ('dead-one', 'id-jakarta', '', '', '', '{dead}'),
                ('a-dead-one', 'id-jakarta', '', '', '', '{dead}')"
    );
    stack.sql(others).await;
    stack.singapore.logs_after_asking(stack, host, "dead-one").await;
    for _ in 0..4 {
        assert_eq!(stack.ask(&stack.singapore, host, "/who").await.body, "alpha-j");
    }
    stack.sql("update router set passthrough_address = null".to_owned()).await;
    let begun = std::time::Instant::now();
    while Stream::tls(stack.singapore.https, host, stack.authority(), true).await.is_ok() {
        assert!(begun.elapsed().as_secs() < 20, "it still goes through");
    }
    stack.singapore.logs(&["passed on", "has no router with a passthrough address"]).await;
    let again = format!(
        "update router set passthrough_address = '{}' where name = 'r-id-jakarta'",
        stack.jakarta.passthrough
    );
    stack.sql(again).await;
    let begun = std::time::Instant::now();
    while Stream::tls(stack.singapore.https, host, stack.authority(), true).await.is_err() {
        assert!(begun.elapsed().as_secs() < 20, "it does not go through again");
    }
}

impl crate::stack::Router {
    /// Asks until the log names `what`; every answer is right meanwhile.
    async fn logs_after_asking(&self, stack: &Stack, host: &str, what: &str) {
        let begun = std::time::Instant::now();
        while !self.log().contains(what) {
            assert_eq!(stack.ask(self, host, "/who").await.body, "alpha-j");
            assert!(begun.elapsed().as_secs() < 20, "{what} is never tried");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn load_balancers_say_whom_they_speak_for() {
    let stack = Stack::start().await;
    let site = stack.site("alpha").await;
    let host = &*site.hostname;
    let balancer = "127.0.0.77";
    let (https, http) = (stack.jakarta.https, stack.jakarta.http);
    let v1 = b"PROXY TCP4 198.51.100.7 192.0.2.1 5000 443\r\n".to_vec();
    let v2 = proxy_protocol::header(
        "198.51.100.7:5000".parse().expect("an address"),
        https,
        false,
        None,
    );
    for header in [v1.clone(), v2] {
        let mut tcp = tcp_from(balancer, https).await;
        tcp.write_all(&header).await.expect("writes");
        let stream = Stream::tls_over(tcp, host, stack.authority()).await.expect("shakes hands");
        let answer = stream.exchange(get(host, "/head").as_bytes()).await;
        assert!(answer.body.contains("x-forwarded-for: 198.51.100.7"), "{}", answer.raw);
    }
    // Also in front of a connection that goes to the other region.
    let mut tcp = tcp_from(balancer, stack.router(SINGAPORE).https).await;
    tcp.write_all(&v1).await.expect("writes");
    let stream = Stream::tls_over(tcp, host, stack.authority()).await.expect("shakes hands");
    let answer = stream.exchange(get(host, "/head").as_bytes()).await;
    assert!(answer.body.contains("x-forwarded-for: 198.51.100.7"), "{}", answer.raw);
    // And in front of plain HTTP.
    let mut tcp = tcp_from(balancer, http).await;
    tcp.write_all(&[&v1[..], get(host, "/x").as_bytes()].concat()).await.expect("writes");
    let mut answer = String::new();
    tcp.read_to_string(&mut answer).await.expect("reads");
    assert!(answer.starts_with("HTTP/1.1 301 "), "{answer}");
    stack.jakarta.logs(&["\"status\":301", "198.51.100.7"]).await;
    // A load balancer that says nothing is not believed, and nobody else may say anything.
    let bare = tcp_from(balancer, https).await;
    assert!(Stream::tls_over(bare, host, stack.authority()).await.is_err());
    let mut forger = tcp_from("127.0.0.1", https).await;
    forger.write_all(&v1).await.expect("writes");
    assert!(Stream::tls_over(forger, host, stack.authority()).await.is_err());
    let mut forger = tcp_from("127.0.0.1", http).await;
    forger.write_all(&[&v1[..], get(host, "/x").as_bytes()].concat()).await.expect("writes");
    let mut answer = String::new();
    let _ = forger.read_to_string(&mut answer).await;
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}
