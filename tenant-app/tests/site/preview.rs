//! A site as it was at some moment, for whom it was made: it is looked at, and nothing else.

use hex::encode;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use time::{Duration, OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
};

use crate::support::{
    Browser, Page, Site,
    studio_bundle::{self, PDF},
};

const KEY: &str = "bTJ4_9bYy3Qv-0aZ1pLr7WkTn5sXcE2uGf8hJd6oViM";
const MOMENT: &str = "2026-11-30T17:42:05+07:00";
const TOLD: &str = "<time datetime=\"2026-11-30T10:42:05Z\">2026-11-30 10:42:05 UTC</time>";
/// All that the role of a preview may do is to look.
const READ_ONLY: &str = "revoke insert, update, delete on all tables in schema public from site_rw";
/// Whatever somebody who looks could leave behind.
const TRACES: &str = "select (select count(*) from session) + (select count(*) from enrolment)
    + (select count(*) from audit_event) + (select count(*) from content_progress)
    + (select count(*) from learning_session) + (select count(*) from sign_in_throttle)
    + (select count(*) from session where last_seen_at > now() - interval '1 hour') * 1000";

fn told(expires_in: Duration) -> Value {
    let expires_at = (OffsetDateTime::now_utc() + expires_in).format(&Rfc3339).expect("a time");
    json!({"moment": MOMENT, "key_hash": encode(Sha256::digest(KEY)), "expires_at": expires_at})
}

/// A site with a course that is published and one that is not, and then its preview.
async fn start() -> Site {
    let mut site = Site::start().await;
    studio_bundle::import(&site, "ibu", "batik", "approval", "published").await;
    studio_bundle::import(&site, "ibu", "tenun", "open", "draft").await;
    let mut learner = site.signed_in("budi").await;
    let page = learner.get("/courses/batik").await;
    assert_eq!(learner.submit(&page, "/courses/batik/enrol", &[]).await.status, 303);
    site.sql(
        "update session set last_seen_at = now() - interval '2 hours';
         insert into one_time_token (token_hash, account_id, purpose, expires_at)
         values (sha256('the-token'), (select id from account where email = 'citra@acme.test'),
                 'invitation', now() + interval '1 day');
         update account set state = 'invited', password_hash = null
             where email = 'citra@acme.test';",
    )
    .await;
    site.becomes_preview(told(Duration::days(1))).await;
    site
}

async fn opened(site: &Site) -> Browser {
    let mut browser = site.browser();
    let page = browser.get(&format!("/preview?key={KEY}")).await;
    assert_eq!((page.status, page.header("location")), (303, "/"));
    assert_eq!(browser.cookies["__Host-preview"], KEY);
    browser
}

fn is_private(page: &Page) {
    assert_eq!(page.header("x-robots-tag"), "noindex, nofollow");
    assert_eq!(page.header("cache-control"), "no-store");
}

/// Nothing of the site, in nothing but the platform's look.
fn is_anonymous(page: &Page) {
    let text = page.text();
    for own in ["Akademi", "acme", "batik", "Seni Rupa", "/theme/", "/covers/", "/files/", TOLD] {
        assert!(!text.contains(own), "{own} in {text}");
    }
    assert!(!text.contains("ta3lem") && !text.contains("Ta3lem"), "{text}");
    is_private(page);
}

