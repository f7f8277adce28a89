//! The server beside the keeper: how it is reached, and what is to be known of it.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context as _, anyhow, ensure};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use tokio::time::timeout;

use super::config::KeeperConfig;

/// How long it may take to answer a connection.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a server that replays another's log must not have less of than the one that wrote it, or it ends
/// in the middle. (What `hot_standby` needs more is not here.)
const MATCHED: &[&str] =
    &["max_replication_slots", "max_active_replication_origins", "max_prepared_transactions"];

/// Connects to one of its databases.
///
/// # Errors
/// When it refuses, or does not answer.
pub async fn connect(config: &KeeperConfig, database: &str) -> anyhow::Result<PgConnection> {
    let postgres = &config.postgres;
    let mut options = PgConnectOptions::new_without_pgpass()
        .socket(&postgres.socket_directory)
        .port(postgres.port)
        .username(&postgres.user)
        .database(database)
        .application_name("ta3lem cluster keep")
        .disable_statement_logging();
    if let Some(password) = config.password()? {
        options = options.password(&password);
    }
    let connect = PgConnection::connect_with(&options);
    let connected = timeout(PATIENCE, connect).await.context("no answer")?;
    connected.map_err(|error| match error.as_database_error() {
        Some(refusal) => anyhow!("the server refuses: {}", refusal.message()),
        None => error.into(),
    })
}

/// What another server must know of it that goes on from its backups.
#[derive(Debug)]
pub struct Model {
    /// Where its programs are.
    pub programs: PathBuf,
    /// The superuser that it was made with: every backup has that one.
    pub superuser: String,
    /// Settings that the other one needs as they are here.
    pub settings: Vec<(String, String)>,
}

impl Model {
    /// Of the server of this connection.
    ///
    /// # Errors
    /// When it does not answer, or the role is no superuser.
    pub async fn of(config: &KeeperConfig, server: &mut PgConnection) -> anyhow::Result<Self> {
        // Only system catalogs are read here, so there is no schema to check a query against.
        let (superuser, is_superuser): (String, bool) = sqlx::query_as(
            "select rolname::text, (select rolsuper from pg_roles where rolname = current_user)
             from pg_roles where oid = 10",
        )
        .fetch_one(&mut *server)
        .await?;
        ensure!(
            is_superuser,
            "only a superuser can bring a database back, and the keeper's postgres.user is none"
        );
        let settings = sqlx::query_as("select name, setting from pg_settings where name = any($1)")
            .bind(MATCHED)
            .fetch_all(&mut *server)
            .await?;
        let programs = match &config.postgres.bin_directory {
            Some(directory) => directory.clone(),
            None => {
                let told = "select setting from pg_config where name = 'BINDIR'";
                let told: String = sqlx::query_scalar(told).fetch_one(server).await?;
                PathBuf::from(told)
            }
        };
        Ok(Self { programs, superuser, settings })
    }
}

/// Commits something. When this returns, it and all that was committed before is on the disk: a commit
/// that wrote nothing would not wait for that.
///
/// # Errors
/// When the server does not answer.
pub async fn commit(server: &mut PgConnection) -> anyhow::Result<()> {
    // One statement is one transaction. Nobody listens to such messages.
    sqlx::raw_sql("set synchronous_commit = on").execute(&mut *server).await?;
    sqlx::raw_sql("select pg_logical_emit_message(true, 'ta3lem', 'commit')")
        .execute(server)
        .await?;
    Ok(())
}
