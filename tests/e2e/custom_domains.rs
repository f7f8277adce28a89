//! Hostnames of an institution's own, from the record in the DNS to the page.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use control_types::state::{DomainProof, DomainState};
use provisioner_api::{
    client::{Client, ClientError},
    domains::{AddDomain, ChangeDomain, DomainDetail, Ownership, Pointing, RecordStatus},
};
use reqwest::StatusCode;
use serde_json::Value;
use tests::Stack;
use uuid::Uuid;

use crate::site_life::{create, delete, request};

const REGION: &str = "id-jakarta";

fn claim(hostname: &str) -> AddDomain {
    AddDomain { hostname: hostname.to_owned(), ..AddDomain::default() }
}

/// Where a hostname opens in the region's router.
fn origin(stack: &Stack, hostname: &str) -> Result<String> {
    let address = &stack.region(REGION)?.router.https;
    Ok(format!("https://{hostname}:{}", address.rsplit(':').next().unwrap_or_default()))
}

/// Looks into the DNS until the answer is as wanted: another look of the provisioner's own may be
/// under way.
async fn wait_for(
    api: &Client,
    site: &str,
    hostname: &str,
    wanted: impl Fn(&DomainDetail) -> bool,
) -> Result<DomainDetail> {
    let mut domain = api.domain(site, hostname).await?;
    for _ in 0..600 {
        if wanted(&domain) {
            return Ok(domain);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        domain = api.domain(site, hostname).await?;
    }
    anyhow::bail!("it does not become as wanted: {domain:#?}")
}

/// Opens a page until it answers like this: a router hears of a change a moment later.
async fn answers(stack: &Stack, url: &str, wanted: StatusCode) -> Result<reqwest::Response> {
    let visitor = stack.visitor()?;
    let mut last = String::new();
    for _ in 0..250 {
        match visitor.open(url).await {
            Ok(answer) if answer.status() == wanted => return Ok(answer),
            Ok(answer) => last = answer.status().to_string(),
            Err(error) => last = format!("{error:#}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    anyhow::bail!("{url} does not answer {wanted}: {last}")
}

/// What a router says at its plain port to somebody who asks for a hostname.
async fn plain(stack: &Stack, hostname: &str, wanted: StatusCode) -> Result<()> {
    let port = stack.region(REGION)?.router.http.rsplit(':').next().context("a port")?.to_owned();
    answers(stack, &format!("http://{hostname}:{port}/"), wanted).await.map(drop)
}

fn refused<T>(outcome: Result<T, ClientError>, status: u16, kind: &str) -> Result<String> {
    let error = outcome.err().with_context(|| format!("{kind}: it was not refused"))?;
    let problem = error.problem().with_context(|| error.to_string())?;
    ensure!(problem.status == status, "{problem:?}");
    ensure!(problem.kind == format!("/problems/{kind}"), "{problem:?}");
    Ok(problem.detail.clone())
}

/// The row of a check for a type of record.
fn row<'a>(document: &'a Value, kind: &str) -> Result<&'a Value> {
    let rows = document["check"]["records"].as_array().context("no records")?;
    rows.iter().find(|row| row["kind"] == kind).with_context(|| format!("no {kind}: {document:#}"))
}

pub async fn from_the_record_to_the_router(stack: &Stack) -> Result<()> {
    let (api, dns) = (stack.api()?, stack.dns()?);
    let platform = create(stack, "merdeka").await?;
    let host = "belajar.merdeka.test";
    let txt_name = format!("_ta3lem.{host}");

    // What is missing is said exactly, in the table and for programs.
    let added = stack.cli(&["domain", "add", "merdeka", "Belajar.Merdeka.Test."])?;
    ensure!(added.code == 1, "{added:?}");
    for part in [txt_name.as_str(), "ta3lem-site-verification=", "merdeka.localhost", "missing"] {
        ensure!(added.stdout.contains(part), "{part} is not in:\n{}", added.stdout);
    }
    let checked = stack.cli(&["domain", "check", "merdeka", host, "--json"])?;
    ensure!(checked.code == 1 && checked.stderr.is_empty(), "{checked:?}");
    let document = checked.json()?;
    ensure!(document["state"] == "pending", "{document:#}");
    let (txt, cname) = (row(&document, "TXT")?, row(&document, "CNAME")?);
    ensure!(txt["status"] == "missing" && txt["name"] == txt_name.as_str(), "{txt:#}");
    ensure!(cname["status"] == "missing" && cname["wanted"][0] == "merdeka.localhost", "{cname:#}");
    let token = txt["wanted"][0].as_str().context("no text is wanted")?.to_owned();
    plain(stack, host, StatusCode::NOT_FOUND).await?;

    // A text of somebody else is not it; the right one shows ownership.
    dns.add_txt(&txt_name, "ta3lem-site-verification=of-somebody-else").await?;
    let domain = api.check_domain("merdeka", host).await?;
    let check = domain.check.context("no check")?;
    ensure!(check.ownership == Ownership::NotShown, "{check:#?}");
    ensure!(check.records[0].status == RecordStatus::Wrong, "{check:#?}");
    dns.add_txt(&txt_name, &token).await?;
    let domain = api.check_domain("merdeka", host).await?;
    ensure!(domain.proof == Some(DomainProof::Txt), "{domain:#?}");
    ensure!(domain.check.as_ref().is_some_and(|check| check.pointing == Pointing::Nowhere));
    let change = ChangeDomain::default();
    let nowhere = api.make_domain_primary("merdeka", "nowhere.merdeka.test", &change).await;
    refused(nowhere, 404, "not-found")?;

    // It serves as soon as it has a certificate, and redirects to the primary name.
    dns.set_cname(host, "merdeka.localhost").await?;
    stack.cli(&["domain", "check", "merdeka", host])?.ok()?;
    wait_for(&api, "merdeka", host, |domain| domain.routed == Some(true)).await?;
    let own = origin(stack, host)?;
    let answer = answers(stack, &format!("{own}/courses"), StatusCode::MOVED_PERMANENTLY).await?;
    let to = answer.headers()["location"].to_str()?;
    ensure!(to == format!("{platform}/courses"), "{to}");

    // As the primary name it opens, and the platform's name redirects.
    stack.cli(&["domain", "primary", "merdeka", host, "--reason", "their own name"])?.ok()?;
    answers(stack, &format!("{platform}/"), StatusCode::MOVED_PERMANENTLY).await?;
    let home = stack.visitor()?.read(&format!("{own}/")).await?;
    ensure!(home.contains("merdeka Academy"), "{home}");
    let listed = stack.cli(&["domain", "list", "merdeka"])?.ok()?.stdout;
    ensure!(listed.contains("points here") && listed.contains("TXT record"), "{listed}");

    // Removed: gone at the router, and the platform's name is the primary one again.
    let asked = stack.cli(&["domain", "remove", "merdeka", host])?;
    ensure!(asked.code == 2 && asked.stderr.contains("--yes"), "{asked:?}");
    stack.cli(&["domain", "remove", "merdeka", host, "--yes"])?.ok()?;
    plain(stack, host, StatusCode::NOT_FOUND).await?;
    answers(stack, &format!("{platform}/"), StatusCode::OK).await?;
    let gone = stack.cli(&["domain", "check", "merdeka", host])?;
    ensure!(gone.code == 3, "{gone:?}");

    let actions = audited(stack, "merdeka").await?;
    for action in ["add", "verify", "activate", "primary", "remove"] {
        ensure!(actions.contains(&format!("domain.{action}")), "{action}: {actions:?}");
    }
    delete(stack, "merdeka").await
}

/// What the audit trail says was done to a site.
async fn audited(stack: &Stack, slug: &str) -> Result<Vec<String>> {
    let pool = sqlx::PgPool::connect(&stack.control_database_url()?).await?;
    let actions = sqlx::query_scalar(
        "select action from audit_event join site on site.id = audit_event.site_id
         where site.slug = $1 order by audit_event.id",
    );
    Ok(actions.bind(slug).fetch_all(&pool).await?)
}

pub async fn a_name_that_still_points_here_is_not_taken_over(stack: &Stack) -> Result<()> {
    let (api, dns) = (stack.api()?, stack.dns()?);
    let host = "www.alif.test";
    create(stack, "alif").await?;
    api.add_domain("alif", &claim(host)).await?;
    dns.set_cname(host, "alif.localhost").await?;
    let domain = api.check_domain("alif", host).await?;
    ensure!(domain.proof == Some(DomainProof::Cname), "{domain:#?}");
    wait_for(&api, "alif", host, |domain| domain.state == DomainState::Active).await?;
    delete(stack, "alif").await?;

    // The slug is free again, and the record still leads to it.
    create(stack, "alif").await?;
    api.add_domain("alif", &claim(host)).await?;
    let domain = api.check_domain("alif", host).await?;
    let check = domain.check.context("no check")?;
    ensure!(domain.state == DomainState::Pending, "taken over: {check:#?}");
    ensure!(check.pointing == Pointing::Here && check.ownership == Ownership::NotShown);
    ensure!(check.warnings.iter().any(|text| text.contains("another site before")), "{check:#?}");

    // Another site cannot have it by the record either, but can by its own text.
    create(stack, "ba").await?;
    api.add_domain("ba", &claim(host)).await?;
    dns.set_cname(host, "ba.localhost").await?;
    let domain = api.check_domain("ba", host).await?;
    ensure!(domain.state == DomainState::Pending, "taken over: {domain:#?}");
    let check = domain.check.context("no check")?;
    let txt = check.records.iter().find(|row| row.kind == "TXT").context("no TXT row")?;
    dns.add_txt(&txt.name, &txt.wanted[0]).await?;
    let domain = api.check_domain("ba", host).await?;
    ensure!(domain.proof == Some(DomainProof::Txt) && domain.is_well(), "{domain:#?}");
    delete(stack, "alif").await?;
    delete(stack, "ba").await
}

pub async fn many_claim_and_one_owns(stack: &Stack) -> Result<()> {
    let (api, dns) = (stack.api()?, stack.dns()?);
    let host = "dua.test";
    create(stack, "squatter").await?;
    create(stack, "owner").await?;
    api.add_domain("squatter", &claim(host)).await?;
    api.add_domain("owner", &claim(host)).await?;
    let wanted = |domain: &DomainDetail| {
        let rows = domain.check.as_ref().map(|check| check.records.clone()).unwrap_or_default();
        rows.into_iter().find(|row| row.kind == "TXT").map(|row| (row.name, row.wanted[0].clone()))
    };
    let mine = wanted(&api.check_domain("owner", host).await?).context("no TXT row")?;
    let theirs = wanted(&api.check_domain("squatter", host).await?).context("no TXT row")?;
    ensure!(mine.0 == theirs.0 && mine.1 != theirs.1, "one token for two sites");

    dns.add_txt(&mine.0, &mine.1).await?;
    let domain = api.check_domain("owner", host).await?;
    ensure!(domain.proof == Some(DomainProof::Txt), "{domain:#?}");
    ensure!(api.check_domain("squatter", host).await?.state == DomainState::Pending);
    // The top of a domain takes addresses. One that is not ours is named.
    let check = domain.check.context("no check")?;
    let row = check.records.iter().find(|row| row.kind == "A").context("no A row")?;
    ensure!(row.status == RecordStatus::Missing && row.wanted == ["127.0.0.1"], "{row:?}");
    dns.add_a(host, &["127.0.0.1", "198.51.100.7"]).await?;
    dns.add_aaaa(host, &["2001:db8::7"]).await?;
    let check = api.check_domain("owner", host).await?.check.context("no check")?;
    ensure!(check.pointing == Pointing::Mixed, "{check:#?}");
    ensure!(check.to_do.iter().any(|text| text.contains("198.51.100.7")), "{check:#?}");
    ensure!(check.records.iter().any(|row| row.status == RecordStatus::Surplus), "{check:#?}");
    dns.clear("a", host).await?;
    dns.clear("aaaa", host).await?;
    dns.add_a(host, &["127.0.0.1"]).await?;
    let domain = api.check_domain("owner", host).await?;
    ensure!(domain.is_well(), "{domain:#?}");
    wait_for(&api, "owner", host, |domain| domain.routed == Some(true)).await?;

    // Even who shows a text of their own waits until the owner gives the name up.
    dns.add_txt(&theirs.0, &theirs.1).await?;
    let domain = api.check_domain("squatter", host).await?;
    ensure!(domain.state == DomainState::Pending, "{domain:#?}");
    let check = domain.check.context("no check")?;
    ensure!(check.to_do.iter().any(|text| text.contains("another site")), "{check:#?}");
    api.remove_domain("owner", host, &ChangeDomain::default()).await?;
    let domain = api.check_domain("squatter", host).await?;
    ensure!(domain.proof == Some(DomainProof::Txt), "{domain:#?}");
    delete(stack, "squatter").await?;
    delete(stack, "owner").await
}

pub async fn what_is_refused(stack: &Stack) -> Result<()> {
    let api = stack.api()?;
    create(stack, "refuser").await?;
    for bad in [
        "localhost",
        "other.localhost",
        "single",
        "10.0.0.1",
        "[2001:db8::1]",
        "*.kampus.test",
        "https://kampus.test/",
        "a_b.kampus.test",
        "xn--abc-.test",
    ] {
        let outcome = api.add_domain("refuser", &claim(bad)).await;
        refused(outcome, 422, "invalid").with_context(|| bad.to_owned())?;
    }
    refused(api.add_domain("nowhere", &claim("a.kampus.test")).await, 404, "not-found")?;
    let named = stack.cli(&["domain", "add", "refuser", "kampus"])?;
    ensure!(named.code == 2, "{named:?}");

    // As many as the plan allows; a name in both of its forms is one.
    for hostname in ["bücher.kampus.test", "two.kampus.test", "three.kampus.test"] {
        api.add_domain("refuser", &claim(hostname)).await?;
    }
    let again = api.add_domain("refuser", &claim("xn--bcher-kva.kampus.test")).await;
    refused(again, 409, "hostname-claimed")?;
    let limit = api.add_domain("refuser", &claim("four.kampus.test")).await;
    let detail = refused(limit, 409, "plan-limit")?;
    ensure!(detail.contains("professional") && detail.contains('3'), "{detail}");
    let listed = stack.cli(&["domain", "list", "refuser"])?.ok()?.stdout;
    ensure!(listed.contains("bücher.kampus.test"), "{listed}");
    let mut starter = request("beginner");
    starter.plan = "starter".to_owned();
    let accepted = api.create_site(&starter, &Uuid::new_v4().to_string()).await?;
    api.wait_for(accepted.operation.id).await?;
    let none = api.add_domain("beginner", &claim("a.kampus.test")).await;
    refused(none, 409, "plan-limit")?;

    let change = ChangeDomain::default();
    let early = api.make_domain_primary("refuser", "two.kampus.test", &change).await;
    refused(early, 409, "not-active")?;
    let stays = api.remove_domain("refuser", "refuser.localhost", &change).await;
    refused(stays, 409, "platform-name")?;
    let vouched = AddDomain { vouched: true, ..claim("belajar.akademi-nusantara.localhost") };
    api.remove_domain("refuser", "two.kampus.test", &change).await?;
    refused(api.add_domain("refuser", &vouched).await, 409, "hostname-taken")?;
    delete(stack, "beginner").await?;
    delete(stack, "refuser").await
}

pub async fn a_resolver_that_fails_changes_nothing(stack: &Stack) -> Result<()> {
    let (api, dns) = (stack.api()?, stack.dns()?);
    create(stack, "sepi").await?;
    let host = "www.sepi.test";
    dns.set_cname(host, "sepi.localhost").await?;
    dns.fail(host).await?;
    dns.fail(&format!("_ta3lem.{host}")).await?;
    api.add_domain("sepi", &claim(host)).await?;
    let said = stack.cli(&["domain", "check", "sepi", host])?;
    ensure!(said.code == 1, "{said:?}");
    ensure!(said.stdout.contains("SERVFAIL") && said.stdout.contains("no answer"), "{said:?}");
    ensure!(api.domain("sepi", host).await?.state == DomainState::Pending);

    dns.clear("servfail", host).await?;
    dns.clear("servfail", &format!("_ta3lem.{host}")).await?;
    stack.cli(&["domain", "check", "sepi", host])?.ok()?;
    wait_for(&api, "sepi", host, |domain| domain.routed == Some(true)).await?;
    let known = api.domain("sepi", host).await?.check.context("no check")?;
    dns.fail(host).await?;
    let check = api.check_domain("sepi", host).await?.check.context("no check")?;
    ensure!(check.is_unknown() && !check.is_well(), "{check:#?}");
    let domain = api.domain("sepi", host).await?;
    ensure!(domain.state == DomainState::Active && domain.check == Some(known), "{domain:#?}");
    delete(stack, "sepi").await
}

pub async fn an_operator_vouches(stack: &Stack) -> Result<()> {
    let (api, dns) = (stack.api()?, stack.dns()?);
    let platform = create(stack, "janji").await?;
    let host = "xn--bcher-kva.janji.test";
    dns.set_cname(host, "janji.localhost").await?;
    // A claim that waits can be vouched for too.
    api.add_domain("janji", &claim("sekolah.janji.localhost")).await?;
    let arguments = ["domain", "add", "janji", "bücher.janji.test"];
    let flags = ["--vouched", "--primary", "--wait", "--reason", "contract 7"];
    let said = stack.cli(&[arguments.as_slice(), flags.as_slice()].concat())?.ok()?;
    ensure!(said.stdout.contains("bücher.janji.test") && said.stdout.contains(host), "{said:?}");
    answers(stack, &format!("{platform}/"), StatusCode::MOVED_PERMANENTLY).await?;
    let home = stack.visitor()?.read(&format!("{}/", origin(stack, host)?)).await?;
    ensure!(home.contains("janji Academy"), "{home}");

    // A name below localhost is this machine: no DNS has it, so only an operator's word counts.
    let local = "sekolah.janji.localhost";
    let said = stack.cli(&["domain", "check", "janji", local])?;
    ensure!(said.code == 1 && said.stdout.contains("vouch"), "{said:?}");
    stack.cli(&["domain", "add", "janji", local, "--vouched", "--wait"])?.ok()?;
    let actions = audited(stack, "janji").await?;
    ensure!(actions.iter().any(|action| action == "domain.vouch"), "{actions:?}");
    let metrics = stack.visitor()?.read(&format!("{}/metrics", stack.ready.api.url)).await?;
    ensure!(metrics.contains("ta3lem_custom_domains{state=\"active\"}"), "{metrics}");
    delete(stack, "janji").await
}

pub async fn nobody_has_to_ask(stack: &Stack) -> Result<()> {
    let (api, dns) = (stack.api()?, stack.dns()?);
    let control = sqlx::PgPool::connect(&stack.control_database_url()?).await?;
    let host = "www.sendiri.test";
    create(stack, "sendiri").await?;
    dns.set_cname(host, "sendiri.localhost").await?;
    api.add_domain("sendiri", &claim(host)).await?;
    wait_for(&api, "sendiri", host, |domain| domain.routed == Some(true)).await?;

    // A name that is led away stays with its site: it is shown, and counted.
    dns.clear("cname", host).await?;
    dns.add_a(host, &["198.51.100.7"]).await?;
    let tomorrow = "update domain set next_check_at = now() where hostname = $1";
    sqlx::query(tomorrow).bind(host).execute(&control).await?;
    let elsewhere = |domain: &DomainDetail| {
        domain.check.as_ref().is_some_and(|check| check.pointing == Pointing::Elsewhere)
    };
    let domain = wait_for(&api, "sendiri", host, elsewhere).await?;
    ensure!(domain.state == DomainState::Active, "{domain:#?}");
    let listed = stack.cli(&["domain", "list", "sendiri"])?.ok()?.stdout;
    ensure!(listed.contains("points elsewhere"), "{listed}");
    let url = format!("{}/metrics", stack.ready.api.url);
    let counted = "ta3lem_custom_domains_elsewhere{state=\"active\"} 0";
    for attempt in 0.. {
        if !stack.visitor()?.read(&url).await?.contains(counted) {
            break;
        }
        ensure!(attempt < 500, "it is not counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }

    // A claim that nobody proves is given up after 30 days.
    let idle = "idle.sendiri.test";
    api.add_domain("sendiri", &claim(idle)).await?;
    let long_ago = "update domain set created_at = now() - interval '31 days' where hostname = $1";
    sqlx::query(long_ago).bind(idle).execute(&control).await?;
    for attempt in 0.. {
        if api.domain("sendiri", idle).await.is_err() {
            break;
        }
        ensure!(attempt < 1000, "the claim stays");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let actions = audited(stack, "sendiri").await?;
    ensure!(actions.iter().any(|action| action == "domain.expire"), "{actions:?}");
    delete(stack, "sendiri").await
}
