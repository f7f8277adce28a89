//! A cluster of a test's own with a repository on the disk, in a folder that goes with it; and the wish
//! to be somebody else than root, whom Postgres refuses.

use std::{
    fs,
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use ops::keeper::{
    archive_command,
    config::{KeeperConfig, PostgresConfig},
    config_file, program,
};
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection, postgres::PgConnectOptions,
};

pub const ADMIN: &str = "keeper_admin";
const PASSWORD: &str = "a:pass\\word";
const PORT: u16 = 5432;

/// Runs the named test again as an unprivileged user, if this is root. Answers whether it did.
pub fn ran_unprivileged(test: &str) -> bool {
    let id = |arguments: &[&str]| -> Option<u32> {
        let output = Command::new("id").args(arguments).output().expect("id runs");
        String::from_utf8_lossy(&output.stdout).trim().parse().ok()
    };
    if id(&["-u"]) != Some(0) {
        return false;
    }
    let users = ["postgres", "nobody"].into_iter();
    let user = users.filter_map(|user| id(&["-u", user]).zip(id(&["-g", user]))).next();
    let (uid, gid) = user.expect("an unprivileged user");
    let test_binary = std::env::current_exe().expect("this is one");
    let mut again = Command::new(test_binary);
    again.args([test, "--exact", "--nocapture"]).uid(uid).gid(gid).current_dir("/");
    assert!(again.status().expect("runs").success(), "{test} failed as user {uid}");
    true
}

/// Stops when dropped.
pub struct Cluster {
    folder: tempfile::TempDir,
    pub config: KeeperConfig,
    programs: PathBuf,
    pgbackrest: PathBuf,
}

impl Cluster {
    pub async fn start() -> Self {
        let folder = tempfile::Builder::new().prefix("t").tempdir_in("/tmp").expect("a folder");
        let path = folder.path();
        let (data, directory) = (path.join("data"), path.join("keeper"));
        let pgbackrest = program().await.expect("pgBackRest");
        let cluster = Self {
            config: KeeperConfig {
                api: String::new(),
                token_file: PathBuf::new(),
                postgres: PostgresConfig {
                    data_directory: data.clone(),
                    socket_directory: path.to_owned(),
                    port: PORT,
                    user: ADMIN.to_owned(),
                    password_file: Some(path.join("password")),
                    bin_directory: None,
                },
                directory: directory.clone(),
                object_store: Default::default(),
            },
            programs: programs(),
            pgbackrest,
            folder,
        };
        let path = cluster.folder.path();
        fs::create_dir(&directory).expect("made");
        private(&path.join("password"), PASSWORD);
        let escaped = PASSWORD.replace('\\', "\\\\").replace(':', "\\:");
        private(&directory.join("pgpass"), &format!("*:*:*:*:{escaped}\n"));
        cluster.initialise();
        let conf = format!(
            "[global]\nrepo1-path={repo}\nrepo1-cipher-type=aes-256-cbc\nrepo1-cipher-pass=secret\n\
             repo1-bundle=y\nrepo1-retention-full=9\ncompress-type=lz4\nprocess-max=2\n\
             lock-path={lock}\nspool-path={spool}\nlog-level-file=off\nlog-level-console=warn\n\n\
             [s]\npg1-path={data}\npg1-socket-path={socket}\npg1-port={PORT}\npg1-user={ADMIN}\n",
            repo = path.join("repo").display(),
            lock = path.join("lock").display(),
            spool = path.join("spool").display(),
            data = data.display(),
            socket = path.display(),
        );
        private(&config_file(&directory), &conf);
        cluster.pgbackrest(&["stanza-create"]);
        cluster
    }

    fn initialise(&self) {
        let path = self.folder.path();
        let data = self.config.postgres.data_directory.display().to_string();
        let password = path.join("password").display().to_string();
        let mut initdb = Command::new(self.programs.join("initdb"));
        initdb.args(["-D", &data, "-U", ADMIN, "-A", "scram-sha-256", "--pwfile", &password]);
        initdb.args(["-E", "UTF8", "--no-locale", "-N", "--data-checksums"]);
        succeeded(&initdb.output().expect("initdb runs"));
        let command = archive_command(&self.pgbackrest, &self.config.directory);
        let settings = format!(
            "listen_addresses = ''\nunix_socket_directories = '{}'\nwal_level = logical\n\
             archive_mode = on\narchive_command = '{}'\nmax_connections = 60\n\
             max_replication_slots = 77\n",
            path.display(),
            command.replace('\'', "''")
        );
        let conf = self.config.postgres.data_directory.join("postgresql.conf");
        let initial = fs::read_to_string(&conf).expect("initdb wrote it");
        fs::write(&conf, initial + &settings).expect("writes");
        let log = path.join("log").display().to_string();
        let mut start = Command::new(self.programs.join("pg_ctl"));
        start.args(["-D", &data, "-l", &log, "-s", "-w", "start"]);
        assert!(start.status().expect("pg_ctl runs").success(), "{}", self.log());
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Makes a base backup. Moments from now on can be had from it.
    pub async fn back_up(&self, kind: &str) {
        self.pgbackrest(&[&format!("--type={kind}"), "--start-fast", "backup"]);
        // When it was complete is known in whole seconds.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }

    fn pgbackrest(&self, arguments: &[&str]) {
        let mut command = Command::new(&self.pgbackrest);
        command
            .env("PGPASSFILE", self.config.directory.join("pgpass"))
            .arg(format!("--config={}", config_file(&self.config.directory).display()))
            .arg("--stanza=s")
            .args(arguments);
        succeeded(&command.output().expect("pgbackrest runs"));
    }

    pub async fn connect(&self, database: &str) -> PgConnection {
        PgConnectOptions::new_without_pgpass()
            .socket(self.folder.path())
            .port(PORT)
            .username(ADMIN)
            .password(PASSWORD)
            .database(database)
            .disable_statement_logging()
            .connect()
            .await
            .expect("connects")
    }

    /// In a connection of its own.
    pub async fn run(&self, database: &str, statements: &[&str]) {
        let mut connection = self.connect(database).await;
        for statement in statements {
            execute(&mut connection, statement).await;
        }
        connection.close().await.expect("closes");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let data = self.config.postgres.data_directory.display().to_string();
        let mut stop = Command::new(self.programs.join("pg_ctl"));
        let _ = stop.args(["-D", &data, "-m", "immediate", "-s", "-w", "stop"]).status();
    }
}

pub async fn execute(connection: &mut PgConnection, sql: &str) {
    let done = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await;
    done.unwrap_or_else(|error| panic!("{sql}: {error}"));
}

pub async fn fetch<T>(connection: &mut PgConnection, sql: &str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    let query = sqlx::query_scalar(AssertSqlSafe(sql.to_owned()));
    query.fetch_one(connection).await.unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn private(path: &Path, text: &str) {
    fs::write(path, text).expect("writes");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("is ours");
}

fn succeeded(output: &Output) {
    let said = [&output.stdout[..], &output.stderr[..]].concat();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&said));
}

fn programs() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut directories: Vec<_> = versions.map(|version| version.path().join("bin")).collect();
    directories.sort();
    directories.extend(ops::config::search_path());
    let found = directories.into_iter().rev().find(|path| path.join("initdb").is_file());
    found.expect("Postgres' server programs")
}