#[tokio::test]
async fn without_the_key_there_is_nothing_to_see() {
    let site = start().await;
    site.sql(READ_ONLY).await;
    let mut whole = opened(&site).await;
    let file = {
        let lesson = whole.get("/courses/batik").await.link("/courses/batik/lessons/");
        whole.get(&lesson).await.link("/files/")
    };
    let home = whole.get("/").await;
    let (theme, cover) = (home.link("/theme/"), home.link("/covers/"));

    let mut browser = site.browser();
    let (upper, long) = (KEY.to_uppercase(), format!("{KEY}0"));
    let wrong = [
        format!("/preview?key={upper}"),
        format!("/preview?key={long}"),
        format!("/preview?Key={KEY}"),
        format!("/preview/?key={KEY}"),
        format!("/?key={KEY}"),
    ];
    let others = [
        "/",
        "/courses",
        "/courses/batik",
        "/studio",
        "/sign-in",
        "/my-courses",
        "/nothing-here",
        "/preview",
        "/preview?key=",
        "/invitation/the-token",
        &file,
        &theme,
        &cover,
    ];
    let mut texts = Vec::new();
    for path in wrong.iter().map(String::as_str).chain(others) {
        let page = browser.get(path).await;
        assert_eq!((page.status, page.header("set-cookie")), (403, ""), "{path}");
        is_anonymous(&page);
        texts.push(page.text());
    }
    texts.dedup();
    assert_eq!(texts.len(), 1, "every one is the same page");
    assert!(texts[0].contains("Ini adalah pratinjau"), "{}", texts[0]);

    let english = [("accept-language", "en")];
    let page = browser.get_with("/preview?key=wrong", &english).await;
    assert!(page.text().contains("<h1>This is a preview</h1>"), "{}", page.text());
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    let problem = browser.get_with("/preview?key=wrong", &[("accept", "application/json")]).await;
    assert_eq!((problem.status, problem.header("content-type")), (403, "application/problem+json"));
    assert!(!problem.text().contains("wrong"), "{}", problem.text());
    is_anonymous(&problem);
    for cookie in ["", "wrong", &upper, &long] {
        browser.cookies.insert("__Host-preview".to_owned(), cookie.to_owned());
        is_anonymous(&browser.get("/").await);
    }

    // What the page needs, and what is asked by those who do not read pages.
    let style = browser.get(&page.link("/assets/")).await;
    assert_eq!((style.status, style.header("x-robots-tag")), (200, "noindex, nofollow"));
    assert!(style.header("cache-control").ends_with("immutable"));
    is_anonymous(&browser.get("/assets/none.css").await);
    let robots = browser.get("/robots.txt").await;
    assert_eq!((robots.status, &*robots.text()), (200, "User-agent: *\nDisallow: /\n"));
    for path in ["/livez", "/readyz"] {
        assert_eq!(browser.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn with_the_key_everything_is_seen_and_says_what_it_is() {
    let site = start().await;
    site.sql(READ_ONLY).await;
    let traces = site.count(TRACES).await;
    let mut browser = site.browser();
    let page = browser.get(&format!("/preview?key={KEY}")).await;
    assert_eq!((page.status, page.header("location")), (303, "/"));
    assert_eq!(page.header("referrer-policy"), "no-referrer");
    is_private(&page);
    let cookie = page.header("set-cookie").to_owned();
    let age = cookie.strip_prefix(&format!("__Host-preview={KEY}; Path=/; Max-Age="));
    let (age, rest) = age.and_then(|text| text.split_once("; ")).expect("a cookie");
    assert_eq!(rest, "Secure; HttpOnly; SameSite=Lax");
    let age: i64 = age.parse().expect("seconds");
    assert!((86_000..=86_400).contains(&age), "{age}");

    let lesson = browser.get("/courses/batik").await.link("/courses/batik/lessons/");
    let draft = browser.get("/courses/tenun").await.link("/courses/tenun/lessons/");
    for (path, status, holds) in [
        ("/", 200, "Kursus batik"),
        ("/courses?q=batik", 200, "Kursus batik"),
        ("/courses/batik", 200, "<strong>Batik</strong>"),
        ("/courses/batik/learn", 200, "Malam &amp; canting"),
        ("/courses/tenun", 200, "Draft"),
        (&lesson, 200, "<h3>Malam</h3>"),
        (&draft, 200, "<h3>Malam</h3>"),
        ("/my-courses", 200, "You are not"),
        ("/studio", 200, "Kursus tenun"),
        ("/studio/courses/batik", 200, "budi@acme.test"),
        ("/studio/courses/none", 404, "Page not found"),
        ("/nothing-here", 404, "Page not found"),
        ("/invitation/the-token", 404, "Page not found"),
    ] {
        let page = browser.get_with(path, &[("accept-language", "en")]).await;
        let text = page.text();
        assert_eq!(page.status, status, "{path}: {text}");
        assert!(text.contains(holds) && text.contains("Akademi Acme"), "{path}: {text}");
        assert!(text.contains(TOLD) && text.contains("Nothing can be changed"), "{path}: {text}");
        assert!(!text.contains("method=\"post\""), "{path} has a form: {text}");
        assert!(!text.contains("/sign-in") && !text.contains("/sign-out"), "{path}: {text}");
        assert_eq!(page.header("set-cookie"), "", "{path}");
        is_private(&page);
    }
    let page = browser.get_with("/studio", &[("accept-language", "id")]).await;
    assert!(page.text().contains("Tidak ada yang dapat diubah."), "{}", page.text());
    let page = browser.get("/sign-in?next=/studio").await;
    assert_eq!((page.status, page.header("location")), (303, "/studio"));

    let text = browser.get(&lesson).await.text();
    let file = text.split('"').find(|part| part.ends_with("lembar.pdf")).expect("a file");
    let whole = browser.get(file).await;
    assert_eq!((whole.status, &*whole.body), (200, PDF));
    is_private(&whole);
    let part = browser.get_with(file, &[("range", "bytes=5-7")]).await;
    assert_eq!((part.status, &*part.body), (206, &PDF[5..8]));
    for beginning in ["/theme/", "/files/"] {
        let path = browser.get("/").await.link(beginning);
        let page = browser.get(&path).await;
        assert_eq!(page.status, 200, "{beginning}");
        is_private(&page);
    }
    let head = browser.send("HEAD", "/", &[], bytes::Bytes::new()).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(site.count(TRACES).await, traces, "whoever looks leaves no trace");
}

#[tokio::test]
async fn nothing_is_changed_and_no_session_counts() {
    let mut site = Site::start().await;
    let mut budi = site.signed_in("budi").await;
    site.becomes_preview(told(Duration::days(1))).await;
    site.sql("update session set last_seen_at = now() - interval '2 hours'").await;
    // The role may write here, so it is the process that does not.
    let traces = site.count(TRACES).await;
    let page = budi.get("/my-courses").await;
    assert_eq!(page.status, 403);
    is_anonymous(&page);
    assert_eq!(budi.get(&format!("/preview?key={KEY}")).await.status, 303);
    let page = budi.get("/").await;
    assert!(page.status == 200 && !page.text().contains("budi"), "{}", page.text());
    assert_eq!(budi.get("/studio").await.status, 200);

    for path in [
        "/sign-in",
        "/sign-out",
        "/language",
        "/courses/batik/enrol",
        "/studio/import",
        "/",
        "/preview",
        "/assets/app.css",
        "/nothing-here",
    ] {
        let page = budi.post(path, &[("a", "b")], &[("accept-language", "en")]).await;
        assert_eq!((page.status, page.header("ta3lem-refused")), (403, ""), "{path}");
        assert!(page.text().contains("<h1>Nothing can be changed in a preview</h1>"), "{path}");
        assert!(page.text().contains(TOLD), "{path}");
        is_private(&page);
        let page = site.browser().post(path, &[("a", "b")], &[]).await;
        assert_eq!(page.status, 403, "{path}");
        assert!(page.text().contains("Ini adalah pratinjau"), "{path}: {}", page.text());
    }
    for method in ["PUT", "PATCH", "DELETE"] {
        let json = [("accept", "application/json")];
        let page = budi.send(method, "/courses/batik", &json, bytes::Bytes::new()).await;
        assert_eq!((page.status, page.header("content-type")), (403, "application/problem+json"));
        assert!(page.text().contains("Nothing can be changed in a preview"), "{}", page.text());
    }
    assert_eq!(site.count(TRACES).await, traces);
    assert!(answered_without_its_body(&site).await.starts_with("HTTP/1.1 403 "));
}

/// What is said to a form of a megabyte of which nothing comes.
async fn answered_without_its_body(site: &Site) -> String {
    let mut stream = UnixStream::connect(site.socket()).await.expect("a connection");
    let head = format!(
        "POST /studio/import HTTP/1.1\r\nhost: preview.localhost\r\nta3lem-site: {}\r\n\
         ta3lem-generation: 3\r\ncookie: __Host-preview={KEY}\r\ncontent-length: 1000000\r\n\
         content-type: multipart/form-data; boundary=x\r\n\r\n",
        site.id
    );
    stream.write_all(head.as_bytes()).await.expect("it is sent");
    let mut answer = [0; 64];
    let length = stream.read(&mut answer).await.expect("an answer");
    String::from_utf8_lossy(&answer[..length]).into_owned()
}

#[tokio::test]
async fn when_its_time_is_over_nobody_sees_it() {
    let mut site = start().await;
    let mut browser = opened(&site).await;
    site.becomes_preview(told(-Duration::SECOND)).await;
    let link = format!("/preview?key={KEY}");
    for path in ["/", "/courses/batik", "/studio", "/nothing-here", &link, "/preview"] {
        let english = [("accept-language", "en")];
        for browser in [&mut browser, &mut site.browser()] {
            let page = browser.get_with(path, &english).await;
            assert_eq!((page.status, page.header("set-cookie")), (410, ""), "{path}");
            assert!(page.text().contains("<h1>This preview is over</h1>"), "{path}");
            is_anonymous(&page);
        }
    }
    assert_eq!(browser.post("/sign-out", &[], &[]).await.status, 410);
    let problem = browser.get_with(&link, &[("accept", "application/json")]).await;
    assert_eq!(problem.status, 410);
    assert!(!problem.text().contains(KEY), "{}", problem.text());
    assert_eq!(browser.get("/readyz").await.status, 200);
}

#[tokio::test]
async fn what_is_no_preview_knows_of_none() {
    let site = Site::start().await;
    let mut browser = site.signed_in("budi").await;
    browser.cookies.insert("__Host-preview".to_owned(), KEY.to_owned());
    for path in ["/preview".to_owned(), format!("/preview?key={KEY}")] {
        let page = browser.get(&path).await;
        assert_eq!((page.status, page.header("set-cookie")), (404, ""));
        assert!(page.text().contains("Page not found") && page.text().contains("Akademi Acme"));
    }
    let page = browser.get("/").await;
    assert!(page.text().contains("budi@acme.test") && page.text().contains("/sign-out"));
    assert!(!page.text().contains("preview"), "{}", page.text());
    assert_eq!(page.header("x-robots-tag"), "");
    assert_eq!(page.header("cache-control"), "private, no-cache");
    assert!(browser.get("/robots.txt").await.text().contains("Disallow: /studio"));
}
