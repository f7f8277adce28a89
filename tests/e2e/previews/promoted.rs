//! A preview becomes the site while people use it: without an error for anybody, with everything as it was
//! then, and nobody has again what was taken from them since. What was written since is kept, and one
//! command brings it back.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use anyhow::{Context, Result, ensure};
use provisioner_api::{previews::Preview, sites::Accepted};
use sqlx::{Connection as _, Executor as _, PgConnection};
use tests::{Visitor, visitor::hidden_fields};
use tokio::task::JoinHandle;

use super::{COURSE, Ground};
use crate::demo_sites::links;

/// Somebody who uses the site all the time.
struct User {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    task: JoinHandle<Result<()>>,
}

impl User {
    fn begin(visitor: Visitor, origin: String, lesson: String) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&done));
        let task = tokio::spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                let page = visitor.read(&format!("{origin}{lesson}")).await?;
                let action = format!("{lesson}/done");
                // Marked once, the form is gone.
                if hidden_fields(&page, &action).is_ok() {
                    let answer = visitor.submit(&origin, &page, &action, &[]).await?;
                    ensure!(answer.status().is_redirection(), "a mark: {}", answer.status());
                }
                counted.fetch_add(1, Ordering::Relaxed);
            }
            Ok(())
        });
        Self { stop, done, task }
    }

    async fn end(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await??;
        Ok(self.done.load(Ordering::Relaxed))
    }
}

impl Ground {
    pub async fn becomes_the_site(&self, preview: &Preview, people: &People) -> Result<()> {
        let slug = preview.slug.as_str();
        let said = self.stack.cli(&["preview", "promote", slug])?;
        ensure!(said.code == 2 && said.stderr.contains("--yes"), "not asked: {said:?}");
        let user =
            User::begin(people.learner.clone(), self.site.url.clone(), people.lesson.clone());
        self.promote(slug).await?;
        self.is_as_it_was().await?;
        people.have_what_they_may(self).await?;
        self.the_old_one_is_kept().await?;
        self.undo().await?;
        let pages = user.end().await.context("somebody saw an error")?;
        ensure!(pages > 20, "only {pages} pages were read meanwhile");
        self.settle().await
    }

    async fn promote(&self, slug: &str) -> Result<()> {
        let arguments = ["preview", "promote", slug, "--yes", "--reason", "as agreed", "--json"];
        let said = self.stack.cli(&arguments)?.ok()?;
        let accepted: Accepted = serde_json::from_str(&said.stdout)?;
        let news = self
            .stack
            .api()?
            .operation_news(accepted.operation.id, 0, std::time::Duration::ZERO)
            .await?;
        let notes = news.events.iter().filter(|event| event.step == "switch");
        println!("promoted: {:?}", notes.filter_map(|event| event.detail.clone()).next_back());
        Ok(())
    }

    async fn live(&self) -> Result<PgConnection> {
        let site = self.stack.api()?.site(&self.site.slug).await?;
        self.connect(&site.placement.context("no place")?.database).await
    }

    async fn is_as_it_was(&self) -> Result<()> {
        let page = self.stack.visitor()?.read(&format!("{}/courses", self.site.url)).await?;
        ensure!(page.contains("Before the accident"), "the course is not as it was");
        ensure!(!page.contains("After the accident"), "the accident is still there");
        let mut live = self.live().await?;
        let rows: i64 =
            sqlx::query_scalar("select count(*) from ledger").fetch_one(&mut live).await?;
        ensure!(rows == 40, "{rows} rows in the site's ledger");
        live.execute("insert into ledger values (1000, now())").await?;
        live.close().await?;
        Ok(())
    }

    async fn the_old_one_is_kept(&self) -> Result<()> {
        let shown = self.stack.cli(&["site", "show", &self.site.slug])?.ok()?.stdout;
        ensure!(shown.contains("Undo") && !shown.contains("Way back"), "{shown}");
        let said = self.stack.cli(&["site", "move-back", &self.site.slug])?;
        ensure!(said.code != 0 && said.stderr.contains("no way back"), "{said:?}");
        let mut old = self.connect(&self.database).await?;
        let rows: i64 =
            sqlx::query_scalar("select count(*) from ledger").fetch_one(&mut old).await?;
        ensure!(rows == 80, "{rows} rows in the old database");
        old.close().await?;
        Ok(())
    }

