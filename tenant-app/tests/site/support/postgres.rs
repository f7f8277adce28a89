//! A private Postgres for the tests: made once, a database per test cloned from a template, stopped
//! when the last test lets go of it.

use std::{
    os::unix::{fs::PermissionsExt as _, process::CommandExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex, Weak},
    time::{Duration, Instant},
};

use sqlx::{
    Connection as _, PgConnection,
    postgres::{PgConnectOptions, PgPool, PgPoolOptions},
};
use tempfile::TempDir;

/// `nobody`, which every system has: Postgres refuses to run as root.
const NOBODY: u32 = 65_534;

static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());

pub struct Cluster {
    directory: TempDir,
    server: Mutex<Child>,
    template: tokio::sync::OnceCell<()>,
    // Two databases at once must not be cloned from one template.
    cloning: tokio::sync::Mutex<()>,
}

impl Cluster {
    pub fn shared() -> Arc<Self> {
        let mut shared = SHARED.lock().expect("the lock");
        if let Some(cluster) = shared.upgrade() {
            return cluster;
        }
        let cluster = Arc::new(Self::start());
        *shared = Arc::downgrade(&cluster);
        cluster
    }

    fn start() -> Self {
        let directory = TempDir::new().expect("a directory");
        let everybody = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), everybody).expect("permissions");
        if is_root() {
            std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).expect("chown");
        }
        let data = directory.path().join("data");
        let made = unprivileged("initdb")
            .args(["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C"])
            .args(["--no-sync", "-D"])
            .arg(&data)
            .output()
            .expect("initdb");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let server = unprivileged("postgres")
            .arg("-D")
            .arg(&data)
            .arg("-k")
            .arg(directory.path())
            .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "max_connections=200"])
            .stderr(Stdio::null())
            .spawn()
            .expect("postgres");
        Self {
            directory,
            server: Mutex::new(server),
            template: <_>::default(),
            cloning: <_>::default(),
        }
    }

    pub fn host(&self) -> &Path {
        self.directory.path()
    }

    fn options(&self, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host(&self.directory.path().to_string_lossy())
            .username("postgres")
            .database(database)
    }

    /// Waits until the server accepts connections: there is no event for that.
    async fn connect(&self, database: &str) -> PgConnection {
        let end = Instant::now() + Duration::from_secs(60);
        loop {
            match PgConnection::connect_with(&self.options(database)).await {
                Ok(connection) => return connection,
                Err(error) => assert!(Instant::now() < end, "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// A pool as the administrator.
    pub fn administrator(&self, database: &str) -> PgPool {
        PgPoolOptions::new().max_connections(2).connect_lazy_with(self.options(database))
    }

    /// A database of the current schema, and a login role of the same name that owns nothing.
    pub async fn create(&self, name: &str) {
        self.template.get_or_init(|| self.make_template()).await;
        let _one = self.cloning.lock().await;
        let mut administrator = self.connect("postgres").await;
        run(&mut administrator, &format!("create role {name} login password 'secret'")).await;
        run(&mut administrator, &format!("grant site_rw to {name}")).await;
        run(&mut administrator, &format!("create database {name} template site_template")).await;
    }

    async fn make_template(&self) {
        let mut administrator = self.connect("postgres").await;
        run(&mut administrator, "create role site_rw nologin").await;
        run(&mut administrator, "create database site_template").await;
        drop(administrator);
        let mut template = self.connect("site_template").await;
        run(&mut template, "create schema platform").await;
        for migration in migrations() {
            let sql = std::fs::read_to_string(migration).expect("a migration");
            run(&mut template, &sql).await;
        }
        run(
            &mut template,
            "revoke all on schema public from public;
             revoke all on all functions in schema public, platform from public;
             grant usage on schema public, platform to site_rw;
             grant select on all tables in schema platform to site_rw;
             grant select, insert, update, delete on all tables in schema public to site_rw;",
        )
        .await;
        template.close().await.expect("a close");
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut server = self.server.lock().expect("the lock");
        let id = rustix::process::Pid::from_child(&server);
        // Immediate: nothing in it is kept.
        let _ = rustix::process::kill_process(id, rustix::process::Signal::QUIT);
        let _ = server.wait();
    }
}

async fn run(connection: &mut PgConnection, sql: &str) {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    sqlx::raw_sql(sql).execute(connection).await.expect("a statement");
}

fn migrations() -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/site");
    let entries = std::fs::read_dir(directory).expect("the migrations");
    let mut files: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.sort_by_key(|path| {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        name[1..].split("__").next().and_then(|number| number.parse::<u32>().ok())
    });
    files
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn unprivileged(program: &str) -> Command {
    let mut command = Command::new(binary(program));
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null());
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

/// The newest server's program; Debian does not put it into `PATH`.
fn binary(program: &str) -> PathBuf {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = debian
        .map(|entry| entry.path().join("bin").join(program))
        .filter(|path| path.is_file())
        .collect();
    found.sort();
    found.pop().unwrap_or_else(|| program.into())
}
