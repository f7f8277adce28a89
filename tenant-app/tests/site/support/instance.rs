//! A site and its process: the real binary with its two sockets and its configuration on standard
//! input.

use std::{
    io::Write as _,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::{net::UnixListener, process::CommandExt as _},
    },
    path::PathBuf,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use argon2::{Argon2, Params, PasswordHasher as _, password_hash::SaltString};
use serde_json::{Value, json};
use sqlx::PgPool;
use tempfile::TempDir;
use uuid::Uuid;

use super::{
    browser::Browser,
    postgres::Cluster,
    s3::{ACCESS_KEY, BUCKET, ObjectStore, SECRET_KEY},
};

pub const PASSWORD: &str = "kuda hijau di atap";

/// What a story wants to be different.
pub struct Starting {
    pub idle_exit_secs: u32,
    pub authority_generation: i64,
    pub authority_site: Option<Uuid>,
    pub max_upload_bytes: i64,
    pub storage_bytes: i64,
}

impl Default for Starting {
    fn default() -> Self {
        Self {
            idle_exit_secs: 0,
            authority_generation: 3,
            authority_site: None,
            max_upload_bytes: 30 * 1024 * 1024,
            storage_bytes: 64 * 1024 * 1024,
        }
    }
}

pub struct Site {
    pub id: Uuid,
    /// As the administrator.
    pub database: PgPool,
    pub object_store: ObjectStore,
    listening: UnixListener,
    control: UnixListener,
    directory: TempDir,
    config: Value,
    process: Child,
    _cluster: Arc<Cluster>,
}

impl Site {
    pub async fn start() -> Self {
        Self::start_as(Starting::default()).await
    }

    pub async fn start_as(starting: Starting) -> Self {
        let cluster = Cluster::shared();
        let id = Uuid::now_v7();
        let name = format!("s_{}", Uuid::new_v4().simple());
        cluster.create(&name).await;
        let database = cluster.administrator(&name);
        seed(&database, id, &starting).await;
        let object_store = ObjectStore::start().await;
        let directory = TempDir::new().expect("a directory");
        let listening = UnixListener::bind(directory.path().join("site")).expect("a socket");
        let control = UnixListener::bind(directory.path().join("control")).expect("a socket");
        let config = json!({
            "site_id": id, "slug": "acme", "generation": 3, "instance_id": Uuid::now_v7(),
            "database": {"host": cluster.host(), "port": 5432, "database": name,
                         "user": name, "password": "secret"},
            "storage": {"endpoint": object_store.endpoint(), "region": "id-jakarta",
                        "bucket": BUCKET, "prefix": format!("site/{id}"),
                        "access_key": ACCESS_KEY, "secret_key": SECRET_KEY},
            "idle_exit_secs": starting.idle_exit_secs, "max_database_connections": 5
        });
        let process = spawn(&listening, &control, &config.to_string());
        Self {
            id,
            database,
            object_store,
            listening,
            control,
            directory,
            config,
            process,
            _cluster: cluster,
        }
    }

    /// A browser in which nobody is signed in.
    pub fn browser(&self) -> Browser {
        Browser::new(self.socket(), self.id, 3)
    }

    /// A browser in which this person of the seed is signed in.
    pub async fn signed_in(&self, person: &str) -> Browser {
        let mut browser = self.browser();
        let page = browser.get("/sign-in").await;
        let email = format!("{person}@acme.test");
        let form = [("email", email.as_str()), ("password", PASSWORD), ("next", "")];
        let page = browser.submit(&page, "/sign-in", &form).await;
        assert_eq!(page.status, 303, "{}", page.text());
        browser
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("site")
    }

    pub fn control_socket(&self) -> PathBuf {
        self.directory.path().join("control")
    }

    /// Starts a process again, as the runtime does when the socket becomes readable.
    pub fn wake(&mut self) {
        self.process = spawn(&self.listening, &self.control, &self.config.to_string());
    }

    /// Ends the process and starts one of a preview, as it is told in its configuration.
    pub async fn becomes_preview(&mut self, preview: Value) {
        self.terminate();
        self.ended().await;
        self.config["preview"] = preview;
        self.wake();
    }