    async fn undo(&self) -> Result<()> {
        self.stack.cli(&["site", "undo-restore", &self.site.slug])?.ok()?;
        let page = self.stack.visitor()?.read(&format!("{}/courses", self.site.url)).await?;
        ensure!(page.contains("After the accident"), "the site is not what it was before");
        let mut live = self.live().await?;
        let rows: i64 =
            sqlx::query_scalar("select count(*) from ledger").fetch_one(&mut live).await?;
        ensure!(rows == 80, "{rows} rows in the site's ledger");
        live.close().await?;
        Ok(())
    }

    /// What is kept is removed.
    async fn settle(&self) -> Result<()> {
        self.stack.cli(&["site", "settle", &self.site.slug, "--yes"])?.ok()?;
        let said = self.stack.cli(&["site", "undo-restore", &self.site.slug])?;
        ensure!(said.code != 0 && said.stderr.contains("was not put back"), "{said:?}");
        Ok(())
    }
}

/// Those whose access must not change with the site's content.
pub struct People {
    /// Signed in after the moment.
    learner: Visitor,
    lesson: String,
    /// Was signed in at the moment, and was signed out since.
    signed_out: Visitor,
}

impl People {
    /// Before the moment: somebody learns.
    pub async fn learner(ground: &Ground) -> Result<String> {
        first_lesson(&ground.signed_in("student").await?, &ground.site.url).await
    }

    /// Before the moment: somebody teaches.
    pub async fn before(ground: &Ground) -> Result<Visitor> {
        ground.signed_in("instructor").await
    }

    /// After the moment: the instructor is signed out everywhere and is a student from now on.
    pub async fn after(lesson: String, ground: &Ground, instructor: Visitor) -> Result<Self> {
        let learner = ground.signed_in("student").await?;
        let login = ground.site.logins.iter().find(|login| login.role == "instructor");
        let email = &login.context("no instructor")?.email;
        let mut live = ground.connect(&ground.database).await?;
        sqlx::query(
            "with changed as (
                 update account set role = 'student' where email = $1 returning id)
             delete from session where account_id = (select id from changed)",
        )
        .bind(email)
        .execute(&mut live)
        .await?;
        live.close().await?;
        Ok(Self { learner, lesson, signed_out: instructor })
    }

    async fn have_what_they_may(&self, ground: &Ground) -> Result<()> {
        let origin = &ground.site.url;
        let mine = self.learner.open(&format!("{origin}/my-courses")).await?;
        ensure!(mine.status().is_success(), "who was signed in: {}", mine.status());
        let studio = self.signed_out.open(&format!("{origin}/studio")).await?;
        ensure!(studio.status().is_redirection(), "who was signed out: {}", studio.status());
        let mut live = ground.live().await?;
        let teachers: i64 = sqlx::query_scalar(
            "select count(*) from account where email = $1 and role <> 'student'",
        )
        .bind(&ground.site.logins.iter().find(|l| l.role == "instructor").context("none")?.email)
        .fetch_one(&mut live)
        .await?;
        ensure!(teachers == 0, "a role that was taken away came back");
        live.close().await?;
        Ok(())
    }
}

/// Of a course of the demo that anybody may enrol in.
async fn first_lesson(visitor: &Visitor, origin: &str) -> Result<String> {
    let catalogue = visitor.read(&format!("{origin}/courses")).await?;
    for course in links(&catalogue, "/courses/") {
        let page = visitor.read(&format!("{origin}{course}")).await?;
        let enrol = format!("{course}/enrol");
        if course.ends_with(COURSE) || !page.contains(&format!("action=\"{enrol}\"")) {
            continue;
        }
        visitor.submit(origin, &page, &enrol, &[]).await?;
        let answer = visitor.open(&format!("{origin}{course}/learn")).await?;
        if answer.status().is_success() {
            let learn = answer.text().await?;
            let lessons = links(&learn, &format!("{course}/lessons/"));
            return lessons.into_iter().next().context("a course without lessons");
        }
    }
    anyhow::bail!("no course that anybody may enrol in")
}
