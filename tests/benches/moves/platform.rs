//! A platform with sites, and moves of them with their figures.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use control_types::state::OperationState;
use provisioner::operations::move_site::Pace;
use provisioner_api::{
    Operation,
    client::Client,
    operations::OperationEvent,
    sites::{ChangeMove, CreateSite, MoveSite, NewAccount},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tests::{Stack, stack::Start};
use time::OffsetDateTime;
use uuid::Uuid;

/// Where sites are made.
pub const HOME: &str = "id-jakarta";
/// Where they go.
pub const AWAY: &str = "sg-singapore";
/// Of every account.
pub const PASSWORD: &str = "a-long-password-1";

/// A move that is over.
pub struct Moved {
    /// How long requests were held.
    pub held: Duration,
    /// Tries to switch that were given up before, in words.
    pub given_up: Vec<String>,
    /// From the beginning to the end.
    pub took: Duration,
    /// When its rows were copied; none when nothing was.
    pub copy: Option<Span>,
    /// When both places were compared.
    pub comparison: Option<Span>,
}

/// From when to when.
pub type Span = (Instant, Instant);

impl Moved {
    /// How long its rows were copied.
    pub fn copying(&self) -> Option<Duration> {
        self.copy.map(|(from, to)| to - from)
    }
}

/// A platform.
pub struct Platform {
    /// It.
    pub stack: Stack,
    /// Its API.
    pub api: Client,
}

impl Platform {
    /// Starts one.
    pub fn start() -> Result<Self> {
        let stack = Stack::start(Start::default())?;
        println!("up in {:?}", stack.took);
        let api = stack.api()?;
        Ok(Self { stack, api })
    }

    /// Makes a site that may be in both regions, with this many instructors.
    pub async fn create(&self, slug: &str, n_instructors: usize) -> Result<()> {
        let account = |number| NewAccount {
            email: instructor(slug, number),
            name: None,
            role: provisioner_api::sites::Role::Instructor,
            password: Some(PASSWORD.to_owned()),
        };
        let request = CreateSite {
            slug: slug.to_owned(),
            name: format!("{slug} Academy"),
            region: HOME.to_owned(),
            plan: "enterprise".to_owned(),
            allowed_regions: Some(vec![HOME.to_owned(), AWAY.to_owned()]),
            default_language: Some("en".to_owned()),
            domain: None,
            administrator: NewAccount {
                email: format!("admin@{slug}.test"),
                name: None,
                role: provisioner_api::sites::Role::default(),
                password: Some(PASSWORD.to_owned()),
            },
            accounts: (0..n_instructors).map(account).collect(),
            reason: Some("a benchmark".to_owned()),
            dry_run: false,
        };
        let accepted = self.api.create_site(&request, &Uuid::new_v4().to_string()).await?;
        self.ended(&accepted.operation).await?;
        // The news of it may take a moment to the other region.
        let visitor = self.stack.visitor()?;
        let url = format!("{}/", self.stack.url(slug, AWAY)?);
        let begun = Instant::now();
        while let Err(error) = visitor.read(&url).await {
            ensure!(begun.elapsed() < Duration::from_secs(30), "{slug} does not open: {error:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Moves a site to the other region with a copy of everything.
    pub async fn go(&self, slug: &str, pace: Pace) -> Result<Moved> {
        let site = self.api.site(slug).await?;
        let here = site.placement.context("the site is nowhere")?.region;
        let region = if here == HOME { AWAY } else { HOME };
        let fast = pace == Pace::Fast;
        let wanted = MoveSite { region: Some(region.to_owned()), fast, ..MoveSite::default() };
        let accepted = self.api.move_site(slug, &wanted, &Uuid::new_v4().to_string()).await?;
        self.moved(&accepted.operation).await
    }

    /// Moves a site back to where it was.
    pub async fn return_(&self, slug: &str) -> Result<Moved> {
        let change = ChangeMove::default();
        let accepted = self.api.move_site_back(slug, &change, &Uuid::new_v4().to_string()).await?;
        self.moved(&accepted.operation).await
    }

    /// Removes what the last move left, so that the next one copies everything again.
    pub async fn settle(&self, slug: &str) -> Result<()> {
        let change = ChangeMove::default();
        let accepted = self.api.settle_site(slug, &change, &Uuid::new_v4().to_string()).await?;
        self.ended(&accepted.operation).await?;
        Ok(())
    }

    /// The operation when it has succeeded.
    pub async fn ended(&self, operation: &Operation) -> Result<Operation> {
        let ended = self.api.wait_for(operation.id).await?;
        ensure!(
            ended.state == OperationState::Succeeded,
            "{} of {}: {} {:?}",
            ended.kind,
            ended.site,
            ended.state,
            ended.last_error
        );
        Ok(ended)
    }

    async fn moved(&self, operation: &Operation) -> Result<Moved> {
        let ended = self.ended(operation).await?;
        let news = self.api.operation_news(ended.id, 0, Duration::ZERO).await?;
        let of = |step: &str| -> Vec<&OperationEvent> {
            news.events.iter().filter(|event| event.step == step).collect()
        };
        let said = |event: &OperationEvent, what: &str| {
            let detail = event.detail.as_ref()?;
            detail[what].as_str().map(str::to_owned)
        };
        let switch = of("switch");
        let note = switch.iter().find_map(|event| said(event, "note"));
        let note = note.context("the switch noted nothing")?;
        let held = note.split_whitespace().find_map(|word| word.parse().ok());
        let held = held.with_context(|| format!("no milliseconds in: {note}"))?;
        let given_up = switch.iter().filter_map(|event| said(event, "reason")).collect();
        let span = |first: &str, last: &str| {
            let (first, last) = (of(first).first()?.at, of(last).last()?.at);
            Some((instant(first)?, instant(last)?))
        };
        let took = ended.finished_at.context("it did not end")? - ended.created_at;
        Ok(Moved {
            held: Duration::from_millis(held),
            given_up,
            took: Duration::try_from(took)?,
            copy: span("start_copy", "await_copy"),
            comparison: span("compare", "compare"),
        })
    }

    /// Fills the site's database with events of about this many bytes in all, as its superuser: that
    /// these rows are there is not what is measured.
    pub async fn fill(&self, slug: &str, bytes: u64) -> Result<()> {
        /// Of a row with its part of the three indexes.
        const ROW: u64 = 640;
        let site = self.api.site(slug).await?;
        let place = site.placement.context("the site is nowhere")?;
        let url = self.stack.admin_url(&place.region, &place.database)?;
        let mut database = PgConnection::connect(&url).await?;
        let sql = format!(
            "insert into audit_event (at, action, detail)
             select now() - n * interval '1 second', 'bench.fill',
                    jsonb_build_object('n', n, 'text', repeat(md5(n::text), 13))
             from generate_series(1, {}) n",
            bytes / ROW
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut database).await?;
        for statement in ["vacuum analyze audit_event", "checkpoint"] {
            sqlx::raw_sql(statement).execute(&mut database).await?;
        }
        let has: i64 = sqlx::query_scalar("select pg_database_size(current_database())")
            .fetch_one(&mut database)
            .await?;
        println!("{slug}: {} rows, {} MB", bytes / ROW, has / 1_000_000);
        database.close().await?;
        Ok(())
    }

    /// Dumps the site's database and restores it at the other region's server, as one would who has
    /// closed the site for that; then drops it there. How long both took.
    pub async fn dump_and_restore(&self, slug: &str) -> Result<Duration> {
        let site = self.api.site(slug).await?;
        let place = site.placement.context("the site is nowhere")?;
        let region = if place.region == HOME { AWAY } else { HOME };
        let from = self.stack.admin_url(&place.region, &place.database)?;
        let to = self.stack.admin_url(region, "restored")?;
        let mut server = PgConnection::connect(&self.stack.admin_url(region, "postgres")?).await?;
        sqlx::raw_sql("create database restored").execute(&mut server).await?;
        let pipe = "pg_dump --format=custom --compress=0 \"$0\" \
                    | pg_restore --no-owner --no-privileges --dbname=\"$1\"";
        let begun = Instant::now();
        let status = tokio::process::Command::new("bash")
            .args(["-o", "pipefail", "-c", pipe, &from, &to])
            .status()
            .await?;
        let took = begun.elapsed();
        ensure!(status.success(), "pg_dump or pg_restore: {status}");
        sqlx::raw_sql("drop database restored").execute(&mut server).await?;
        server.close().await?;
        Ok(took)
    }

    /// What the provisioner's log says of the parts of the last holds: a list for each part.
    pub fn parts_of_holds(&self, n_moves: usize) -> Result<BTreeMap<String, Vec<Duration>>> {
        let log = std::fs::read_to_string(self.stack.data_dir().join("logs/provisioner.log"))?;
        let mut parts: BTreeMap<String, Vec<Duration>> = BTreeMap::new();
        let holds = log.lines().filter_map(|line| line.split_once("requests were held for"));
        let holds: Vec<_> = holds.collect();
        for (_, rest) in holds.iter().rev().take(n_moves) {
            let Some((_, rest)) = rest.split_once(" ms: ") else { continue };
            let rest = rest.split('"').next().unwrap_or_default();
            for part in rest.split(", ") {
                let Some((name, ms)) = part.rsplit_once(' ') else { continue };
                let Ok(ms) = ms.parse() else { continue };
                parts.entry(name.to_owned()).or_default().push(Duration::from_millis(ms));
            }
        }
        Ok(parts)
    }
}

/// The address of one.
pub fn instructor(slug: &str, number: usize) -> String {
    format!("instructor-{number}@{slug}.test")
}

/// A moment by another clock of this machine.
fn instant(at: OffsetDateTime) -> Option<Instant> {
    Instant::now().checked_sub(Duration::try_from(OffsetDateTime::now_utc() - at).ok()?)
}
