//! The description of a whole course, as `POST /studio/import` takes it, and what can be wrong with
//! it. Everything is checked before anything is written.

use std::collections::BTreeSet;

use serde::Deserialize;

use crate::{
    courses::{EnrolmentType, Level, Status},
    lessons::video::Embed,
    locales::Language,
};

/// A course.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bundle {
    /// Made if there is none of this slug.
    pub subject: Subject,
    /// For people.
    pub title: String,
    /// In URLs; must be free.
    pub slug: String,
    /// Markdown.
    #[serde(default)]
    pub overview: String,
    /// What it is taught in.
    pub language: Language,
    /// How hard.
    #[serde(default)]
    pub difficulty_level: Option<Level>,
    /// About how long.
    #[serde(default)]
    pub estimated_hours: Option<i32>,
    /// How people get in.
    #[serde(default = "open")]
    pub enrollment_type: EnrolmentType,
    /// Whether it is shown at once.
    #[serde(default = "draft")]
    pub status: Status,
    /// The picture: the path of a file that is sent along.
    #[serde(default)]
    pub cover: Option<String>,
    /// In order.
    #[serde(default)]
    pub modules: Vec<Module>,
}

fn open() -> EnrolmentType {
    EnrolmentType::Open
}

fn draft() -> Status {
    Status::Draft
}

/// A subject.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Subject {
    /// In URLs.
    pub slug: String,
    /// For people.
    pub title: String,
}

/// A module.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Module {
    /// For people.
    pub title: String,
    /// For people.
    #[serde(default)]
    pub description: String,
    /// In order.
    #[serde(default)]
    pub contents: Vec<Content>,
}

/// A lesson.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Content {
    /// For people.
    pub title: String,
    /// In order.
    #[serde(default)]
    pub items: Vec<Item>,
}

/// A piece of a lesson.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase", deny_unknown_fields)]
pub enum Item {
    /// Markdown.
    Text {
        /// For people.
        #[serde(default)]
        title: String,
        /// The text.
        markdown: String,
    },
    /// A picture.
    Image {
        /// For people.
        #[serde(default)]
        title: String,
        /// The path of a file that is sent along.
        file: String,
        /// What it shows.
        #[serde(default)]
        alt: String,
    },
    /// A download.
    File {
        /// For people.
        #[serde(default)]
        title: String,
        /// The path of a file that is sent along.
        file: String,
    },
    /// A video: a link or a file.
    Video {
        /// For people.
        #[serde(default)]
        title: String,
        /// A page of YouTube or Vimeo.
        #[serde(default)]
        url: Option<String>,
        /// The path of a file that is sent along.
        #[serde(default)]
        file: Option<String>,
        /// What is said in it.
        #[serde(default)]
        transcript: Option<String>,
        /// Its length.
        #[serde(default)]
        duration_secs: Option<i32>,
    },
}

impl Item {
    /// For people.
    pub fn title(&self) -> &str {
        match self {
            Self::Text { title, .. }
            | Self::Image { title, .. }
            | Self::File { title, .. }
            | Self::Video { title, .. } => title,
        }
    }

    /// The path of its file.
    pub fn file(&self) -> Option<&str> {
        match self {
            Self::Text { .. } => None,
            Self::Image { file, .. } | Self::File { file, .. } => Some(file),
            Self::Video { file, .. } => file.as_deref(),
        }
    }
}

/// Lower-case letters, digits and single hyphens inside.
pub fn is_slug(text: &str) -> bool {
    !text.is_empty()
        && text.split('-').all(|part| {
            !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit())
        })
}

