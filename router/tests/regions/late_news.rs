//! A site moved, and a router does not know it yet. As long as it hears of it within the bound of the
//! feed nobody sees an error, wherever they connect.

use std::time::Duration;

use router::route_source::NEWS_BOUND;

use crate::{
    client::{Stream, keep},
    stack::{Router, SINGAPORE, Site, Stack},
};

/// How late the news is. Nothing can be awaited for this: the time is the story.
const LATE: Duration = Duration::from_secs(3);

fn who(host: &str) -> String {
    keep(host, "/who")
}

/// A connection to Jakarta from before the move.
async fn kept(stack: &Stack, host: &str) -> Stream {
    let mut stream = stack.connect(&stack.jakarta, host).await;
    stream.send(who(host)).await;
    stream.read_until("alpha-j").await;
    stream
}

/// Asks everywhere after the move, and gives the news to `late` some time later.
async fn everybody_is_answered(stack: &Stack, site: &Site, mut old: Stream, late: &[&Router]) {
    let host = &*site.hostname;
    old.send(who(host)).await;
    let asking = async {
        let anew = [&stack.jakarta, &stack.singapore].map(|router| async {
            stack.connect(router, host).await.exchange(who(host).as_bytes()).await
        });
        let answers = futures_util::future::join_all(anew);
        futures_util::future::join(answers, old.read_until("alpha-s")).await.0
    };
    let news = async {
        tokio::time::sleep(LATE).await;
        late.iter().for_each(|router| router.news.is_late(false));
    };
    assert!(LATE < NEWS_BOUND);
    let (answers, ()) = futures_util::future::join(asking, news).await;
    for answer in answers {
        assert_eq!((answer.status, &*answer.body), (200, "alpha-s"), "{}", answer.raw);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_new_home_does_not_know_it_yet() {
    let stack = Stack::start().await;
    let site = stack.site("alpha").await;
    let old = kept(&stack, &site.hostname).await;
    stack.singapore.news.is_late(true);
    stack.move_to_singapore(&site).await;
    let wanted = format!("\"region\":\"{SINGAPORE}\"");
    stack.jakarta.shows(&format!("/routes/{}", site.hostname), &wanted).await;
    everybody_is_answered(&stack, &site, old, &[&stack.singapore]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neither_home_knows_it_yet() {
    let stack = Stack::start().await;
    let site = stack.site("alpha").await;
    let old = kept(&stack, &site.hostname).await;
    for router in [&stack.jakarta, &stack.singapore] {
        router.news.is_late(true);
    }
    // The old instance does nothing any more.
    site.at_jakarta.serve_generation(2);
    stack.move_to_singapore(&site).await;
    everybody_is_answered(&stack, &site, old, &[&stack.jakarta, &stack.singapore]).await;
}
