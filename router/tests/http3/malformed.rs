//! What is no request does not reach an instance, and takes no memory.

use bytes::Bytes;
use quinn::VarInt;

use crate::{
    A, connect,
    http3_client::{Http3, get, post},
    stack::{Site, Stack},
};

const EXCESSIVE_LOAD: u32 = 0x107;

/// By hand: the client's library would not send it.
async fn too_long_a_head(client: &Http3) {
    let mut frame = vec![0x01, 0x80, 0x00, 0x4e, 0x2d, 0x00, 0x00, 0x26];
    frame.extend(b"x-long");
    frame.extend([0x7f, 0xa1, 0x9b, 0x01]);
    frame.extend([b'x'; 20_000]);
    let (mut send, mut receive) = client.quic.open_bi().await.expect("opens");
    send.write_all(&frame).await.expect("writes");
    let answer = receive.read_to_end(1_000).await.expect("answers");
    // HEADERS with nothing but a status (431), and an end that is none by force.
    assert!(answer.starts_with(&[0x01]) && answer.len() < 20, "{answer:?}");
}

pub async fn nothing_malformed_passes(stack: &Stack, a: &Site) {
    let mut client = connect(stack, A).await;
    let before = a.instance.requests().len();
    for (name, value) in [
        ("connection", "close"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "websocket"),
        ("keep-alive", "1"),
        ("te", "gzip"),
        ("content-length", "+1"),
        ("content-length", "5"),
    ] {
        let mut request = get(A, "/who");
        request.headers_mut().insert(name, value.parse().expect("is a value"));
        assert!(client.ask(request, "").await.is_err() || name == "content-length", "{name}");
    }
    let mut twice = get(A, "/who");
    for _ in 0..2 {
        twice.headers_mut().append("content-length", "0".parse().expect("is a value"));
    }
    assert!(client.ask(twice, "").await.is_err());
    let seen = a.instance.requests().split_off(before);
    assert!(seen.len() <= 1, "{seen:?}");

    // Longer or shorter than announced: the instance does not get a whole request.
    for (announced, body) in [(5_u32, "abc"), (5, "abcdefg")] {
        let mut request = post(A, "/write");
        request.headers_mut().insert("content-length", announced.into());
        let answer = client.ask(request, Bytes::from(body)).await;
        assert!(answer.as_ref().is_ok_and(|answer| answer.status == 400), "{answer:?}");
    }
    assert!(a.instance.writes().is_empty(), "{:?}", a.instance.writes());
    too_long_a_head(&client).await;

    // A frame that says it is long is not waited for: HEADERS of a megabyte, and an unknown one.
    for head in [[0x01, 0x80, 0x10, 0x00, 0x00], [0x21, 0x80, 0x10, 0x00, 0x00]] {
        let (mut send, mut receive) = client.quic.open_bi().await.expect("opens");
        send.write_all(&head).await.expect("writes");
        let stopped = send.stopped().await.expect("is told");
        assert_eq!(stopped, Some(VarInt::from_u32(EXCESSIVE_LOAD)));
        assert!(receive.read_to_end(10).await.is_err());
    }
    assert_eq!(client.page(A, "/who").await, "alpha", "the connection is still good");

    // And whoever sends nothing else is sent away.
    let mut sent = 0;
    while client.quic.close_reason().is_none() {
        assert!(sent < 1_000, "takes anything");
        sent += 1;
        let Ok((mut send, _receive)) = client.quic.open_bi().await else { break };
        let _ = send.write_all(&[0x01, 0x80, 0x10, 0x00, 0x00]).await;
        let _ = send.stopped().await;
    }
    let quinn::ConnectionError::ApplicationClosed(close) = client.closed().await else {
        panic!("closed without a word")
    };
    assert_eq!(close.error_code, VarInt::from_u32(EXCESSIVE_LOAD));
    let text = stack.admin("/metrics").await;
    assert!(text.contains("router_http3_malformed_requests_total 1"), "{text}");
}
