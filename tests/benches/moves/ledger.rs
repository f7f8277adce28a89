//! A ledger kept through the pages of a site. Every entry is a file that an instructor adds to a
//! lesson (`POST /studio/lessons/{content}/items`): an object in the store and rows in four tables, and
//! sent twice it would be in the lesson twice. What was acknowledged must be there once at the end.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use reqwest::multipart::{Form, Part};
use serde_json::json;
use tests::{Visitor, studio};
use tokio::task::JoinHandle;

use super::platform::{AWAY, HOME, PASSWORD, Platform, instructor};

/// Entries in one lesson. Its page shows all of them.
const PER_LESSON: usize = 100;
/// Lessons of one writer.
const LESSONS: usize = 250;
/// Between two requests of one writer or reader.
const PAUSE: Duration = Duration::from_millis(25);
/// A writer looks at its lesson after so many entries.
const LOOKS: usize = 20;
/// So many entries have the same bytes, so that files come too, but not one for each entry.
const SAME_BYTES: usize = 20;

/// A request that succeeded.
#[derive(Clone, Copy)]
pub struct Answer {
    /// When it was sent.
    pub sent: Instant,
    /// How long it took.
    pub took: Duration,
}

/// What one writer or reader saw.
#[derive(Default)]
pub struct Seen {
    /// Writes, or pages read.
    pub answers: Vec<Answer>,
    /// What must not be, in words.
    pub errors: Vec<String>,
}

/// Who writes: an instructor with a course of its own, at one region's router.
struct Writer {
    visitor: Visitor,
    origin: String,
    course: String,
    token: String,
    lessons: Vec<String>,
    /// Entries that were acknowledged.
    acknowledged: Vec<usize>,
    /// Entries of which nobody knows.
    unknown: Vec<usize>,
}

/// Writers and readers at work.
pub struct Load {
    stop: Arc<AtomicBool>,
    writers: Vec<JoinHandle<Result<(Writer, Seen)>>>,
    readers: Vec<JoinHandle<Seen>>,
}

/// What came of it.
#[derive(Default)]
pub struct Outcome {
    /// Of all writers.
    pub writes: Seen,
    /// Of all readers.
    pub reads: Seen,
    /// Entries that were acknowledged.
    pub acknowledged: usize,
    /// Acknowledged entries that are not there.
    pub missing: Vec<String>,
    /// Entries that are there more than once.
    pub doubled: Vec<String>,
}

/// Begins: half of the writers and of the readers at each region's router.
pub async fn begin(
    platform: &Platform,
    slug: &str,
    n_writers: usize,
    n_readers: usize,
) -> Result<Load> {
    let stop = Arc::new(AtomicBool::new(false));
    let region = |number: usize| if number.is_multiple_of(2) { HOME } else { AWAY };
    let mut ready = Vec::new();
    for number in 0..n_writers {
        ready.push(Writer::new(platform, slug, region(number), number).await?);
    }
    let mut readers = Vec::new();
    for number in 0..n_readers {
        let url = format!("{}/courses", platform.stack.url(slug, region(number))?);
        readers.push(tokio::spawn(read(platform.stack.visitor()?, url, Arc::clone(&stop))));
    }
    let write = |writer: Writer| tokio::spawn(writer.write(Arc::clone(&stop)));
    let writers = ready.into_iter().map(write).collect();
    Ok(Load { stop, writers, readers })
}

impl Load {
    /// Ends it and reads everything back.
    pub async fn end(self, platform: &Platform, slug: &str) -> Result<Outcome> {
        self.stop.store(true, Ordering::SeqCst);
        let mut outcome = Outcome::default();
        for reader in self.readers {
            outcome.reads.add(reader.await?);
        }
        for (number, writer) in self.writers.into_iter().enumerate() {
            let (writer, seen) = writer.await??;
            outcome.writes.add(seen);
            // Through the other router, by somebody who signs in anew.
            let region = if number.is_multiple_of(2) { AWAY } else { HOME };
            let origin = platform.stack.url(slug, region)?;
            let visitor = platform.stack.visitor()?;
            visitor.sign_in(&origin, &instructor(slug, number), PASSWORD).await?;
            writer.read_back(&visitor, &origin, &mut outcome).await?;
        }
        Ok(outcome)
    }
}

