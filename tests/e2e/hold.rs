//! A site is held for some seconds while people write: nobody sees an error, everybody's order is
//! kept, and the operator sees what the routers do.

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use futures_util::future::{try_join, try_join_all};
use provisioner::{
    control_db::{ControlDb, clusters, placements},
    secrets::Keys,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tests::Stack;

use crate::site_life::{create, delete};

/// For how long the site is held.
const HELD: Duration = Duration::from_secs(3);

pub async fn nobody_sees_a_held_site(stack: &Stack) -> Result<()> {
    let origin = create(stack, "pauser").await?;
    let stop = AtomicBool::new(false);
    let writers = try_join_all((0..6).map(|_| write(stack, &origin, &stop)));
    let operator = async {
        let told = hold_and_release(stack).await;
        stop.store(true, Ordering::SeqCst);
        told
    };
    let (slowest, ()) = try_join(writers, operator).await?;
    for slowest in slowest {
        ensure!(slowest >= HELD - Duration::from_millis(500), "did not wait: {slowest:?}");
        ensure!(slowest < HELD + Duration::from_secs(4), "waited for too long: {slowest:?}");
    }
    // What the operator may get wrong.
    let long = stack.cli(&["site", "hold", "pauser", "--seconds", "31"])?;
    ensure!(long.code == 2 && long.stderr.contains("1..=30"), "{}", long.stderr);
    let nobody = stack.cli(&["site", "hold", "nobody"])?;
    ensure!(nobody.code == 3, "{}: {}", nobody.code, nobody.stderr);
    stack.cli(&["site", "suspend", "pauser", "--reason", "a story"])?.ok()?;
    let closed = stack.cli(&["site", "hold", "pauser"])?;
    ensure!(closed.code != 0 && closed.stderr.contains("suspended"), "{}", closed.stderr);
    delete(stack, "pauser").await
}

/// Writes and reads back until it is told to stop; every answer must be right. Gives the longest time
/// that one took.
async fn write(stack: &Stack, origin: &str, stop: &AtomicBool) -> Result<Duration> {
    let visitor = stack.visitor()?;
    visitor.sign_in(origin, "admin@pauser.test", "a-long-password-1").await?;
    let mut slowest = Duration::ZERO;
    let mut number = 0;
    while !stop.load(Ordering::SeqCst) {
        let language = if number % 2 == 0 { "id" } else { "en" };
        let begun = Instant::now();
        let post = visitor.http().post(format!("{origin}/language")).header("origin", origin);
        let answer = post.form(&[("language", language), ("next", "/courses")]).send().await?;
        ensure!(answer.status().is_redirection(), "writing: {}", answer.status());
        slowest = slowest.max(begun.elapsed());
        let begun = Instant::now();
        let page = visitor.read(&format!("{origin}/courses")).await?;
        ensure!(page.contains(&format!("lang=\"{language}\"")), "an older page: {page}");
        slowest = slowest.max(begun.elapsed());
        number += 1;
    }
    ensure!(number > 2, "only {number} writes");
    Ok(slowest)
}

/// What routers say of a site among their busiest, at the router of Jakarta.
fn traffic(stack: &Stack, slug: &str) -> Result<serde_json::Value> {
    let top = stack.cli(&["router", "top", "--once", "--json"])?.ok()?.json()?;
    let routers = top.as_array().context("no list")?;
    let router = routers.iter().find(|router| router["region"] == "id-jakarta");
    let sites = router.context("no router")?["status"]["top_sites"].as_array().cloned();
    let mut sites = sites.unwrap_or_default().into_iter();
    Ok(sites.find(|site| site["slug"] == slug).unwrap_or_default())
}

/// The fence is in the site's database: it takes the right to write away, and nobody tells the routers.
/// Who writes then waits, who reads does not.
pub async fn who_writes_to_a_fenced_site_waits(stack: &Stack) -> Result<()> {
    let origin = create(stack, "fencer").await?;
    let visitor = stack.visitor()?;
    visitor.sign_in(&origin, "admin@fencer.test", "a-long-password-1").await?;
    let (mut admin, login) = administrator(stack, "fencer").await?;
    let rights = [
        format!("revoke {login}_rw from {login}; grant {login}_ro to {login}"),
        format!("revoke {login}_ro from {login}; grant {login}_rw to {login}"),
    ];
    let [fence, open] = rights.map(AssertSqlSafe);
    sqlx::raw_sql(fence).execute(&mut admin).await?;
    let writing = async {
        let post = visitor.http().post(format!("{origin}/language")).header("origin", &origin);
        let answer = post.form(&[("language", "id"), ("next", "/courses")]).send().await?;
        ensure!(answer.status().is_redirection(), "writing: {}", answer.status());
        Ok(())
    };
    let opening = async {
        let begun = Instant::now();
        while traffic(stack, "fencer")?["held"] != 1 {
            ensure!(begun.elapsed() < Duration::from_secs(10), "the write does not wait");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        stack.visitor()?.read(&format!("{origin}/")).await?;
        sqlx::raw_sql(open).execute(&mut admin).await?;
        Ok(())
    };
    try_join(writing, opening).await?;
    let page = visitor.read(&format!("{origin}/courses")).await?;
    ensure!(page.contains("lang=\"id\""), "it was not written: {page}");
    admin.close().await?;
    delete(stack, "fencer").await
}

/// The administrator of the cluster of a site in Jakarta, and the name of the site's login role.
async fn administrator(stack: &Stack, slug: &str) -> Result<(PgConnection, String)> {
    let db = ControlDb::new(&stack.control_database_url()?)?;
    let ring = stack.data_dir().join("secrets/region-id-jakarta.keys.json");
    let keys = Keys::load(&[("id-jakarta".to_owned(), ring)].into())
        .map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    let site = stack.api()?.site(slug).await?;
    let mut connection = db.pool.acquire().await?;
    let placement = placements::current(&mut connection, site.id).await?.context("no placement")?;
    let cluster = clusters::get(&db.pool, &keys, placement.cluster).await?;
    Ok((PgConnection::connect(&cluster.admin_url.0).await?, placement.database_name))
}

async fn hold_and_release(stack: &Stack) -> Result<()> {
    // The writers have begun.
    let busy = || traffic(stack, "pauser");
    let begun = Instant::now();
    while busy()?["requests_last_minute"].as_u64() < Some(60) {
        ensure!(begun.elapsed() < Duration::from_secs(60), "the writers do not begin");
        tokio::task::yield_now().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let held = stack.cli(&["site", "hold", "pauser", "--seconds", "20", "--json"])?.ok()?.json()?;
    let id = held["id"].as_str().context("no id")?;
    let routers = held["routers"].as_array().context("no routers")?;
    ensure!(!routers.is_empty() && routers.iter().all(|router| router["hold"] == id), "{held}");
    let until = Instant::now() + HELD;
    loop {
        let site = busy()?;
        if site["held"] == 6 && site["requests_in_flight"] == 0 {
            break;
        }
        ensure!(Instant::now() < until, "not everybody waits: {site}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let shown = stack.cli(&["router", "top", "--once"])?.ok()?.stdout;
    ensure!(shown.contains("pauser") && shown.contains("on hold"), "{shown}");
    let listed = stack.cli(&["router", "list"])?.ok()?.stdout;
    ensure!(listed.contains("id-jakarta") && listed.contains("fine"), "{listed}");
    tokio::time::sleep_until(until.into()).await;
    let released = stack.cli(&["site", "release", "pauser"])?.ok()?.stdout;
    ensure!(released.contains("go on") && released.contains("open"), "{released}");
    // All of them go on, and then some.
    let begun = Instant::now();
    while busy()?["held"] != 0 {
        ensure!(begun.elapsed() < Duration::from_secs(5), "somebody still waits");
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    Ok(())
}
