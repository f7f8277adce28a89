//! Every site is put back now and then, beside itself, to prove that it can be; what is broken in its
//! backups or among its files is found by that, and named.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use provisioner_api::{
    Site,
    backups::{PutKeeper, RestoreProof},
};
use sqlx::{Connection as _, PgConnection};
use tests::{Stack, stack::Start};
use tokio::time::{Instant, sleep};

const REGION: &str = "id-jakarta";
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(200);

pub async fn what_is_broken_is_found() -> Result<()> {
    let start = Start { demo: true, ..Start::default() };
    let stack = tokio::task::spawn_blocking(|| Stack::start(start)).await??;
    let slug = stack.ready.sites.iter().find(|site| site.region == REGION).context("no site")?;
    let slug = slug.slug.clone();
    restorable(&stack, &slug).await?;
    ensure!(proof(&stack, &slug).await?.is_none(), "a site is not tried in its first day");
    its_turn_comes(&stack, &slug).await?;
    let first = until(&stack, &slug, |proof| proof.proved_at.is_some()).await?;
    ensure!(first.problem.is_none() && first.took_ms.is_some(), "{first:?}");
    let shown = stack.cli(&["site", "show", &slug])?.ok()?.stdout;
    ensure!(shown.contains("put back and looked at"), "{shown}");
    nothing_is_left(&stack).await?;
    a_missing_file_is_found(&stack, &slug).await?;
    a_broken_backup_is_found(&stack, &slug).await?;
    tokio::task::spawn_blocking(|| stack.stop()).await??;
    Ok(())
}

async fn control(stack: &Stack, sql: &'static str, slug: &str) -> Result<()> {
    let mut control = PgConnection::connect(&stack.control_database_url()?).await?;
    sqlx::query(sql).bind(slug).execute(&mut control).await?;
    control.close().await?;
    Ok(())
}

/// As if the last try, or the site's making, were days ago.
async fn its_turn_comes(stack: &Stack, slug: &str) -> Result<()> {
    control(
        stack,
        "update site set created_at = created_at - interval '2 days' where slug = $1",
        slug,
    )
    .await?;
    control(
        stack,
        "update restore_proof set tried_at = tried_at - interval '9 days',
             proved_at = proved_at - interval '9 days'
         where site_id = (select id from site where slug = $1)",
        slug,
    )
    .await?;
    // Putting the same keeper again changes nothing, and lets everything be looked at now.
    let token = std::fs::read_to_string(stack.data_dir().join("secrets/keeper-id-jakarta"))?;
    let keeper = PutKeeper { token: token.trim().to_owned() };
    stack.api()?.put_keeper("jakarta-1", &keeper).await?;
    Ok(())
}

async fn site(stack: &Stack, slug: &str) -> Result<Site> {
    Ok(stack.api()?.site(slug).await?)
}

async fn restorable(stack: &Stack, slug: &str) -> Result<()> {
    let began = Instant::now();
    while site(stack, slug).await?.restorable.is_none() {
        ensure!(began.elapsed() < PATIENCE, "nothing can be restored");
        sleep(PAUSE).await;
    }
    Ok(())
}

async fn proof(stack: &Stack, slug: &str) -> Result<Option<RestoreProof>> {
    Ok(site(stack, slug).await?.restorable.and_then(|window| window.proof))
}

/// The proof as soon as it is so.
async fn until(
    stack: &Stack,
    slug: &str,
    is_so: impl Fn(&RestoreProof) -> bool,
) -> Result<RestoreProof> {
    let began = Instant::now();
    loop {
        let found = proof(stack, slug).await?;
        match found {
            Some(found) if is_so(&found) => return Ok(found),
            found => ensure!(began.elapsed() < PATIENCE, "the proof is {found:?}"),
        }
        sleep(PAUSE).await;
    }
}

async fn nothing_is_left(stack: &Stack) -> Result<()> {
    let began = Instant::now();
    loop {
        let mut cluster = PgConnection::connect(&stack.admin_url(REGION, "postgres")?).await?;
        let databases: i64 =
            sqlx::query_scalar("select count(*) from pg_database where datname like 's\\_%'")
                .fetch_one(&mut cluster)
                .await?;
        cluster.close().await?;
        let sites = stack.api()?.sites().await?;
        let here = |site: &&Site| site.placement.as_ref().is_some_and(|p| p.region == REGION);
        if usize::try_from(databases)? == sites.iter().filter(here).count() {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "{databases} databases are there");
        sleep(PAUSE).await;
    }
}

async fn named(stack: &Stack, slug: &str, words: &str) -> Result<()> {
    let said = stack.cli(&["backup", "status"])?.ok()?;
    let all = format!("{}{}", said.stdout, said.stderr);
    ensure!(all.contains(slug) && all.contains(words), "{all}");
    let shown = stack.cli(&["site", "show", slug])?.ok()?.stdout;
    ensure!(shown.contains("failed") && shown.contains(words), "{shown}");
    Ok(())
}

/// A file's object, where the embedded store has it.
async fn object(stack: &Stack, slug: &str) -> Result<PathBuf> {
    let id = site(stack, slug).await?.id;
    let store = stack.data_dir().join("object-stores").join(REGION);
    let mut directories = vec![store];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)?.flatten() {
            let path = entry.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.to_string_lossy().contains(&format!("site/{id}/blob/")) {
                return Ok(path);
            }
        }
    }
    anyhow::bail!("the site has no file")
}

async fn a_missing_file_is_found(stack: &Stack, slug: &str) -> Result<()> {
    let object = object(stack, slug).await?;
    let aside = object.with_extension("aside");
    std::fs::rename(&object, &aside)?;
    its_turn_comes(stack, slug).await?;
    until(stack, slug, |proof| proof.problem.is_some()).await?;
    named(stack, slug, "not in the object store").await?;
    std::fs::rename(&aside, &object)?;
    its_turn_comes(stack, slug).await?;
    until(stack, slug, |proof| proof.problem.is_none()).await?;
    Ok(())
}

/// A base backup of which bytes were changed in the object store.
async fn a_broken_backup_is_found(stack: &Stack, slug: &str) -> Result<()> {
    let store = stack.data_dir().join("object-stores").join(REGION);
    let mut directories = vec![store];
    let mut broken = 0;
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)?.flatten() {
            let path = entry.path();
            let text = path.to_string_lossy().into_owned();
            if path.is_dir() {
                directories.push(path);
            } else if text.contains("/backup/s/") && text.contains("/bundle/") {
                let mut bytes = std::fs::read(&path)?;
                let middle = bytes.len() / 2;
                bytes[middle] ^= 0xff;
                std::fs::write(&path, bytes)?;
                broken += 1;
            }
        }
    }
    ensure!(broken > 0, "no base backup was found");
    its_turn_comes(stack, slug).await?;
    until(stack, slug, |proof| proof.problem.is_some()).await?;
    named(stack, slug, "could not be brought back").await?;
    nothing_is_left(stack).await
}
