//! Files in lessons: who gets them, in which pieces, with which headers, and what happens when the
//! object store is gone.

use crate::support::{
    Site, Starting,
    browser::Part,
    studio_bundle::{self, PDF, PNG},
};

#[tokio::test]
async fn learners_download_what_their_lessons_hold() {
    let site = Site::start().await;
    studio_bundle::import(&site, "ibu", "batik", "open", "published").await;
    let mut learner = site.signed_in("budi").await;
    let page = learner.get("/courses/batik").await;
    learner.submit(&page, "/courses/batik/enrol", &[]).await;
    let lesson = learner.get("/courses/batik/learn").await.link("/courses/batik/lessons/");
    let file = learner.get(&lesson).await.text();
    let file =
        file.split('"').find(|part| part.ends_with("lembar.pdf")).expect("a file").to_owned();

    let whole = learner.get(&file).await;
    assert_eq!((whole.status, &*whole.body), (200, PDF));
    assert_eq!(whole.header("content-type"), "application/pdf");
    assert_eq!(whole.header("content-disposition"), "inline; filename*=UTF-8''lembar.pdf");
    assert_eq!(whole.header("x-content-type-options"), "nosniff");
    assert_eq!(whole.header("cache-control"), "private, no-cache");
    let etag = whole.header("etag").to_owned();

    let part = learner.get_with(&file, &[("range", "bytes=5-7")]).await;
    assert_eq!((part.status, &*part.body), (206, &PDF[5..8]));
    assert_eq!(part.header("content-range"), format!("bytes 5-7/{}", PDF.len()));
    let tail = learner.get_with(&file, &[("range", "bytes=-6"), ("if-range", &etag)]).await;
    assert_eq!((tail.status, &*tail.body), (206, &PDF[PDF.len() - 6..]));
    let changed = learner.get_with(&file, &[("range", "bytes=-6"), ("if-range", "\"x\"")]).await;
    assert_eq!((changed.status, changed.body.len()), (200, PDF.len()));
    let beyond = learner.get_with(&file, &[("range", "bytes=9999-")]).await;
    assert_eq!(
        (beyond.status, beyond.header("content-range")),
        (416, &*format!("bytes */{}", PDF.len()))
    );
    assert_eq!(learner.get_with(&file, &[("if-none-match", &etag)]).await.status, 304);

    // Not those who are not in the course; the cover of a published course is for everybody.
    assert_eq!(site.signed_in("citra").await.get(&file).await.status, 404);
    assert!(site.browser().get(&file).await.header("location").starts_with("/sign-in"));
    let cover = site.browser().get("/courses/batik").await.link("/files/");
    let cover = site.browser().get(&cover).await;
    assert_eq!((cover.status, &*cover.body), (200, PNG));
    assert!(cover.header("content-security-policy").contains("sandbox"));
    assert!(cover.header("cache-control").starts_with("public"));
    site.sql("update course set status = 'archived'").await;
    let hidden = learner.get("/courses/batik").await.link("/files/");
    assert_ne!(site.browser().get(&hidden).await.status, 200);
}

#[tokio::test]
async fn an_instructor_adds_files_and_equal_contents_are_stored_once() {
    let site = Site::start().await;
    studio_bundle::import(&site, "ibu", "batik", "open", "published").await;
    let mut teacher = site.signed_in("ibu").await;
    let page = teacher.get("/studio/courses/batik").await;
    let upload = page.link("/studio/lessons/");
    let token = page.token();
    // Bigger than one part, so that it goes up in pieces.
    let mut big = b"%PDF-1.7\n".to_vec();
    big.resize(17 * 1024 * 1024, b'x');
    for _ in 0..2 {
        let parts = [
            Part::Text("csrf", &token),
            Part::Text("title", "Buku"),
            Part::Text("alt", ""),
            Part::File("file", "../../etc/Buku tebal.pdf", &big),
        ];
        let answer = teacher.upload(&upload, &parts).await;
        assert_eq!(answer.status, 303, "{}", answer.text());
    }
    let keys = site.object_store.keys();
    assert_eq!(keys.len(), 3, "{keys:?}");
    assert!(keys.iter().all(|key| key.starts_with(&format!("site/{}/blob/", site.id))), "{keys:?}");
    assert_eq!(site.count("select count(*) from blob").await, 3);

    let lesson = teacher
        .get(&upload.replace("/studio/lessons/", "/courses/batik/lessons/").replace("/items", ""))
        .await;
    let text = lesson.text();
    let file = text.split('"').find(|part| part.ends_with("Buku%20tebal.pdf")).expect("a file");
    assert_eq!(teacher.get(file).await.body, big);
    let last = teacher.get_with(file, &[("range", "bytes=17825790-")]).await;
    assert_eq!((last.status, &*last.body), (206, &b"xx"[..]));
}

