//! Several processes of one router at once: whichever is asked tells of all, and what moves a site is
//! never told too little.

use std::process::Child;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::{
    A,
    client::{Stream, keep},
    get,
    stack::{Site, Stack, quit},
};

/// Longer than a story.
const DRAIN_SECS: u32 = 120;
/// The same.
const HOLD_SECS: f64 = 120.0;

fn settings() -> Value {
    json!({ "drain_secs": DRAIN_SECS, "limits": { "hold_secs": DRAIN_SECS } })
}

/// A router that was replaced. Killed with the story.
struct Before(Child);

impl Before {
    /// It ends by itself when nothing is under way.
    async fn ends(mut self) {
        let waiting = tokio::task::spawn_blocking(move || self.0.wait().expect("ends"));
        assert!(waiting.await.expect("is waited for").success());
    }

    fn tell(&self, signal: Signal) {
        quit(&self.0, signal);
    }

    fn killed(mut self) {
        self.tell(Signal::KILL);
        self.0.wait().expect("ends");
    }
}

impl Drop for Before {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Stack {
    /// For a moment both listen: this waits until the one before takes nothing new.
    async fn replaced(&mut self) -> Before {
        let before = Before(self.replace_router().await);
        let stops =
            |other: &Value| other["process_id"] == before.0.id() && other["stopping"] == true;
        self.status_until(|status| {
            status["other_processes"].as_array().is_some_and(|all| all.iter().any(stops))
        })
        .await;
        before
    }

    /// What the router says as soon as all of its processes tell; on a busy machine one may be late.
    async fn seen(&self, site: &Site) -> Value {
        self.site_until(site, |seen| seen["problem"].is_null()).await
    }

    /// A request that is under way until [`finish`].
    async fn upload(&self) -> Stream {
        let mut stream = self.connect(A).await;
        stream
            .send(format!(
                "POST /echo HTTP/1.1\r\nHost: {A}\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n"
            ))
            .await;
        stream.read_until("one").await;
        stream
    }

    async fn websocket(&self) -> Stream {
        let mut stream = self.connect(A).await;
        stream
            .send(format!(
                "GET /socket HTTP/1.1\r\nHost: {A}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            ))
            .await;
        stream.read_until("\r\n\r\n").await;
        stream
    }

    async fn status(&self) -> Value {
        let tells = |process: &Value| process["problem"].is_null();
        let others = |status: &Value| status["other_processes"].as_array().cloned();
        self.status_until(|status| others(status).is_some_and(|all| all.iter().all(tells))).await
    }
}

async fn finish(mut stream: Stream) {
    stream.send("0\r\n\r\n".to_owned()).await;
    stream.read_until("0\r\n\r\n").await;
}

/// What the provisioner asks of a router before it moves a site's data.
fn drained(seen: &Value) -> bool {
    seen["problem"].is_null()
        && seen["hold"]["in_force"] == true
        && seen["requests_in_flight"] == 0
        && seen["tunnels"] == 0
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_under_way_in_the_router_before_is_counted_and_held() {
    let mut stack = Stack::start_as(settings()).await;
    let site = stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    let uploading = stack.upload().await;
    let mut socket = stack.websocket().await;
    let mut kept = stack.connect(A).await;
    let who = keep(A, "/who");
    assert_eq!(kept.ask(who.as_bytes()).await.body, "alpha");

    let before = stack.replaced().await;
    let seen = stack.seen(&site).await;
    assert_eq!((&seen["requests_in_flight"], &seen["tunnels"]), (&json!(1), &json!(1)), "{seen}");
    let status = stack.status().await;
    let others = status["other_processes"].as_array().expect("a list");
    assert_eq!(others.len(), 1, "{status}");
    assert_eq!(
        (&others[0]["process_id"], &others[0]["stopping"]),
        (&json!(before.0.id()), &json!(true))
    );
    assert_eq!((&status["requests_in_flight"], &status["tunnels"]), (&json!(1), &json!(1)));
    assert_eq!(status["top_sites"].as_array().map(Vec::len), Some(1), "{status}");
    assert_eq!(status["top_sites"][0]["requests_in_flight"], 1);

    // A hold that comes now is the old router's too: its WebSocket ends, its clients wait.
    stack.hold(&site, HOLD_SECS).await;
    stack.site_until(&site, |seen| seen["hold"]["in_force"] == true && seen["tunnels"] == 0).await;
    assert_eq!(socket.read_some().await, [0x88, 0x02, 0x03, 0xf4]);
    let mut new = stack.connect(A).await;
    new.send(get(A, "/who")).await;
    stack.site_until(&site, |seen| seen["held"] == 1).await;
    kept.send(who.clone()).await;
    let seen = stack.site_until(&site, |seen| seen["held"] == 2).await;
    assert!(!drained(&seen) && seen["requests_in_flight"] == 1, "{seen}");
    finish(uploading).await;
    stack.site_until(&site, drained).await;
    let asked = site.instance.requests().len();
    stack.end_hold(&site).await;
    for mut waiting in [new, kept] {
        waiting.read_until("alpha").await;
    }
    assert_eq!(site.instance.requests().len(), asked + 2, "each came once");

    // It ends by itself, and is not counted any more.
    before.ends().await;
    assert_eq!(stack.status().await["other_processes"], json!([]));
    stack.hold(&site, HOLD_SECS).await;
    stack.site_until(&site, drained).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_process_of_a_chain_is_forgotten_and_none_that_ended_is_waited_for() {
    let mut stack = Stack::start_as(settings()).await;
    let site = stack.site("alpha", &[A]).await;
    stack.arrived(A).await;
    let _in_first = stack.upload().await;
    let first = stack.replaced().await;
    let _in_second = stack.upload().await;
    let second = stack.replaced().await;
    assert_eq!(stack.seen(&site).await["requests_in_flight"], 2);
    assert_eq!(stack.status().await["other_processes"].as_array().map(Vec::len), Some(2));

    // The middle of the chain is killed: the first one is still known.
    second.killed();
    stack.hold(&site, HOLD_SECS).await;
    stack.site_until(&site, |seen| seen["hold"]["in_force"] == true).await;
    let seen = stack.seen(&site).await;
    assert!(seen["requests_in_flight"] == 1 && !drained(&seen), "{seen}");
    assert_eq!(stack.status().await["other_processes"].as_array().map(Vec::len), Some(1));

    // So it is by a router that was not handed anything, because the one that served was killed.
    stack.router_dies().await;
    stack.arrived(A).await;
    assert_eq!(stack.seen(&site).await["requests_in_flight"], 1);

    // One that lives and does not answer is not taken for drained, and said to be why.
    first.tell(Signal::STOP);
    let silent =
        |seen: &Value| seen["problem"].as_str().is_some_and(|why| why.contains("does not answer"));
    let seen = stack.site_until(&site, silent).await;
    assert!(seen["hold"]["in_force"] != true && !drained(&seen), "{seen}");
    stack.status_until(|status| status["other_processes"][0]["problem"].is_string()).await;
    first.tell(Signal::CONT);
    stack.hold(&site, HOLD_SECS).await;
    stack.site_until(&site, |seen| seen["hold"]["in_force"] == true).await;
    first.killed();
    let seen = stack.seen(&site).await;
    assert!(drained(&seen), "{seen}");
}
