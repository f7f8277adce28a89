//! A site goes to another region and comes back, again and again, while people read, write and download
//! through both regions' routers: nobody sees an error, and nothing that was acknowledged is lost.

use std::{
    io::Write as _,
    path::Path,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
};

use anyhow::{Context, Result, bail, ensure};
use control_types::state::RecordKind;
use futures_util::future::{try_join, try_join_all};
use provisioner_api::sites::CreateSite;
use sha2::{Digest as _, Sha256};
use sqlx::Connection;
use tests::{
    Stack, Visitor,
    stack::{ReadyLogin, ReadySite, Start},
};

use crate::site_life::{create_as, delete, request};

pub const SLUG: &str = "nusantara";
pub const FROM: &str = "id-jakarta";
const TO: &str = "sg-singapore";

pub async fn a_site_moves_while_people_use_it() -> Result<()> {
    let stack = started().await?;
    let site = site(&stack)?;
    refused_before_the_customer_agreed(&stack)?;
    while_people_use_it(&stack, &site, async |acknowledged| {
        there_and_back(&stack, acknowledged).await
    })
    .await?;
    proven(&stack, 3)?;
    nothing_is_left(&stack, &site).await?;
    a_region_is_drained(&stack).await?;
    stack.stop()?;
    Ok(())
}

/// The site's people write and download until the operator is done, who is told how many writes were
/// acknowledged.
pub async fn while_people_use_it(
    stack: &Stack,
    site: &ReadySite,
    operate: impl AsyncFnOnce(&AtomicU64) -> Result<()>,
) -> Result<()> {
    let people = people(stack, site).await?;
    let files = files_of(stack, site).await?;
    ensure!(files.len() >= 2, "only {} files to look at", files.len());
    let (stop, acknowledged) = (AtomicBool::new(false), AtomicU64::new(0));
    let writers = try_join_all(people.iter().map(|person| write(person, &stop, &acknowledged)));
    let readers = try_join_all(files.iter().map(|file| download(stack, file, &stop)));
    let operator = async {
        let done = operate(&acknowledged).await;
        stop.store(true, Ordering::SeqCst);
        done
    };
    try_join(try_join(writers, readers), operator).await?;
    Ok(())
}

/// What is left in a region goes elsewhere by one command; what may not is named, and stays.
async fn a_region_is_drained(stack: &Stack) -> Result<()> {
    for (slug, regions) in [("mover", vec![FROM, TO]), ("stayer", vec![FROM])] {
        let allowed = regions.into_iter().map(str::to_owned).collect();
        let request = CreateSite { allowed_regions: Some(allowed), ..request(slug) };
        create_as(stack, &request).await?;
    }
    let drain = stack.cli(&["region", "drain", FROM, "--to", TO])?;
    ensure!(drain.code == 1, "{}: {}{}", drain.code, drain.stdout, drain.stderr);
    ensure!(drain.stdout.contains("mover  is in sg-singapore"), "{}", drain.stdout);
    ensure!(drain.stdout.contains("site regions stayer"), "{}", drain.stdout);
    let url = stack.url("mover", TO)?;
    stack.visitor()?.read(&format!("{url}/")).await?;
    delete(stack, "mover").await?;
    delete(stack, "stayer").await
}

/// The demo's platform, with a site that has courses and files.
pub async fn started() -> Result<Stack> {
    let start = Start { demo: true, ..Start::default() };
    tokio::task::spawn_blocking(move || Stack::start(start)).await?
}

pub fn site(stack: &Stack) -> Result<ReadySite> {
    stack.ready.sites.iter().find(|site| site.slug == SLUG).cloned().context("the demo's site")
}

/// The site may be in its own region only, until an operator writes down that it may be elsewhere.
fn refused_before_the_customer_agreed(stack: &Stack) -> Result<()> {
    let refused = stack.cli(&["site", "move", SLUG, "--to", TO])?;
    ensure!(refused.code == 4, "{}: {}", refused.code, refused.stderr);
    ensure!(refused.stderr.contains("site regions"), "{}", refused.stderr);
    let nowhere = stack.cli(&["site", "move", SLUG, "--to", "mars"])?;
    ensure!(nowhere.code == 1 && nowhere.stderr.contains("region"), "{}", nowhere.stderr);
    let reason = ["--reason", "the contract of June"];
    stack.cli(&[&["site", "regions", SLUG, "--allow", TO], &reason[..]].concat())?.ok()?;
    let plan =
        stack.cli(&["site", "move", SLUG, "--to", TO, "--dry-run", "--json"])?.ok()?.json()?;
    ensure!(plan["pivot"] == "switch" && plan["bytes"].as_u64() > Some(0), "{plan}");
    Ok(())
}

