//! Bad input gets a clear error, and leaves nothing behind.

use anyhow::{Context, Result, ensure};
use provisioner_api::{client::Client, sites::CreateSite};
use serde_json::Value;
use tests::Stack;
use uuid::Uuid;

use crate::site_life::{create, delete, request};

/// What is wrong, the request, the status and the field that the refusal names.
fn wrong() -> Vec<(&'static str, CreateSite, u16, &'static str)> {
    let change = |change: fn(&mut CreateSite)| {
        let mut site = request("refused");
        change(&mut site);
        site
    };
    vec![
        ("a slug with a capital", change(|s| s.slug = "Acme".into()), 422, "slug"),
        ("a slug with a dot", change(|s| s.slug = "a.b".into()), 422, "slug"),
        ("a reserved slug", change(|s| s.slug = "www".into()), 422, "slug"),
        ("a taken slug", change(|s| s.slug = "nusantara".into()), 409, "slug"),
        ("an unknown region", change(|s| s.region = "mars-north".into()), 422, "region"),
        ("an unknown plan", change(|s| s.plan = "golden".into()), 422, "plan"),
        (
            "a region outside the allowed ones",
            change(|s| s.allowed_regions = Some(vec!["sg-singapore".into()])),
            422,
            "region",
        ),
        ("no name", change(|s| s.name = " ".into()), 422, "name"),
        (
            "no mail address",
            change(|s| s.administrator.email = "admin".into()),
            422,
            "administrator.email",
        ),
        (
            "a short password",
            change(|s| s.administrator.password = Some("short".into())),
            422,
            "administrator.password",
        ),
        ("an address as a domain", change(|s| s.domain = Some("10.0.0.1".into())), 422, "domain"),
        (
            "a platform name as a domain",
            change(|s| s.domain = Some("other.localhost".into())),
            422,
            "domain",
        ),
        (
            "another site's domain",
            change(|s| s.domain = Some("belajar.akademi-nusantara.localhost".into())),
            409,
            "domain",
        ),
        (
            "an unknown language",
            change(|s| s.default_language = Some("xx".into())),
            422,
            "default_language",
        ),
    ]
}

pub async fn bad_input_names_the_field(stack: &Stack) -> Result<()> {
    let api = stack.api()?;
    for (what, site, status, field) in wrong() {
        for dry_run in [true, false] {
            let outcome = if dry_run {
                api.plan_create_site(&site).await.map(drop)
            } else {
                api.create_site(&site, &Uuid::new_v4().to_string()).await.map(drop)
            };
            let error = outcome.err().with_context(|| format!("{what} was taken"))?;
            let problem = error.problem().with_context(|| format!("{what}: {error}"))?;
            ensure!(problem.status == status, "{what}: {problem:?}");
            ensure!(problem.field.as_deref() == Some(field), "{what}: {problem:?}");
        }
    }
    ensure!(api.site("refused").await.is_err(), "something was left behind");

    // On the command line: a sentence, a hint, an exit code.
    let said = stack.cli(&[
        "site",
        "create",
        "refused",
        "--name",
        "R",
        "--region",
        "mars-north",
        "--admin",
        "a@b.test",
    ])?;
    ensure!(said.code == 1 && said.stderr.contains("id-jakarta"), "{said:?}");
    let said = stack.cli(&["site", "show", "nowhere"])?;
    ensure!(said.code == 3 && said.stderr.contains("nowhere"), "{said:?}");
    let said = stack.cli(&["operation", "show", &Uuid::new_v4().to_string()])?;
    ensure!(said.code == 3, "{said:?}");

    // A site that is busy or in the wrong state.
    create(stack, "in-the-way").await?;
    let said = stack.cli(&["site", "resume", "in-the-way"])?;
    ensure!(said.code == 0, "resuming an active site changes nothing: {said:?}");
    let again = api.create_site(&request("in-the-way"), &Uuid::new_v4().to_string()).await;
    let problem = again.err().context("a taken slug")?;
    ensure!(problem.problem().is_some_and(|problem| problem.status == 409));
    delete(stack, "in-the-way").await
}

pub async fn the_api_wants_a_token(stack: &Stack) -> Result<()> {
    let url = &stack.ready.api.url;
    let wrong = Client::new(url, "not-the-token-not-the-token-not-the-token")?;
    let error = wrong.sites().await.err().context("a wrong token was taken")?;
    ensure!(error.problem().is_some_and(|problem| problem.status == 401), "{error}");
    let http = reqwest::Client::new();
    let answer = http.get(format!("{url}/v1/sites")).send().await?;
    ensure!(answer.status() == 401, "{}", answer.status());
    ensure!(answer.headers()["content-type"] == "application/problem+json");
    let token = std::fs::read_to_string(&stack.ready.api.token_file)?;
    for (path, status) in [("/v1/nothing", 404), ("/nothing", 404)] {
        let answer = http.get(format!("{url}{path}")).bearer_auth(token.trim()).send().await?;
        ensure!(answer.status() == status, "{path}: {}", answer.status());
        let problem: Value = answer.json().await?;
        ensure!(problem["detail"].is_string(), "{problem}");
    }
    let malformed = http
        .post(format!("{url}/v1/sites"))
        .bearer_auth(token.trim())
        .body("{\"slug\": 1")
        .send()
        .await?;
    ensure!(malformed.status() == 400, "{}", malformed.status());
    let large = http
        .post(format!("{url}/v1/sites"))
        .bearer_auth(token.trim())
        .body("x".repeat(300 * 1024))
        .send()
        .await?;
    ensure!(large.status() == 413, "{}", large.status());
    Ok(())
}

pub async fn the_api_describes_itself(stack: &Stack) -> Result<()> {
    let url = format!("{}/openapi.json", stack.ready.api.url);
    let description: Value = reqwest::get(url).await?.json().await?;
    ensure!(description["openapi"].as_str().is_some_and(|version| version.starts_with("3.1")));
    ensure!(description["paths"]["/v1/sites"]["post"].is_object());
    Ok(())
}
