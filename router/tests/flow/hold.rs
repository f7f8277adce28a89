//! A site is held: nobody sees an error, nothing reaches the instance, and the numbers are right.

use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};

use crate::{A, client::ask_for_websocket, get, post, stack::Stack};

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_held_site_wait_and_then_go_on() {
    let limits = serde_json::json!({ "hold_secs": 5, "held_per_site": 60, "exempt": [],
        "held_per_address": 50, "connections_per_address": 1000, "handshake_burst": 1000 });
    let stack = Stack::start_with(limits).await;
    let a = stack.site("alpha", &[A]).await;
    stack.arrived(A).await;

    everybody_waits(&stack, &a).await;
    who_leaves_frees_a_place(&stack, &a).await;
    places_and_time_are_limited(&stack, &a).await;
    streams_without_an_end_are_told(&stack, &a).await;
    a_fenced_instance_has_the_same_effect(&stack, &a).await;

    let text = stack.admin("/metrics").await;
    for name in [
        "router_requests_held_total",
        "router_held_seconds_bucket",
        "router_hold_refusals_total{cause=\"full\"}",
        "router_fenced_answers_total",
        "router_streams_ended_by_hold_total 2",
    ] {
        assert!(text.contains(name), "{name} in {text}");
    }
    assert!(stack.log().contains("\"held_ms\":"), "the log has the time");
}

async fn everybody_waits(stack: &Stack, a: &crate::stack::Site) {
    // What is in flight when the hold begins is finished and counted until then.
    let slow = get(A, "/slow");
    let slow = stack.https(A, slow.as_bytes());
    let (answer, first) = join(slow, async {
        stack.site_until(a, |seen| seen["requests_in_flight"] == 1).await;
        stack.hold(a, 20.0).await
    })
    .await;
    assert_eq!(answer.status, 200);
    let before = a.instance.requests().len();
    let numbers = 0..40_u32;
    let requests: Vec<String> =
        numbers
            .clone()
            .map(|number| {
                if number % 2 == 0 {
                    get(A, "/who")
                } else {
                    post(A, "/write", &number.to_string())
                }
            })
            .collect();
    let answers = join_all(requests.iter().map(|request| stack.https(A, request.as_bytes())));
    let (answers, ()) = join(answers, async {
        let seen = stack.site_until(a, |seen| seen["held"] == 40).await;
        assert_eq!(seen["requests_in_flight"], 0, "{seen}");
        assert_eq!(seen["hold"]["in_force"], true, "{seen}");
        // The same order once more, and another one, change nothing.
        let second = stack.hold(a, 20.0).await;
        assert_ne!(first, second);
        assert_eq!(stack.site_until(a, |_| true).await["held"], 40);
        assert_eq!(a.instance.requests().len(), before, "nothing reached the instance");
        stack.end_hold(a).await;
    })
    .await;
    assert!(answers.iter().all(|answer| answer.status == 200), "{answers:?}");
    assert_eq!(a.instance.writes().len(), 20);
    stack.site_until(a, |seen| seen["held"] == 0 && seen["requests_in_flight"] == 0).await;

    // A hold that nobody takes away is over at its deadline.
    stack.hold(a, 1.0).await;
    assert_eq!(stack.https(A, get(A, "/who").as_bytes()).await.body, "alpha");
    let seen = stack.site_until(a, |_| true).await;
    assert_eq!(seen["hold"]["in_force"], false, "{seen}");
    stack.end_hold(a).await;
    stack.site_until(a, |seen| seen["hold"].is_null()).await;
}

async fn who_leaves_frees_a_place(stack: &Stack, a: &crate::stack::Site) {
    stack.hold(a, 20.0).await;
    let mut waiting = stack.connect(A).await;
    waiting.send(get(A, "/who")).await;
    // Nothing of this one's body is read while it waits, and yet its end is seen.
    let mut posting = stack.connect(A).await;
    posting
        .send(format!("POST /write HTTP/1.1\r\nHost: {A}\r\nContent-Length: 50\r\n\r\nabc"))
        .await;
    stack.site_until(a, |seen| seen["held"] == 2).await;
    drop(waiting);
    stack.site_until(a, |seen| seen["held"] == 1).await;
    drop(posting);
    stack.site_until(a, |seen| seen["held"] == 0).await;
    // The body is not asked for before the site is open again.
    let mut expecting = stack.connect(A).await;
    expecting
        .send(format!(
            "POST /write HTTP/1.1\r\nHost: {A}\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n"
        ))
        .await;
    stack.site_until(a, |seen| seen["held"] == 1).await;
    stack.end_hold(a).await;
    expecting.read_until("100 Continue").await;
    expecting.send("abc".to_owned()).await;
    expecting.read_until("written").await;
}

