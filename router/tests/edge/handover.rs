//! One router follows another while clients ask without a pause.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};

use crate::{
    A,
    client::{Stream, ask_for_websocket, keep},
    get,
    stack::{Doors, Stack},
};

/// How often the router is replaced; more by hand.
const TIMES: usize = 3;
/// A masked frame of text; the instance sends it back as it is.
const HI: [u8; 8] = [0x81, 0x82, 0, 0, 0, 0, b'h', b'i'];
/// A close frame: 1012, service restart.
const RESTART: [u8; 4] = [0x88, 0x02, 0x03, 0xf4];

#[allow(clippy::disallowed_methods, reason = "how often is asked for by hand")]
fn times() -> usize {
    std::env::var("HANDOVERS").ok().and_then(|times| times.parse().ok()).unwrap_or(TIMES)
}

/// What clients saw so far.
#[derive(Default)]
struct Seen {
    answers: AtomicU64,
    over: AtomicBool,
}

impl Seen {
    fn note(&self, status: u16, body: &str) {
        assert_eq!((status, body), (200, "alpha"), "a request failed");
        self.answers.fetch_add(1, Ordering::Relaxed);
    }

    fn goes_on(&self) -> bool {
        !self.over.load(Ordering::Relaxed)
    }

    /// Waits until every kind of client had some more answers.
    async fn more(&self) {
        let before = self.answers.load(Ordering::Relaxed);
        while self.answers.load(Ordering::Relaxed) < before + 20 {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_fails_while_one_router_follows_another() {
    let mut stack = Stack::start_draining_in(8).await;
    let site = stack.site("alpha", &[A]).await;
    stack.arrived(A).await;

    let doors = stack.doors();
    let seen = Arc::new(Seen::default());
    let clients = [
        tokio::spawn(keep_alive(doors.clone(), Arc::clone(&seen))),
        tokio::spawn(one_by_one(doors.clone(), Arc::clone(&seen))),
        tokio::spawn(http2(doors.clone(), Arc::clone(&seen))),
    ];
    for _ in 0..times() {
        seen.more().await;
        let mut socket = websocket(&doors).await;
        let mut idle = doors.connect(A).await;
        let mut old = stack.replace_router().await;
        says_hi(&mut socket).await;
        // The old router closes what is idle in the middle of its drain time. The WebSocket stays.
        tokio::select! {
            // A slow machine may see both at once; the other way round never.
            biased;
            rest = idle.read_some() => assert!(rest.is_empty()),
            early = socket.read_some() => panic!("the WebSocket did not stay: {early:?}"),
        }
        // A new one ends at the new router, which does not stop. Not earlier: both routers take
        // connections until the old one has heard that it is replaced.
        let mut next = websocket(&doors).await;
        let mut last = Vec::new();
        while last.len() < RESTART.len() {
            let more = socket.read_some().await;
            assert!(!more.is_empty(), "cut after {last:?}");
            last.extend(more);
        }
        assert_eq!(last, RESTART);
        // Its own close, as browsers send it, and then the end.
        socket.send_bytes(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xf4]).await;
        assert!(socket.read_some().await.is_empty());
        let ended = tokio::task::spawn_blocking(move || old.wait()).await.expect("is waited for");
        assert!(ended.expect("ends").success(), "the old router drains and exits with 0");
        says_hi(&mut next).await;
        seen.more().await;
    }
    seen.over.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("no request failed");
    }
    let taken = site.instance.requests().iter().filter(|path| *path == "/who").count();
    assert_eq!(taken as u64, seen.answers.load(Ordering::Relaxed), "each request came once");
    let (clean, log) = stack.stop_router().await;
    assert!(clean && log.contains("took over from the router before"), "{log}");
    assert!(!log.contains("stopping before everything was finished"), "{log}");
}

async fn websocket(doors: &Doors) -> Stream {
    let mut socket = doors.connect(A).await;
    socket.send(ask_for_websocket(A, "/socket")).await;
    let head = socket.read_head().await;
    assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
    says_hi(&mut socket).await;
    socket
}

async fn says_hi(socket: &mut Stream) {
    assert!(socket.send_bytes(&HI).await);
    let mut back = Vec::new();
    while back.len() < HI.len() {
        let more = socket.read_some().await;
        assert!(!more.is_empty(), "closed after {back:?}");
        back.extend(more);
    }
    assert_eq!(back, HI);
}

async fn keep_alive(doors: Doors, seen: Arc<Seen>) {
    let request = keep(A, "/who");
    let mut stream = doors.connect(A).await;
    while seen.goes_on() {
        let answer = stream.ask(request.as_bytes()).await;
        seen.note(answer.status, &answer.body);
        if answer.header("connection") == Some("close") {
            stream = doors.connect(A).await;
        }
    }
}

async fn one_by_one(doors: Doors, seen: Arc<Seen>) {
    while seen.goes_on() {
        let answer = doors.connect(A).await.exchange(get(A, "/who").as_bytes()).await;
        seen.note(answer.status, &answer.body);
    }
}

/// RFC 9113 section 6.8: the router says up to which request it went, and this is a later one.
fn is_good_bye(error: &hyper::Error) -> bool {
    format!("{error:?}").contains("GoAway(b\"\", NO_ERROR, Remote)")
}

async fn http2(doors: Doors, seen: Arc<Seen>) {
    let mut sender = doors.http2(A).await;
    while seen.goes_on() {
        if sender.ready().await.is_err() {
            // The router has said good-bye before it took the request.
            sender = doors.http2(A).await;
            continue;
        }
        let request = http::Request::get(format!("https://{A}/who"));
        let request = request.body(Full::<Bytes>::default()).expect("is a request");
        let answer = match sender.send_request(request).await {
            // The good-bye came first: it was not taken, and the same is asked again.
            Err(error) if error.is_canceled() || is_good_bye(&error) => continue,
            answer => answer.expect("an answer"),
        };
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.expect("a body").to_bytes();
        seen.note(status, &String::from_utf8_lossy(&body));
    }
}
