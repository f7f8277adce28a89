//! A small course with every kind of item.

use serde_json::{Value, json};

use super::{Browser, Page, Site, browser::Part};

/// The smallest PNG: one transparent pixel.
pub const PNG: &[u8] = &[
    0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, 0, 0, 0, 0x0d, b'I', b'H', b'D', b'R', 0, 0, 0,
    1, 0, 0, 0, 1, 8, 6, 0, 0, 0, 0x1f, 0x15, 0xc4, 0x89, 0, 0, 0, 0x0d, b'I', b'D', b'A', b'T',
    0x78, 0xda, 0x63, 0x64, 0x60, 0xf8, 0x5f, 0x0f, 0, 2, 0x87, 1, 0x80, 0xeb, 0x47, 0xba, 0x92, 0,
    0, 0, 0, b'I', b'E', b'N', b'D', 0xae, 0x42, 0x60, 0x82,
];
pub const PDF: &[u8] = b"%PDF-1.4\n% a page about wax\n%%EOF\n";

pub fn course(slug: &str, enrollment: &str, status: &str) -> Value {
    json!({
        "subject": {"slug": "seni", "title": "Seni Rupa"},
        "title": format!("Kursus {slug}"), "slug": slug, "language": "id",
        "overview": "Belajar **Batik** dari awal.", "difficulty_level": "beginner",
        "estimated_hours": 3, "enrollment_type": enrollment, "status": status,
        "cover": "images/cover.png",
        "modules": [
            {"title": "Dasar", "description": "Bahan dan alat.", "contents": [
                {"title": "Malam & canting", "items": [
                    {"type": "text", "title": "Bahan",
                     "markdown": "# Malam\n\nPanas. <script>alert(1)</script>"},
                    {"type": "image", "title": "Canting", "file": "images/cover.png", "alt": "Canting"},
                    {"type": "file", "title": "Lembar", "file": "files/lembar.pdf"},
                    {"type": "video", "title": "Cara", "url": "https://youtu.be/dQw4w9WgXcQ",
                     "transcript": "Pertama, panaskan."}]}]},
            {"title": "Lanjutan", "contents": [
                {"title": "Pewarnaan", "items": [{"type": "text", "markdown": "Biru."}]}]}
        ]
    })
}

pub async fn send(browser: &mut Browser, course: &Value) -> Page {
    let token = browser.get("/studio").await.token();
    let course = course.to_string();
    let parts = [
        Part::Text("csrf", &token),
        Part::Text("course", &course),
        Part::File("file", "images/cover.png", PNG),
        Part::File("file", "files/lembar.pdf", PDF),
    ];
    browser.upload("/studio/import", &parts).await
}

pub async fn import(site: &Site, person: &str, slug: &str, enrollment: &str, status: &str) {
    let mut browser = site.signed_in(person).await;
    let page = send(&mut browser, &course(slug, enrollment, status)).await;
    assert_eq!(page.status, 303, "{}", page.text());
    assert_eq!(page.header("location"), format!("/courses/{slug}"));
}
