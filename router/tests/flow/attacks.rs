//! Attacks on HTTP/2, frame by frame: the connection ends, the memory stays, others are served.

use std::time::{Duration, Instant};

use crate::{
    A, B,
    client::Stream,
    frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, PING, PREFACE, RESET, SETTINGS,
        WINDOW_UPDATE, frame, literal,
    },
    get,
    stack::{Site, Stack},
};

/// More than one attacker may cost, in bytes.
const MUCH: u64 = 64 << 20;

/// The head of a request.
fn head(method: &str, path: &str) -> Vec<u8> {
    [
        literal(false, ":method", method),
        literal(false, ":scheme", "https"),
        literal(false, ":authority", A),
        literal(false, ":path", path),
    ]
    .concat()
}

struct Attack<'a> {
    stack: &'a Stack,
    name: &'static str,
    stream: Stream,
    before: u64,
}

impl<'a> Attack<'a> {
    async fn begin(stack: &'a Stack, name: &'static str) -> Self {
        let before = stack.resident_bytes();
        let mut stream = stack.raw_http2(A).await;
        assert!(stream.send_bytes(PREFACE).await);
        // No window at all for answers.
        assert!(stream.send_bytes(&settings()).await);
        Self { stack, name, stream, before }
    }

    /// Whether the connection still takes it.
    async fn send(&mut self, frames: &[u8]) -> bool {
        self.stream.send_bytes(frames).await
    }

    /// Reads until the router has closed; panics if it does not.
    async fn ends(mut self) {
        let begun = Instant::now();
        while !self.stream.read_some().await.is_empty() {
            assert!(begun.elapsed() < Duration::from_secs(30), "{}: goes on", self.name);
        }
        self.others_are_served().await;
    }

    async fn others_are_served(&self) {
        let answer = self.stack.https(B, get(B, "/who").as_bytes()).await;
        assert_eq!(answer.body, "beta", "{}", self.name);
        let after = self.stack.resident_bytes();
        assert!(after < self.before + MUCH, "{}: {} -> {after}", self.name, self.before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn attackers_are_thrown_out_and_others_are_served() {
    let stack =
        Stack::start_with(serde_json::json!({ "write_stall_secs": 2, "idle_secs": 2 })).await;
    let a = stack.site("alpha", &[A]).await;
    let b = stack.site("beta", &[B]).await;
    stack.arrived(A).await;
    stack.arrived(B).await;

    endless_headers(&stack).await;
    rapid_reset(&stack, &a).await;
    empty_data(&stack).await;
    windows(&stack).await;
    made_you_reset(&stack, &a).await;
    unread_answers(&stack).await;
    header_bomb(&stack, &a).await;
    stalled_answers(&stack, &a).await;
    slow_reader(&stack, &a).await;
    drop(b);
}

async fn endless_headers(stack: &Stack) {
    let mut attack = Attack::begin(stack, "CONTINUATION flood").await;
    attack.send(&frame(HEADERS, END_STREAM, 1, &head("GET", "/who"))).await;
    let piece = literal(false, "x-a", "b".repeat(100)).repeat(100);
    for _ in 0..20_000 {
        if !attack.send(&frame(CONTINUATION, 0, 1, &piece)).await {
            break;
        }
    }
    attack.ends().await;
}

async fn rapid_reset(stack: &Stack, a: &Site) {
    let mut attack = Attack::begin(stack, "rapid reset").await;
    let block = head("GET", "/slow");
    for number in 0..50_000_u32 {
        let stream = 2 * number + 1;
        let both = [
            frame(HEADERS, END_STREAM | END_HEADERS, stream, &block),
            frame(RESET, 0, stream, &8_u32.to_be_bytes()),
        ];
        if !attack.send(&both.concat()).await {
            break;
        }
    }
    attack.ends().await;
    // What was begun for it does not go on.
    stack.site_until(a, |seen| seen["requests_in_flight"] == 0).await;
}

async fn empty_data(stack: &Stack) {
    let mut attack = Attack::begin(stack, "empty DATA").await;
    attack.send(&frame(HEADERS, END_HEADERS, 1, &head("POST", "/sink"))).await;
    for _ in 0..100_000 {
        if !attack.send(&frame(DATA, 0, 1, &[]).repeat(10)).await {
            break;
        }
    }
    attack.ends().await;
}

/// Windows that are opened by nothing, or beyond what a window can be.
async fn windows(stack: &Stack) {
    let mut attack = Attack::begin(stack, "WINDOW_UPDATE of 0").await;
    attack.send(&frame(WINDOW_UPDATE, 0, 0, &0_u32.to_be_bytes())).await;
    attack.ends().await;
    let mut attack = Attack::begin(stack, "overflowing WINDOW_UPDATE").await;
    attack.send(&frame(WINDOW_UPDATE, 0, 0, &0x7fff_ffff_u32.to_be_bytes()).repeat(2)).await;
    attack.ends().await;
    let mut attack = Attack::begin(stack, "overflowing SETTINGS").await;
    attack.send(&frame(SETTINGS, 0, 0, &[0, 4, 0x80, 0, 0, 0])).await;
    attack.ends().await;
}

/// CVE-2025-8671: the router itself has to reset each stream, so that none counts against the client.
async fn made_you_reset(stack: &Stack, a: &Site) {
    let mut attack = Attack::begin(stack, "MadeYouReset").await;
    let block = head("GET", "/slow");
    for number in 0..50_000_u32 {
        let stream = 2 * number + 1;
        let both = [
            frame(HEADERS, END_STREAM | END_HEADERS, stream, &block),
            frame(WINDOW_UPDATE, 0, stream, &0_u32.to_be_bytes()),
        ];
        if !attack.send(&both.concat()).await {
            break;
        }
    }
    attack.ends().await;
    stack.site_until(a, |seen| seen["requests_in_flight"] == 0).await;
}

/// Each of these frames is answered, and nobody reads the answers.
async fn unread_answers(stack: &Stack) {
    let frames = [("unread pings", frame(PING, 0, 0, &[0; 8])), ("unread settings", settings())];
    for (name, frame) in frames {
        let mut attack = Attack::begin(stack, name).await;
        let many = frame.repeat(100);
        for _ in 0..200 {
            let sending =
                tokio::time::timeout(Duration::from_millis(200), attack.send(&many)).await;
            if sending != Ok(true) {
                break;
            }
        }
        attack.others_are_served().await;
    }
}

fn settings() -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0])
}

