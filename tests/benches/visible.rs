//! From a committed change in the control database to its being visible in a router: changes a site
//! again and again and asks the router's `/routes/<hostname>` for its version, with the notification
//! of the change and without it. Run by hand: `cargo build --release --workspace --bins && cargo
//! bench -p tests --bench visible`.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sqlx::{Connection, PgConnection, postgres::PgConnectOptions};
use tests::{Stack, stack::Start};

/// Changes with a notification.
const NOTIFIED: u64 = 300;
/// Changes without one; each takes about as long as half of the pause between two readings.
const UNNOTIFIED: u64 = 100;
const SLUG: &str = "visible";
const REGION: &str = "id-jakarta";
/// Between two questions to the router.
const ASK_AGAIN: Duration = Duration::from_micros(500);
/// Longer than anything that is measured.
const PATIENCE: Duration = Duration::from_secs(60);

fn main() -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let stack = Stack::start(Start::default())?;
    let admin = format!("admin@{SLUG}.test");
    let arguments = ["site", "create", SLUG, "--name", SLUG, "--region", REGION, "--admin", &admin];
    stack.cli(&arguments)?.ok()?;
    runtime.block_on(measure(&stack))
}

async fn measure(stack: &Stack) -> Result<()> {
    let options: PgConnectOptions = stack.control_database_url()?.parse()?;
    let mut database = PgConnection::connect_with(&options).await?;
    // A notification that is lost: in this session the function that sends one does nothing. The
    // change is in the feed all the same.
    let mut quiet = PgConnection::connect_with(&options).await?;
    sqlx::raw_sql(
        "create schema quiet;
         create function quiet.pg_notify(text, text) returns void language sql as 'select';
         set search_path = quiet, pg_catalog, public",
    )
    .execute(&mut quiet)
    .await?;
    let router = Router::of(stack)?;
    print("notified (bar: p99 250 ms)", &mut router.rounds(&mut database, NOTIFIED).await?);
    print("not notified (bar: 5 s)", &mut router.rounds(&mut quiet, UNNOTIFIED).await?);
    Ok(())
}

struct Router {
    http: reqwest::Client,
    url: String,
}

impl Router {
    fn of(stack: &Stack) -> Result<Self> {
        let admin = &stack.region(REGION)?.router.admin;
        let admin = admin.strip_prefix("http://").unwrap_or(admin).trim_end_matches('/');
        let http = reqwest::Client::builder().no_proxy().build()?;
        Ok(Self { http, url: format!("http://{admin}/routes/{SLUG}.localhost") })
    }

    async fn version(&self) -> Result<i64> {
        let seen: Value = self.http.get(&self.url).send().await?.json().await?;
        seen["version"].as_i64().with_context(|| format!("no version: {seen}"))
    }

    async fn rounds(&self, database: &mut PgConnection, n: u64) -> Result<Vec<Duration>> {
        let mut all = Vec::new();
        for round in 0..n {
            // At another point between two readings each time.
            tokio::time::sleep(Duration::from_millis(5 + round * 379 % 1_000)).await;
            let version: i64 = sqlx::query_scalar(
                "update site set name = 'round ' || $1 where slug = $2 returning version",
            )
            .bind(uuid::Uuid::now_v7().to_string())
            .bind(SLUG)
            .fetch_one(&mut *database)
            .await?;
            let committed = Instant::now();
            while self.version().await? < version {
                ensure!(committed.elapsed() < PATIENCE, "version {version} does not arrive");
                tokio::time::sleep(ASK_AGAIN).await;
            }
            all.push(committed.elapsed());
        }
        Ok(all)
    }
}

fn print(what: &str, all: &mut [Duration]) {
    all.sort();
    let at = |part: usize| all[(all.len() * part / 100).min(all.len() - 1)];
    println!(
        "{what}: n {}, p50 {:?}, p90 {:?}, p99 {:?}, max {:?}",
        all.len(),
        at(50),
        at(90),
        at(99),
        at(100)
    );
}
