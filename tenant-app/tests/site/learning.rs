//! A learner finds a course, enrols, reads, and is done.

use crate::support::{Site, studio_bundle};

#[tokio::test]
async fn from_the_catalogue_to_the_end_of_a_course() {
    let site = Site::start().await;
    studio_bundle::import(&site, "ibu", "batik", "open", "published").await;
    let mut browser = site.signed_in("budi").await;

    let page = browser.get("/courses?q=batik").await;
    assert!(page.text().contains("/courses/batik\""), "{}", page.text());
    assert!(!browser.get("/courses?q=kimia").await.text().contains("/courses/batik\""));
    assert!(
        browser
            .get("/courses?subject=seni&level=beginner")
            .await
            .text()
            .contains("/courses/batik\"")
    );
    assert!(!browser.get("/courses?level=advanced").await.text().contains("/courses/batik\""));

    let page = browser.get("/courses/batik").await;
    assert!(
        page.text().contains("Enrol for free") && page.text().contains("<strong>Batik</strong>")
    );
    assert_eq!(browser.get("/courses/batik/learn").await.header("location"), "/courses/batik");
    for _ in 0..2 {
        let enrolled = browser.submit(&page, "/courses/batik/enrol", &[]).await;
        assert_eq!((enrolled.status, enrolled.header("location")), (303, "/courses/batik/learn"));
    }

    let home = browser.get("/courses/batik/learn").await;
    assert!(home.text().contains("0% done"));
    let first = home.link("/courses/batik/lessons/");
    let lesson = browser.get(&first).await;
    let text = lesson.text();
    assert!(text.contains("<h3>Malam</h3>") && !text.contains("<script"), "{text}");
    assert!(text.contains("https://www.youtube-nocookie.com/embed/dQw4w9WgXcQ"), "{text}");

    let next = browser.submit(&lesson, &format!("{first}/done"), &[]).await;
    assert_eq!(next.status, 303);
    let second = next.header("location").to_owned();
    assert_ne!(second, first);
    assert!(browser.get("/my-courses").await.text().contains("50% done"));
    // Again: nothing changes.
    assert_eq!(browser.submit(&lesson, &format!("{first}/done"), &[]).await.status, 303);
    assert!(browser.get("/courses/batik/learn").await.text().contains("50% done"));

    let lesson = browser.get(&second).await;
    let done = browser.submit(&lesson, &format!("{second}/done"), &[]).await;
    assert_eq!(done.header("location"), "/courses/batik/learn");
    let home = browser.get("/courses/batik/learn").await;
    assert!(
        home.text().contains("100% done") && home.text().contains("You have finished this course")
    );
    assert_eq!(site.count("select count(*) from enrolment where state = 'completed'").await, 1);
    assert_eq!(site.count("select count(*) from module_progress").await, 2);
    assert_eq!(site.count("select count(*) from learning_session").await, 1);

    let page = browser.get("/courses/batik").await;
    assert_eq!(browser.submit(&page, "/courses/batik/withdraw", &[]).await.status, 303);
    assert_eq!(browser.get(&first).await.header("location"), "/courses/batik");
    let back = browser.submit(&page, "/courses/batik/enrol", &[]).await;
    assert_eq!(back.header("location"), "/courses/batik/learn");
    assert!(browser.get("/courses/batik/learn").await.text().contains("100% done"), "kept");
}

#[tokio::test]
async fn who_is_not_in_sees_nothing_of_the_lessons() {
    let site = Site::start().await;
    studio_bundle::import(&site, "ibu", "tenun", "approval", "published").await;
    let mut teacher = site.signed_in("ibu").await;
    let lesson = teacher.get("/courses/tenun").await.link("/courses/tenun/lessons/");
    assert_eq!(teacher.get(&lesson).await.status, 200);

    assert!(site.browser().get(&lesson).await.header("location").starts_with("/sign-in?next="));
    let mut learner = site.signed_in("budi").await;
    let page = learner.get("/courses/tenun").await;
    assert!(!page.text().contains("/lessons/"));
    let asked = learner.submit(&page, "/courses/tenun/enrol", &[]).await;
    assert_eq!(asked.header("location"), "/courses/tenun");
    assert!(learner.get("/courses/tenun").await.text().contains("You have asked to join"));
    assert_eq!(learner.get(&lesson).await.status, 303);
    assert_eq!(learner.submit(&page, &format!("{lesson}/done"), &[]).await.status, 403);

    // Another instructor decides nothing here.
    let mut other = site.signed_in("lain").await;
    assert_eq!(other.get("/studio/courses/tenun").await.status, 404);
    let page = teacher.get("/studio/courses/tenun").await;
    let approve = page.link("/studio/enrolments/");
    let others = other.get("/").await;
    assert_eq!(other.submit(&others, &approve, &[]).await.status, 404);
    assert_eq!(teacher.submit(&page, &approve, &[]).await.status, 303);
    assert_eq!(learner.get(&lesson).await.status, 200);

    let mut second = site.signed_in("citra").await;
    let page = second.get("/courses/tenun").await;
    second.submit(&page, "/courses/tenun/enrol", &[]).await;
    let page = teacher.get("/studio/courses/tenun").await;
    let reject = page.link("/studio/enrolments/").replace("/approve", "/reject");
    assert_eq!(teacher.submit(&page, &reject, &[("reason", "Belum")]).await.status, 303);
    assert!(second.get("/courses/tenun").await.text().contains("Belum"));
    assert_eq!(second.get(&lesson).await.status, 303);
    assert_eq!(
        site.count("select count(*) from audit_event where action like 'enrolment.%'").await,
        2
    );
}

#[tokio::test]
async fn courses_that_cannot_be_entered() {
    let site = Site::start().await;
    for (slug, kind, status) in [
        ("a", "restricted", "published"),
        ("b", "open", "draft"),
        ("c", "open", "published"),
        ("d", "open", "published"),
    ] {
        studio_bundle::import(&site, "ibu", slug, kind, status).await;
    }
    site.sql(
        "update course set pricing = 'one_time', price_minor = 250000 where slug = 'c';
         update course set max_capacity = 1 where slug = 'd';",
    )
    .await;
    let mut first = site.signed_in("citra").await;
    let page = first.get("/courses/d").await;
    assert_eq!(first.submit(&page, "/courses/d/enrol", &[]).await.status, 303);

    let mut learner = site.signed_in("budi").await;
    assert!(learner.get("/courses/c").await.text().contains("Rp 250,000"));
    assert_eq!(learner.get("/courses/b").await.status, 404);
    let page = learner.get("/courses/a").await;
    for (slug, status) in [("a", 409), ("b", 404), ("c", 409), ("d", 409), ("none", 404)] {
        let answer = learner.submit(&page, &format!("/courses/{slug}/enrol"), &[]).await;
        assert_eq!(answer.status, status, "{slug}");
    }
    assert_eq!(site.count("select count(*) from enrolment").await, 1);
}
