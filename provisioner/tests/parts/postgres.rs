//! A Postgres server of a test's own, in a folder that goes with it. Only unix sockets; as an
//! unprivileged user when the tests run as root, since Postgres refuses root.

use std::{
    fs,
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::Command,
};

use sqlx::{
    AssertSqlSafe, ConnectOptions, Connection, PgConnection,
    postgres::{PgConnectOptions, PgRow},
};
use tempfile::TempDir;

/// Roles of sites reach the database of their own name, as an operator is told to set it up.
pub const SAME_USER: &str = "local sameuser all scram-sha-256";
/// The same without the second wall, to see that the privileges alone hold.
pub const ANY_DATABASE: &str = "local all all scram-sha-256";

/// Stops when dropped.
pub struct Server {
    folder: TempDir,
    user: Option<(u32, u32)>,
}

impl Server {
    pub fn start(hba: &str, settings: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("t").tempdir_in("/tmp").expect("a folder");
        let server = Self { user: unprivileged(), folder };
        if let Some((uid, gid)) = server.user {
            chown(server.path(), Some(uid), Some(gid)).expect("chown");
        }
        let data = server.data();
        server.run(
            "initdb",
            &["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "-N"],
        );
        let configuration = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nlog_statement = 'all'\n\
             log_min_duration_statement = 0\nmax_wal_size = '1GB'\n{settings}\n",
            server.path().display()
        );
        let conf = format!("{data}/postgresql.conf");
        let initial = fs::read_to_string(&conf).expect("initdb wrote it");
        fs::write(&conf, initial + &configuration).expect("writes");
        let hba = format!("local all postgres trust\n{hba}\n");
        fs::write(format!("{data}/pg_hba.conf"), hba).expect("writes");
        server.resume();
        server
    }

    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    pub fn admin_url(&self) -> String {
        format!("postgres://postgres@localhost/postgres?host={}", self.path().display())
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.path().join("log")).expect("the server's log")
    }

    pub fn resume(&self) {
        let log = self.path().join("log").display().to_string();
        self.run("pg_ctl", &["-D", &self.data(), "-l", &log, "-s", "-w", "start"]);
    }

    pub fn stop(&self) {
        self.run("pg_ctl", &["-D", &self.data(), "-m", "immediate", "-s", "-w", "stop"]);
    }

    fn data(&self) -> String {
        self.path().join("data").display().to_string()
    }

    /// The schema of a database as text.
    pub fn dump_schema(&self, database: &str) -> String {
        let socket = self.path().display().to_string();
        let arguments = ["-s", "-h", &socket, "-U", "postgres", database];
        let dump = self.run("pg_dump", &arguments);
        // Newer versions guard a dump by a random word.
        let is_random = |line: &&str| line.contains("restrict ");
        dump.lines().filter(|line| !is_random(line)).collect::<Vec<_>>().join("\n")
    }

    fn run(&self, program: &str, arguments: &[&str]) -> String {
        let mut command = Command::new(binary(program));
        command.args(arguments).current_dir(self.path());
        if let Some((uid, gid)) = self.user {
            command.uid(uid).gid(gid);
        }
        let output = command.output().expect("runs");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{program}: {errors}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn options(&self, user: &str, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .socket(self.path())
            .username(user)
            .database(database)
            .disable_statement_logging()
    }

    pub async fn admin(&self, database: &str) -> PgConnection {
        self.options("postgres", database).connect().await.expect("the administrator connects")
    }

    pub async fn login(
        &self,
        user: &str,
        password: &str,
        database: &str,
    ) -> Result<PgConnection, sqlx::Error> {
        self.options(user, database).password(password).connect().await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if fs::exists(self.path().join("data/postmaster.pid")).unwrap_or(false) {
            self.stop();
        }
    }
}

pub async fn execute(connection: &mut PgConnection, sql: &str) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.map(drop)
}

pub async fn fetch<T>(connection: &mut PgConnection, sql: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
    (T,): for<'r> sqlx::FromRow<'r, PgRow>,
{
    let query = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
    query.fetch_one(connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

pub fn code(outcome: Result<impl Sized, sqlx::Error>) -> String {
    let error = outcome.err().expect("Postgres refuses");
    let code = error.as_database_error().and_then(|error| error.code().map(String::from));
    code.unwrap_or_else(|| panic!("no code: {error}"))
}

pub async fn close(connection: PgConnection) {
    connection.close().await.expect("closes");
}

fn binary(program: &str) -> PathBuf {
    let mut folders: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .collect();
    folders.sort();
    let found = folders.into_iter().rev().map(|folder| folder.join(program)).find(|p| p.exists());
    found.unwrap_or_else(|| PathBuf::from(program))
}

/// Whom to be instead of root.
fn unprivileged() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().expect("id runs");
        String::from_utf8_lossy(&output.stdout).trim().parse::<u32>().ok()
    };
    if id(&["-u"]) != Some(0) {
        return None;
    }
    let user = ["postgres", "nobody"].into_iter().find(|user| id(&["-u", user]).is_some());
    let user = user.expect("an unprivileged user");
    id(&["-u", user]).zip(id(&["-g", user]))
}