impl Bundle {
    /// What is wrong, each with the place in the JSON. `sent` are the paths of the files.
    pub fn mistakes(&self, sent: &BTreeSet<&str>) -> Vec<String> {
        let mut wrong = Mistakes(Vec::new());
        wrong.unless(
            is_slug(&self.slug) && self.slug.len() <= 200,
            "slug: lower-case letters, digits and single hyphens",
        );
        wrong.unless(
            is_slug(&self.subject.slug) && self.subject.slug.len() <= 100,
            "subject.slug: lower-case letters, digits and single hyphens",
        );
        wrong.text("subject.title", &self.subject.title, 100);
        wrong.text("title", &self.title, 200);
        wrong.unless(self.overview.chars().count() <= 50_000, "overview: at most 50000 characters");
        wrong.unless(self.status != Status::Archived, "status: draft or published");
        let hours = self.estimated_hours.is_none_or(|hours| (1..=10_000).contains(&hours));
        wrong.unless(hours, "estimated_hours: 1 to 10000");
        if let Some(cover) = &self.cover {
            wrong.unless(sent.contains(&**cover), &format!("cover: no file {cover:?} was sent"));
        }
        let lessons: usize = self.modules.iter().map(|module| module.contents.len()).sum();
        wrong.unless(self.modules.len() <= 500 && lessons <= 5_000, "modules: too many");
        for (m, module) in self.modules.iter().enumerate() {
            let place = format!("modules[{m}]");
            wrong.text(&format!("{place}.title"), &module.title, 200);
            let description = module.description.chars().count() <= 4_000;
            wrong.unless(description, &format!("{place}.description: at most 4000 characters"));
            for (c, content) in module.contents.iter().enumerate() {
                let place = format!("{place}.contents[{c}]");
                wrong.text(&format!("{place}.title"), &content.title, 250);
                wrong.unless(content.items.len() <= 200, &format!("{place}.items: too many"));
                for (i, item) in content.items.iter().enumerate() {
                    wrong.item(&format!("{place}.items[{i}]"), item, sent);
                }
            }
        }
        wrong.0
    }
}

struct Mistakes(Vec<String>);

impl Mistakes {
    fn unless(&mut self, right: bool, sentence: &str) {
        // A reader mends the first few and tries again.
        if !right && self.0.len() < 20 {
            self.0.push(sentence.to_owned());
        }
    }

    fn text(&mut self, place: &str, text: &str, most: usize) {
        let right = !text.trim().is_empty() && text.chars().count() <= most;
        self.unless(right, &format!("{place}: 1 to {most} characters"));
    }

    fn item(&mut self, place: &str, item: &Item, sent: &BTreeSet<&str>) {
        self.unless(
            item.title().chars().count() <= 250,
            &format!("{place}.title: at most 250 characters"),
        );
        if let Some(file) = item.file() {
            self.unless(sent.contains(file), &format!("{place}.file: no file {file:?} was sent"));
        }
        match item {
            Item::Text { markdown, .. } => {
                let right = markdown.chars().count() <= 500_000;
                self.unless(right, &format!("{place}.markdown: at most 500000 characters"));
            }
            Item::Image { alt, .. } => {
                self.unless(
                    alt.chars().count() <= 1000,
                    &format!("{place}.alt: at most 1000 characters"),
                );
            }
            Item::File { .. } => {}
            Item::Video { url, file, transcript, duration_secs, .. } => {
                self.unless(
                    url.is_some() != file.is_some(),
                    &format!("{place}: either url or file"),
                );
                if let Some(url) = url {
                    let right = url.len() <= 500 && Embed::of(url).is_some();
                    self.unless(
                        right,
                        &format!("{place}.url: an https link to a YouTube or Vimeo video"),
                    );
                }
                let length = transcript.as_ref().map_or(0, |text| text.chars().count());
                self.unless(
                    length <= 500_000,
                    &format!("{place}.transcript: at most 500000 characters"),
                );
                let duration = duration_secs.is_none_or(|seconds| seconds > 0);
                self.unless(duration, &format!("{place}.duration_secs: must be positive"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bundle(change: impl FnOnce(&mut serde_json::Value)) -> Vec<String> {
        let mut json = serde_json::json!({
            "subject": {"slug": "seni", "title": "Seni"}, "title": "Batik", "slug": "batik-1",
            "language": "id", "modules": [{"title": "A", "contents": [{"title": "B", "items": [
                {"type": "text", "markdown": "x"}, {"type": "image", "file": "a.png"},
                {"type": "video", "url": "https://youtu.be/dQw4w9WgXcQ"}]}]}]
        });
        change(&mut json);
        let bundle: Bundle = serde_json::from_value(json).expect("a bundle");
        bundle.mistakes(&BTreeSet::from(["a.png"]))
    }

    #[test]
    fn mistakes_name_their_place() {
        assert!(bundle(|_| {}).is_empty());
        assert_eq!(bundle(|json| json["slug"] = "Bad Slug".into()).len(), 1);
        let items = bundle(|json| {
            json["modules"][0]["contents"][0]["items"] = serde_json::json!([
            {"type": "file", "file": "../x"}, {"type": "video"},
            {"type": "video", "url": "https://evil.test/x"}])
        });
        assert_eq!(items.len(), 3, "{items:?}");
        assert!(items[0].starts_with("modules[0].contents[0].items[0].file"), "{items:?}");
        assert!(
            is_slug("a-1") && !is_slug("a--1") && !is_slug("-a") && !is_slug("A") && !is_slug("")
        );
    }
}