impl Outcome {
    /// Prints it; fails when there is something that must not be.
    pub fn judge(&self) -> Result<()> {
        let list = |what: &str, list: &[String]| {
            println!(
                "{what}: {}",
                if list.is_empty() { "none".into() } else { list.len().to_string() }
            );
            list.iter().take(20).for_each(|one| println!("  {one}"));
        };
        println!("acknowledged writes: {}", self.acknowledged);
        list("errors of writers", &self.writes.errors);
        list("errors of readers", &self.reads.errors);
        list("acknowledged and missing", &self.missing);
        list("doubled", &self.doubled);
        let lists = [&self.writes.errors, &self.reads.errors, &self.missing, &self.doubled];
        ensure!(lists.iter().all(|list| list.is_empty()), "there is something that must not be");
        Ok(())
    }
}

impl Seen {
    fn add(&mut self, other: Self) {
        self.answers.extend(other.answers);
        self.errors.extend(other.errors);
    }

    /// The longest of the answers that came or were waited for in this time.
    pub fn longest(&self, from: Instant, to: Instant) -> Duration {
        let within = self.answers.iter().filter(|one| one.sent < to && one.sent + one.took > from);
        within.map(|one| one.took).max().unwrap_or_default()
    }

    /// How long they took that were sent within one of these times.
    pub fn within(&self, spans: &[(Instant, Instant)]) -> Vec<Duration> {
        let is_within = |at| spans.iter().any(|(from, to)| (*from..*to).contains(&at));
        let within = self.answers.iter().filter(|answer| is_within(answer.sent));
        within.map(|answer| answer.took).collect()
    }

    /// All that they took.
    pub fn times(&self) -> Vec<Duration> {
        self.answers.iter().map(|answer| answer.took).collect()
    }
}

impl Writer {
    async fn new(platform: &Platform, slug: &str, region: &str, number: usize) -> Result<Self> {
        let origin = platform.stack.url(slug, region)?;
        let visitor = platform.stack.visitor()?;
        visitor.sign_in(&origin, &instructor(slug, number), PASSWORD).await?;
        let course = format!("ledger-{number}");
        let contents: Vec<_> =
            (0..LESSONS).map(|lesson| json!({ "title": format!("Lesson {lesson}") })).collect();
        let bundle = json!({
            "subject": { "slug": "ledgers", "title": "Ledgers" },
            "title": format!("Ledger {number}"),
            "slug": course,
            "language": "en",
            "status": "published",
            "modules": [{ "title": "Entries", "contents": contents }],
        });
        let token = studio::import(&visitor, &origin, &bundle).await?;
        let lessons = studio::lessons(&visitor, &origin, &course).await?;
        ensure!(lessons.len() == LESSONS, "{} lessons", lessons.len());
        let (acknowledged, unknown) = (Vec::new(), Vec::new());
        Ok(Self { visitor, origin, course, token, lessons, acknowledged, unknown })
    }

