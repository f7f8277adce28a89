//! The server that replays the log up to the moment. It works on the files of a backup, for nobody else
//! and not for long.

use std::{
    fs::OpenOptions,
    io::{Read as _, Seek as _, SeekFrom},
    os::unix::{fs::OpenOptionsExt as _, process::ExitStatusExt as _},
    path::Path,
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};
use time::OffsetDateTime;
use tokio::{
    process::Child,
    time::{sleep, timeout},
};

use super::place::Place;
use crate::{
    data_dir::write_private,
    keeper::{
        background::{self, EndsBy},
        server::Model,
    },
};

/// Part of the name of its socket.
pub const PORT: u16 = 5432;
/// How often it is looked whether it is there.
const LOOK: Duration = Duration::from_millis(50);
/// How long it may take to answer once it is.
const PATIENCE: Duration = Duration::from_secs(30);
/// How much of the end of its log is read, in bytes.
const LAST_WORDS: u64 = 64 * 1024;
/// The line of `postmaster.pid` that says how far a server is.
const STATUS_LINE: usize = 7;

/// What it is told in its arguments, since the restored files have settings of their own. Nothing that it
/// writes is worth keeping, and nobody reaches it but the keeper. What another server was told to send,
/// fetch or load is not for this one.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", ""),
    ("unix_socket_permissions", "0700"),
    ("unix_socket_group", ""),
    ("external_pid_file", ""),
    ("ssl", "off"),
    ("archive_mode", "off"),
    // So the number of connections and the like need not be those of the original.
    ("hot_standby", "off"),
    ("primary_conninfo", ""),
    ("max_logical_replication_workers", "0"),
    ("autovacuum", "off"),
    ("shared_preload_libraries", ""),
    ("session_preload_libraries", ""),
    ("local_preload_libraries", ""),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("synchronous_commit", "off"),
    ("restart_after_crash", "off"),
    ("max_connections", "20"),
    ("shared_buffers", "64MB"),
    ("huge_pages", "off"),
    // Goes with the data directory, however the server ends.
    ("dynamic_shared_memory_type", "mmap"),
    ("checkpoint_timeout", "1h"),
    // More of the log than this is not kept on the disk.
    ("max_wal_size", "1GB"),
    ("min_wal_size", "1GB"),
    ("jit", "off"),
    ("timezone", "UTC"),
    ("cluster_name", "ta3lem-restore"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_timezone", "UTC"),
    ("log_line_prefix", "%m [%p] "),
    ("lc_messages", "C"),
    ("log_min_messages", "warning"),
    ("log_statement", "none"),
    ("log_min_duration_statement", "-1"),
    ("log_min_error_statement", "panic"),
];

/// The server. It is stopped with its [`Place`].
pub struct Scratch<'a> {
    place: &'a Place,
    superuser: &'a str,
    child: Child,
}

impl<'a> Scratch<'a> {
    /// Starts it on the files in the place. It gets the log by the command `fetch`.
    ///
    /// # Errors
    /// When it cannot be started at all.
    pub async fn start(place: &'a Place, model: &'a Model, fetch: String) -> anyhow::Result<Self> {
        write_private(&place.settings(), b"# Its settings are arguments.\n")?;
        // The directory is the keeper's alone.
        write_private(&place.access(), b"local all all trust\n")?;
        let mut log = OpenOptions::new();
        let log = log.append(true).create(true).mode(0o600).open(place.log())?;
        let sockets = place.sockets()?;
        let mut command = background::command(&model.programs.join("postgres"), EndsBy::Quit).await;
        command.arg("-D").arg(place.data()).stdout(log.try_clone()?).stderr(log);
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let own = [
            ("config_file", path(&place.settings())),
            ("hba_file", path(&place.access())),
            ("port", PORT.to_string()),
            ("restore_command", fetch),
            ("unix_socket_directories", format!("\"{}\"", path(&sockets).replace('"', "\"\""))),
        ];
        let own = own.iter().map(|(name, value)| (*name, value.as_str()));
        let matched = model.settings.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        for (name, value) in own.chain(SETTINGS.iter().copied()).chain(matched) {
            command.args(["-c", &format!("{name}={value}")]);
        }
        // Killed at once it could not give back what it shares with its processes.
        let child = command.kill_on_drop(false).process_group(0).spawn();
        let child = child.context("the server that replays the log cannot be started")?;
        Ok(Self { place, superuser: &model.superuser, child })
    }

