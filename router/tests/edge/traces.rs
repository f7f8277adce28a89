//! Spans of requests come to a collector, and a collector that does not work harms nobody.

use serde_json::json;

use crate::{
    A,
    client::{Stream, keep},
    collector::{Collector, attribute, is_of_request},
    get,
    stack::{Site, Stack},
};

/// Who is believed.
const TRUSTED: &str = "127.0.0.9";
const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
const PARENT: u64 = 0xb7ad_6b71_6920_3331;

async fn start(endpoint: &str, ratio: f64) -> (Stack, Site) {
    let traces = json!({ "endpoint": endpoint, "ratio": ratio, "parents_from": [TRUSTED] });
    let stack = Stack::start_as(json!({ "traces": traces })).await;
    let site = stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    (stack, site)
}

fn traceparent(trace: u128, sampled: bool) -> String {
    format!("traceparent: 00-{trace:032x}-{PARENT:016x}-{:02x}\r\n", u8::from(sampled))
}

fn request(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: {A}\r\n{headers}Connection: close\r\n\r\n")
}

/// What the instance is told: trace, parent and flags, and the rest of the state.
async fn told(stream: Stream, headers: &str) -> (u128, u64, String, bool) {
    let answer = stream.exchange(request("/head?secret=query", headers).as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.raw);
    let line = answer.body.lines().find_map(|line| line.strip_prefix("traceparent: "));
    let parts: Vec<&str> = line.expect("has one").split('-').collect();
    let [_, trace, parent, flags] = parts[..] else { panic!("{parts:?}") };
    let trace = u128::from_str_radix(trace, 16).expect("an id");
    let parent = u64::from_str_radix(parent, 16).expect("an id");
    (trace, parent, flags.to_owned(), answer.body.contains("tracestate: vendor=1"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_keeps_the_parent_of_whom_the_router_believes() {
    let collector = Collector::start().await;
    let (mut stack, site) = start(&collector.endpoint(), 0.0).await;

    // Nobody else makes the router sample, or chooses the trace that the instance is told.
    let state = "tracestate: vendor=1\r\n";
    for headers in [
        traceparent(TRACE, true) + state,
        traceparent(TRACE, true) + &traceparent(TRACE, true),
        "traceparent: 00-x-y-01\r\n".to_owned(),
        String::new(),
    ] {
        let (trace, parent, flags, has_state) = told(stack.connect(A).await, &headers).await;
        assert!(trace != TRACE && trace != 0 && parent != PARENT && parent != 0, "{headers}");
        assert_eq!((&*flags, has_state), ("00", false), "{headers}");
    }

    // Of whom it believes it takes the trace and the decision.
    let stream = stack.connect_from(TRUSTED, A).await;
    let (trace, parent, flags, has_state) = told(stream, &traceparent(TRACE + 1, false)).await;
    assert!(trace == TRACE + 1 && parent != PARENT && flags == "00" && !has_state);
    let stream = stack.connect_from(TRUSTED, A).await;
    let told = told(stream, &(traceparent(TRACE, true) + state)).await;
    assert_eq!((told.0, &*told.2, told.3), (TRACE, "01", true));
    let spans = collector.trace(TRACE).await;
    let span = spans.iter().find(|span| is_of_request(span)).expect("is there");
    assert_eq!(
        (&*span.parent_span_id, &*span.span_id),
        (&PARENT.to_be_bytes()[..], &told.1.to_be_bytes()[..])
    );
    assert_eq!((&*span.name, &*span.trace_state), ("GET", "vendor=1"));
    for (name, value) in [
        ("http.request.method", "GET"),
        ("http.response.status_code", "200"),
        ("url.scheme", "https"),
        ("url.path", "/head"),
        ("server.address", A),
        ("network.protocol.version", "1.1"),
        ("client.address", TRUSTED),
        ("ta3lem.site.id", &*site.id.to_string()),
        ("ta3lem.site.generation", "1"),
    ] {
        assert_eq!(attribute(&span.attributes, name).as_deref(), Some(value), "{name}");
    }
    assert!(span.events.iter().any(|event| event.name == "first_byte"), "{span:?}");
    let part = spans.iter().find(|span| span.name == "upstream").expect("is there");
    assert_eq!(part.parent_span_id, span.span_id);
    assert!(part.start_time_unix_nano >= span.start_time_unix_nano);
    assert!(part.end_time_unix_nano <= span.end_time_unix_nano);

    // What it waited for is below it.
    stack.hold(&site, 30.0).await;
    let mut waiting = stack.connect_from(TRUSTED, A).await;
    waiting.send(request("/who", &traceparent(TRACE + 2, true))).await;
    stack.site_until(&site, |seen| seen["held"] == 1).await;
    stack.end_hold(&site).await;
    waiting.read_until("alpha").await;
    let spans = collector.trace(TRACE + 2).await;
    assert!(spans.iter().any(|span| span.name == "held"), "{spans:?}");

    let (clean, log) = stack.stop_router().await;
    assert!(clean && log.contains(&format!("\"trace.id\":\"{TRACE:032x}\"")), "{log}");
    let all = collector.taken();
    let resource = all[0].resource.as_ref().expect("has one");
    assert_eq!(attribute(&resource.attributes, "service.name").as_deref(), Some("ta3lem-router"));
    assert_eq!(collector.spans().iter().filter(|span| is_of_request(span)).count(), 2);
    assert!(!format!("{all:?}").contains("secret"), "no query is told");
}

#[tokio::test(flavor = "multi_thread")]
async fn chance_decides_for_all_others() {
    const ASKED: usize = 400;
    let collector = Collector::start().await;
    let (mut stack, _site) = start(&collector.endpoint(), 0.25).await;
    // A trace that would always be sampled if its id decided.
    let text = format!("GET /who HTTP/1.1\r\nHost: {A}\r\n{}\r\n", traceparent(1, true));
    let mut stream = stack.connect(A).await;
    for _ in 0..ASKED {
        assert_eq!(stream.ask(text.as_bytes()).await.status, 200);
    }
    drop(stream);
    // The end sends what waits.
    assert!(stack.stop_router().await.0);
    let mut spans = collector.spans();
    spans.retain(|span| attribute(&span.attributes, "url.path").as_deref() == Some("/who"));
    // The mean is 100, its deviation 9: nobody sees this fail.
    assert!((30..=170).contains(&spans.len()), "{} of {ASKED}", spans.len());
    for span in spans {
        assert!(span.parent_span_id.is_empty(), "{span:?}");
        assert_ne!(span.trace_id, 1_u128.to_be_bytes());
        assert_eq!(span.links[0].trace_id, 1_u128.to_be_bytes(), "it can be found");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_does_not_work_harms_nobody() {
    // Nobody listens.
    let gone = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
    let dead = gone.local_addr().expect("has an address");
    drop(gone);
    let (stack, _site) = start(&format!("http://{dead}/v1/traces"), 1.0).await;
    assert_eq!(stack.https(A, get(A, "/who").as_bytes()).await.body, "alpha");
    stack.metric_above("router_traces_total{outcome=\"failed\"}", 0.0).await;
    assert!(stack.log().contains("the collector does not take spans"), "{}", stack.log());
    drop(stack);

    // It takes the connection and then nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("listens");
    let address = silent.local_addr().expect("has an address");
    let (stack, _site) = start(&format!("http://{address}/v1/traces"), 1.0).await;
    let who = keep(A, "/who");
    let dropped = "router_traces_total{outcome=\"dropped\"}";
    let mut streams = futures_util::future::join_all((0..4).map(|_| stack.connect(A))).await;
    while stack.metric(dropped).await < 1.0 {
        let asking = streams.iter_mut().map(async |stream| {
            for _ in 0..100 {
                assert_eq!(stream.ask(who.as_bytes()).await.body, "alpha");
            }
        });
        futures_util::future::join_all(asking).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_collector_no_client_says_a_trace() {
    let stack = Stack::start().await;
    stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    let headers = traceparent(TRACE, true) + "Tracestate: vendor=1\r\n";
    let answer = stack.https(A, request("/head", &headers).as_bytes()).await;
    assert_eq!(answer.status, 200, "{}", answer.raw);
    assert!(!answer.body.contains("trace"), "{}", answer.body);
}
