//! The main flow in a real browser that trusts the local authority: sign in, enrol, read a lesson,
//! mark it done. Screenshots are left in `target/e2e`.

use anyhow::{Context, Result, ensure};
use fantoccini::{Locator, elements::Element};
use tests::{Stack, browser::Browser};

pub async fn a_learner_with_a_browser(stack: &Stack) -> Result<()> {
    let site = stack.ready.sites.iter().find(|site| site.slug == "nusantara").context("no site")?;
    let learner = site.logins.iter().find(|login| login.role == "instructor").context("nobody")?;
    let browser = Browser::start(&stack.ready.certificate_authority, 1280, 900).await?;
    let told = read_a_lesson(&browser, &site.url, &learner.email, &learner.password).await;
    let closed = browser.close().await;
    told?;
    closed?;

    // On a phone, without a wider page than the screen.
    let phone = Browser::start(&stack.ready.certificate_authority, 390, 844).await?;
    let outcome = async {
        for path in ["/", "/courses", "/courses/sejarah-batik", "/sign-in"] {
            phone.client.goto(&format!("{}{path}", site.url)).await?;
            let width = phone
                .client
                .execute("return document.documentElement.scrollWidth - innerWidth", Vec::new())
                .await?;
            ensure!(width.as_i64().unwrap_or(1) <= 0, "{path} is {width} px too wide on a phone");
        }
        phone.screenshot("phone-sign-in").await
    }
    .await;
    phone.close().await?;
    outcome
}

async fn read_a_lesson(browser: &Browser, origin: &str, email: &str, password: &str) -> Result<()> {
    let client = &browser.client;
    client.goto(&format!("{origin}/")).await?;
    browser.screenshot("home").await?;
    let background = client
        .execute(
            "const button = document.querySelector('a[href^=\"/sign-in\"]');
             return getComputedStyle(button).backgroundColor",
            Vec::new(),
        )
        .await?;
    ensure!(
        background.as_str().is_some_and(|colour| colour != "rgba(0, 0, 0, 0)"),
        "the theme has no effect: {background}"
    );
    client.goto(&format!("{origin}/sign-in")).await?;
    find(browser, "input[name=email]").await?.send_keys(email).await?;
    find(browser, "input[name=password]").await?.send_keys(password).await?;
    browser.press(find(browser, "form[action='/sign-in'] button").await?).await?;

    client.goto(&format!("{origin}/courses/sejarah-batik")).await?;
    browser.screenshot("course").await?;
    browser.press(find(browser, "form[action$='/enrol'] button").await?).await?;
    client.goto(&format!("{origin}/courses/sejarah-batik/learn")).await?;
    browser.press(find(browser, "a[href*='/lessons/']").await?).await?;
    browser.screenshot("lesson").await?;
    browser.press(find(browser, "form[action$='/done'] button").await?).await?;
    client.goto(&format!("{origin}/courses/sejarah-batik/learn")).await?;
    let text = find(browser, "main").await?.text().await?;
    ensure!(text.contains("11%") || text.contains("11 %"), "one of nine lessons is 11 %:\n{text}");
    browser.screenshot("progress").await
}

async fn find(browser: &Browser, selector: &str) -> Result<Element> {
    let found = browser.client.find(Locator::Css(selector)).await;
    found.with_context(|| format!("nothing on the page is {selector}"))
}
