//! Clients that send or take next to nothing are not waited for; slow instances are.

use std::time::Duration;

use crate::{A, B, get, stack::Stack};

/// Short against the router's limits below.
const NOW_AND_THEN: Duration = Duration::from_millis(100);

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_sends_a_byte_now_and_then_is_answered_and_closed() {
    let limits = serde_json::json!({ "body_grace_secs": 2, "least_bytes_per_second": 1000 });
    let stack = Stack::start_with(limits).await;
    let a = stack.site("alpha", &[A]).await;
    let _b = stack.site("beta", &[B]).await;
    stack.arrived(A).await;
    stack.arrived(B).await;

    for (framing, byte) in
        [("Content-Length: 1000000", "x"), ("Transfer-Encoding: chunked", "1\r\nx\r\n")]
    {
        let mut slow = stack.connect(A).await;
        slow.send(format!("POST /sink HTTP/1.1\r\nHost: {A}\r\n{framing}\r\n\r\n")).await;
        let answer = loop {
            slow.send_bytes(byte.as_bytes()).await;
            let reading = tokio::time::timeout(NOW_AND_THEN, slow.read_some()).await;
            if let Ok(answer) = reading {
                break String::from_utf8_lossy(&answer).into_owned();
            }
            // Others do not notice.
            assert_eq!(stack.https(B, get(B, "/who").as_bytes()).await.body, "beta");
        };
        assert!(answer.starts_with("HTTP/1.1 408 "), "{framing}: {answer}");
        assert!(answer.contains("connection: close"), "{framing}: {answer}");
    }
    stack.site_until(&a, |seen| seen["requests_in_flight"] == 0).await;

    // Much at once and then next to nothing is no better.
    let mut burst = stack.connect(A).await;
    burst
        .send(format!("POST /sink HTTP/1.1\r\nHost: {A}\r\nContent-Length: 9000000\r\n\r\n"))
        .await;
    assert!(burst.send_bytes(&vec![b'x'; 200_000]).await);
    let answer = loop {
        burst.send_bytes(b"x").await;
        if let Ok(answer) = tokio::time::timeout(NOW_AND_THEN, burst.read_some()).await {
            break String::from_utf8_lossy(&answer).into_owned();
        }
    };
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    stack.site_until(&a, |seen| seen["requests_in_flight"] == 0).await;
}
