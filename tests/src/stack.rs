//! One whole platform on this machine, in a directory of its own, on ports of its own.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use provisioner_api::client::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;

use crate::{Visitor, binaries::binary, dns_server::DnsServer};

/// Longest start, in debug mode on a busy machine.
const START: Duration = Duration::from_secs(180);
/// Longest stop.
const STOP: Duration = Duration::from_secs(90);
/// Where the ports of routers are chosen from: below those that systems give to connections, and beside
/// those that `ta3lem up` takes for itself. One that the system gives by itself would be somebody's
/// connection now and then by the time that the router listens.
const PUBLIC: std::ops::Range<u16> = 10_000..15_000;

/// What `--ready-file` holds.
#[derive(Clone, Debug, Deserialize)]
pub struct Ready {
    /// The provisioner's API.
    pub api: ReadyApi,
    /// The authority's certificate.
    pub certificate_authority: PathBuf,
    /// The regions.
    pub regions: Vec<ReadyRegion>,
    /// The sites.
    pub sites: Vec<ReadySite>,
    /// Every process.
    pub processes: Vec<ReadyProcess>,
}

/// The provisioner's API.
#[derive(Clone, Debug, Deserialize)]
pub struct ReadyApi {
    /// Its URL.
    pub url: String,
    /// The file of its token.
    pub token_file: PathBuf,
}

/// A region.
#[derive(Clone, Debug, Deserialize)]
pub struct ReadyRegion {
    /// Its name.
    pub name: String,
    /// Its router.
    pub router: ReadyRouter,
}

/// A region's router.
#[derive(Clone, Debug, Deserialize)]
pub struct ReadyRouter {
    /// Where it takes TLS.
    pub https: String,
    /// Where it takes plain HTTP.
    pub http: String,
    /// Its private listener.
    pub admin: String,
    /// Its process.
    pub process_id: i32,
}

/// A site.
#[derive(Clone, Debug, Deserialize)]
pub struct ReadySite {
    /// Its short name.
    pub slug: String,
    /// Where it is.
    pub region: String,
    /// Where it opens.
    pub url: String,
    /// All its URLs.
    pub urls: Vec<String>,
    /// Who can sign in.
    pub logins: Vec<ReadyLogin>,
}

/// Somebody who can sign in.
#[derive(Clone, Debug, Deserialize)]
pub struct ReadyLogin {
    /// The mail address.
    pub email: String,
    /// The password.
    pub password: String,
    /// What the person may do.
    pub role: String,
}

/// A process of the platform.
#[derive(Clone, Debug, Deserialize)]
pub struct ReadyProcess {
    /// What it is.
    pub component: String,
    /// Its id.
    pub process_id: i32,
}

/// A platform that runs. It stops when this is dropped.
pub struct Stack {
    directory: TempDir,
    child: Child,
    /// What it said when it was up.
    pub ready: Ready,
    /// How long it took to be up.
    pub took: Duration,
    /// The DNS server that it asks, where a story sets records.
    pub dns: Option<DnsServer>,
}

/// How to start a platform.
#[derive(Clone, Debug, Default)]
pub struct Start {
    /// With the two demo sites and their courses.
    pub demo: bool,
    /// The DNS server that it asks; the system's when absent.
    pub dns: Option<SocketAddr>,
    /// The ports of the first router for TLS and for plain HTTP; any free ones when absent.
    pub ports: Option<(u16, u16)>,
    /// The directory of an ACME authority, and the file of the root that vouches for its server.
    pub acme: Option<(String, PathBuf)>,
}

impl Stack {
    /// Starts a new platform.
    ///
    /// # Errors
    /// When it does not come up; says what it printed.
    pub fn start(start: Start) -> Result<Self> {
        let directory = tempfile::Builder::new().prefix("ta3lem-e2e-").tempdir_in("/tmp")?;
        // An unprivileged user runs it when the tests are root.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755))?;
        Self::start_in(directory, start)
    }

