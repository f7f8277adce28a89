//! The demo's content as it is built into the binary: `demo.json`, and a folder per site with a
//! folder per course.

use anyhow::{Context as _, ensure};
use provisioner_api::sites::Role;
use serde::Deserialize;

/// Paths below `ops/demo` with their bytes, sorted by path.
static FILES: &[(&str, &[u8])] = include!(concat!(env!("OUT_DIR"), "/demo_files.rs"));

/// A site of the demo.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DemoSite {
    /// Its slug, and its folder.
    pub slug: String,
    /// The institution's name.
    pub name: String,
    /// Where it is.
    pub region: String,
    /// `id` or `en`.
    pub language: String,
    /// Its plan.
    pub plan: String,
    /// A hostname of its own.
    #[serde(default)]
    pub domain: Option<String>,
    /// Its accounts, the administrator first.
    pub accounts: Vec<Account>,
    /// Its courses: folders in its own.
    pub courses: Vec<String>,
}

/// An account of the demo.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Account {
    /// Signs in.
    pub email: String,
    /// The person.
    pub name: String,
    /// What the person may do.
    pub role: Role,
    /// Known to everybody who reads this; the demo listens on the loopback address only.
    pub password: String,
}

/// A course to import.
pub struct Course {
    /// Its folder.
    pub name: String,
    /// `course.json`.
    pub json: &'static [u8],
    /// Its files, by the path that `course.json` uses.
    pub files: Vec<(&'static str, &'static [u8])>,
}

/// All sites of the demo.
///
/// # Errors
/// When the manifest is malformed.
pub fn sites() -> anyhow::Result<Vec<DemoSite>> {
    let Some((_, manifest)) = FILES.iter().find(|(path, _)| *path == "demo.json") else {
        return Ok(Vec::new());
    };
    serde_json::from_slice(manifest).context("demo.json is malformed")
}

/// The courses of a site.
///
/// # Errors
/// When one of them is not there.
pub fn courses(site: &DemoSite) -> anyhow::Result<Vec<Course>> {
    site.courses.iter().map(|name| course(&site.slug, name)).collect()
}

fn course(slug: &str, name: &str) -> anyhow::Result<Course> {
    // A manifest may name the folder alone or with the site's before it.
    let name = name.strip_prefix(slug).and_then(|rest| rest.strip_prefix('/')).unwrap_or(name);
    let folder = format!("{slug}/{name}/");
    let (mut json, mut files) = (None, Vec::new());
    for (path, bytes) in FILES {
        match path.strip_prefix(&folder) {
            Some("course.json") => json = Some(*bytes),
            Some(path) => files.push((path, *bytes)),
            None => {}
        }
    }
    ensure!(json.is_some(), "the demo has no {folder}course.json");
    Ok(Course { name: name.to_owned(), json: json.unwrap_or_default(), files })
}
