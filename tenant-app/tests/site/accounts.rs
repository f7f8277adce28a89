//! Signing in and out, invitations, forms from elsewhere, languages.

use crate::support::{Site, instance::PASSWORD};

#[tokio::test]
async fn signing_in_and_out() {
    let site = Site::start().await;
    let mut browser = site.browser();
    let page = browser.get("/my-courses?a=b").await;
    assert_eq!(
        (page.status, page.header("location")),
        (303, "/sign-in?next=%2Fmy-courses%3Fa%3Db")
    );

    let page = browser.get(page.header("location")).await;
    let before = browser.cookies.clone();
    let form = [("email", " BUDI@acme.test "), ("password", PASSWORD), ("next", "/my-courses?a=b")];
    let page = browser.submit(&page, "/sign-in", &form).await;
    assert_eq!((page.status, page.header("location")), (303, "/my-courses?a=b"));
    assert!(page.header("set-cookie").contains("SameSite=Lax"), "{}", page.header("set-cookie"));
    let session = browser.cookies["__Host-session"].clone();
    assert!(!before.values().any(|value| *value == session), "a new secret");

    let page = browser.get("/my-courses").await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("budi@acme.test"));
    assert_eq!(page.header("cache-control"), "private, no-cache");

    assert_eq!(browser.submit(&page, "/sign-out", &[]).await.status, 303);
    browser.cookies.insert("__Host-session".to_owned(), session);
    assert_eq!(browser.get("/my-courses").await.status, 303, "the old cookie is worth nothing");
}

#[tokio::test]
async fn a_wrong_password_and_an_unknown_account_look_the_same() {
    let site = Site::start().await;
    let mut texts = Vec::new();
    for email in ["budi@acme.test", "nobody@acme.test"] {
        let mut browser = site.browser();
        let page = browser.get("/sign-in?next=//evil.test").await;
        let form = [("email", email), ("password", "wrong"), ("next", "//evil.test")];
        let page = browser.submit(&page, "/sign-in", &form).await;
        assert_eq!(page.status, 422);
        assert!(!browser.cookies.contains_key("__Host-session"));
        let text = page.text().replace(email, "").replace(&page.token(), "");
        assert!(!text.contains("evil.test") && text.contains("role=\"alert\""));
        texts.push(text);
    }
    assert_eq!(texts[0], texts[1]);
}

#[tokio::test]
async fn guessing_is_slowed_down() {
    let site = Site::start().await;
    let mut browser = site.browser();
    let page = browser.get("/sign-in").await;
    for _ in 0..10 {
        let form = [("email", "budi@acme.test"), ("password", "wrong")];
        assert_eq!(browser.submit(&page, "/sign-in", &form).await.status, 422);
    }
    let form = [("email", "budi@acme.test"), ("password", PASSWORD)];
    let answer = browser.submit(&page, "/sign-in", &form).await;
    assert_eq!(answer.status, 429);
    assert!(answer.header("retry-after").parse::<u32>().expect("seconds") > 60);
    site.signed_in("citra").await;
}

#[tokio::test]
async fn forms_from_elsewhere_are_refused() {
    let site = Site::start().await;
    let mut browser = site.signed_in("budi").await;
    let token = browser.get("/").await.token();
    let right = [("csrf", token.as_str())];
    for (fields, headers) in [
        (&[][..], &[][..]),
        (&[("csrf", "")], &[]),
        (&[("csrf", "AAAA")], &[]),
        (&right, &[("origin", "https://evil.test")]),
        (&right, &[("sec-fetch-site", "cross-site")]),
    ] {
        let page = browser.post("/sign-out", fields, headers).await;
        assert_eq!(page.status, 403, "{fields:?} {headers:?}");
    }
    // Another browser's token.
    let mut other = site.signed_in("citra").await;
    let page = other.get("/").await;
    assert_eq!(browser.submit(&page, "/sign-out", &[]).await.status, 403);
    let same = [("origin", "https://acme.localhost:8443"), ("sec-fetch-site", "same-origin")];
    assert_eq!(browser.post("/sign-out", &right, &same).await.status, 303);
}

#[tokio::test]
async fn broken_cookies_are_nobodys() {
    let site = Site::start().await;
    let mut browser = site.browser();
    for broken in ["", "x", "AAAA", "%00", "=;=", &"A".repeat(43), &"A".repeat(5000)] {
        browser.cookies.insert("__Host-session".to_owned(), broken.to_owned());
        browser.cookies.insert("__Host-visitor".to_owned(), broken.to_owned());
        browser.cookies.insert("__Host-language".to_owned(), broken.to_owned());
        let page = browser.get("/sign-in").await;
        assert_eq!(page.status, 200, "{broken:?}");
        assert!(page.text().contains("Akademi Acme"));
    }
}

