//! A site as it was at any moment, beside the site: exactly what was committed by then, files included,
//! to be looked at by whom it was made for and by nobody else, and changed by nobody. The site and the
//! others go on untouched, whatever is killed meanwhile.

mod accidents;
mod ledger;
mod promoted;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use control_types::state::OperationState;
use provisioner_api::{
    operations::{Operation, OperationFilter},
    previews::{AcceptedPreview, Preview},
};
use reqwest::StatusCode;
use serde_json::json;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tests::{
    Stack, Visitor,
    stack::{ReadySite, Start},
    studio,
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::time::{Instant, sleep};

use crate::site_life::is_gone;
use ledger::Ledger;
use promoted::People;

const REGION: &str = "id-jakarta";
const COURSE: &str = "before-the-accident";
const PATIENCE: Duration = Duration::from_secs(120);
const PAUSE: Duration = Duration::from_millis(100);

/// The platform, one of its sites, and that site's database.
struct Ground {
    stack: Stack,
    site: ReadySite,
    database: String,
}

pub async fn any_moment_beside_the_site() -> Result<()> {
    let ground = Ground::start().await?;
    ground.backed_up().await?;
    let before = ground.traces().await?;
    let learner = People::learner(&ground).await?;
    let instructor = People::before(&ground).await?;
    let moment = ground.accident().await?;
    let people = People::after(learner, &ground, instructor).await?;
    let preview = ground.restore(&["--at", &moment.format(&Rfc3339)?]).await?;
    ground.shows_what_was(&preview, moment).await?;
    ground.is_for_nobody_else(&preview).await?;
    ground.cannot_be_changed(&preview).await?;
    ground.the_site_goes_on(&preview).await?;
    ground.becomes_the_site(&preview, &people).await?;
    ground.remove(&preview).await?;
    ground.what_cannot_be_is_refused().await?;
    ground.goes_by_itself().await?;
    ground.a_cancelled_one_leaves_nothing().await?;
    ground.whoever_is_killed().await?;
    let after = ground.traces().await?;
    ensure!(before == after, "left behind: {after:?}, before: {before:?}");
    tokio::task::spawn_blocking(|| ground.stack.stop()).await??;
    Ok(())
}

/// As it is typed.
fn now() -> Result<String> {
    Ok(OffsetDateTime::now_utc().format(&Rfc3339)?)
}

impl Ground {
    async fn start() -> Result<Self> {
        let start = Start { demo: true, ..Start::default() };
        let stack = tokio::task::spawn_blocking(|| Stack::start(start)).await??;
        let mut sites = stack.ready.sites.iter();
        let site = sites.find(|site| site.region == REGION).context("no site")?.clone();
        let shown = stack.api()?.site(&site.slug).await?;
        let database = shown.placement.context("no place")?.database;
        Ok(Self { stack, site, database })
    }

    async fn connect(&self, database: &str) -> Result<PgConnection> {
        Ok(PgConnection::connect(&self.stack.admin_url(REGION, database)?).await?)
    }

    async fn backed_up(&self) -> Result<()> {
        let api = self.stack.api()?;
        let began = Instant::now();
        while api.site(&self.site.slug).await?.restorable.is_none() {
            ensure!(began.elapsed() < PATIENCE, "nothing can be restored");
            sleep(PAUSE).await;
        }
        Ok(())
    }

    /// A course with a file; then the moment; then the course is renamed and its lessons are gone.
    async fn accident(&self) -> Result<OffsetDateTime> {
        let teacher = self.signed_in("instructor").await?;
        let bundle = json!({
            "subject": { "slug": "accidents", "title": "Accidents" },
            "title": "Before the accident", "slug": COURSE, "status": "published",
            "language": "en",
            "modules": [{ "title": "One", "contents": [{
                "title": "The lesson", "items": [{ "type": "text", "markdown": "# As it was" }],
            }] }],
        });
        studio::import(&teacher, &self.site.url, &bundle).await?;
        let mut site = self.connect(&self.database).await?;
        let mut ledger = Ledger::begin(&mut site).await?;
        ledger.write(&mut site, 40).await?;
        let moment: OffsetDateTime =
            sqlx::query_scalar("select clock_timestamp()").fetch_one(&mut site).await?;
        ledger.write(&mut site, 40).await?;
        let accident = format!(
            "delete from module where course_id in (select id from course where slug = '{COURSE}');
             update course set title = 'After the accident' where slug = '{COURSE}'"
        );
        site.execute(AssertSqlSafe(accident)).await?;
        site.close().await?;
        Ok(moment)
    }

    async fn signed_in(&self, role: &str) -> Result<Visitor> {
        let visitor = self.stack.visitor()?;
        let login = self.site.logins.iter().find(|login| login.role == role);
        let login = login.with_context(|| format!("no {role}"))?;
        visitor.sign_in(&self.site.url, &login.email, &login.password).await?;
        Ok(visitor)
    }

    async fn restore(&self, moment: &[&str]) -> Result<Preview> {
        let mut arguments = vec!["site", "restore", &self.site.slug, "--json"];
        arguments.extend(["--reason", "a course was lost"]);
        arguments.extend(moment);
        let said = self.stack.cli(&arguments)?.ok()?;
        let accepted: AcceptedPreview = serde_json::from_str(&said.stdout)?;
        let (from, to) = (accepted.operation.created_at, accepted.operation.finished_at);
        println!("a preview was there after {:?}", to.context("not finished")? - from);
        Ok(accepted.preview)
    }

    /// Somebody who was given the link.
    async fn guest(&self, preview: &Preview) -> Result<(Visitor, String)> {
        let visitor = self.stack.visitor()?;
        let answer = visitor.open(&preview.link).await?;
        ensure!(answer.status() == StatusCode::SEE_OTHER, "the link: {}", answer.status());
        let origin = preview.link.split("/preview?").next().context("a link")?.to_owned();
        Ok((visitor, origin))
    }

    async fn shows_what_was(&self, preview: &Preview, moment: OffsetDateTime) -> Result<()> {
        let (visitor, origin) = self.guest(preview).await?;
        let home = visitor.read(&format!("{origin}/")).await?;
        let clock = format!("{:02}:{:02}:{:02}", moment.hour(), moment.minute(), moment.second());
        ensure!(home.contains(&clock), "no {clock} on the home page");
        let course = visitor.read(&format!("{origin}/courses/{COURSE}")).await?;
        ensure!(course.contains("Before the accident"), "the course is not as it was");
        let studio = visitor.read(&format!("{origin}/studio/courses/{COURSE}")).await?;
        ensure!(studio.contains("The lesson"), "the lesson is not there");
        let live = self.stack.visitor()?.read(&format!("{}/courses", self.site.url)).await?;
        ensure!(live.contains("After the accident"), "the live site changed");
        let file = self.first_cover(&visitor, &origin).await?;
        ensure!(!file.is_empty(), "an empty file");
        let database = self.database_of(preview).await?;
        let mut then = self.connect(&database).await?;
        Ledger::judge(&mut then, moment).await?;
        then.close().await?;
        Ok(())
    }

    /// A file of the site, through the preview.
    async fn first_cover(&self, visitor: &Visitor, origin: &str) -> Result<Vec<u8>> {
        let catalogue = visitor.read(&format!("{origin}/courses")).await?;
        let cover = catalogue.split("\"/covers/").nth(1).and_then(|rest| rest.split('"').next());
        let cover = cover.context("no cover in the catalogue")?;
        let answer = visitor.open(&format!("{origin}/covers/{cover}")).await?;
        ensure!(answer.status().is_success(), "the cover: {}", answer.status());
        Ok(answer.bytes().await?.to_vec())
    }

    async fn database_of(&self, preview: &Preview) -> Result<String> {
        let site = self.stack.api()?.site(preview.slug.as_str()).await?;
        Ok(site.placement.context("no place")?.database)
    }

    async fn is_for_nobody_else(&self, preview: &Preview) -> Result<()> {
        let origin = preview.link.split("/preview?").next().context("a link")?;
        let stranger = self.stack.visitor()?;
        for path in ["/", "/courses", "/sign-in", "/preview?key=guessed"] {
            let answer = stranger.open(&format!("{origin}{path}")).await?;
            let status = answer.status();
            let page = answer.text().await?;
            ensure!(status == StatusCode::FORBIDDEN, "{path} for a stranger: {status}");
            ensure!(!page.contains("accident"), "{path} tells a stranger: {page}");
        }
        let shown = self.stack.cli(&["site", "list"])?.ok()?.stdout;
        ensure!(!shown.contains(preview.slug.as_str()), "among the sites: {shown}");
        let shown = self.stack.cli(&["preview", "list", &self.site.slug])?.ok()?.stdout;
        ensure!(shown.contains(&preview.link), "not among the previews: {shown}");
        Ok(())
    }

    async fn cannot_be_changed(&self, preview: &Preview) -> Result<()> {
        let (visitor, origin) = self.guest(preview).await?;
        for path in ["/sign-in", "/studio/import", "/sign-out", "/language"] {
            let post = visitor.http().post(format!("{origin}{path}")).header("origin", &origin);
            let status = post.form(&[("a", "b")]).send().await?.status();
            ensure!(status == StatusCode::FORBIDDEN, "POST {path}: {status}");
        }
        let database = self.database_of(preview).await?;
        let mut connection = self.connect(&database).await?;
        let may: i64 = sqlx::query_scalar(
            "select count(*) from pg_class
             where relkind in ('r', 'S') and relnamespace in
                     ('public'::regnamespace, 'platform'::regnamespace)
                 and case relkind
                     when 'r' then has_table_privilege($1, oid, 'insert, update, delete, truncate')
                     else has_sequence_privilege($1, oid, 'usage, update') end",
        )
        .bind(&database)
        .fetch_one(&mut connection)
        .await?;
        ensure!(may == 0, "the preview's login may write {may} tables or sequences");
        connection.close().await?;
        let said =
            self.stack.cli(&["site", "move", preview.slug.as_str(), "--to", "sg-singapore"])?;
        ensure!(said.code != 0 && said.stderr.contains("is a preview"), "{said:?}");
        Ok(())
    }

    async fn the_site_goes_on(&self, preview: &Preview) -> Result<()> {
        let shown = self.stack.api()?.site(&self.site.slug).await?;
        ensure!(shown.live_operation.is_none(), "an operation is on the site");
        ensure!(shown.id == preview.of, "the preview is of another site");
        let mut site = self.connect(&self.database).await?;
        let rows: i64 =
            sqlx::query_scalar("select count(*) from ledger").fetch_one(&mut site).await?;
        ensure!(rows == 80, "{rows} rows in the site's ledger");
        site.close().await?;
        Ok(())
    }

    async fn remove(&self, preview: &Preview) -> Result<()> {
        let said = self.stack.cli(&["preview", "remove", &self.site.slug])?;
        ensure!(said.code != 0 && said.stderr.contains("is a site"), "{said:?}");
        self.stack.cli(&["preview", "remove", preview.slug.as_str()])?.ok()?;
        let origin = preview.link.split("/preview?").next().context("a link")?;
        is_gone(&self.stack.visitor()?, origin).await
    }

    async fn what_cannot_be_is_refused(&self) -> Result<()> {
        let slug = self.site.slug.as_str();
        for (moment, words) in [
            ("2020-01-01 00:00", "only"),
            ("yesterday", "15 minutes ago"),
            ("2099-01-01 00:00", "yet to come"),
            ("6 days ago", "only"),
        ] {
            let said = self.stack.cli(&["site", "restore", slug, "--at", moment])?;
            ensure!(said.code != 0 && said.stderr.contains(words), "{moment}: {said:?}");
        }
        let said = self.stack.cli(&["site", "restore", slug])?;
        ensure!(said.code == 2 && said.stderr.contains("--at"), "no moment: {said:?}");
        let dry = ["site", "restore", slug, "--at", &now()?, "--dry-run"];
        let said = self.stack.cli(&dry)?.ok()?.stdout;
        ensure!(said.contains("Nothing was changed"), "{said}");
        Ok(())
    }

    /// A preview of this moment, on a cluster where nobody writes; its time passes.
    async fn goes_by_itself(&self) -> Result<()> {
        let preview = self.restore(&["--at", &now()?]).await?;
        let mut control = PgConnection::connect(&self.stack.control_database_url()?).await?;
        control.execute("update preview set expires_at = now()").await?;
        let began = Instant::now();
        while !self.stack.api()?.previews().await?.is_empty() {
            ensure!(began.elapsed() < PATIENCE, "{} does not go", preview.slug);
            sleep(PAUSE).await;
        }
        control.close().await?;
        Ok(())
    }

    async fn a_cancelled_one_leaves_nothing(&self) -> Result<()> {
        let id = self.begin().await?;
        self.reaches(&id, "restore_database").await?;
        self.stack.cli(&["operation", "cancel", &id])?.ok()?;
        let ended = self.ended(&id).await?;
        ensure!(ended.state == OperationState::Cancelled, "it ended {}", ended.state);
        Ok(())
    }

    /// Begins to make a preview. The operation's id.
    async fn begin(&self) -> Result<String> {
        let slug = self.site.slug.as_str();
        let arguments = ["site", "restore", slug, "--at", &now()?, "--no-wait", "--json"];
        let said = self.stack.cli(&arguments)?.ok()?;
        let accepted: AcceptedPreview = serde_json::from_str(&said.stdout)?;
        Ok(accepted.operation.id.to_string())
    }

    async fn operation(&self, id: &str) -> Result<Operation> {
        Ok(self.stack.api()?.operation(id.parse()?).await?)
    }

    /// Waits until the operation is at this step, or past it.
    async fn reaches(&self, id: &str, step: &str) -> Result<()> {
        let began = Instant::now();
        loop {
            let news = self.stack.api()?.operation_news(id.parse()?, 0, Duration::ZERO).await?;
            let begun = news.events.iter().any(|event| event.step == step);
            if begun || news.operation.state.is_final() {
                return Ok(());
            }
            ensure!(began.elapsed() < PATIENCE, "{step} is not reached: {:?}", news.operation);
            sleep(Duration::from_millis(20)).await;
        }
    }

    async fn ended(&self, id: &str) -> Result<Operation> {
        let began = Instant::now();
        loop {
            // The provisioner may be killed just now.
            if let Ok(operation) = self.operation(id).await
                && (operation.state.is_final() || operation.state == OperationState::Stuck)
            {
                return Ok(operation);
            }
            ensure!(began.elapsed() < PATIENCE, "operation {id} does not end");
            sleep(PAUSE).await;
        }
    }

    /// What of previews there is: databases and roles of the cluster, directories of the keeper, orders,
    /// keys, and operations that are not done.
    async fn traces(&self) -> Result<Vec<String>> {
        let mut cluster = self.connect("postgres").await?;
        let mut traces: Vec<String> = sqlx::query_scalar(
            "select 'database ' || datname from pg_database
             union all select 'role ' || rolname from pg_roles where rolname like 's\\_%'",
        )
        .fetch_all(&mut cluster)
        .await?;
        cluster.close().await?;
        let mut control = PgConnection::connect(&self.stack.control_database_url()?).await?;
        let rows: Vec<String> = sqlx::query_scalar(
            "select 'order ' || id from restore_order
             union all select 'instance ' || id from instance where observed <> 'absent'",
        )
        .fetch_all(&mut control)
        .await?;
        control.close().await?;
        traces.extend(rows);
        let restores = self.stack.data_dir().join("keepers").join(REGION).join("restores");
        if let Ok(left) = std::fs::read_dir(restores) {
            traces.extend(left.flatten().map(|entry| format!("directory {:?}", entry.file_name())));
        }
        let keys = self.stack.data_dir().join("object-stores").join(REGION).join("keys.json");
        let keys: serde_json::Value = serde_json::from_slice(&std::fs::read(keys)?)?;
        traces.extend(keys.as_object().into_iter().flatten().map(|(key, _)| format!("key {key}")));
        let unfinished = self.stack.api()?.operations(&OperationFilter::default()).await?;
        let unfinished = unfinished.iter().filter(|operation| !operation.state.is_final());
        traces.extend(unfinished.map(|operation| format!("operation {}", operation.id)));
        traces.sort();
        Ok(traces)
    }
}