/// Somebody who is signed in, at one region's address.
struct Person {
    visitor: Visitor,
    origin: String,
}

/// Everybody the demo has, some at the old region's address and some at the new one's. They sign in once:
/// their sessions go along.
async fn people(stack: &Stack, site: &ReadySite) -> Result<Vec<Person>> {
    let host = site.url.strip_prefix("https://").context("a URL")?;
    let host = host.split(':').next().context("a host")?;
    let mut people = Vec::new();
    for (number, login) in site.logins.iter().enumerate() {
        let region = if number % 2 == 0 { FROM } else { TO };
        let port =
            stack.region(region)?.router.https.rsplit(':').next().context("a port")?.to_owned();
        let origin = format!("https://{host}:{port}");
        let visitor = stack.visitor()?;
        let ReadyLogin { email, password, .. } = login;
        visitor.sign_in(&origin, email, password).await?;
        people.push(Person { visitor, origin });
    }
    Ok(people)
}

/// Writes and reads back until told to stop. What was acknowledged is there at the next look, wherever
/// the site is by then.
async fn write(person: &Person, stop: &AtomicBool, acknowledged: &AtomicU64) -> Result<()> {
    let Person { visitor, origin } = person;
    let mut number = 0_u64;
    while !stop.load(Ordering::SeqCst) {
        let language = if number.is_multiple_of(2) { "id" } else { "en" };
        let post = visitor.http().post(format!("{origin}/language")).header("origin", origin);
        let answer = post.form(&[("language", language), ("next", "/courses")]).send().await;
        let answer = answer.with_context(|| format!("write {number} at {origin}"))?;
        ensure!(answer.status().is_redirection(), "write {number}: {}", answer.status());
        let page = visitor.read(&format!("{origin}/courses")).await?;
        ensure!(page.contains(&format!("lang=\"{language}\"")), "write {number} is not there");
        acknowledged.fetch_add(1, Ordering::SeqCst);
        number += 1;
    }
    Ok(())
}

/// A file of the site that anybody may see, and what is in it.
pub struct Seen {
    pub url: String,
    sha256: [u8; 32],
}

/// Covers of courses: they lie in the object store.
pub async fn files_of(stack: &Stack, site: &ReadySite) -> Result<Vec<Seen>> {
    let visitor = stack.visitor()?;
    let catalogue = visitor.read(&format!("{}/courses", site.url)).await?;
    let mut seen: Vec<Seen> = Vec::new();
    for start in catalogue.split("src=\"").skip(1) {
        let Some((path, _)) = start.split_once('"') else { continue };
        if !(path.starts_with("/files/") || path.starts_with("/covers/")) {
            continue;
        }
        let url = format!("{}{path}", site.url);
        let answer = visitor.open(&url).await?.error_for_status()?;
        let sha256 = Sha256::digest(answer.bytes().await?).into();
        if seen.iter().all(|known| known.sha256 != sha256) {
            seen.push(Seen { url, sha256 });
        }
    }
    seen.truncate(4);
    Ok(seen)
}

async fn download(stack: &Stack, file: &Seen, stop: &AtomicBool) -> Result<()> {
    let visitor = stack.visitor()?;
    while !stop.load(Ordering::SeqCst) {
        let answer = visitor.open(&file.url).await?;
        ensure!(answer.status().is_success(), "{}: {}", file.url, answer.status());
        let sha256: [u8; 32] = Sha256::digest(answer.bytes().await?).into();
        ensure!(sha256 == file.sha256, "{} has other bytes", file.url);
    }
    Ok(())
}

