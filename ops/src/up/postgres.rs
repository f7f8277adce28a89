//! Private Postgres clusters: finding the server's binaries, making a cluster, and what one is
//! started with. They listen on unix sockets only, every role needs its password, and a site's role
//! can only reach the database of its own name.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, bail, ensure};
use sqlx::{ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions};

use crate::{
    config,
    data_dir::{DataDir, existing_secret, make_socket_directory, secret_in},
};

/// The superuser of every cluster.
pub const ADMIN: &str = "ta3lem_admin";
/// Part of the name of the socket; each cluster has a directory of its own for it.
pub const PORT: u16 = 5432;
/// Slots, senders and workers of streams between clusters. Each site whose old place is kept for the way
/// back takes one of each for days, a move six for the time of its copy. What nobody takes costs a few
/// kilobytes.
const STREAMS: u32 = 100;
/// Background workers of other kinds: eight for parallel queries, the launcher of the streams.
const OTHER_WORKERS: u32 = 12;
/// How long a server may take to answer a connection.
const CONNECT_PATIENCE: Duration = Duration::from_secs(10);
/// The oldest server that works (`CREATE DATABASE … STRATEGY`).
const MIN_MAJOR: u32 = 15;
const HOMEBREW: &[&str] = &["/opt/homebrew", "/usr/local", "/home/linuxbrew/.linuxbrew"];

/// The server's programs.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// Where `postgres` and `initdb` lie.
    pub directory: PathBuf,
    /// The major version.
    pub major: u32,
}

impl Binaries {
    /// The newest ones on this machine, or those of the version that `data` was made with.
    ///
    /// # Errors
    /// When there are none, or none of the version needed: the message names the package.
    pub async fn find(data: &DataDir) -> anyhow::Result<Self> {
        let needed = made_with(data);
        let mut found = Vec::new();
        for directory in candidates() {
            if let Some(major) = major(&directory).await {
                found.push(Self { directory, major });
            }
        }
        found.sort_by_key(|binaries| std::cmp::Reverse(binaries.major));
        let fits = |binaries: &&Self| {
            needed.map_or(binaries.major >= MIN_MAJOR, |needed| binaries.major == needed)
        };
        if let Some(binaries) = found.iter().find(fits) {
            return Ok(binaries.clone());
        }
        let package = needed.map_or_else(|| "postgresql".to_owned(), |n| format!("postgresql-{n}"));
        let how = format!(
            "install the package `{package}` (Debian, Ubuntu), `postgresql-server` (Fedora, SUSE), \
             `postgresql` (Arch, Alpine) or `postgresql@17` (Homebrew)"
        );
        match (needed, found.first()) {
            (Some(needed), _) => bail!(
                "the data directory was made with Postgres {needed}, whose server programs are not \
                 installed: {how}"
            ),
            (None, Some(old)) => bail!(
                "Postgres {} in {} is too old ({MIN_MAJOR} or newer is needed): {how}",
                old.major,
                old.directory.display()
            ),
            (None, None) => bail!("no Postgres server programs were found: {how}"),
        }
    }
}

/// The version that wrote the clusters of a data directory.
fn made_with(data: &DataDir) -> Option<u32> {
    let version = std::fs::read_to_string(data.cluster("control").join("PG_VERSION")).ok()?;
    version.trim().parse().ok()
}

fn candidates() -> Vec<PathBuf> {
    let mut directories = config::search_path();
    for versions in ["/usr/lib/postgresql", "/usr/local/lib/postgresql"] {
        let entries = std::fs::read_dir(versions).into_iter().flatten().flatten();
        directories.extend(entries.map(|entry| entry.path().join("bin")));
    }
    let entries = std::fs::read_dir("/usr").into_iter().flatten().flatten();
    let pgdg = entries.filter(|entry| entry.file_name().to_string_lossy().starts_with("pgsql-"));
    directories.extend(pgdg.map(|entry| entry.path().join("bin")));
    for prefix in HOMEBREW {
        let opt = std::fs::read_dir(format!("{prefix}/opt")).into_iter().flatten().flatten();
        let kegs =
            opt.filter(|entry| entry.file_name().to_string_lossy().starts_with("postgresql"));
        directories.extend(kegs.map(|entry| entry.path().join("bin")));
    }
    directories.retain(|directory| {
        directory.join("postgres").is_file() && directory.join("initdb").is_file()
    });
    directories.dedup();
    directories
}

async fn major(directory: &Path) -> Option<u32> {
    let mut postgres = tokio::process::Command::new(directory.join("postgres"));
    let output = postgres.arg("--version").stdin(Stdio::null()).output().await.ok()?;
    parse_major(&String::from_utf8_lossy(&output.stdout))
}

/// Of `postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)`.
fn parse_major(text: &str) -> Option<u32> {
    let version = text.split("PostgreSQL) ").nth(1)?;
    let digits: String = version.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// One cluster.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// `control`, or the region.
    pub name: String,
    /// Its files.
    pub directory: PathBuf,
    /// Where its socket lies.
    pub sockets: PathBuf,
    /// Its log.
    pub log: PathBuf,
    /// The superuser's password.
    pub admin_password: String,
}

