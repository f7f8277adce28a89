//! Real routers and provisioners, as processes that are started, killed and started again.

use std::{
    fs::File,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tests::binaries::binary;
use tokio::time::{Instant, sleep};

use crate::{
    control::{Control, REGION},
    witness::Witness,
};

/// Longest start and longest stop, in debug mode on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a name rests when its provisioner was killed, in seconds.
const CLAIM_SECS: u16 = 5;

/// A program with its configuration. It is killed when dropped.
pub struct Program {
    name: &'static str,
    config: PathBuf,
    ready_file: PathBuf,
    log: PathBuf,
    child: Child,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Program {
    fn start(name: &'static str, folder: &Path, mut config: Value) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let (config_file, ready_file) = (folder.join("config.json"), folder.join("ready.json"));
        config["ready_file"] = json!(ready_file);
        std::fs::write(&config_file, config.to_string())?;
        let log = folder.join("log");
        let child = launch(name, &config_file, &log)?;
        Ok(Self { name, config: config_file, ready_file, log, child })
    }

    /// What it writes once it listens; none when it ended.
    async fn ready(&mut self) -> Result<Option<Value>> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Ok(text) = std::fs::read_to_string(&self.ready_file) {
                return Ok(Some(serde_json::from_str(&text)?));
            }
            if self.child.try_wait()?.is_some() {
                return Ok(None);
            }
            ensure!(Instant::now() < until, "{} is not ready: {}", self.name, self.said());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Kills it as nothing can prevent, and starts it again.
    pub fn kill_and_start(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        let _ = std::fs::remove_file(&self.ready_file);
        self.child = launch(self.name, &self.config, &self.log)?;
        Ok(())
    }

    /// Asks it to stop, and waits.
    pub async fn stop(&mut self) -> Result<ExitStatus> {
        kill_process(
            Pid::from_raw(i32::try_from(self.child.id())?).context("an id")?,
            Signal::TERM,
        )?;
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            ensure!(Instant::now() < until, "{} does not stop: {}", self.name, self.said());
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The end of its log.
    pub fn last_said(&self) -> Vec<String> {
        let said = self.said();
        let lines: Vec<_> = said.lines().rev().take(20).map(str::to_owned).collect();
        lines.into_iter().rev().collect()
    }

    pub fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

fn launch(name: &str, config: &Path, log: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    Command::new(binary(name)?)
        .arg("--config")
        .arg(config)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| name.to_owned())
}

/// A router and where it listens.
pub struct Router {
    _program: Program,
    pub https: SocketAddr,
    pub http: SocketAddr,
    pub admin_url: String,
}

/// Three routers at addresses of their own of this machine, on the same ports, as authorities know
/// one port only. The last one takes no plain HTTP there: what leads to it can be proven by a
/// handshake alone.
pub struct Routers {
    pub each: Vec<Router>,
    pub https_port: u16,
    pub http_port: u16,
}

impl Routers {
    pub async fn start(control: &Control, folder: &Path) -> Result<Self> {
        for attempt in 0..5 {
            // Another process can take a port in between: then the router ends at once.
            if let Some(routers) =
                Self::try_start(control, &folder.join(attempt.to_string())).await?
            {
                return Ok(routers);
            }
        }
        bail!("the routers do not start")
    }

    async fn try_start(control: &Control, folder: &Path) -> Result<Option<Self>> {
        std::fs::create_dir_all(folder)?;
        let keys = folder.join("keys.json");
        std::fs::write(&keys, &control.key_ring)?;
        let (https_port, http_port) = (free()?, free()?);
        let mut each = Vec::new();
        // Somewhere else each time, so that hardly anybody else has the ports there.
        let [.., a, b] = uuid::Uuid::new_v4().into_bytes();
        for number in 1..=3 {
            let place = Ipv4Addr::new(127, a.max(1), b, number);
            let elsewhere = Ipv4Addr::new(127, a.max(1), b, 100 + number);
            let http = if number == 3 { elsewhere } else { place };
            let own = folder.join(format!("router-{number}"));
            let config = json!({
                "name": format!("router-{number}"), "region": REGION,
                "platform_domain": "localhost",
                "https_listen": SocketAddr::from((place, https_port)),
                "http_listen": SocketAddr::from((http, http_port)),
                "admin_listen": "127.0.0.1:0",
                "control_database_url": control.router_url,
                "region_keys": keys,
                "snapshot_file": own.join("snapshot"),
                "workers": 1,
            });
            let mut program = Program::start("router", &own, config)?;
            let Some(ready) = program.ready().await? else {
                let said = program.said();
                ensure!(said.contains("in use"), "a router ended: {said}");
                return Ok(None);
            };
            let address = |name: &str| ready[name].as_str().context("an address");
            each.push(Router {
                https: address("https")?.parse()?,
                http: address("http")?.parse()?,
                admin_url: format!("http://{}", address("admin")?),
                _program: program,
            });
        }
        Ok(Some(Self { each, https_port, http_port }))
    }
}

/// A provisioner, whose API is at another port after each start.
pub struct Provisioner {
    pub program: Program,
    pub token: String,
}

impl Provisioner {
    pub fn start(control: &Control, witness: &Witness, folder: &Path) -> Result<Self> {
        use provisioner::certificate_authority::CertificateAuthority;
        std::fs::create_dir_all(folder)?;
        let token = hex::encode(uuid::Uuid::new_v4().into_bytes());
        let file = |name: &str, text: &str| {
            let path = folder.join(name);
            std::fs::write(&path, text).map(|()| path)
        };
        let (root, key) = CertificateAuthority::generate()?;
        let config = json!({
            "listen": "127.0.0.1:0",
            "control_database_url": control.url,
            "region_keys": { REGION: file("keys.json", &control.key_ring)? },
            "platform_domain": "localhost",
            "certificate_authority": {
                "certificate": file("local-root.pem", &root)?, "key": file("local-key.pem", &key)?,
            },
            "dns": { "servers": [control.dns.address] },
            "acme": {
                "authorities": [{
                    "name": "pebble",
                    "directory_url": format!("{}/dir", witness.url),
                    "contact": ["mailto:ops@example.test"],
                    "root_certificates": file("authority-root.pem", &witness.root_pem)?,
                    "orders_in_three_hours": 1_000_000,
                }],
                "claim_secs": CLAIM_SECS,
            },
            "runtime": {
                "kind": "local", "directory": folder.join("run"), "logs": folder.join("logs"),
                "tenant_app": binary("tenant-app")?,
            },
            "bootstrap_token_file": file("token", &token)?,
        });
        Ok(Self { program: Program::start("provisioner", folder, config)?, token })
    }

    /// Where its API is, once it listens.
    pub async fn url(&mut self) -> Result<String> {
        let ready = self.program.ready().await?;
        let ready = ready.with_context(|| format!("it ended: {}", self.program.said()))?;
        Ok(format!("http://{}", ready["listen"].as_str().context("an address")?))
    }
}

fn free() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
