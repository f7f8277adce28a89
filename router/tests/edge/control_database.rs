//! A Postgres server of its own with the schema of the control database, reached by a unix socket.

use std::{
    os::unix::{fs::chown, process::CommandExt},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::{Duration, Instant},
};

use control_types::{
    SiteId,
    seal::{KeyRing, certificate_key},
};
use rcgen::KeyPair;
use rustix::process::Signal;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, postgres::PgConnectOptions};
use uuid::Uuid;

use crate::stack::quit;

const PATIENCE: Duration = Duration::from_secs(30);

pub struct ControlDatabase {
    directory: PathBuf,
    server: Mutex<Option<Child>>,
}

impl Drop for ControlDatabase {
    fn drop(&mut self) {
        if let Some(mut child) = self.server.get_mut().expect("not poisoned").take() {
            quit(&child, Signal::QUIT);
            let _ = child.wait();
        }
    }
}

impl ControlDatabase {
    /// A new one, running, with a region and room for sites.
    pub async fn make(directory: &Path) -> Self {
        let database = Self { directory: directory.to_owned(), server: Mutex::default() };
        let (uid, gid) = unprivileged();
        let (data, sockets) = (database.path("data"), database.path("sockets"));
        std::fs::create_dir(&sockets).expect("makes a directory");
        for directory in [directory, sockets.as_path()] {
            chown(directory, Some(uid), Some(gid)).expect("gives it away");
        }
        let made = as_user(&mut Command::new(binary("initdb")), uid, gid)
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data)
            .stdout(Stdio::null())
            .status()
            .expect("initdb runs");
        assert!(made.success());
        database.start().await;
        let mut connection = database.sql().await;
        let scripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../migrations/control");
        let mut scripts: Vec<_> = std::fs::read_dir(scripts)
            .expect("has scripts")
            .map(|entry| entry.expect("is readable").path())
            .collect();
        scripts.sort_by_key(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let number = name.trim_start_matches('V').split("__").next().map(str::parse::<u32>);
            number.and_then(Result::ok)
        });
        for script in scripts {
            let text = std::fs::read_to_string(&script).expect("is text");
            sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut connection).await.expect("is applied");
        }
        sqlx::raw_sql(
            "create role router login in role ta3lem_router;
             -- Stories of load are not about limits; those of limits set their own.
             update plan set requests_per_second = 1000000, request_burst = 1000000,
                 max_concurrent_requests = 10000;
             insert into region (name, display_name) values ('id-jakarta', 'Jakarta');
             insert into cluster (id, name, region, sealed_admin_url, app_host, app_port)
                 values ('00000000-0000-0000-0000-000000000001', 'c', 'id-jakarta', '', 'h', 1);
             insert into object_store (id, name, region, endpoint, bucket, sealed_admin)
                 values ('00000000-0000-0000-0000-000000000002', 'o', 'id-jakarta', 'e', 'b', '');",
        )
        .execute(&mut connection)
        .await
        .expect("is prepared");
        database
    }

    pub async fn start(&self) {
        let (uid, gid) = unprivileged();
        let log =
            std::fs::File::options().create(true).append(true).open(self.path("postgres.log"));
        let child = as_user(&mut Command::new(binary("postgres")), uid, gid)
            .arg("-D")
            .arg(self.path("data"))
            .arg("-k")
            .arg(self.path("sockets"))
            .args(["-c", "listen_addresses=", "-c", "fsync=off"])
            .stderr(log.expect("has a log"))
            .spawn()
            .expect("postgres runs");
        *self.server.lock().expect("not poisoned") = Some(child);
        let begun = Instant::now();
        while PgConnection::connect_with(&self.options()).await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "postgres does not start");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub fn stop(&self) {
        let child = self.server.lock().expect("not poisoned").take();
        let mut child = child.expect("runs");
        quit(&child, Signal::QUIT);
        child.wait().expect("ends");
    }

    fn options(&self) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host(&self.path("sockets").display().to_string())
            .username("postgres")
            .database("postgres")
    }

    pub async fn sql(&self) -> PgConnection {
        PgConnection::connect_with(&self.options()).await.expect("connects")
    }

    /// A certificate of the ring's region, its key sealed with it.
    pub async fn add_certificate(
        &self,
        site: Option<SiteId>,
        hostname: &str,
        chain_pem: String,
        key: &KeyPair,
        ring: &KeyRing,
    ) {
        let id = Uuid::now_v7();
        let sealed = ring.seal(&certificate_key(id), key.serialize_pem().as_bytes());
        sqlx::query(
            "insert into certificate (id, site_id, hostname, region, issuer, chain_pem, sealed_key,
                                      not_before, not_after, source)
             values ($1, $2, $3, $4, 'test', $5, $6, now(), now() + interval '1 day', 'local')",
        )
        .bind(id)
        .bind(site.map(|site| site.0))
        .bind(hostname)
        .bind(ring.region())
        .bind(chain_pem)
        .bind(sealed.expect("is sealed"))
        .execute(&mut self.sql().await)
        .await
        .expect("is inserted");
    }

    /// How a router reaches it.
    pub fn url(&self) -> String {
        format!("postgres://router:hush@localhost/postgres?host={}", self.path("sockets").display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

/// Postgres refuses to run as root.
fn unprivileged() -> (u32, u32) {
    if !rustix::process::geteuid().is_root() {
        return (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    }
    let users = std::fs::read_to_string("/etc/passwd").expect("has users");
    let ids = |name: &str| {
        let line = users.lines().find(|line| line.starts_with(&format!("{name}:")))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    };
    ids("postgres").or_else(|| ids("nobody")).expect("has a user for Postgres")
}

fn as_user(command: &mut Command, uid: u32, gid: u32) -> &mut Command {
    if rustix::process::geteuid().is_root() {
        command.uid(uid).gid(gid);
    }
    command.current_dir("/").stdin(Stdio::null())
}

/// A program of the Postgres server, from the path or where Debian puts it.
fn binary(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<PathBuf> = std::env::split_paths(&path).collect();
    if let Ok(versions) = std::fs::read_dir("/usr/lib/postgresql") {
        places.extend(versions.filter_map(Result::ok).map(|version| version.path().join("bin")));
    }
    let found = places.into_iter().map(|place| place.join(name)).find(|path| path.is_file());
    found.expect("the Postgres server programs are installed")
}
