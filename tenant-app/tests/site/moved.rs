//! A site moves away: what its old home answers, from the fence until the database is closed.

use std::time::{Duration, Instant};

use crate::support::{Browser, Page, Site};

const MOVING_TO: &str = "4 sg-singapore 0193f0a0.1";
const FENCE: &str = "revoke insert, update, delete on all tables in schema public from site_rw";
/// Nobody but an administrator may connect any more, and whoever is connected is cut off.
const CLOSE: &str = "do $$ begin
        execute format('revoke connect on database %I from public', current_database());
    end $$;
    select pg_terminate_backend(pid) from pg_stat_activity
        where datname = current_database() and application_name = 'tenant-app';";
/// An answer that was right a second ago is; this is a second and what a busy machine takes.
const SOON: Duration = Duration::from_secs(3);

async fn becomes(site: &Site, state: &str, moving_to: Option<&str>) {
    let moving_to = moving_to.map_or_else(|| "null".to_owned(), |text| format!("'{text}'"));
    site.sql(&format!(
        "update platform.site_authority set state = '{state}', moving_to = {moving_to}"
    ))
    .await;
}

async fn fence(site: &Site) {
    site.sql(FENCE).await;
    becomes(site, "fenced", Some(MOVING_TO)).await;
}

async fn sign_out(browser: &mut Browser, page: &Page) -> Page {
    browser.submit(page, "/sign-out", &[]).await
}

fn has_moved(page: &Page) -> bool {
    let moved = page.header("ta3lem-refused") == "moved";
    if moved {
        let place = (page.header("ta3lem-moved-generation"), page.header("ta3lem-moved-region"));
        assert_eq!((page.status, place), (421, ("4", "sg-singapore")));
        assert_eq!(page.header("retry-after"), "");
    }
    moved
}

#[tokio::test]
async fn armed_and_fenced_it_is_the_home_and_retired_it_is_not() {
    let site = Site::start().await;
    let mut browser = site.signed_in("budi").await;
    becomes(&site, "primary", Some(MOVING_TO)).await;
    let page = browser.get("/").await;
    assert_eq!(sign_out(&mut browser, &page).await.status, 303, "armed it still writes");

    let mut browser = site.signed_in("budi").await;
    let page = browser.get("/").await;
    fence(&site).await;
    for _ in 0..3 {
        let answer = sign_out(&mut browser, &page).await;
        assert_eq!((answer.status, answer.header("ta3lem-refused")), (503, "fenced"));
        assert_eq!(browser.get("/").await.status, 200);
    }

    becomes(&site, "retired", Some(MOVING_TO)).await;
    let begun = Instant::now();
    loop {
        let answer = sign_out(&mut browser, &page).await;
        if has_moved(&answer) {
            break;
        }
        assert_eq!((answer.status, answer.header("ta3lem-refused")), (503, "fenced"));
        assert!(begun.elapsed() < SOON, "writers are not told");
    }
    // Who reads is told by what the writer heard, also where no database is needed.
    for path in ["/", "/courses", "/robots.txt", "/nothing-here"] {
        assert!(has_moved(&browser.get(path).await), "{path}");
    }
    assert_eq!(browser.get("/livez").await.status, 200);
    assert_eq!(browser.get("/readyz").await.status, 503);
    // Closed afterwards, it still says so.
    site.sql(CLOSE).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(1_500) {
        assert!(has_moved(&browser.get("/").await));
    }
}

#[tokio::test]
async fn who_only_reads_is_told_within_a_second() {
    let site = Site::start().await;
    let mut browser = site.browser();
    assert_eq!(browser.get("/courses").await.status, 200);
    fence(&site).await;
    becomes(&site, "retired", Some(MOVING_TO)).await;
    let begun = Instant::now();
    loop {
        let page = browser.get("/courses").await;
        if has_moved(&page) {
            break;
        }
        assert_eq!(page.status, 200);
        assert!(begun.elapsed() < SOON, "readers are not told");
    }
    // Another process is told so at its first request, whatever that is.
    let mut site = site;
    site.terminate();
    site.ended().await;
    site.wake();
    assert!(has_moved(&site.browser().get("/robots.txt").await));
}

#[tokio::test]
async fn where_to_may_be_unknown() {
    let site = Site::start().await;
    becomes(&site, "retired", None).await;
    let page = site.browser().get("/").await;
    assert_eq!((page.status, page.header("ta3lem-refused")), (421, "moved"));
    assert_eq!(
        (page.header("ta3lem-moved-generation"), page.header("ta3lem-moved-region")),
        ("", "")
    );
}

#[tokio::test]
async fn what_is_not_the_home_yet_is_unavailable_until_it_is() {
    let site = Site::start().await;
    let mut browser = site.browser();
    for state in ["standby", "aborted"] {
        becomes(&site, state, None).await;
        let page = browser.get("/").await;
        assert_eq!((page.status, page.header("ta3lem-refused")), (503, ""), "{state}");
        assert_eq!(page.header("retry-after"), "5");
    }
    // Known at once: a site is waiting for this.
    becomes(&site, "primary", None).await;
    assert_eq!(browser.get("/").await.status, 200);
}

#[tokio::test]
async fn a_closed_database_is_no_fault_of_ours() {
    let site = Site::start().await;
    let mut browser = site.signed_in("budi").await;
    let page = browser.get("/").await;
    site.sql(CLOSE).await;
    for _ in 0..3 {
        for answer in [browser.get("/courses").await, sign_out(&mut browser, &page).await] {
            assert_eq!((answer.status, answer.header("ta3lem-refused")), (503, ""));
            assert_eq!(answer.header("retry-after"), "5");
        }
    }
    // Neither is one that lets the role in no more.
    let mut site = site;
    site.sql("do $$ begin execute format('alter role %I nologin', current_database()); end $$")
        .await;
    site.terminate();
    site.ended().await;
    site.wake();
    assert_eq!(site.browser().get("/courses").await.status, 503);
}