async fn places_and_time_are_limited(stack: &Stack, a: &crate::stack::Site) {
    stack.hold(a, 20.0).await;
    let begun = Instant::now();
    let request = post(A, "/write", "late");
    let answers = join_all((0..55).map(|_| stack.https(A, request.as_bytes()))).await;
    let (held, refused): (Vec<_>, Vec<_>) = answers.iter().enumerate().partition(|_| false);
    assert!(held.is_empty() && begun.elapsed() >= Duration::from_secs(5));
    for (_, answer) in refused {
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")));
        assert_eq!(answer.header("connection"), Some("close"));
        assert!(answer.body.contains("Site alpha"), "{}", answer.body);
    }
    stack.site_until(a, |seen| seen["held"] == 0).await;
    assert!(stack.admin("/metrics").await.contains("router_hold_refusals_total{cause=\"full\"} 5"));
    assert!(a.instance.writes().iter().all(|text| text != "late"));
    stack.end_hold(a).await;
    stack.site_until(a, |seen| seen["hold"].is_null()).await;
}

async fn streams_without_an_end_are_told(stack: &Stack, a: &crate::stack::Site) {
    let mut socket = stack.connect(A).await;
    socket.send(ask_for_websocket(A, "/socket")).await;
    socket.read_until("\r\n\r\n").await;
    // A masked text frame; the instance sends it back as it is.
    assert!(socket.send_bytes(&[0x81, 0x82, 0, 0, 0, 0, b'h', b'i']).await);
    assert_eq!(socket.read_some().await, [0x81, 0x82, 0, 0, 0, 0, b'h', b'i']);
    let mut events = stack.connect(A).await;
    events.send(get(A, "/events")).await;
    events.read_until("\r\n\r\n").await;
    a.instance.tell("data: 1\n\n");
    events.read_until("data: 1\n\n").await;
    a.instance.tell("data: 2\n");
    events.read_until("data: 2\n").await;
    let seen = stack.site_until(a, |seen| seen["tunnels"] == 1).await;
    assert_eq!(seen["requests_in_flight"], 1, "{seen}");

    stack.hold(a, 20.0).await;
    // Service restart, and then the end.
    assert_eq!(socket.read_some().await, [0x88, 0x02, 0x03, 0xf4]);
    // The event that had begun is finished first.
    a.instance.tell("data: 3\n\ndata: 4");
    events.read_until("data: 3\n\n").await;
    events.read_until("0\r\n\r\n").await;
    stack.site_until(a, |seen| seen["tunnels"] == 0 && seen["requests_in_flight"] == 0).await;
    stack.end_hold(a).await;
    stack.site_until(a, |seen| seen["hold"].is_null()).await;
}

async fn a_fenced_instance_has_the_same_effect(stack: &Stack, a: &crate::stack::Site) {
    a.instance.fence(true);
    // Reads go on.
    assert_eq!(stack.https(A, get(A, "/who").as_bytes()).await.body, "alpha");
    let request = post(A, "/write", "fenced");
    let (answer, ()) = join(stack.https(A, request.as_bytes()), async {
        stack.site_until(a, |seen| seen["held"] == 1 && seen["requests_in_flight"] == 0).await;
        a.instance.serve_generation(2);
        a.instance.fence(false);
        stack.raise_generation(a, 2).await;
    })
    .await;
    assert_eq!((answer.status, answer.body.as_str()), (200, "written"));
    let fenced = |text: &&String| *text == "fenced";
    assert_eq!(a.instance.writes().iter().filter(fenced).count(), 1, "is written once");

    // The fence is taken back, and no router hears of it.
    a.instance.fence(true);
    let (answer, ()) = join(stack.https(A, request.as_bytes()), async {
        stack.site_until(a, |seen| seen["held"] == 1).await;
        a.instance.fence(false);
    })
    .await;
    assert_eq!(answer.status, 200);

    // What cannot be sent again, and what waits for too long.
    a.instance.fence(true);
    let large = post(A, "/write", &"x".repeat(200_000));
    let answer = stack.https(A, large.as_bytes()).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")));
    let answer = stack.https(A, request.as_bytes()).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")));
    assert_eq!(answer.header("ta3lem-refused"), None);
    a.instance.fence(false);
}
