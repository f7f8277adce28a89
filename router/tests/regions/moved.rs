//! Clients that stay where the site was: connections from before the move, and addresses that are
//! remembered for hours after it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use http_body_util::{BodyExt, Full};

use crate::{
    client::{Stream, ask_for_websocket, keep},
    stack::{SINGAPORE, Stack},
};

#[tokio::test(flavor = "multi_thread")]
async fn connections_from_before_a_move_end_with_an_answer_from_the_new_home() {
    let stack = Stack::start().await;
    let site = stack.site("alpha").await;
    let host = &*site.hostname;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let mut stream = stack.connect(&stack.jakarta, host).await;
        stream.send(keep(host, "/who")).await;
        stream.read_until("alpha-j").await;
        streams.push(stream);
    }
    let mut sender = Stream::http2(stack.jakarta.https, host, stack.authority()).await;
    let request = || http::Request::get(format!("https://{host}/who")).body(Full::default());
    let answer = sender.send_request(request().expect("is a request")).await.expect("answers");
    let body = answer.into_body().collect().await.expect("ends").to_bytes();
    assert_eq!(&*body, b"alpha-j");

    stack.move_to_singapore(&site).await;
    for router in [&stack.jakarta, &stack.singapore] {
        stack.arrived(router, host, SINGAPORE).await;
    }

    // HTTP/1.1: the answer of the new home, and then the end.
    let mut first = streams.remove(0);
    // A router believes another one's word about traces, so nobody else's may come that way.
    let forged = "traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\r\n\r\n";
    first.send(keep(host, "/head").replace("\r\n\r\n", &format!("\r\n{forged}"))).await;
    let answer = first.read_to_end().await;
    assert!(!answer.contains("traceparent"), "{answer}");
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"),
        "{answer}"
    );
    assert!(answer.contains("ta3lem-generation: 2"), "{answer}");
    assert!(answer.contains("x-forwarded-for: 127.0.0.1"), "{answer}");
    // With a body, also one that is too large to be kept.
    let mut second = streams.remove(0);
    second
        .send(format!(
            "POST /echo HTTP/1.1\r\nHost: {host}\r\nContent-Length: 300000\r\n\r\n{}",
            "x".repeat(300_000)
        ))
        .await;
    let answer = second.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.ends_with(&"x".repeat(300_000)));
    // A WebSocket.
    let mut third = streams.remove(0);
    third.send(ask_for_websocket(host, "/socket")).await;
    third.read_until("101 Switching Protocols").await;
    third.send("hello".to_owned()).await;
    third.read_until("hello").await;
    // HTTP/2: the answer, and no further request on this connection.
    let answer = sender.send_request(request().expect("is a request")).await.expect("answers");
    let body = answer.into_body().collect().await.expect("ends").to_bytes();
    assert_eq!(&*body, b"alpha-s");
    while sender.ready().await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(stack.jakarta.metric("router_relayed_requests_total").await >= 4.0);
    // The new home's log has the client's address and not the router's alone.
    stack.singapore.logs(&["\"path\":\"/head\"", "\"status\":200"]).await;

    // Whoever connects to the old address ends at the new home.
    for _ in 0..3 {
        assert_eq!(stack.ask(&stack.jakarta, host, "/who").await.body, "alpha-s");
    }
    // The new home cannot be reached: the old connection says so, and nothing goes round.
    stack.sql("update router set passthrough_address = null".to_owned()).await;
    let mut last = streams.remove(0);
    while Stream::tls(stack.jakarta.https, host, stack.authority(), true).await.is_ok() {}
    last.send(keep(host, "/who")).await;
    assert!(last.read_to_end().await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_sees_an_error_while_a_site_moves() {
    let stack = Arc::new(Stack::start().await);
    let site = stack.site("alpha").await;
    let (stop, moved) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let mut clients = tokio::task::JoinSet::new();
    for number in 0..8 {
        let (stack, host) = (Arc::clone(&stack), site.hostname.clone());
        let (stop, moved) = (Arc::clone(&stop), Arc::clone(&moved));
        clients.spawn(async move {
            // Half of them have the address of the region that the site goes to.
            let router = if number % 2 == 0 { &stack.jakarta } else { &stack.singapore };
            let mut answers = 0;
            while !stop.load(Ordering::Relaxed) {
                let mut stream = stack.connect(router, &host).await;
                // As long as the router lets it.
                for _ in 0..20 {
                    stream.send(keep(&host, "/who")).await;
                    let head = stream.read_head().await;
                    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
                    let home = stream.read_exactly(7).await;
                    assert!(home == "alpha-j" || home == "alpha-s", "{home}");
                    moved.fetch_add(usize::from(home == "alpha-s"), Ordering::Relaxed);
                    answers += 1;
                    if head.contains("connection: close") || stop.load(Ordering::Relaxed) {
                        break;
                    }
                }
            }
            answers
        });
    }
    let until = async |wanted: usize, number: &AtomicUsize| {
        while number.load(Ordering::Relaxed) < wanted {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    while site.at_jakarta.requests().len() < 100 {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // The old instance refuses what comes late, as a fenced one does.
    site.at_jakarta.serve_generation(2);
    stack.move_to_singapore(&site).await;
    until(300, &moved).await;
    let late = site.at_jakarta.requests().len();
    until(600, &moved).await;
    assert_eq!(site.at_jakarta.requests().len(), late, "nobody asks the old home any more");
    stop.store(true, Ordering::Relaxed);
    while let Some(answers) = clients.join_next().await {
        assert!(answers.expect("no client sees an error") > 0);
    }
}