#[tokio::test]
async fn an_invitation_is_good_once() {
    let site = Site::start().await;
    site.sql(
        "insert into account (id, email, name, role, state)
         values ('00000000-0000-0000-0000-0000000000aa', 'dewi@acme.test', 'Dewi <b>', 'student', 'invited');
         insert into one_time_token (token_hash, account_id, purpose, expires_at)
         values (sha256('the-token'), '00000000-0000-0000-0000-0000000000aa', 'invitation',
                 now() + interval '1 day');",
    )
    .await;
    let mut browser = site.browser();
    assert_eq!(browser.get("/invitation/other").await.status, 410);
    let page = browser.get("/invitation/the-token").await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains("Dewi &lt;b&gt;"));
    let short = [("password", "short"), ("again", "short")];
    assert_eq!(browser.submit(&page, "/invitation/the-token", &short).await.status, 422);
    let differing = [("password", PASSWORD), ("again", "something else")];
    assert_eq!(browser.submit(&page, "/invitation/the-token", &differing).await.status, 422);
    let right = [("password", PASSWORD), ("again", PASSWORD)];
    let accepted = browser.submit(&page, "/invitation/the-token", &right).await;
    assert_eq!((accepted.status, accepted.header("location")), (303, "/courses"));
    assert!(browser.get("/").await.text().contains("dewi@acme.test"));
    assert_eq!(site.browser().get("/invitation/the-token").await.status, 410);
    site.signed_in("dewi").await;
}

#[tokio::test]
async fn a_disabled_account_is_out_at_once() {
    let site = Site::start().await;
    let mut browser = site.signed_in("budi").await;
    site.sql("update account set state = 'disabled' where email = 'budi@acme.test'").await;
    assert_eq!(browser.get("/my-courses").await.status, 303);
}

#[tokio::test]
async fn languages() {
    let site = Site::start().await;
    let mut browser = site.browser();
    let page = browser.get("/").await;
    assert!(page.text().contains("<html lang=\"en\""), "the site's default");
    let page = browser.get_with("/", &[("accept-language", "id-ID,id;q=0.9")]).await;
    assert!(page.text().contains("<html lang=\"id\"") && page.text().contains("Masuk"));
    let chosen = browser.post("/language", &[("language", "id"), ("next", "/courses")], &[]).await;
    assert_eq!((chosen.status, chosen.header("location")), (303, "/courses"));
    assert!(browser.get("/courses").await.text().contains("<html lang=\"id\""));
    let missing = browser.get("/nothing-here").await;
    assert_eq!(missing.status, 404);
    assert!(
        missing.text().contains("Halaman tidak ditemukan")
            && missing.text().contains("Akademi Acme")
    );
    assert_eq!(browser.post("/language", &[("language", "xx")], &[]).await.status, 422);
}

#[tokio::test]
async fn errors_are_pages_or_problems_and_carry_the_headers() {
    let site = Site::start().await;
    let mut browser = site.browser();
    let page = browser.get_with("/nothing", &[("accept", "application/json")]).await;
    assert_eq!((page.status, page.header("content-type")), (404, "application/problem+json"));
    assert!(page.text().contains("\"request_id\":\"r-1\""), "{}", page.text());
    for path in ["/", "/nothing", "/courses/nothing", "/files/x/y", "/sign-in", "/theme/x.css"] {
        let page = browser.get(path).await;
        assert!(page.header("content-security-policy").starts_with("default-src 'none'"), "{path}");
        assert_eq!(page.header("x-content-type-options"), "nosniff", "{path}");
        assert!(!page.text().to_lowercase().contains("ta3lem"), "{path} names the platform");
    }
    let page = browser.post("/sign-in", &[("email", &"a".repeat(100_000))], &[]).await;
    assert_eq!(page.status, 413);
}

#[tokio::test]
async fn what_is_no_form_is_refused_in_words() {
    let site = Site::start().await;
    let mut browser = site.signed_in("ibu").await;
    let page = browser.post("/studio/import", &[("course", "{}")], &[]).await;
    assert_eq!(page.status, 422);
    assert!(page.text().contains("Akademi Acme"));
    let page = browser.post("/language", &[("language", &"i".repeat(100_000))], &[]).await;
    assert_eq!(page.status, 413);
    assert_eq!(browser.get("/courses/batik/lessons/not-an-id").await.status, 404);
}
