//! Uploads that begin before a site moves and end after it: a small one is sent on to the new place,
//! a big one is refused in a way that lets the client send it again. Nothing of either is there half.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use control_types::state::OperationState;
use futures_util::stream;
use provisioner_api::sites::{CreateSite, MoveSite, NewAccount, Role};
use reqwest::{
    Body, Response,
    multipart::{Form, Part},
};
use serde_json::json;
use sqlx::Connection as _;
use tests::{Stack, Visitor, studio};
use tokio::sync::watch;
use uuid::Uuid;

use crate::site_life::{delete, request};

const SLUG: &str = "uploader";
const FROM: &str = "id-jakarta";
const TO: &str = "sg-singapore";
const EMAIL: &str = "teacher@uploader.test";
const PASSWORD: &str = "a-long-password-1";
/// More than a router keeps of a request.
const BIG: usize = 6 * 1024 * 1024;
const SMALL: usize = 20 * 1024;
/// How long an upload may take to begin.
const PATIENCE: Duration = Duration::from_secs(30);

pub async fn survive_a_move_or_are_sent_again(stack: &Stack) -> Result<()> {
    let teacher = Teacher::begin(stack).await?;
    let (moved, seen) = watch::channel(false);
    let (small, big) = (teacher.upload("small", SMALL, &seen), teacher.upload("big", BIG, &seen));
    let operator = async {
        // Both are under way: all but their last bytes were taken.
        begun(&moved).await?;
        let api = stack.api()?;
        let wanted = MoveSite { region: Some(TO.to_owned()), ..MoveSite::default() };
        let accepted = api.move_site(SLUG, &wanted, &Uuid::new_v4().to_string()).await?;
        let ended = api.wait_for(accepted.operation.id).await?;
        ensure!(ended.state == OperationState::Succeeded, "{:?}", ended.last_error);
        moved.send_replace(true);
        Ok(())
    };
    let (small, big, ()) = tokio::try_join!(small, big, operator)?;
    ensure!(small.status().is_redirection(), "small: {}", small.status());
    if !big.status().is_redirection() {
        ensure!(big.status() == 503, "big: {}", big.status());
        let after = big.headers().get("retry-after").context("no retry-after")?;
        after.to_str()?.parse::<u64>()?;
        let (_open, at_once) = watch::channel(true);
        let again = teacher.upload("big", BIG, &at_once).await?;
        ensure!(again.status().is_redirection(), "big, again: {}", again.status());
    }
    let page = teacher.visitor.read(&teacher.lesson_url()).await?;
    for title in ["small", "big"] {
        let n = page.matches(&format!("<h2>{title}</h2>")).count();
        ensure!(n == 1, "'{title}' is there {n} times:\n{page}");
    }
    started_once(stack).await?;
    delete(stack, SLUG).await
}

/// The process at the new place is the one that was started before the switch: another one would close
/// connections on which requests come.
async fn started_once(stack: &Stack) -> Result<()> {
    let mut control = sqlx::PgConnection::connect(&stack.control_database_url()?).await?;
    let starts: Vec<i32> = sqlx::query_scalar(
        "select starts from instance join placement on placement.id = instance.placement_id
         join site on site.id = instance.site_id
         where slug = $1 and placement.state = 'current'",
    )
    .bind(SLUG)
    .fetch_all(&mut control)
    .await?;
    control.close().await?;
    ensure!(starts == [1], "the process at the new place was started {starts:?} times");
    Ok(())
}

async fn begun(moved: &watch::Sender<bool>) -> Result<()> {
    // One receiver is ours, each upload has one, and another one while it waits for the news.
    let waiting = async {
        while moved.receiver_count() < 5 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.context("no upload began")
}

struct Teacher {
    visitor: Visitor,
    origin: String,
    lesson: String,
    token: String,
}

impl Teacher {
    /// Of a new site, with a course of one lesson.
    async fn begin(stack: &Stack) -> Result<Self> {
        let account = NewAccount {
            email: EMAIL.to_owned(),
            name: None,
            role: Role::Instructor,
            password: Some(PASSWORD.to_owned()),
        };
        let regions = Some([FROM, TO].map(str::to_owned).to_vec());
        // A plan whose sites are kept awake.
        let plan = "enterprise".to_owned();
        let accounts = vec![account];
        let site = CreateSite { allowed_regions: regions, plan, accounts, ..request(SLUG) };
        let api = stack.api()?;
        let accepted = api.create_site(&site, &Uuid::new_v4().to_string()).await?;
        let ended = api.wait_for(accepted.operation.id).await?;
        ensure!(ended.state == OperationState::Succeeded, "{:?}", ended.last_error);
        let (origin, visitor) = (stack.url(SLUG, FROM)?, stack.visitor()?);
        visitor.sign_in(&origin, EMAIL, PASSWORD).await?;
        let bundle = json!({
            "subject": { "slug": "files", "title": "Files" }, "title": "Files", "slug": "files",
            "language": "en", "modules": [{ "title": "One", "contents": [{ "title": "Lesson" }] }],
        });
        let token = studio::import(&visitor, &origin, &bundle).await?;
        let lessons = studio::lessons(&visitor, &origin, "files").await?;
        let lesson = lessons.into_iter().next().context("no lesson")?;
        Ok(Self { visitor, origin, lesson, token })
    }

    fn lesson_url(&self) -> String {
        format!("{}/courses/files/lessons/{}", self.origin, self.lesson)
    }

    /// A file whose last bytes come when `moved` is so.
    async fn upload(
        &self,
        title: &str,
        bytes: usize,
        moved: &watch::Receiver<bool>,
    ) -> Result<Response> {
        let all = format!("%PDF-1.4\n% {title}\n").into_bytes();
        let all = [all, vec![b' '; bytes]].concat();
        let (first, last) = all.split_at(all.len() - 10);
        let (first, last, moved) = (first.to_vec(), last.to_vec(), moved.clone());
        let pieces = stream::unfold(0, move |piece| {
            let (first, last, mut moved) = (first.clone(), last.clone(), moved.clone());
            async move {
                match piece {
                    0 => Some((std::io::Result::Ok(first), 1)),
                    1 => {
                        let _ = moved.wait_for(|moved| *moved).await;
                        Some((Ok(last), 2))
                    }
                    _ => None,
                }
            }
        });
        let file = Part::stream(Body::wrap_stream(pieces)).file_name("note.pdf");
        let form = Form::new()
            .text("csrf", self.token.clone())
            .text("title", title.to_owned())
            .part("file", file);
        let url = format!("{}/studio/lessons/{}/items", self.origin, self.lesson);
        let post = self.visitor.http().post(url).header("origin", &self.origin);
        Ok(post.multipart(form).send().await?)
    }
}
