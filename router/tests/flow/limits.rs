//! No site and no client takes what is everybody's.

use std::time::{Duration, Instant};

use futures_util::future::join_all;

use crate::{A, B, get, keep, stack::Stack};

fn number(text: &str, name: &str) -> f64 {
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.and_then(|line| line.split(' ').nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_has_its_share() {
    let stack = Stack::start_with(serde_json::json!({
        "exempt": [], "connections_per_address": 8, "handshakes_per_second": 1000,
        "handshake_burst": 1000, "requests_per_second": 1, "request_burst": 20,
    }))
    .await;
    let a = stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    // Requests on one connection and on several count together.
    let mut stream = stack.connect(A).await;
    let mut answered = 0;
    for _ in 0..30 {
        stream.send(keep(A, "/who")).await;
        stream.read_until("HTTP/1.1 ").await;
        let status = stream.read_until_any(&["200 OK", "429 Too Many Requests"]).await;
        answered += usize::from(status == "200 OK");
        stream.read_until_any(&["alpha", "</html>"]).await;
    }
    assert!((20..30).contains(&answered), "{answered}");
    let answer = stack.https(A, get(A, "/who").as_bytes()).await;
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")));
    assert!(answer.body.contains("Site alpha"), "{}", answer.body);
    let json = format!(
        "GET / HTTP/1.1\r\nHost: {A}\r\nAccept: application/json\r\nConnection: close\r\n\r\n"
    );
    let answer = stack.https(A, json.as_bytes()).await;
    assert!(answer.body.contains("\"reason\":\"client_over_limit\""), "{}", answer.body);
    assert_eq!(a.instance.requests().len(), answered);
    // Too many connections are closed at once; when one ends, there is room again.
    let mut kept = vec![stream];
    for _ in 0..7 {
        kept.push(stack.connect(A).await);
    }
    assert!(stack.try_connect(A).await.is_err());
    drop(kept);
    while stack.try_connect(A).await.is_err() {}
    let text = stack.admin("/metrics").await;
    let refused = "router_connections_refused_total{cause=\"connections\"}";
    assert!(number(&text, refused) >= 1.0, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_site_has_its_share_and_takes_nobody_elses() {
    let stack = Stack::start_with(serde_json::json!({ "connections_per_site": 25 })).await;
    let a = stack.site("alpha", &[A]).await;
    let b = stack.site("beta", &[B]).await;
    stack.arrived(A).await;
    stack.arrived(B).await;
    stack.limit_plan(1, 20, 4).await;
    // The limit is the plan's, so it arrives with a new version.
    let before = stack.site_until(&a, |seen| seen["version"].as_i64() > Some(0)).await;
    let later = before["version"].as_i64();
    stack.touch_plan().await;
    stack.site_until(&a, |seen| seen["version"].as_i64() > later).await;
    stack.site_until(&b, |seen| seen["version"].as_i64() > Some(0)).await;

    // Far more than the site may have at once: some are answered, the others hear so at once, and
    // the other site is not even slowed down.
    let request = get(A, "/slow");
    let many = join_all((0..20).map(|_| stack.https(A, request.as_bytes())));
    let other = async {
        let begun = Instant::now();
        for _ in 0..5 {
            assert_eq!(stack.https(B, get(B, "/who").as_bytes()).await.body, "beta");
        }
        begun.elapsed()
    };
    let (answers, elapsed) = futures_util::future::join(many, other).await;
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    let with = |status: u16| answers.iter().filter(|answer| answer.status == status).count();
    let (fine, busy) = (with(200), with(503));
    assert!(fine >= 4 && busy >= 1 && fine + busy + with(429) == 20, "{answers:?}");
    let refused = answers.iter().find(|answer| answer.status == 503).expect("one is refused");
    assert_eq!(refused.header("retry-after"), Some("2"));

    // And by its rate.
    let answers =
        join_all((0..25).map(|_| async { stack.https(A, get(A, "/who").as_bytes()).await }));
    let answers = answers.await;
    let limited =
        answers.iter().find(|answer| answer.status == 429).expect("one is over the limit");
    assert_eq!(limited.header("retry-after"), Some("1"));
    assert!(limited.body.contains("Site alpha"), "{}", limited.body);
    // `ta3lem router top` is made of this.
    let status: serde_json::Value =
        serde_json::from_str(&stack.admin("/status").await).expect("is JSON");
    assert_eq!(status["top_sites"][0]["slug"], "alpha", "{status}");
    assert_eq!(status["top_sites"][0]["requests_last_minute"], 45, "{status}");
    assert_eq!(status["table"]["sites"], 2, "{status}");

    // The connections for its hostnames: one more is closed unanswered, the other site's is not.
    let mut kept = Vec::new();
    for _ in 0..25 {
        // Whoever is answered, whatever the answer, is counted.
        let mut stream = stack.connect(A).await;
        stream.send(keep(A, "/who")).await;
        stream.read_until("HTTP/1.1 ").await;
        kept.push(stream);
    }
    assert_eq!(stack.connect(A).await.read_some().await, b"");
    assert_eq!(stack.https(B, get(B, "/who").as_bytes()).await.body, "beta");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_cannot_be_reached_fails_quickly_and_not_for_ever() {
    let stack = Stack::start().await;
    let a = stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    a.instance.close().await;
    let request = get(A, "/who");
    // The first waits as long as an instance may take to come back.
    let begun = Instant::now();
    assert_eq!(stack.https(A, request.as_bytes()).await.status, 503);
    assert!(begun.elapsed() >= Duration::from_secs(9));
    // The others do not.
    let begun = Instant::now();
    for _ in 0..20 {
        let answer = stack.https(A, request.as_bytes()).await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")));
    }
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    let text = stack.admin("/metrics").await;
    assert!(number(&text, "router_upstream_fast_failures_total") >= 15.0, "{text}");
    a.instance.open().await;
    stack.until(A, |answer| answer.body == "alpha", &request).await;
    assert_eq!(stack.https(A, request.as_bytes()).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_and_guessed_tokens_count_and_authorities_do_not() {
    let stack = Stack::start_with(serde_json::json!({
        "exempt": [], "requests_per_second": 1, "request_burst": 12,
    }))
    .await;
    stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    sqlx::query(
        "insert into acme_challenge (id, hostname, kind, token, key_authorization, expires_at)
         values (gen_random_uuid(), $1, 'http_01', 'known', 'known.proof', now() + interval '1 h')",
    )
    .bind(A)
    .execute(&mut stack.database.sql().await)
    .await
    .expect("is inserted");
    let asks = |token: &str| get(A, &format!("/.well-known/acme-challenge/{token}"));
    let mut answers = Vec::new();
    for number in 0..12 {
        answers.push(stack.http(get(A, "/").as_bytes()).await.status);
        answers.push(stack.http(asks(&format!("guess{number}")).as_bytes()).await.status);
    }
    let with = |status: u16| answers.iter().filter(|answer| **answer == status).count();
    let (redirects, unknown, refused) = (with(301), with(404), with(429));
    assert_eq!(redirects + unknown + refused, 24, "{answers:?}");
    // The rate may give back a few while they are sent.
    assert!(refused > 0 && redirects + unknown >= 12, "{answers:?}");
    // It is told like any other refusal.
    let refusal = loop {
        let answer = stack.http(get(A, "/").as_bytes()).await;
        if answer.status == 429 {
            break answer;
        }
    };
    assert_eq!(refusal.header("retry-after"), Some("1"));
    assert!(refusal.body.contains("Site alpha"), "{}", refusal.body);
    // A certificate authority comes from few addresses, and asks for every site.
    for _ in 0..20 {
        let answer = stack.http(asks("known").as_bytes()).await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "known.proof"));
    }
}