    /// Starts a process with another configuration and gives its exit code.
    pub async fn started_with(&mut self, config: &str) -> Option<i32> {
        let _ = self.process.kill();
        let _ = self.process.wait();
        self.process = spawn(&self.listening, &self.control, config);
        self.ended().await.code()
    }

    pub fn terminate(&self) {
        let id = rustix::process::Pid::from_child(&self.process);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("a signal");
    }

    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// Waits for the process to end.
    pub async fn ended(&mut self) -> ExitStatus {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            if let Some(status) = self.process.try_wait().expect("a status") {
                return status;
            }
            assert!(Instant::now() < end, "the process does not end");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs a statement as the administrator.
    pub async fn sql(&self, sql: &str) {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        sqlx::raw_sql(sql).execute(&self.database).await.expect("a statement");
    }

    /// A number that the administrator asks for.
    pub async fn count(&self, sql: &str) -> i64 {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        sqlx::query_scalar(sql).fetch_one(&self.database).await.expect("a number")
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[allow(unsafe_code, reason = "descriptors are handed to a child by number")]
fn spawn(listening: &UnixListener, control: &UnixListener, config: &str) -> Child {
    // Out of the way of the numbers that the child wants.
    let twin = |socket: &UnixListener| -> OwnedFd {
        rustix::io::fcntl_dupfd_cloexec(socket, 20).expect("a twin")
    };
    let (listening, control) = (twin(listening), twin(control));
    let (from_listening, from_control) = (listening.as_raw_fd(), control.as_raw_fd());
    let mut command = Command::new(env!("CARGO_BIN_EXE_tenant-app"));
    command.stdin(Stdio::piped()).env_clear();
    // SAFETY: only dup2, which is async-signal-safe, between fork and exec.
    unsafe {
        command.pre_exec(move || {
            for (from, to) in [(from_listening, 3), (from_control, 4)] {
                let from = std::os::fd::BorrowedFd::borrow_raw(from);
                let mut to = std::mem::ManuallyDrop::new(
                    <OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(to),
                );
                rustix::io::dup2(from, &mut to)?;
            }
            Ok(())
        });
    }
    let mut process = command.spawn().expect("the binary");
    let mut stdin = process.stdin.take().expect("standard input");
    stdin.write_all(config.as_bytes()).expect("the configuration");
    process
}

async fn seed(database: &PgPool, id: Uuid, starting: &Starting) {
    let params = Params::new(64, 1, 1, None).expect("parameters");
    let argon = Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params);
    let salt = SaltString::encode_b64(b"0123456789abcdef").expect("a salt");
    let hash = argon.hash_password(PASSWORD.as_bytes(), &salt).expect("a hash").to_string();
    let account = |number: u128, name: &str, role: &str| {
        json!({"id": Uuid::from_u128(number), "email": format!("{name}@Acme.test"), "name": name,
               "role": role, "password_hash": hash, "invitation_token_hash": null,
               "invitation_expires_at": null})
    };
    let input = json!({"name": "Akademi Acme", "default_language": "en", "accounts": [
        account(1, "ada", "admin"), account(2, "ibu", "instructor"), account(3, "budi", "student"),
        account(4, "citra", "student"), account(5, "lain", "instructor")]});
    // Twice, since it must not matter.
    for _ in 0..2 {
        sqlx::query("select platform.seed_site($1)")
            .bind(&input)
            .execute(database)
            .await
            .expect("the seed");
    }
    sqlx::query(
        "insert into platform.site_authority (site_id, generation, state, cluster)
         values ($1, $2, 'primary', 'test')",
    )
    .bind(starting.authority_site.unwrap_or(id))
    .bind(starting.authority_generation)
    .execute(database)
    .await
    .expect("the authority");
    sqlx::query(
        "insert into platform.site_limit (plan, storage_bytes, max_upload_bytes)
         values ('test', $1, $2)",
    )
    .bind(starting.storage_bytes)
    .bind(starting.max_upload_bytes)
    .execute(database)
    .await
    .expect("the limits");
}