/// Few bytes that become many: each stream repeats one long header from the connection's table, its
/// answer may not be sent, and so it stays.
async fn header_bomb(stack: &Stack, a: &Site) {
    let mut attack = Attack::begin(stack, "header bomb").await;
    explode(&mut attack).await;
    attack.others_are_served().await;
    // The streams go, and then the connection, though its client answers pings.
    attack.ends().await;
    stack.site_until(a, |seen| seen["requests_in_flight"] == 0).await;
}

async fn explode(attack: &mut Attack<'_>) {
    let first = [head("GET", "/who"), literal(true, "x-long", "x".repeat(30))].concat();
    attack.send(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &first)).await;
    // 62 is the newest entry of the table.
    let more = [head("GET", "/who"), vec![0x80 | 62; 150]].concat();
    for number in 1..100_u32 {
        attack.send(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, &more)).await;
    }
}

/// In a process whose memory nothing has touched yet, on as many connections as one attacker may like
/// to begin with.
#[tokio::test(flavor = "multi_thread")]
async fn header_bombs_cost_a_fresh_process_little() {
    let stack =
        Stack::start_with(serde_json::json!({ "write_stall_secs": 2, "idle_secs": 2 })).await;
    let a = stack.site("alpha", &[A]).await;
    let _b = stack.site("beta", &[B]).await;
    stack.arrived(A).await;
    stack.arrived(B).await;
    let mut attacks = Vec::new();
    for _ in 0..8 {
        let mut attack = Attack::begin(&stack, "header bombs").await;
        attack.before = attacks.first().map_or(attack.before, |first: &Attack<'_>| first.before);
        explode(&mut attack).await;
        attack.others_are_served().await;
        attacks.push(attack);
    }
    for attack in attacks {
        attack.ends().await;
    }
    stack.site_until(&a, |seen| seen["requests_in_flight"] == 0).await;
}

/// A long answer of which nothing is taken, on a connection that goes on otherwise.
async fn stalled_answers(stack: &Stack, a: &Site) {
    let mut attack = Attack::begin(stack, "stalled answers").await;
    for number in 0..50_u32 {
        let block = head("GET", "/large?100000000");
        attack.send(&frame(HEADERS, END_STREAM | END_HEADERS, 2 * number + 1, &block)).await;
    }
    stack.site_until(a, |seen| seen["requests_in_flight"] == 50).await;
    attack.others_are_served().await;
    stack.site_until(a, |seen| seen["requests_in_flight"] == 0).await;
    let text = stack.admin("/metrics").await;
    let stalled = text
        .lines()
        .find_map(|line| line.strip_prefix("router_stalled_streams_total "))
        .and_then(|number| number.parse::<u32>().ok());
    assert!(stalled >= Some(50), "{stalled:?}");
    attack.ends().await;
}

/// The same without HTTP/2: the connection itself takes nothing.
async fn slow_reader(stack: &Stack, a: &Site) {
    let mut stream = stack.connect(A).await;
    stream.send(get(A, "/large?1000000000")).await;
    stack.site_until(a, |seen| seen["requests_in_flight"] == 1).await;
    stack.site_until(a, |seen| seen["requests_in_flight"] == 0).await;
    drop(stream);
}
