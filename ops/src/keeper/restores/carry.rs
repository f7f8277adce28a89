//! From the server that reached the moment into the new database of the live one: all of it or nothing,
//! in one transaction.

use std::{path::Path, process::Stdio};

use anyhow::{Context as _, bail, ensure};
use provisioner_api::{backups::BACKGROUND, restores::RestoreOrder};
use sqlx::Connection as _;
use tokio::process::Child;

use super::{
    place::Place,
    scratch::{self, Scratch},
};
use crate::keeper::{
    background::{self, EndsBy},
    config::KeeperConfig,
    pgbackrest::password_file,
    server,
};

/// How long a session of ours may take to end, in milliseconds.
const SESSION_GRACE: i64 = 10_000;

/// Whether the new database has been filled before: it would not be there in part.
///
/// # Errors
/// When it is not there, or the server does not answer.
pub async fn is_done(config: &KeeperConfig, into: &str) -> anyhow::Result<bool> {
    let mut live = server::connect(config, into).await?;
    // Only system catalogs are read here, so there is no schema to check a query against.
    let is_done =
        sqlx::query_scalar("select exists (select from pg_namespace where nspname = 'platform')")
            .fetch_one(&mut live)
            .await?;
    let _ = live.close().await;
    Ok(is_done)
}

/// Ends what an earlier try still does in the new database.
///
/// # Errors
/// When the server does not answer, or something does not end.
pub async fn end_sessions(config: &KeeperConfig, into: &str) -> anyhow::Result<()> {
    let mut live = server::connect(config, "postgres").await?;
    // Only system catalogs are read here, so there is no schema to check a query against.
    let ended: Vec<bool> = sqlx::query_scalar(
        "select pg_terminate_backend(pid, $3) from pg_stat_activity
         where datname = $1 and application_name = $2",
    )
    .bind(into)
    .bind(BACKGROUND)
    .bind(SESSION_GRACE)
    .fetch_all(&mut live)
    .await?;
    let _ = live.close().await;
    ensure!(
        ended.into_iter().all(|ended| ended),
        "what an earlier try does in {into} does not end"
    );
    Ok(())
}

/// Carries everything over, and sees it on the disk.
///
/// # Errors
/// What the programs say.
pub async fn over(
    config: &KeeperConfig,
    programs: &Path,
    place: &Place,
    scratch: &Scratch<'_>,
    order: &RestoreOrder,
) -> anyhow::Result<()> {
    let (reader, writer) = std::io::pipe().context("no pipe")?;
    let mut dump = background::command(&programs.join("pg_dump"), EndsBy::Kill).await;
    dump.arg("--host")
        .arg(place.sockets()?)
        .args(["--port", &scratch::PORT.to_string(), "--username", scratch.superuser()])
        .args(["--no-password", "--format=custom", "--compress=0"])
        .args(["--no-owner", "--no-acl", "--no-publications", "--no-subscriptions"])
        .args(["--dbname", &order.database])
        .stdout(writer);
    let postgres = &config.postgres;
    let mut restore = background::command(&programs.join("pg_restore"), EndsBy::Kill).await;
    restore
        // A role's password is neither in an argument nor in an environment.
        .env("PGPASSFILE", password_file(&config.directory))
        .env("PGAPPNAME", BACKGROUND)
        // Nothing of it counts before the end, and then it is waited for.
        .env("PGOPTIONS", "-c synchronous_commit=off")
        .arg("--host")
        .arg(&postgres.socket_directory)
        .args(["--port", &postgres.port.to_string(), "--username", &postgres.user])
        .args(["--no-password", "--single-transaction", "--exit-on-error"])
        .args(["--no-owner", "--no-acl", "--no-tablespaces", "--role", &order.owner])
        .args(["--dbname", &order.into])
        .stdin(reader)
        .stdout(Stdio::null());
    let both = {
        let dump = dump.stderr(Stdio::piped()).spawn().context("pg_dump cannot be run")?;
        let restore = restore.stderr(Stdio::piped()).spawn();
        (dump, restore.context("pg_restore cannot be run")?)
    };
    // The commands hold the ends of the pipe: with them, no program would see the other one end.
    drop((dump, restore));
    let (dumped, restored) =
        tokio::join!(outcome("pg_dump", both.0), outcome("pg_restore", both.1));
    match (restored, dumped) {
        (Ok(()), Ok(())) => {}
        (Err(error), Ok(())) | (Ok(()), Err(error)) => return Err(error),
        // Each fails when the other does. Both have words for it.
        (Err(restored), Err(dumped)) => bail!("{restored}; {dumped}"),
    }
    ensure!(is_done(config, &order.into).await?, "the database held no site at that moment");
    settle(config, &order.into).await
}

/// Sees what is there arrive on the disk.
///
/// # Errors
/// When the server does not answer.
pub async fn settle(config: &KeeperConfig, into: &str) -> anyhow::Result<()> {
    let mut live = server::connect(config, into).await?;
    server::commit(&mut live).await?;
    let _ = live.close().await;
    Ok(())
}

async fn outcome(program: &str, child: Child) -> anyhow::Result<()> {
    let output = child.wait_with_output().await?;
    ensure!(
        output.status.success(),
        "{program}: {}",
        last_words(&String::from_utf8_lossy(&output.stderr))
            .unwrap_or_else(|| output.status.to_string())
    );
    Ok(())
}

/// The end of what a program complained of, in one line.
fn last_words(said: &str) -> Option<String> {
    const LINES: usize = 3;
    const MOST: usize = 300;
    let lines: Vec<_> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let last = lines.get(lines.len().saturating_sub(LINES)..)?.join(" ");
    (!last.is_empty()).then(|| last.chars().take(MOST).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn last_words_are_few() {
        assert_eq!(last_words(" \n"), None);
        let said = "pg_restore: a\npg_restore: b\n\npg_restore: error: c\nCommand was: d\n";
        assert_eq!(
            last_words(said).as_deref(),
            Some("pg_restore: b pg_restore: error: c Command was: d")
        );
        assert_eq!(last_words(&"x".repeat(1000)).map(|words| words.len()), Some(300));
    }
}
