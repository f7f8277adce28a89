//! A site from its creation to its deletion.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use control_types::state::{OperationState, SiteState};
use futures_util::future::try_join_all;
use provisioner_api::sites::{CreateSite, DeleteSite, NewAccount};
use reqwest::StatusCode;
use tests::{Stack, Visitor};
use uuid::Uuid;

/// A request to create a site in Jakarta.
pub fn request(slug: &str) -> CreateSite {
    CreateSite {
        slug: slug.to_owned(),
        name: format!("{slug} Academy"),
        region: "id-jakarta".to_owned(),
        plan: "professional".to_owned(),
        allowed_regions: None,
        default_language: Some("en".to_owned()),
        domain: None,
        administrator: NewAccount {
            email: format!("admin@{slug}.test"),
            name: None,
            role: Default::default(),
            password: Some("a-long-password-1".to_owned()),
        },
        accounts: Vec::new(),
        reason: Some("a story".to_owned()),
        dry_run: false,
    }
}

/// Creates a site and waits until it serves.
pub async fn create(stack: &Stack, slug: &str) -> Result<String> {
    create_as(stack, &request(slug)).await
}

/// Creates a site as it is asked for, in Jakarta, and waits until it serves.
pub async fn create_as(stack: &Stack, request: &CreateSite) -> Result<String> {
    let (api, slug) = (stack.api()?, &request.slug);
    let accepted = api.create_site(request, &Uuid::new_v4().to_string()).await?;
    let operation = api.wait_for(accepted.operation.id).await?;
    ensure!(
        operation.state == OperationState::Succeeded,
        "{slug}: {} {:?}",
        operation.state,
        operation.last_error
    );
    stack.url(slug, "id-jakarta")
}

/// Deletes a site at once and waits until it is gone.
pub async fn delete(stack: &Stack, slug: &str) -> Result<()> {
    let api = stack.api()?;
    let delete = DeleteSite { grace_period_secs: Some(0), ..DeleteSite::default() };
    let accepted = api.delete_site(slug, &delete, &Uuid::new_v4().to_string()).await?;
    let operation = api.wait_for(accepted.operation.id).await?;
    ensure!(
        operation.state == OperationState::Succeeded,
        "{slug}: {} {:?}",
        operation.state,
        operation.last_error
    );
    Ok(())
}

pub async fn created_opened_and_deleted(stack: &Stack) -> Result<()> {
    let created = stack
        .cli(&[
            "site",
            "create",
            "acme",
            "--name",
            "Acme Academy",
            "--region",
            "id-jakarta",
            "--plan",
            "professional",
            "--admin",
            "admin@acme.test",
            "--language",
            "en",
        ])?
        .ok()?;
    let origin = stack.url("acme", "id-jakarta")?;
    let said = format!("{}{}", created.stdout, created.stderr);
    ensure!(said.contains(&origin), "the URL is not in:\n{said}");
    let invitation = said
        .split_whitespace()
        .find(|word| word.contains("/invitation/"))
        .context("no invitation")?
        .trim_end_matches(['.', ','])
        .to_owned();

    let visitor = stack.visitor()?;
    let home = visitor.read(&format!("{origin}/")).await?;
    ensure!(home.contains("Acme Academy"), "{home}");

    // The administrator chooses a password behind the link, once.
    let page = visitor.read(&invitation).await?;
    let action = invitation.strip_prefix(&origin).context("the invitation is elsewhere")?;
    let password = "correct-horse-battery";
    let fields = [("password", password), ("again", password)];
    let answer = visitor.submit(&origin, &page, action, &fields).await?;
    ensure!(answer.status().is_redirection(), "{}: {}", answer.status(), answer.text().await?);
    let again = stack.visitor()?.open(&invitation).await?;
    ensure!(!again.status().is_success(), "an invitation is good once: {}", again.status());
    stack.visitor()?.sign_in(&origin, "admin@acme.test", password).await?;

    let show = stack.cli(&["site", "show", "acme", "--json"])?.ok()?.json()?;
    ensure!(show["state"] == "active", "{show}");
    let listed = stack.cli(&["site", "list"])?.ok()?.stdout;
    ensure!(listed.contains("acme"), "{listed}");

    stack.cli(&["site", "delete", "acme", "--grace", "0s", "--yes", "--wait"])?.ok()?;
    is_gone(&visitor, &origin).await?;
    let left = stack.cli(&["site", "show", "acme"])?;
    ensure!(left.code == 3, "exit code {}: {}", left.code, left.stderr);
    // Its slug is free again.
    create(stack, "acme").await?;
    delete(stack, "acme").await
}