    /// Starts the platform whose data is in `directory`.
    ///
    /// # Errors
    /// When it does not come up; says what it printed.
    pub fn start_in(directory: TempDir, start: Start) -> Result<Self> {
        let (https, http) = start.ports.map_or_else(free_ports, Ok)?;
        let ready_file = directory.path().join("ready.json");
        let _ = std::fs::remove_file(&ready_file);
        let log = directory.path().join("up.log");
        let out = File::create(&log)?;
        let mut command = Command::new(binary("ta3lem")?);
        command
            .arg("up")
            .arg("--data-dir")
            .arg(directory.path().join("data"))
            .args(["--https-port", &https.to_string(), "--http-port", &http.to_string()])
            .arg("--ready-file")
            .arg(&ready_file)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out);
        if !start.demo {
            command.arg("--no-demo");
        }
        if let Some(address) = start.dns {
            command.args(["--dns-server", &address.to_string()]);
        }
        if let Some((directory_url, root)) = &start.acme {
            command.args(["--acme-directory", directory_url, "--acme-root"]).arg(root);
        }
        let began = Instant::now();
        let mut child = command.spawn().context("ta3lem up")?;
        let ready = loop {
            if let Some(status) = child.try_wait()? {
                bail!("ta3lem up ended ({status}):\n{}", std::fs::read_to_string(&log)?);
            }
            if let Ok(text) = std::fs::read_to_string(&ready_file) {
                break serde_json::from_str(&text).context("the ready file")?;
            }
            if began.elapsed() > START {
                let _ = kill_process(pid(&child)?, Signal::TERM);
                bail!("ta3lem up is not up yet:\n{}", std::fs::read_to_string(&log)?);
            }
            // The file appears by a rename; there is nothing to wait on but time.
            std::thread::sleep(Duration::from_millis(20));
        };
        Ok(Self { directory, child, ready, took: began.elapsed(), dns: None })
    }

    /// The DNS server whose records a story sets.
    ///
    /// # Errors
    /// When the platform asks the system's servers.
    pub fn dns(&self) -> Result<&DnsServer> {
        self.dns.as_ref().context("the platform was started without a DNS server")
    }

    /// The provisioner's API, as the operator.
    ///
    /// # Errors
    /// When the token cannot be read.
    pub fn api(&self) -> Result<Client> {
        let token = std::fs::read_to_string(&self.ready.api.token_file)?;
        Ok(Client::new(&self.ready.api.url, token.trim())?)
    }

    /// The command line, told where this platform is.
    ///
    /// # Errors
    /// When it was not built.
    pub fn cli(&self, arguments: &[&str]) -> Result<Output> {
        cli(&self.ready.api.url, &self.ready.api.token_file, arguments)
    }

    /// Somebody with a browser's manners who trusts the platform's authority.
    ///
    /// # Errors
    /// When the authority's certificate cannot be read.
    pub fn visitor(&self) -> Result<Visitor> {
        Visitor::new(&self.ready.certificate_authority)
    }

    /// A region.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn region(&self, name: &str) -> Result<&ReadyRegion> {
        let region = self.ready.regions.iter().find(|region| region.name == name);
        region.with_context(|| format!("no region {name}"))
    }

    /// Where a site of a region opens.
    ///
    /// # Errors
    /// When there is no such region.
    pub fn url(&self, slug: &str, region: &str) -> Result<String> {
        let address = &self.region(region)?.router.https;
        let port = address.rsplit(':').next().unwrap_or_default();
        Ok(format!("https://{slug}.localhost:{port}"))
    }

    /// The process of a component as the platform says now (a killed one comes back with another
    /// id).
    ///
    /// # Errors
    /// When there is none.
    pub fn process(&self, component: &str) -> Result<i32> {
        let path = self.data_dir().join("ready.json");
        let ready: Ready = match std::fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text)?,
            Err(_) => self.ready.clone(),
        };
        let found = ready.processes.iter().find(|process| process.component == component);
        found.map(|process| process.process_id).with_context(|| {
            let names: Vec<_> = ready.processes.iter().map(|p| p.component.as_str()).collect();
            format!("no process {component} among {names:?}")
        })
    }

    /// The control database, as the provisioner reaches it.
    ///
    /// # Errors
    /// When its configuration cannot be read.
    pub fn control_database_url(&self) -> Result<String> {
        let path = self.data_dir().join("config/provisioner.json");
        let config: Value = serde_json::from_str(&std::fs::read_to_string(path)?)?;
        let url = config["control_database_url"].as_str();
        url.map(str::to_owned).context("no control_database_url")
    }

    /// A Postgres cluster (`control`, or a region's name), as its superuser reaches a database of it.
    ///
    /// # Errors
    /// When the password cannot be read.
    pub fn admin_url(&self, cluster: &str, database: &str) -> Result<String> {
        let data = self.data_dir();
        let password = std::fs::read_to_string(data.join(format!("secrets/postgres-{cluster}")))?;
        let url = self.control_database_url()?;
        let (_, host) = url.split_once('@').context("no host in the URL")?;
        let (host, _) = host.split_once("/control").context("no database in the URL")?;
        let host = host.replace("pg-control", &format!("pg-{cluster}"));
        Ok(format!("postgres://ta3lem_admin:{}@{host}/{database}", password.trim()))
    }

    /// Where its data is.
    pub fn data_dir(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// All of a directory of logs, for those who search it.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn logs(&self) -> Result<String> {
        let mut all = std::fs::read_to_string(self.directory.path().join("up.log"))?;
        collect(&self.data_dir().join("logs"), &mut all)?;
        Ok(all)
    }

    /// Stops it as Ctrl-C does, and gives its directory back.
    ///
    /// # Errors
    /// When it does not stop, or says that something went wrong.
    pub fn stop(mut self) -> Result<TempDir> {
        let status = self.end(Signal::INT)?;
        ensure!(status.success(), "ta3lem up ended with {status}:\n{}", self.logs()?);
        let directory = std::mem::replace(&mut self.directory, tempfile::tempdir()?);
        Ok(directory)
    }

    /// Asks it to stop and waits, for those who only share it.
    pub fn terminate(&self) {
        if let Some(dns) = &self.dns {
            dns.terminate();
        }
        let Ok(process) = pid(&self.child) else { return };
        let began = Instant::now();
        let _ = kill_process(process, Signal::TERM);
        while rustix::process::test_kill_process(process).is_ok() && began.elapsed() < STOP {
            // It is our child, so its end must be asked for.
            let options = rustix::process::WaitOptions::NOHANG;
            if let Ok(Some(_)) = rustix::process::waitpid(Some(process), options) {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        if let Some(status) = self.child.try_wait()? {
            return Ok(status);
        }
        kill_process(pid(&self.child)?, signal)?;
        let began = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            if began.elapsed() > STOP {
                self.child.kill()?;
                bail!("ta3lem up did not stop in {STOP:?}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Err(error) = self.end(Signal::TERM) {
            eprintln!("stopping the platform: {error:#}");
        }
    }
}

/// What a command said.
#[derive(Debug)]
pub struct Output {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Fails unless the command succeeded.
    ///
    /// # Errors
    /// With what the command said.
    pub fn ok(self) -> Result<Self> {
        ensure!(self.code == 0, "exit code {}:\n{}{}", self.code, self.stdout, self.stderr);
        Ok(self)
    }

    /// Its standard output as JSON.
    ///
    /// # Errors
    /// When it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("not JSON: {}", self.stdout))
    }
}

fn pid(child: &Child) -> Result<Pid> {
    Pid::from_raw(i32::try_from(child.id())?).context("no process id")
}

/// Runs the command line against a platform.
///
/// # Errors
/// When it was not built.
pub fn cli(api: &str, token_file: &Path, arguments: &[&str]) -> Result<Output> {
    let output = Command::new(binary("ta3lem")?)
        .args(arguments)
        .env("TA3LEM_API", api)
        .env("TA3LEM_TOKEN_FILE", token_file)
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .output()?;
    Ok(Output {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Two ports that were free just now, with the ones after them free too (for the second region).
///
/// # Errors
/// When there are none.
pub fn free_ports() -> Result<(u16, u16)> {
    let free = |port: u16| TcpListener::bind(("127.0.0.1", port)).is_ok();
    for _ in 0..100 {
        // Both pairs begin with an even port: they are apart or the same.
        let [https, http] = [(); 2].map(|()| rand::random_range(PUBLIC) & !1);
        if https != http && [https, https + 1, http, http + 1].into_iter().all(free) {
            return Ok((https, http));
        }
    }
    bail!("no free ports")
}

fn collect(directory: &Path, all: &mut String) -> Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, all)?;
        } else {
            all.push_str(&String::from_utf8_lossy(&std::fs::read(&path)?));
        }
    }
    Ok(())
}
