//! HTTP/3 is spoken with a site's own region only: TLS ends nowhere else, and QUIC is not passed on.

use crate::{
    http3_client::{Http3, get},
    stack::{SINGAPORE, Stack},
};

#[tokio::test(flavor = "multi_thread")]
async fn a_client_from_before_a_move_is_not_stuck() {
    let stack = Stack::start().await;
    let site = stack.site("alpha").await;
    let host = &*site.hostname;
    let connect = async |address| Http3::connect(address, host, stack.authority(), true).await;
    let offer = |port: u16| Some(format!("h3=\":{port}\"; ma=3600"));
    let offered = |answer: &crate::client::Answer| answer.header("alt-svc").map(str::to_owned);

    // At home: offered to those who come straight, taken back from those who were passed on.
    let answer = stack.ask(&stack.jakarta, host, "/who").await;
    assert_eq!(offered(&answer), offer(stack.jakarta.http3.port()));
    let answer = stack.ask(&stack.singapore, host, "/who").await;
    assert_eq!((answer.body.as_str(), offered(&answer)), ("alpha-j", Some("clear".to_owned())));
    // Elsewhere the handshake fails, and the client is told.
    let refused = connect(stack.singapore.http3).await.err();
    assert!(matches!(refused, Some(quinn::ConnectionError::ConnectionClosed(_))), "{refused:?}");

    let mut client = connect(stack.jakarta.http3).await.expect("a handshake");
    assert_eq!(client.page(host, "/who").await, "alpha-j");
    stack.move_to_singapore(&site).await;
    for router in [&stack.jakarta, &stack.singapore] {
        stack.arrived(router, host, SINGAPORE).await;
    }
    // The next request is answered by the new home, the offer is taken back, and the connection ends.
    let answer = client.ask(get(host, "/who"), "").await.expect("answers");
    assert_eq!((answer.text().as_str(), answer.header("alt-svc")), ("alpha-s", Some("clear")));
    client.dismissed(host).await;
    client.closed().await;
    assert!(connect(stack.jakarta.http3).await.is_err(), "goes over TCP from now on");
    let answer = stack.ask(&stack.jakarta, host, "/who").await;
    assert_eq!((answer.body.as_str(), offered(&answer)), ("alpha-s", Some("clear".to_owned())));
    // And at the new home it is as it was at the old one.
    let mut client = connect(stack.singapore.http3).await.expect("a handshake");
    assert_eq!(client.page(host, "/who").await, "alpha-s");
    let answer = stack.ask(&stack.singapore, host, "/who").await;
    assert_eq!(offered(&answer), offer(stack.singapore.http3.port()));
}