#[tokio::test]
async fn what_cannot_be_taken_is_refused_with_a_reason() {
    let small = Starting { max_upload_bytes: 5_000, storage_bytes: 6_000, ..Starting::default() };
    let site = Site::start_as(small).await;
    studio_bundle::import(&site, "ibu", "batik", "open", "published").await;
    let mut teacher = site.signed_in("ibu").await;
    let page = teacher.get("/studio/courses/batik").await;
    let upload = page.link("/studio/lessons/");
    let token = page.token();
    let full = [b"%PDF-".as_slice(), &[b'a'; 4_000]].concat();
    let fuller = [b"%PDF-".as_slice(), &[b'b'; 4_000]].concat();
    let large = [b"%PDF-".as_slice(), &[b'c'; 5_000]].concat();
    for (name, bytes, status) in [
        ("a.html", &b"<script>alert(1)</script>"[..], 422),
        ("a.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", 422),
        ("a.exe", b"MZ\x90\0\x03", 422),
        ("a.png", b"<html>", 422),
        ("", b"x", 422),
        ("a.pdf", &large, 413),
        ("a.pdf", &full, 303),
        ("b.pdf", &fuller, 413),
        // The same bytes again take no room.
        ("c.pdf", &full, 303),
    ] {
        let parts = [Part::Text("csrf", &token), Part::File("file", name, bytes)];
        let answer = teacher.upload(&upload, &parts).await;
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
    }
    assert_eq!(teacher.upload(&upload, &[Part::File("file", "a.pdf", PDF)]).await.status, 403);
    assert_eq!(teacher.upload(&upload, &[Part::Text("csrf", &token)]).await.status, 422);
    let mut other = site.signed_in("lain").await;
    let token = other.get("/studio").await.token();
    let parts = [Part::Text("csrf", &token), Part::File("file", "a.pdf", PDF)];
    assert_eq!(other.upload(&upload, &parts).await.status, 404);
    let mut learner = site.signed_in("budi").await;
    let token = learner.get("/").await.token();
    let parts = [Part::Text("csrf", &token), Part::File("file", "a.pdf", PDF)];
    assert_eq!(learner.upload(&upload, &parts).await.status, 403);
}

#[tokio::test]
async fn without_the_object_store_lessons_can_still_be_read() {
    let mut site = Site::start().await;
    studio_bundle::import(&site, "ibu", "batik", "open", "published").await;
    let mut teacher = site.signed_in("ibu").await;
    let lesson = teacher.get("/courses/batik").await.link("/courses/batik/lessons/");
    let text = teacher.get(&lesson).await.text();
    let file = text.split('"').find(|part| part.ends_with("lembar.pdf")).expect("a file");
    site.object_store.stop().await;

    let page = teacher.get(file).await;
    assert_eq!(page.status, 503);
    assert!(page.text().contains("Akademi Acme") && !page.header("retry-after").is_empty());
    assert!(teacher.get(&lesson).await.text().contains("<h3>Malam</h3>"));
    let page = teacher.get("/studio/courses/batik").await;
    let upload = page.link("/studio/lessons/");
    let token = page.token();
    let parts = [Part::Text("csrf", &token), Part::File("file", "a.pdf", PDF)];
    assert_eq!(teacher.upload(&upload, &parts).await.status, 503);
    assert_eq!(site.count("select count(*) from file").await, 2, "no row without its object");
}