/// There, back, and there again. Between two moves people have written.
async fn there_and_back(stack: &Stack, acknowledged: &AtomicU64) -> Result<()> {
    for (command, place) in [
        (&["site", "move", SLUG, "--to", TO][..], TO),
        (&["site", "move-back", SLUG][..], FROM),
        (&["site", "move-back", SLUG][..], TO),
    ] {
        let before = acknowledged.load(Ordering::SeqCst);
        let command = command.iter().map(ToString::to_string).collect::<Vec<_>>();
        // The command line blocks, and people go on meanwhile.
        let moved = run(stack, command).await?;
        ensure!(moved.contains(&format!("is in {place}")), "{moved}");
        while acknowledged.load(Ordering::SeqCst) < before + 6 {
            tokio::task::yield_now().await;
        }
    }
    let again = stack.cli(&["site", "move", SLUG, "--to", FROM])?;
    ensure!(again.code == 4 && again.stderr.contains("move-back"), "{}", again.stderr);
    run(stack, ["site", "settle", SLUG, "--yes"].map(str::to_owned).to_vec()).await?;
    let gone = stack.cli(&["site", "move-back", SLUG])?;
    ensure!(gone.code == 4 && gone.stderr.contains("no way back"), "{}", gone.stderr);
    // Who comes to the old region's address is passed through, now that nothing is left there.
    let before = acknowledged.load(Ordering::SeqCst);
    while acknowledged.load(Ordering::SeqCst) < before + 6 {
        tokio::task::yield_now().await;
    }
    Ok(())
}

pub async fn run(stack: &Stack, command: Vec<String>) -> Result<String> {
    let (api, token) = (stack.ready.api.url.clone(), stack.ready.api.token_file.clone());
    let output = tokio::task::spawn_blocking(move || {
        let arguments: Vec<&str> = command.iter().map(String::as_str).collect();
        tests::stack::cli(&api, &token, &arguments)
    });
    Ok(output.await??.ok()?.stdout)
}

/// Every move left a certificate and the end a record, and the platform's authority signed them.
fn proven(stack: &Stack, moves: usize) -> Result<()> {
    let records = stack.cli(&["site", "records", SLUG, "--json"])?.ok()?.json()?;
    let records = records.as_array().context("no list")?;
    let kind = |kind: RecordKind| {
        records.iter().filter(move |record| record["kind"] == kind.as_str()).count()
    };
    ensure!(kind(RecordKind::MoveCertificate) == moves, "{records:?}");
    ensure!(kind(RecordKind::DeletionRecord) == 1, "{records:?}");
    let directory = tempfile::tempdir()?;
    for record in records {
        let document = record["document"].as_str().context("no document")?;
        let signature = record["signature"].as_str().context("no signature")?;
        verify(&stack.ready.certificate_authority, directory.path(), document, signature)?;
        let forged = document.replace(FROM, "id-bandung");
        ensure!(forged != document, "{document}");
        let authority = &stack.ready.certificate_authority;
        ensure!(verify(authority, directory.path(), &forged, signature).is_err(), "forged");
    }
    Ok(())
}

/// As an auditor would, with openssl.
fn verify(authority: &Path, at: &Path, document: &str, signature: &str) -> Result<()> {
    let (key, signed) = (at.join("key.pem"), at.join("signature"));
    let public = Command::new("openssl")
        .args(["x509", "-pubkey", "-noout", "-in"])
        .arg(authority)
        .output()?;
    std::fs::write(&key, public.stdout)?;
    use base64::Engine as _;
    std::fs::write(&signed, base64::engine::general_purpose::STANDARD.decode(signature)?)?;
    let mut openssl = Command::new("openssl")
        .args(["dgst", "-sha256", "-verify"])
        .arg(&key)
        .arg("-signature")
        .arg(&signed)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()?;
    openssl.stdin.take().context("no input")?.write_all(document.as_bytes())?;
    ensure!(openssl.wait()?.success(), "the signature does not verify");
    Ok(())
}