/// Waits until routers have heard that a site is gone: a moment after it is.
pub async fn is_gone(visitor: &Visitor, origin: &str) -> Result<()> {
    let began = Instant::now();
    loop {
        match visitor.open(&format!("{origin}/")).await {
            Ok(answer) if answer.status() != StatusCode::NOT_FOUND => {
                let status = answer.status();
                ensure!(began.elapsed() < Duration::from_secs(10), "it still answers: {status}");
            }
            // Without its certificate nobody gets as far as a page.
            Ok(_) | Err(_) => return Ok(()),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub async fn suspended_and_resumed(stack: &Stack) -> Result<()> {
    let origin = create(stack, "on-hold").await?;
    let visitor = stack.visitor()?;
    visitor.read(&format!("{origin}/")).await?;
    stack.cli(&["site", "suspend", "on-hold", "--reason", "unpaid"])?.ok()?;
    let mut closed = visitor.open(&format!("{origin}/")).await?;
    for _ in 0..100 {
        if closed.status() != StatusCode::OK {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        closed = visitor.open(&format!("{origin}/")).await?;
    }
    ensure!(closed.status() == StatusCode::SERVICE_UNAVAILABLE, "{}", closed.status());
    let page = closed.text().await?;
    ensure!(page.contains("on-hold Academy"), "the page is not the site's own:\n{page}");
    ensure!(!page.contains("unpaid"), "the reason is for operators only");
    stack.cli(&["site", "resume", "on-hold"])?.ok()?;
    for attempt in 0..250 {
        if visitor.open(&format!("{origin}/")).await?.status() == StatusCode::OK {
            break;
        }
        ensure!(attempt < 249, "the site does not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    delete(stack, "on-hold").await
}

pub async fn a_deletion_is_cancelled(stack: &Stack) -> Result<()> {
    let origin = create(stack, "regretted").await?;
    let api = stack.api()?;
    let delete_in_a_day = DeleteSite { grace_period_secs: Some(86_400), ..DeleteSite::default() };
    let accepted =
        api.delete_site("regretted", &delete_in_a_day, &Uuid::new_v4().to_string()).await?;
    let id = accepted.operation.id;
    let mut seq = 0;
    loop {
        let news = api.operation_news(id, seq, Duration::from_secs(20)).await?;
        seq = news.events.last().map_or(seq, |event| event.seq);
        if news.events.iter().any(|event| {
            event.step == "await_grace_period"
                && event.event == control_types::state::StepEvent::Waiting
        }) {
            break;
        }
    }
    ensure!(api.site("regretted").await?.state == SiteState::Deleting);
    let closed = stack.visitor()?.open(&format!("{origin}/")).await?;
    ensure!(closed.status() == StatusCode::SERVICE_UNAVAILABLE, "{}", closed.status());
    let said = stack.cli(&["site", "undelete", "regretted"])?.ok()?.stdout;
    ensure!(said.contains("is active again"), "{said}");
    let operation = api.wait_for(id).await?;
    ensure!(operation.state == OperationState::Cancelled, "{}", operation.state);
    let said = stack.cli(&["site", "undelete", "regretted"])?;
    ensure!(said.code == 4 && said.stderr.contains("is not being deleted"), "{said:?}");
    ensure!(api.site("regretted").await?.state == SiteState::Active);
    let visitor = stack.visitor()?;
    for attempt in 0..250 {
        if visitor.open(&format!("{origin}/")).await?.status() == StatusCode::OK {
            break;
        }
        ensure!(attempt < 249, "the site does not come back");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    visitor.sign_in(&origin, "admin@regretted.test", "a-long-password-1").await?;
    delete(stack, "regretted").await
}

pub async fn ten_at_once(stack: &Stack) -> Result<()> {
    let slugs: Vec<String> = (0..10).map(|number| format!("many-{number}")).collect();
    let origins = try_join_all(slugs.iter().map(|slug| create(stack, slug))).await?;
    for (origin, slug) in origins.iter().zip(&slugs) {
        let home = stack.visitor()?.read(&format!("{origin}/")).await?;
        ensure!(home.contains(&format!("{slug} Academy")), "{origin} shows another site");
    }
    try_join_all(slugs.iter().map(|slug| delete(stack, slug))).await?;
    Ok(())
}

pub async fn the_same_key_is_the_same_operation(stack: &Stack) -> Result<()> {
    let api = stack.api()?;
    let key = Uuid::new_v4().to_string();
    let mut once = request("once");
    once.administrator.password = None;
    let first = api.create_site(&once, &key).await?;
    let second = api.create_site(&once, &key).await?;
    ensure!(first.operation.id == second.operation.id);
    // Whoever did not get the first answer has not lost the invitation.
    ensure!(first.invitation_url.is_some() && first.invitation_url == second.invitation_url);
    api.wait_for(first.operation.id).await?;
    delete(stack, "once").await
}
