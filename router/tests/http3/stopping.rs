//! A router stops, or another one follows it: what is under way is finished, and whoever comes anew is
//! told at once to go over TCP.

use bytes::Bytes;
use quinn::VarInt;

use crate::{
    A, connect, get,
    http3_client::{Http3, get as h3_get, post, read},
    stack::Stack,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_says_goodbye_and_finishes_what_is_under_way() {
    let mut stack = Stack::start_with_http3(serde_json::json!({})).await;
    let a = stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    let mut client = connect(&stack, A).await;
    let mut unused = connect(&stack, A).await;
    let mut asked = client.begin(post(A, "/write")).await.expect("begins");
    asked.send_data(Bytes::from_static(b"one")).await.expect("sends");
    while !a.instance.requests().contains(&"/write".to_owned()) {
        tokio::task::yield_now().await;
    }
    stack.tell_router_to_stop();
    client.dismissed(A).await;
    // Nobody is let in any more, and hears it at once.
    let refused = Http3::connect(stack.http3(), A, stack.authority(), true).await.err();
    assert!(matches!(refused, Some(quinn::ConnectionError::ConnectionClosed(_))), "{refused:?}");
    asked.send_data(Bytes::from_static(b"two")).await.expect("sends");
    asked.finish().await.expect("ends");
    assert_eq!(read(asked).await.expect("answers").text(), "written");
    assert_eq!(a.instance.writes(), ["onetwo"]);
    for client in [&mut client, &mut unused] {
        let quinn::ConnectionError::ApplicationClosed(close) = client.closed().await else {
            panic!("closed without a word")
        };
        // H3_NO_ERROR
        assert_eq!(close.error_code, VarInt::from_u32(0x100));
    }
    let (clean, log) = stack.stop_router().await;
    assert!(clean, "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_goes_to_the_next_router_and_no_request_fails() {
    let mut stack = Stack::start_with_http3(serde_json::json!({})).await;
    let a = stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    let mut client = connect(&stack, A).await;
    assert_eq!(client.page(A, "/who").await, "alpha");
    let mut asked = client.begin(post(A, "/write")).await.expect("begins");
    asked.send_data(Bytes::from_static(b"one")).await.expect("sends");
    let address = stack.http3();
    let mut old = stack.replace_router().await;
    assert_eq!(stack.http3(), address);
    // The new one has the address of TCP already, and does not offer what it has not.
    client.dismissed(A).await;
    let mut offered = false;
    let mut refused = 0;
    asked.send_data(Bytes::from_static(b"two")).await.expect("sends");
    asked.finish().await.expect("ends");
    assert_eq!(read(asked).await.expect("answers").text(), "written");
    drop(client);
    while !offered {
        let answer = stack.https(A, get(A, "/who").as_bytes()).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "alpha"));
        match Http3::connect(address, A, stack.authority(), true).await {
            // Between the two nobody answers for a moment, and the client's next datagram is heard.
            Err(_) => refused += 1,
            Ok(mut client) => {
                assert_eq!(client.page(A, "/who").await, "alpha");
                let answer = client.ask(h3_get(A, "/who"), "").await.expect("answers");
                offered = answer.header("alt-svc").is_some();
            }
        }
        assert!(refused < 10_000, "{}", stack.log());
    }
    assert_eq!(a.instance.writes(), ["onetwo"]);
    let ended = tokio::task::spawn_blocking(move || old.wait()).await.expect("is waited for");
    assert!(ended.expect("ends").success(), "{}", stack.log());
    let log = stack.log();
    assert!(log.contains("waiting until the router before has left it"), "{log}");
}

/// A router that is killed takes its connections with it; the next one says so at the first datagram.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_crash_clients_are_told_at_once() {
    let mut stack = Stack::start_with_http3(serde_json::json!({})).await;
    stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    stack.snapshot_with(A).await;
    let mut client = connect(&stack, A).await;
    assert_eq!(client.page(A, "/who").await, "alpha");
    stack.kill_router().await;
    stack.start_router().await;
    let _ = client.begin(h3_get(A, "/who")).await;
    let reason = client.closed().await;
    assert!(matches!(reason, quinn::ConnectionError::Reset), "{reason:?}");
    assert_eq!(connect(&stack, A).await.page(A, "/who").await, "alpha");
}