/// What a cluster is for.
#[derive(Clone, Debug)]
pub enum Purpose {
    /// The control database.
    Control,
    /// Sites of a region. Its log is archived.
    Sites {
        /// By this command.
        archive_command: String,
    },
}

impl Cluster {
    /// The component's name.
    pub fn component(&self) -> String {
        format!("postgres-{}", self.name)
    }

    /// The cluster `name` of a data directory; its password is made when absent.
    ///
    /// # Errors
    /// When the password or the directory for the socket cannot be had.
    pub fn of(data: &DataDir, name: &str) -> anyhow::Result<Self> {
        let password = secret_in(&data.secrets().join(format!("postgres-{name}")))?;
        let cluster = Self::with(data, name, password);
        make_socket_directory(&cluster.sockets)?;
        Ok(cluster)
    }

    /// A cluster that was made before; nothing is made here, so that anybody may look.
    ///
    /// # Errors
    /// When its password cannot be read.
    pub fn existing(data: &DataDir, name: &str) -> anyhow::Result<Self> {
        let password = existing_secret(&data.secrets().join(format!("postgres-{name}")))?;
        Ok(Self::with(data, name, password))
    }

    fn with(data: &DataDir, name: &str, admin_password: String) -> Self {
        Self {
            name: name.to_owned(),
            directory: data.cluster(name),
            sockets: data.socket_directory().join(format!("pg-{name}")),
            log: data.log(&format!("postgres-{name}")),
            admin_password,
        }
    }

    /// A URL for the superuser.
    pub fn admin_url(&self, database: &str) -> String {
        self.url(ADMIN, &self.admin_password, database)
    }

    /// A URL for a role; passwords are of [`crate::data_dir::random_secret`], so nothing in it needs
    /// escaping but the socket's directory.
    pub fn url(&self, role: &str, password: &str, database: &str) -> String {
        let host = self.sockets.to_string_lossy();
        let host: String = host
            .bytes()
            .map(|byte| match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                    char::from(byte).to_string()
                }
                _ => format!("%{byte:02X}"),
            })
            .collect();
        format!("postgres://{role}:{password}@{host}:{PORT}/{database}")
    }

    /// Makes the cluster's files, unless they are there, and writes its settings.
    ///
    /// # Errors
    /// When `initdb` fails: its words are in the error.
    pub async fn ensure(
        &self,
        purpose: &Purpose,
        binaries: &Binaries,
        secrets: &Path,
    ) -> anyhow::Result<()> {
        if !self.directory.join("PG_VERSION").exists() {
            self.make(binaries, secrets).await?;
        }
        self.configure(purpose)
    }

    async fn make(&self, binaries: &Binaries, secrets: &Path) -> anyhow::Result<()> {
        // Made aside and moved, so that an interrupted run leaves no half of a cluster.
        let aside = self.directory.with_extension("new");
        if aside.exists() {
            std::fs::remove_dir_all(&aside)?;
        }
        crate::data_dir::make_directory(aside.parent().context("a directory has a parent")?)?;
        let password_file = secrets.join(format!("postgres-{}", self.name));
        let mut initdb = tokio::process::Command::new(binaries.directory.join("initdb"));
        initdb
            .arg("--pgdata")
            .arg(&aside)
            .arg("--pwfile")
            .arg(&password_file)
            .args(["--username", ADMIN, "--auth=scram-sha-256", "--data-checksums"])
            .args(["--encoding=UTF8", "--locale=C", "--no-instructions"])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .process_group(0);
        let output = initdb.output().await.context("initdb cannot be run")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "initdb failed: {}", said.trim());
        std::fs::rename(&aside, &self.directory)?;
        Ok(())
    }

    fn configure(&self, purpose: &Purpose) -> anyhow::Result<()> {
        crate::data_dir::write_private(
            &self.directory.join("pg_hba.conf"),
            hba(purpose).as_bytes(),
        )?;
        crate::data_dir::write_private(
            &self.directory.join("ta3lem.conf"),
            settings(&self.sockets, purpose).as_bytes(),
        )
    }

    /// The command that serves this cluster in the foreground. It has no secret in it.
    pub fn command(&self, binaries: &Binaries) -> (PathBuf, Vec<String>) {
        let file = self.directory.join("ta3lem.conf");
        let arguments = vec![
            "-D".to_owned(),
            self.directory.to_string_lossy().into_owned(),
            "-c".to_owned(),
            format!("config_file={}", file.display()),
        ];
        (binaries.directory.join("postgres"), arguments)
    }

    /// Waits until the superuser can connect.
    ///
    /// # Errors
    /// When that does not happen in time.
    pub async fn wait_ready(&self, at_most: Duration) -> anyhow::Result<()> {
        let connect = async {
            // The server says nothing when it begins to listen.
            while self.connect().await.is_err() {
                tokio::time::sleep(Duration::from_millis(15)).await;
            }
        };
        if tokio::time::timeout(at_most, connect).await.is_ok() {
            return Ok(());
        }
        self.connect().await.map(drop).context("the server does not accept connections")
    }

    /// Connects to the database `postgres` as the superuser.
    ///
    /// # Errors
    /// When the server refuses or is not there.
    pub async fn connect(&self) -> anyhow::Result<PgConnection> {
        let options = PgConnectOptions::new_without_pgpass()
            .socket(&self.sockets)
            .port(PORT)
            .username(ADMIN)
            .password(&self.admin_password)
            .database("postgres")
            .application_name("ta3lem up")
            .disable_statement_logging();
        let connect = PgConnection::connect_with(&options);
        Ok(tokio::time::timeout(CONNECT_PATIENCE, connect).await.context("no answer")??)
    }
}

