//! What comes with the first start: two sites with courses in two regions.

use anyhow::{Context, Result, ensure};
use tests::{
    Stack,
    stack::{ReadyLogin, ReadySite},
};

fn site<'a>(stack: &'a Stack, slug: &str) -> Result<&'a ReadySite> {
    stack.ready.sites.iter().find(|site| site.slug == slug).with_context(|| format!("no {slug}"))
}

fn login<'a>(site: &'a ReadySite, role: &str) -> Result<&'a ReadyLogin> {
    site.logins.iter().find(|login| login.role == role).with_context(|| format!("no {role}"))
}

/// Links of a page that begin with this.
pub fn links(page: &str, start: &str) -> Vec<String> {
    let mark = format!("href=\"{start}");
    let hrefs = page.split(&mark).skip(1).filter_map(|rest| rest.split('"').next());
    hrefs.map(|rest| format!("{start}{rest}")).collect()
}

pub async fn a_learner_reads_a_course(stack: &Stack) -> Result<()> {
    for slug in ["nusantara", "merlion"] {
        let site = site(stack, slug)?;
        let learner = login(site, "student")?;
        let visitor = stack.visitor()?;
        let origin = &site.url;
        let home = visitor.read(&format!("{origin}/")).await?;
        ensure!(!home.contains("Ta3lem"), "the platform's name is on {origin}");
        visitor.sign_in(origin, &learner.email, &learner.password).await?;
        let catalogue = visitor.read(&format!("{origin}/courses")).await?;
        let courses = links(&catalogue, "/courses/");
        let mut opened = 0;
        for course in courses {
            let page = visitor.read(&format!("{origin}{course}")).await?;
            let enrol = format!("{course}/enrol");
            if !page.contains(&format!("action=\"{enrol}\"")) {
                continue;
            }
            visitor.submit(origin, &page, &enrol, &[]).await?;
            let answer = visitor.open(&format!("{origin}{course}/learn")).await?;
            if !answer.status().is_success() {
                // A course that wants an approval.
                continue;
            }
            let learn = answer.text().await?;
            let lessons = links(&learn, &format!("{course}/lessons/"));
            let lesson = lessons.first().context("a course without lessons")?;
            let page = visitor.read(&format!("{origin}{lesson}")).await?;
            let done = format!("{lesson}/done");
            let answer = visitor.submit(origin, &page, &done, &[]).await?;
            ensure!(answer.status().is_redirection(), "done: {}", answer.status());
            let learn = visitor.read(&format!("{origin}{course}/learn")).await?;
            ensure!(learn.contains('%'), "no progress in percent on {course}");
            opened += 1;
        }
        ensure!(opened >= 2, "{slug}: only {opened} courses could be opened");
    }
    Ok(())
}

pub async fn a_custom_domain_is_the_primary_one(stack: &Stack) -> Result<()> {
    let site = site(stack, "nusantara")?;
    ensure!(site.urls.len() == 2, "urls: {:?}", site.urls);
    let other = site.urls.iter().find(|url| **url != site.url).context("one URL only")?;
    let answer = stack.visitor()?.open(&format!("{other}/courses?q=a")).await?;
    ensure!(answer.status().is_redirection(), "{other}: {}", answer.status());
    let to = answer.headers()["location"].to_str()?;
    ensure!(to == format!("{}/courses?q=a", site.url), "{to}");
    Ok(())
}
