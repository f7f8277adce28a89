//! Other people's servers, each started for itself. What none of them is told: anything about the
//! router.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process_group};

use super::{
    judge::{Report, Site},
    recorder::Recorder,
    tap::Place,
};

const PATIENCE: Duration = Duration::from_secs(30);

/// A server that runs, and where its program notes what it sees.
pub struct Server {
    pub name: &'static str,
    pub place: Place,
    reports: Reports,
    process: Option<Child>,
}

enum Reports {
    Recorder(Recorder),
    File(PathBuf),
    None,
}

impl Drop for Server {
    fn drop(&mut self) {
        let Some(mut process) = self.process.take() else { return };
        let group = i32::try_from(process.id()).ok().and_then(Pid::from_raw).expect("has an id");
        let _ = kill_process_group(group, Signal::KILL);
        let _ = process.wait();
    }
}

/// A file of `servers/`.
fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/desync/servers").join(name)
}

#[allow(clippy::disallowed_methods, reason = "where programs are is said by hand")]
fn named(variable: &str, usual: &str) -> String {
    std::env::var(variable).unwrap_or_else(|_| usual.to_owned())
}

impl Server {
    /// Our own, without anything in front.
    pub fn recorder(directory: &Path) -> Self {
        let socket = directory.join("recorder.sock");
        let reports = Reports::Recorder(Recorder::at(&socket));
        Self { name: "recorder", place: Place::Unix(socket), reports, process: None }
    }

    /// One that passes what it reads on to a recorder.
    pub async fn proxy(name: &'static str, directory: &Path) -> Self {
        let (recorder, recorder_port) = Recorder::over_tcp().await;
        let port = std::net::TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
        let port = port.expect("a free port").port();
        let source = match name {
            "haproxy" => "haproxy.cfg".to_owned(),
            name => format!("{name}.conf"),
        };
        let text = std::fs::read_to_string(file(&source)).expect("is there");
        let text = text
            .replace("DIRECTORY", &directory.display().to_string())
            .replace("RECORDER", &recorder_port.to_string())
            .replace("PORT", &port.to_string());
        let config = directory.join(source);
        std::fs::write(&config, text).expect("writes");
        let config = config.display().to_string();
        let arguments: &[&str] = match name {
            "nginx" => &["-c", &config],
            "haproxy" => &["-db", "-f", &config],
            _ => &["-D", "FOREGROUND", "-f", &config],
        };
        let place = match name {
            "apache2" => Place::Tcp(port),
            name => Place::Unix(directory.join(format!("{name}.sock"))),
        };
        let mut command = Command::new(name);
        command.args(arguments);
        Self::start(name, place, Reports::Recorder(recorder), &mut command, directory).await
    }

    /// One that runs a program of ours.
    pub async fn program(name: &'static str, directory: &Path) -> Self {
        let socket = directory.join(format!("{name}.sock"));
        let reports = directory.join(format!("{name}.reports"));
        let at = socket.display().to_string();
        let python = named("DESYNC_PYTHON", "python3");
        let mut command = match name {
            "node" => {
                let mut command = Command::new("node");
                command.arg(file("node.js")).args([&socket, &reports]);
                command
            }
            "gunicorn" => {
                let mut command = Command::new(python);
                command.args(["-m", "gunicorn", "-k", "gthread", "--threads", "64"]);
                command.args(["--keep-alive", "75", "--limit-request-line", "0"]);
                command.args(["-b", &format!("unix:{at}"), "--chdir"]);
                command.arg(file("")).arg("wsgi:program");
                command
            }
            "waitress" => {
                let mut command = Command::new(python);
                command.arg(file("wsgi.py")).arg(&socket);
                command
            }
            _ => {
                let mut command = Command::new(python);
                command.arg(file("aiohttp_program.py")).args([&socket, &reports]);
                command
            }
        };
        command.env("REPORTS", &reports).env("PYTHONDONTWRITEBYTECODE", "1");
        Self::start(name, Place::Unix(socket), Reports::File(reports), &mut command, directory)
            .await
    }

    /// An instance of the platform itself; it needs no database to read requests.
    pub async fn instance(directory: &Path, site: &Site) -> Self {
        let socket = directory.join("tenant-app.sock");
        let mut command = Command::new(named("DESYNC_PYTHON", "python3"));
        let router = Path::new(env!("CARGO_BIN_EXE_router"));
        command.arg(file("tenant_app.py")).arg(router.with_file_name("tenant-app")).arg(&socket);
        let config = serde_json::json!({
            "site_id": site.id, "slug": "tenant-app", "generation": 1,
            "instance_id": "018f0000-0000-7000-8000-000000000002",
            "database": { "host": "/nowhere", "port": 5432, "database": "s", "user": "s",
                "password": "p" },
            "storage": { "endpoint": "http://localhost:1", "region": "r", "bucket": "b",
                "prefix": "site/x", "access_key": "a", "secret_key": "s" },
            "idle_exit_secs": 0, "max_database_connections": 1,
        });
        command.stdin(Stdio::piped());
        let place = Place::Unix(socket);
        let mut server =
            Self::start("tenant-app", place, Reports::None, &mut command, directory).await;
        let input = server.process.as_mut().and_then(|process| process.stdin.take());
        let mut input = input.expect("has an input");
        input.write_all(config.to_string().as_bytes()).expect("is taken");
        server
    }

    async fn start(
        name: &'static str,
        place: Place,
        reports: Reports,
        command: &mut Command,
        directory: &Path,
    ) -> Self {
        let log = std::fs::File::create(directory.join(format!("{name}.out"))).expect("a log");
        command.stdout(log.try_clone().expect("a log")).stderr(log).process_group(0);
        let process = command.spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let server = Self { name, place, reports, process: Some(process) };
        let begun = Instant::now();
        while !server.listens().await {
            assert!(begun.elapsed() < PATIENCE, "{name} does not start: {}", directory.display());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        server
    }

    async fn listens(&self) -> bool {
        match &self.place {
            Place::Unix(path) => tokio::net::UnixStream::connect(path).await.is_ok(),
            Place::Tcp(port) => tokio::net::TcpStream::connect(("127.0.0.1", *port)).await.is_ok(),
        }
    }

    /// What the program saw so far; none when nobody notes it.
    pub fn reports(&self) -> Option<Vec<Report>> {
        match &self.reports {
            Reports::Recorder(recorder) => Some(recorder.reports()),
            Reports::File(path) => {
                let text = std::fs::read_to_string(path).unwrap_or_default();
                let report = |line| serde_json::from_str(line).expect("is a report");
                Some(text.lines().map(report).collect())
            }
            Reports::None => None,
        }
    }
}