/// Of the site, in the region that it left: no database, role, slot, file or certificate.
async fn nothing_is_left(stack: &Stack, site: &ReadySite) -> Result<()> {
    let shown = stack.cli(&["site", "show", SLUG, "--json"])?.ok()?.json()?;
    ensure!(shown["placement"]["region"] == TO && shown["way_back"].is_null(), "{shown}");
    let mut admin = sqlx::PgConnection::connect(&stack.admin_url(FROM, "postgres")?).await?;
    for (what, query) in [
        ("databases", "select count(*) from pg_database where datname ~ '^s_'"),
        ("roles", "select count(*) from pg_roles where rolname ~ '^s_'"),
        ("slots", "select count(*) from pg_replication_slots"),
        ("subscriptions", "select count(*) from pg_subscription"),
    ] {
        let left: i64 = sqlx::query_scalar(query).fetch_one(&mut admin).await?;
        ensure!(left == 0, "{left} {what} are left in {FROM}");
    }
    admin.close().await?;
    let id = shown["id"].as_str().context("no id")?;
    let objects = stack.data_dir().join("object-stores").join(FROM);
    ensure!(!mentions(&objects.join("objects"), id)?, "files of {id} are left in {FROM}");
    let mut control = sqlx::PgConnection::connect(&stack.control_database_url()?).await?;
    let kept: i64 =
        sqlx::query_scalar("select count(*) from certificate where region = $1 and site_id = $2")
            .bind(FROM)
            .bind(id.parse::<uuid::Uuid>()?)
            .fetch_one(&mut control)
            .await?;
    ensure!(kept == 0, "{kept} certificates of {} are left in {FROM}", site.slug);
    control.close().await?;
    let forbidden = stack.cli(&["site", "regions", SLUG, "--forbid", TO])?;
    ensure!(forbidden.code == 4, "{}: {}", forbidden.code, forbidden.stderr);
    stack.cli(&["site", "regions", SLUG, "--forbid", FROM])?.ok()?;
    Ok(())
}

/// Whether anything below a directory has the text in its path.
fn mentions(directory: &Path, text: &str) -> Result<bool> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.to_string_lossy().contains(text) || (path.is_dir() && mentions(&path, text)?) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A file whose bytes are not what its name says is found before anything is switched. The move is
/// undone, and the site goes on where it was.
pub async fn a_broken_file_stops_the_move() -> Result<()> {
    let stack = started().await?;
    stack.cli(&["site", "regions", SLUG, "--allow", TO])?.ok()?;
    let shown = stack.cli(&["site", "show", SLUG, "--json"])?.ok()?.json()?;
    let id = shown["id"].as_str().context("no id")?.to_owned();
    let broken = break_a_file(&stack, &id)?;
    let moved = stack.cli(&["site", "move", SLUG, "--to", TO])?;
    ensure!(moved.code == 1, "{}: {}{}", moved.code, moved.stdout, moved.stderr);
    ensure!(moved.stderr.contains(&broken), "{broken} is not named: {}", moved.stderr);
    let shown = stack.cli(&["site", "show", SLUG, "--json"])?.ok()?.json()?;
    ensure!(shown["placement"]["region"] == FROM && shown["live_operation"].is_null(), "{shown}");
    stack.visitor()?.read(&format!("{}/courses", site(&stack)?.url)).await?;
    let mut admin = sqlx::PgConnection::connect(&stack.admin_url(FROM, "postgres")?).await?;
    let slots: i64 = sqlx::query_scalar("select count(*) from pg_replication_slots")
        .fetch_one(&mut admin)
        .await?;
    ensure!(slots == 0, "{slots} slots are left");
    admin.close().await?;
    let objects = stack.data_dir().join("object-stores").join(TO).join("objects");
    ensure!(!mentions(&objects, &id)?, "files of {id} are left in {TO}");
    stack.stop()?;
    Ok(())
}

/// Changes a byte of one of the site's files. Its name.
fn break_a_file(stack: &Stack, id: &str) -> Result<String> {
    let objects = stack.data_dir().join("object-stores").join(FROM).join("objects");
    let mut directories = vec![objects];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            let name = path.file_name().context("a name")?.to_string_lossy().into_owned();
            if path.is_dir() {
                directories.push(path);
            } else if path.to_string_lossy().contains(&format!("site/{id}/blob/"))
                && name.len() == 64
            {
                let mut bytes = std::fs::read(&path)?;
                let last = bytes.last_mut().context("an empty file")?;
                *last ^= 1;
                std::fs::write(&path, bytes)?;
                return Ok(name);
            }
        }
    }
    bail!("the site has no files")
}
