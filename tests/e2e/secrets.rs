//! No secret is in a log line, a process's arguments or its environment.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use provisioner::{
    control_db::ControlDb,
    secrets::{BackupSecrets, ClusterAdminUrl, Keys, ObjectStoreAdmin, PlacementSecrets},
};
use sqlx::Row;
use tests::Stack;

use crate::site_life::{create, delete};

/// Everything that must be nowhere.
async fn secrets(stack: &Stack) -> Result<BTreeSet<String>> {
    let mut all = BTreeSet::new();
    let directory = stack.data_dir().join("secrets");
    let mut files = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(&directory)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a name")?.to_owned();
        let text = std::fs::read_to_string(&path)?;
        if let Some(region) =
            name.strip_prefix("region-").and_then(|n| n.strip_suffix(".keys.json"))
        {
            files.insert(region.to_owned(), path.clone());
        }
        // Keys and passwords are long runs of letters and digits in these files.
        let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '+' && c != '/');
        all.extend(words.filter(|word| word.len() >= 32).map(str::to_owned));
    }
    ensure!(all.len() >= 6, "found only {} secrets", all.len());
    let keys = Keys::load(&files).map_err(|errors| anyhow::anyhow!("{errors:?}"))?;
    let db = ControlDb::new(&stack.control_database_url()?)?;
    let placements =
        sqlx::query("select id, region, sealed_secrets from placement").fetch_all(&db.pool).await?;
    for row in placements {
        let (id, region): (uuid::Uuid, String) = (row.get(0), row.get(1));
        let sealed: Vec<u8> = row.get(2);
        let opened: PlacementSecrets = keys.open(&region, id, &sealed)?;
        all.extend([opened.database_password, opened.secret_key]);
    }
    for row in
        sqlx::query("select id, region, sealed_admin_url from cluster").fetch_all(&db.pool).await?
    {
        let (id, region): (uuid::Uuid, String) = (row.get(0), row.get(1));
        let sealed: Vec<u8> = row.get(2);
        let opened: ClusterAdminUrl = keys.open(&region, id, &sealed)?;
        all.insert(opened.0);
    }
    for row in
        sqlx::query("select id, region, sealed_admin from object_store").fetch_all(&db.pool).await?
    {
        let (id, region): (uuid::Uuid, String) = (row.get(0), row.get(1));
        let sealed: Vec<u8> = row.get(2);
        let opened: ObjectStoreAdmin = keys.open(&region, id, &sealed)?;
        all.extend([opened.secret_key, opened.key_admin_token]);
    }
    let backups = "select cluster_id, region, sealed_secrets from cluster_backup";
    for row in sqlx::query(backups).fetch_all(&db.pool).await? {
        let (id, region): (uuid::Uuid, String) = (row.get(0), row.get(1));
        let sealed: Vec<u8> = row.get(2);
        let opened: BackupSecrets = keys.open(&region, id, &sealed)?;
        all.extend([opened.secret_key, opened.passphrase]);
    }
    for site in &stack.ready.sites {
        all.extend(site.logins.iter().map(|login| login.password.clone()));
    }
    Ok(all)
}

pub async fn no_secret_is_anywhere_to_be_read(stack: &Stack) -> Result<()> {
    let origin = create(stack, "discreet").await?;
    stack.visitor()?.read(&format!("{origin}/")).await?;
    stack.visitor()?.sign_in(&origin, "admin@discreet.test", "a-long-password-1").await?;
    let mut secrets = secrets(stack).await?;
    secrets.insert("a-long-password-1".to_owned());
    let logs = stack.logs()?;
    // The summary of the first start shows the demo's passwords on purpose, in `up.log` alone.
    let shown = stack.ready.sites.iter().flat_map(|site| &site.logins);
    let shown: BTreeSet<_> = shown.map(|login| login.password.as_str()).collect();
    for secret in &secrets {
        let times = logs.matches(secret.as_str()).count();
        let allowed = usize::from(shown.contains(secret.as_str()));
        ensure!(times <= allowed, "a secret is in the logs {times} times: {}…", &secret[..6]);
    }
    let mut n_processes = 0;
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let is_process = path
            .file_name()
            .and_then(|name| name.to_str())
            .is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        if !is_process {
            continue;
        }
        n_processes += 1;
        for file in ["cmdline", "environ"] {
            let text = std::fs::read(path.join(file)).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            for secret in &secrets {
                ensure!(!text.contains(secret.as_str()), "a secret is in {}", path.display());
            }
        }
    }
    ensure!(n_processes > 5, "no processes were seen");
    delete(stack, "discreet").await
}