    async fn write(mut self, stop: Arc<AtomicBool>) -> Result<(Self, Seen)> {
        let mut seen = Seen::default();
        for entry in 0.. {
            if stop.load(Ordering::SeqCst) {
                break;
            }
            let lesson = self.lesson(entry).context("the lessons are full")?.to_owned();
            let sent = Instant::now();
            let answer = self.add(&lesson, entry).await;
            let took = sent.elapsed();
            match answer {
                Ok(()) => {
                    self.acknowledged.push(entry);
                    seen.answers.push(Answer { sent, took });
                }
                Err(error) => {
                    self.unknown.push(entry);
                    seen.errors.push(format!("entry {entry}, after {took:?}: {error:#}"));
                }
            }
            if entry % LOOKS == LOOKS - 1
                && let Err(error) = self.look(&lesson, entry).await
            {
                seen.errors.push(format!("after entry {entry}: {error:#}"));
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok((self, seen))
    }

    fn lesson(&self, entry: usize) -> Option<&String> {
        self.lessons.get(entry / PER_LESSON)
    }

    async fn add(&self, lesson: &str, entry: usize) -> Result<()> {
        let bytes = format!("%PDF-1.4\n% {} {}\n", self.course, entry / SAME_BYTES);
        let file = Part::bytes(bytes.into_bytes()).file_name("note.pdf");
        let form = Form::new()
            .text("csrf", self.token.clone())
            .text("title", title(entry))
            .part("file", file);
        let url = format!("{}/studio/lessons/{lesson}/items", self.origin);
        let post = self.visitor.http().post(url).header("origin", &self.origin);
        let answer = post.multipart(form).send().await?;
        let status = answer.status();
        ensure!(status.is_redirection(), "{status}: {}", words(&answer.text().await?));
        Ok(())
    }

    /// What was acknowledged must be read at once, whatever happens to the site meanwhile.
    async fn look(&self, lesson: &str, last: usize) -> Result<()> {
        let there = entries(&self.visitor, &self.origin, &self.course, lesson).await?;
        let from = last - last % PER_LESSON;
        for entry in self.acknowledged.iter().filter(|entry| (from..=last).contains(*entry)) {
            let n = there.get(entry).copied().unwrap_or_default();
            ensure!(n == 1, "entry {entry} was acknowledged and is read {n} times");
        }
        Ok(())
    }

    async fn read_back(
        &self,
        visitor: &Visitor,
        origin: &str,
        outcome: &mut Outcome,
    ) -> Result<()> {
        outcome.acknowledged += self.acknowledged.len();
        let sent = self.acknowledged.len() + self.unknown.len();
        let mut there = BTreeMap::new();
        for lesson in self.lessons.iter().take(sent.div_ceil(PER_LESSON)) {
            there.extend(entries(visitor, origin, &self.course, lesson).await?);
        }
        let name = |entry: &usize| format!("{} of {}", title(*entry), self.course);
        let missing = self.acknowledged.iter().filter(|entry| !there.contains_key(*entry));
        outcome.missing.extend(missing.map(name));
        let doubled = there.iter().filter(|(_, n)| **n > 1);
        outcome.doubled.extend(doubled.map(|(entry, n)| format!("{}: {n} times", name(entry))));
        Ok(())
    }
}

fn title(entry: usize) -> String {
    format!("Entry {entry}")
}

/// How often each entry is in a lesson.
async fn entries(
    visitor: &Visitor,
    origin: &str,
    course: &str,
    lesson: &str,
) -> Result<BTreeMap<usize, usize>> {
    let page = visitor.read(&format!("{origin}/courses/{course}/lessons/{lesson}")).await?;
    let mut entries = BTreeMap::new();
    for rest in page.split("<h2>Entry ").skip(1) {
        let number = rest.split_once("</h2>").and_then(|(number, _)| number.parse().ok());
        *entries.entry(number.context("no number")?).or_default() += 1;
    }
    Ok(entries)
}

/// Reads a page again and again.
async fn read(visitor: Visitor, url: String, stop: Arc<AtomicBool>) -> Seen {
    let mut seen = Seen::default();
    while !stop.load(Ordering::SeqCst) {
        let sent = Instant::now();
        let page = visitor.read(&url).await;
        let took = sent.elapsed();
        match page {
            Ok(page) if page.contains("Ledger 0") => seen.answers.push(Answer { sent, took }),
            Ok(page) => seen.errors.push(format!("another page: {}", words(&page))),
            Err(error) => {
                seen.errors.push(format!("after {took:?}: {}", words(&format!("{error:#}"))));
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
    seen
}

/// The beginning of a page, on one line.
fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").chars().take(400).collect()
}
