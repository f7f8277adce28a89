//! A site moves while the router of its old region hears nothing of the control database. What its old
//! instance says is enough.

use futures_util::future::join;
use http_body_util::{BodyExt, Full};

use crate::{
    client::{Answer, Stream, get, keep, post},
    http3_client::{self, Http3},
    stack::{JAKARTA, SINGAPORE, Site, Stack},
};

/// Answers of an instance whose site has gone.
const MOVED: &str = "router_moved_answers_total";
/// Sites of which that is remembered.
const GONE: &str = "router_sites_gone";
const RELAYED: &str = "router_relayed_requests_total";
/// More than is kept of a body to send it again.
const LONG: usize = 300_000;

async fn kept(stack: &Stack, host: &str) -> Stream {
    let mut stream = stack.connect(&stack.jakarta, host).await;
    stream.send(keep(host, "/who")).await;
    stream.read_until("alpha-j").await;
    stream
}

async fn write(stack: &Stack, host: &str, body: &str) -> Answer {
    let stream = stack.connect(&stack.jakarta, host).await;
    stream.exchange(post(host, "/write", body).as_bytes()).await
}

/// At home in Singapore, and Jakarta's router does not hear of it.
async fn move_unheard(stack: &Stack, site: &Site) {
    stack.move_to_singapore(site).await;
    stack.arrived(&stack.singapore, &site.hostname, SINGAPORE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_router_that_is_cut_off_follows_the_word_of_the_old_instance() {
    let stack = Stack::start().await;
    let site = stack.site("alpha").await;
    let host = &*site.hostname;
    let mut old = [kept(&stack, host).await, kept(&stack, host).await, kept(&stack, host).await];
    let mut sender = Stream::http2(stack.jakarta.https, host, stack.authority()).await;
    stack.jakarta.news.is_late(true);

    // Fenced, the site is read at its old home, and who writes waits and gets to the new one.
    site.at_jakarta.fence(true);
    let moving = async {
        stack.jakarta.counted("router_fenced_answers_total", 0.0).await;
        assert_eq!(stack.ask(&stack.jakarta, host, "/who").await.body, "alpha-j");
        move_unheard(&stack, &site).await;
        site.at_jakarta.has_gone(Some((2, SINGAPORE)));
    };
    let (answer, ()) = join(write(&stack, host, "during"), moving).await;
    assert_eq!((answer.status, &*answer.body), (200, "written"), "{}", answer.raw);
    assert!((stack.jakarta.metric(MOVED).await - 1.0).abs() < 0.1);
    stack.jakarta.shows("/metrics", "router_sites_gone 1").await;
    stack.jakarta.shows(&format!("/routes/{host}"), "\"gone_to\":\"sg-singapore\"").await;

    // Nobody asks the old instance any more. Who connected before is answered from the new home and
    // sent away, also with a long body; who comes anew gets there without being decrypted here.
    let asked = site.at_jakarta.requests().len();
    let [first, second, third] = &mut old;
    first.send(keep(host, "/head")).await;
    let answer = first.read_to_end().await;
    assert!(
        answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close"),
        "{answer}"
    );
    assert!(answer.contains("ta3lem-generation: 2") && answer.contains("127.0.0.1"), "{answer}");
    for stream in [second, third] {
        stream.send(post(host, "/write", &"x".repeat(LONG))).await;
        assert!(stream.read_to_end().await.starts_with("HTTP/1.1 200 "));
    }
    let request = http::Request::get(format!("https://{host}/who")).body(Full::default());
    let answer = sender.send_request(request.expect("is a request")).await.expect("answers");
    assert_eq!(&*answer.into_body().collect().await.expect("ends").to_bytes(), b"alpha-s");
    let relayed = stack.jakarta.metric(RELAYED).await;
    assert_eq!(stack.ask(&stack.jakarta, host, "/who").await.body, "alpha-s");
    assert_eq!(write(&stack, host, "after").await.status, 200);
    stack.jakarta.logs(&["\"message\":\"passed on\"", host, SINGAPORE]).await;
    assert!((stack.jakarta.metric(RELAYED).await - relayed).abs() < 0.1, "passed on as they are");
    assert_eq!(site.at_jakarta.requests().len(), asked, "{:?}", site.at_jakarta.requests());
    assert_eq!(site.at_jakarta.writes(), Vec::<String>::new());
    let writes = site.at_singapore.writes();
    assert_eq!((writes.len(), &*writes[0], &*writes[3]), (4, "during", "after"));

    // The table has caught up.
    stack.jakarta.news.is_late(false);
    stack.arrived(&stack.jakarta, host, SINGAPORE).await;
    stack.jakarta.shows("/metrics", "router_sites_gone 0").await;
    stack.jakarta.shows(&format!("/routes/{host}"), "\"gone_to\":null").await;
    assert_eq!(stack.ask(&stack.jakarta, host, "/who").await.body, "alpha-s");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_long_to_be_sent_again_comes_again() {
    let stack = Stack::start().await;
    let site = stack.site("alpha").await;
    let host = &*site.hostname;
    let mut old = kept(&stack, host).await;
    stack.jakarta.news.is_late(true);
    move_unheard(&stack, &site).await;
    site.at_jakarta.has_gone(Some((2, SINGAPORE)));
    // The first to hear of it: the instance had read it all.
    old.send(post(host, "/write", &"x".repeat(LONG))).await;
    let answer = old.read_to_end().await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("retry-after: 2"), "{answer}");
    assert_eq!(write(&stack, host, &"x".repeat(LONG)).await.status, 200);
    assert_eq!(site.at_singapore.writes().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_home_may_hear_of_it_a_little_later() {
    let stack = Stack::start().await;
    let site = stack.site("alpha").await;
    let host = &*site.hostname;
    for router in [&stack.jakarta, &stack.singapore] {
        router.news.is_late(true);
    }
    stack.move_to_singapore(&site).await;
    site.at_jakarta.has_gone(Some((2, SINGAPORE)));
    let news = async {
        stack.jakarta.counted(MOVED, 0.0).await;
        // Anew, and from another region's address, where nothing may go round.
        let straight = write(&stack, host, "straight");
        let around = async {
            let stream = stack.connect(&stack.singapore, host).await;
            stream.exchange(get(host, "/who").as_bytes()).await
        };
        let heard = async {
            stack.singapore.counted("router_passing_on", 0.0).await;
            stack.singapore.news.is_late(false);
        };
        let (straight, (around, ())) = join(straight, join(around, heard)).await;
        assert_eq!((straight.status, &*around.body), (200, "alpha-s"), "{}", around.raw);
    };
    let (answer, ()) = join(write(&stack, host, "first"), news).await;
    assert_eq!((answer.status, &*answer.body), (200, "written"), "{}", answer.raw);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_older_than_the_table_or_leads_nowhere_is_ignored() {
    let stack = Stack::start().await;
    let site = stack.site("alpha").await;
    let host = &*site.hostname;
    // In the same region the new place is known when the news come.
    let mut old = kept(&stack, host).await;
    stack.jakarta.news.is_late(true);
    site.at_jakarta.has_gone(Some((2, JAKARTA)));
    stack.move_to_singapore(&site).await;
    old.send(keep(host, "/who")).await;
    let news = async {
        stack.jakarta.counted(MOVED, 0.0).await;
        assert!(stack.jakarta.metric(GONE).await.abs() < 0.1);
        stack.jakarta.news.is_late(false);
    };
    join(old.read_until("alpha-s"), news).await;
    stack.arrived(&stack.singapore, host, SINGAPORE).await;

    // Its table says that this router is the home, as generation 2.
    for word in [(1, JAKARTA), (2, JAKARTA), (3, "nowhere")] {
        site.at_singapore.has_gone(Some(word));
        let answer = stack.ask(&stack.singapore, host, "/who").await;
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("2")), "{word:?}");
        assert_eq!(answer.header("ta3lem-moved-region"), None);
    }
    assert!(stack.singapore.metric(RELAYED).await.abs() < 0.1);
    assert!(stack.singapore.metric(GONE).await.abs() < 0.1);
    site.at_singapore.has_gone(None);
    for router in [&stack.jakarta, &stack.singapore] {
        assert_eq!(stack.ask(router, host, "/who").await.body, "alpha-s");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_for_a_hold_goes_on_and_quic_is_left() {
    let stack = Stack::start().await;
    let site = stack.site("alpha").await;
    let (host, id) = (&*site.hostname, site.id);
    let connect = async || Http3::connect(stack.jakarta.http3, host, stack.authority(), true).await;
    let mut quic = connect().await.expect("a handshake");
    assert_eq!(quic.page(host, "/who").await, "alpha-j");
    // Under way when the hold begins.
    let mut slow = stack.connect(&stack.jakarta, host).await;
    let request = post(host, "/write", "before");
    let (begin, end) = request.split_at(request.len() - 3);
    slow.send(begin.to_owned()).await;
    while !site.at_jakarta.requests().iter().any(|path| path == "/write") {
        tokio::task::yield_now().await;
    }
    stack
        .sql(format!(
            "insert into site_hold (site_id, id, deadline)
             values ('{id}', gen_random_uuid(), now() + interval '10 minutes')"
        ))
        .await;
    let page = format!("/sites/{id}");
    stack.jakarta.shows(&page, "\"in_force\":true").await;
    stack.jakarta.news.is_late(true);

    let moving = async {
        stack.jakarta.shows(&page, "\"held\":1").await;
        stack.sql(format!("delete from site_hold where site_id = '{id}'")).await;
        move_unheard(&stack, &site).await;
        site.at_jakarta.has_gone(Some((2, SINGAPORE)));
        slow.send(end.to_owned()).await;
        slow.read_to_end().await
    };
    let (waited, answer) = join(stack.ask(&stack.jakarta, host, "/who"), moving).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    assert_eq!(site.at_singapore.writes(), ["before"]);
    assert_eq!((waited.status, &*waited.body), (200, "alpha-s"), "{}", waited.raw);

    let answer = quic.ask(http3_client::get(host, "/who"), "").await.expect("answers");
    assert_eq!((answer.text().as_str(), answer.header("alt-svc")), ("alpha-s", Some("clear")));
    assert!(connect().await.is_err(), "goes over TCP from now on");
}
