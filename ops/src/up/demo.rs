//! The demo: sites with real courses, made on the first run through the same doors that everybody
//! uses, the API and the sites' own import. An interrupted first run is continued by the next one.

pub mod content;
pub mod visitor;

use std::{collections::BTreeSet, time::Instant};

use anyhow::{Context as _, bail, ensure};
use control_types::state::OperationState;
use provisioner_api::{
    client::{Client, ClientError},
    sites::{CreateSite, NewAccount, Role, Site},
};
use serde::{Deserialize, Serialize};

use self::{
    content::{Course, DemoSite},
    visitor::{Imported, Visitor},
};
use super::{
    authority::Authority,
    progress::{self, step},
    ready::Login,
};
use crate::data_dir::{DataDir, random_secret, write_private};

/// How far the demo of a data directory is.
#[derive(Serialize, Deserialize)]
struct Progress {
    /// Whether the first run wanted a demo.
    wanted: bool,
    /// Makes the idempotency keys of this data directory its own.
    nonce: String,
    /// Sites that are finished, whatever became of them since.
    finished: BTreeSet<String>,
    /// Courses that were imported, as `site/course`.
    imported: BTreeSet<String>,
}

/// Makes what is missing of the demo, if the first run wanted one. `routers` are the addresses of
/// the routers for HTTPS.
///
/// # Errors
/// When a site cannot be made or a course is refused.
pub async fn ensure(
    data: &DataDir,
    client: &Client,
    authority: &Authority,
    routers: &[String],
    wanted: bool,
) -> anyhow::Result<()> {
    let mut progress = load(data, wanted)?;
    if !progress.wanted {
        return Ok(());
    }
    let log = data.log("provisioner");
    for demo in content::sites()? {
        if progress.finished.contains(&demo.slug) {
            continue;
        }
        let name = format!("demo site '{}'", demo.slug);
        let site = step(&name, Some(&log), create(client, &demo, &progress.nonce)).await?;
        let mut visitor = None;
        for course in content::courses(&demo)? {
            let key = format!("{}/{}", demo.slug, course.name);
            if progress.imported.contains(&key) {
                continue;
            }
            let visitor = match &mut visitor {
                Some(visitor) => visitor,
                none => none.insert(sign_in(&site, &demo, authority, routers).await?),
            };
            import(visitor, &course).await?;
            progress.imported.insert(key);
            save(data, &progress)?;
        }
        progress.finished.insert(demo.slug.clone());
        save(data, &progress)?;
    }
    Ok(())
}

/// The demo accounts of a site; none when it is not a demo site.
///
/// # Errors
/// When the demo content is malformed.
pub fn logins(slug: &str) -> anyhow::Result<Vec<Login>> {
    let site = content::sites()?.into_iter().find(|site| site.slug == slug);
    let accounts = site.map(|site| site.accounts).unwrap_or_default();
    let login = |account: content::Account| Login {
        email: account.email,
        password: account.password,
        role: role_name(account.role).to_owned(),
    };
    Ok(accounts.into_iter().map(login).collect())
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::Student => "student",
        Role::Instructor => "instructor",
        Role::Staff => "staff",
        Role::Admin => "admin",
    }
}

fn load(data: &DataDir, wanted: bool) -> anyhow::Result<Progress> {
    let file = data.root().join("demo.json");
    match std::fs::read(&file) {
        Ok(text) => serde_json::from_slice(&text)
            .with_context(|| format!("{} is malformed", file.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let progress = Progress {
                wanted,
                nonce: random_secret(),
                finished: BTreeSet::new(),
                imported: BTreeSet::new(),
            };
            save(data, &progress)?;
            Ok(progress)
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", file.display())),
    }
}

fn save(data: &DataDir, progress: &Progress) -> anyhow::Result<()> {
    write_private(&data.root().join("demo.json"), &serde_json::to_vec_pretty(progress)?)
}

async fn create(client: &Client, demo: &DemoSite, nonce: &str) -> anyhow::Result<Site> {
    let mut accounts = demo.accounts.iter().map(|account| NewAccount {
        email: account.email.clone(),
        name: Some(account.name.clone()),
        role: account.role,
        password: Some(account.password.clone()),
    });
    let administrator = accounts.next().context("a demo site has an account")?;
    let create = CreateSite {
        slug: demo.slug.clone(),
        name: demo.name.clone(),
        region: demo.region.clone(),
        plan: demo.plan.clone(),
        allowed_regions: None,
        default_language: Some(demo.language.clone()),
        domain: demo.domain.clone(),
        administrator,
        accounts: accounts.collect(),
        reason: Some("the demo of the first run".to_owned()),
        dry_run: false,
    };
    let key = format!("demo-{}-{nonce}", demo.slug);
    let accepted = client.create_site(&create, &key).await?;
    let operation = client.wait_for(accepted.operation.id).await?;
    if operation.state != OperationState::Succeeded {
        bail!(
            "operation {} {}: {}",
            operation.id,
            operation.state,
            operation.last_error.unwrap_or_else(|| "no reason was given".to_owned())
        );
    }
    match client.site(&demo.slug).await {
        Ok(site) => Ok(site),
        Err(ClientError::Refused(problem)) if problem.status == 404 => {
            bail!("the site was deleted before its courses were there")
        }
        Err(error) => Err(error.into()),
    }
}

async fn sign_in(
    site: &Site,
    demo: &DemoSite,
    authority: &Authority,
    routers: &[String],
) -> anyhow::Result<Visitor> {
    let url = site.domains.first().map(|domain| domain.url.as_str());
    let url = url.context("the site has no hostname")?;
    let admin = demo.accounts.first().context("a demo site has an account")?;
    let certificate = std::fs::read(&authority.certificate)?;
    let visitor = Visitor::new(url, &certificate, routers)?;
    visitor
        .sign_in(&admin.email, &admin.password)
        .await
        .with_context(|| format!("cannot sign in at {url} as {}", admin.email))
}

async fn import(visitor: &mut Visitor, course: &Course) -> anyhow::Result<()> {
    let begun = Instant::now();
    let imported = visitor.import(course).await;
    let imported =
        imported.with_context(|| format!("the course '{}' was not imported", course.name))?;
    let what = match imported {
        Imported::New => "course",
        Imported::WasThere => "course (there already)",
    };
    progress::ok(&format!("{what} '{}'", course.name), begun);
    Ok(())
}

/// The manifest and the content fit together; checked by a test, so that a binary with a broken
/// demo is not built.
///
/// # Errors
/// What does not fit.
pub fn check() -> anyhow::Result<()> {
    for demo in content::sites()? {
        ensure!(!demo.accounts.is_empty(), "{} has no account", demo.slug);
        ensure!(demo.accounts[0].role == Role::Admin, "{}: the first is the admin", demo.slug);
        for course in content::courses(&demo)? {
            serde_json::from_slice::<serde_json::Value>(course.json)
                .with_context(|| format!("{}/{}", demo.slug, course.name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_demo_is_complete() {
        super::check().expect("a manifest that fits its content");
    }
}