    /// Waits until it has reached the moment and takes connections. Answers when the last transaction was
    /// that it replayed.
    ///
    /// # Errors
    /// When it ends before; when the database did not exist at the moment.
    pub async fn reach_moment(&mut self, database: &str) -> anyhow::Result<Option<OffsetDateTime>> {
        // Its log would be full of refused connections if it were asked itself.
        while !self.is_ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the log cannot be replayed: {}", self.last_words(status));
            }
            sleep(LOOK).await;
        }
        let mut connection = match timeout(PATIENCE, self.connect(database)).await? {
            Ok(connection) => connection,
            Err(error) if is_missing_database(&error) => {
                bail!("the database did not exist at that moment")
            }
            Err(error) => return Err(error).context("the server that replayed the log refuses"),
        };
        // Only a function of the server is called here, so there is no schema to check a query against.
        let (is_in_recovery, last): (bool, Option<OffsetDateTime>) =
            sqlx::query_as("select pg_is_in_recovery(), pg_last_xact_replay_timestamp()")
                .fetch_one(&mut connection)
                .await?;
        let _ = connection.close().await;
        ensure!(!is_in_recovery, "the server that replays the log did not get to the moment");
        Ok(last)
    }

    /// Who owns everything there.
    pub fn superuser(&self) -> &str {
        self.superuser
    }

    fn is_ready(&self) -> bool {
        let file = std::fs::read_to_string(self.place.data().join("postmaster.pid"));
        file.is_ok_and(|text| text.lines().nth(STATUS_LINE).is_some_and(|s| s.trim() == "ready"))
    }

    async fn connect(&self, database: &str) -> Result<PgConnection, sqlx::Error> {
        let sockets =
            self.place.sockets().map_err(|error| sqlx::Error::Configuration(error.into()));
        PgConnectOptions::new_without_pgpass()
            .socket(sockets?)
            .port(PORT)
            .username(self.superuser)
            .database(database)
            .disable_statement_logging()
            .connect()
            .await
    }

    fn last_words(&self, status: ExitStatus) -> String {
        let words = end_of(&self.place.log()).ok().and_then(|log| complaint(&log));
        words.unwrap_or_else(|| match status.signal() {
            Some(signal) => format!("the server was killed by signal {signal}"),
            None => format!("the server ended with {status}"),
        })
    }
}

fn is_missing_database(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.as_deref() == Some("3D000")
}

fn end_of(log: &Path) -> std::io::Result<String> {
    let mut file = std::fs::File::open(log)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LAST_WORDS)))?;
    let mut end = Vec::new();
    file.read_to_end(&mut end)?;
    Ok(String::from_utf8_lossy(&end).into_owned())
}

/// What a server's log says of why it ended: its own last words, and those of pgBackRest, which brings it
/// the log.
fn complaint(log: &str) -> Option<String> {
    const MOST: usize = 400;
    let after = |line: &str, mark: &str| Some(line.split_once(mark)?.1.trim().to_owned());
    let last = |marks: &[&str]| {
        log.lines().rev().find_map(|line| marks.iter().find_map(|mark| after(line, mark)))
    };
    let mut words = last(&["PANIC:", "FATAL:"])?;
    if words.contains("recovery ended before configured recovery target was reached") {
        "the log in the object store ends before the moment".clone_into(&mut words);
    }
    if let Some(fetching) = last(&[" ERROR: ["]) {
        words = format!("{words} (pgbackrest archive-get: [{fetching})");
    }
    Some(words.chars().take(MOST).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_words_of_a_server_are_found() {
        assert_eq!(complaint("2026-11-30 10:00:00 UTC [7] LOG:  starting PostgreSQL\n"), None);
        let log = "2026-11-30 10:00:00 UTC [7] FATAL:  first\n\
                   2026-11-30 10:00:00 UTC [7] PANIC:  WAL contains references to invalid pages\n\
                   2026-11-30 10:00:01 UTC [6] LOG:  database system is shut down\n";
        assert_eq!(complaint(log).as_deref(), Some("WAL contains references to invalid pages"));
        let log = "2026-11-30 10:00:00.1 P00  ERROR: [103]: unable to find a valid repository\n\
                   2026-11-30 10:00:00 UTC [7] FATAL:  recovery ended before configured recovery \
                   target was reached\n";
        assert_eq!(
            complaint(log).as_deref(),
            Some(
                "the log in the object store ends before the moment (pgbackrest archive-get: \
                 [103]: unable to find a valid repository)"
            )
        );
    }
}