/// Who may connect. Sites' roles reach the database of their own name and no other.
fn hba(purpose: &Purpose) -> String {
    let roles = match purpose {
        Purpose::Control => {
            "local  control      ta3lem_provisioner     scram-sha-256\n\
             local  control      +ta3lem_router         scram-sha-256\n"
        }
        // Other clusters' servers, while a site moves: each role may connect to one database.
        Purpose::Sites { .. } => {
            "local  sameuser     all                    scram-sha-256\n\
             local  all          +ta3lem_mover          scram-sha-256\n"
        }
    };
    format!(
        "# Written by `ta3lem up` at every start.\n\
         local  all          {ADMIN}           scram-sha-256\n\
         local  replication  {ADMIN}           scram-sha-256\n\
         {roles}\
         local  all          all                    reject\n"
    )
}

/// Idle memory counts: most clusters of an embedded platform do little. Durability is not touched.
fn settings(sockets: &Path, purpose: &Purpose) -> String {
    let sockets = sockets.to_string_lossy().replace('\'', "''");
    let workers = STREAMS + OTHER_WORKERS;
    let (connections, buffers, archive) = match purpose {
        Purpose::Control => (100, "32MB", String::new()),
        Purpose::Sites { archive_command } => {
            let command = archive_command.replace('\'', "''");
            // What is not in the object store is lost with the machine: at most so many seconds of it.
            let archive = format!(
                "archive_mode = on\n\
                 archive_timeout = 30s\n\
                 archive_command = '{command}'\n"
            );
            (300, "64MB", archive)
        }
    };
    format!(
        "# Written by `ta3lem up` at every start.\n\
         listen_addresses = ''\n\
         port = {PORT}\n\
         unix_socket_directories = '{sockets}'\n\
         unix_socket_permissions = 0700\n\
         password_encryption = 'scram-sha-256'\n\
         max_connections = {connections}\n\
         shared_buffers = {buffers}\n\
         max_wal_size = 1GB\n\
         wal_level = logical\n\
         wal_compression = on\n\
         max_replication_slots = {STREAMS}\n\
         max_wal_senders = {STREAMS}\n\
         max_logical_replication_workers = {STREAMS}\n\
         max_worker_processes = {workers}\n\
         max_sync_workers_per_subscription = 4\n\
         max_slot_wal_keep_size = 8GB\n\
         recovery_init_sync_method = syncfs\n\
         autovacuum_naptime = 60s\n\
         idle_in_transaction_session_timeout = 10min\n\
         timezone = 'UTC'\n\
         log_timezone = 'UTC'\n\
         lc_messages = 'C'\n\
         log_line_prefix = '%m [%p] %q%u@%d '\n\
         log_statement = none\n\
         log_error_verbosity = terse\n\
         log_min_error_statement = panic\n\
         log_parameter_max_length_on_error = 0\n\
         log_parameter_max_length = 0\n\
         log_lock_waits = on\n\
         cluster_name = 'ta3lem'\n\
         {archive}",
    ) + if cfg!(target_os = "linux") { "" } else { "recovery_init_sync_method = fsync\n" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n", Some(15)),
            ("postgres (PostgreSQL) 18beta2\n", Some(18)),
            ("postgres (PostgreSQL) 9.6.24\n", Some(9)),
            ("", None),
        ] {
            assert_eq!(parse_major(text), major, "{text:?}");
        }
    }

    #[test]
    fn a_url_is_read_by_the_driver() {
        let cluster = Cluster {
            name: "control".into(),
            directory: PathBuf::new(),
            sockets: PathBuf::from("/tmp/a b%/pg"),
            log: PathBuf::new(),
            admin_password: "secret".into(),
        };
        let options: PgConnectOptions = cluster.admin_url("control").parse().expect("a URL");
        assert_eq!(options.get_socket(), Some(&PathBuf::from("/tmp/a b%/pg")));
        assert_eq!(options.get_database(), Some("control"));
        assert_eq!(options.get_username(), ADMIN);
    }
}
