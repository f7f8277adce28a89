//! A DNS server whose records a test sets: `pebble-challtestsrv` of the Debian package `pebble`.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener, UdpSocket},
    path::Path,
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use provisioner::dns::{Dns, DnsConfig};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;
use uuid::Uuid;

const PROGRAM: &str = "pebble-challtestsrv";
/// A text here shows that the server which answers is the one that was told.
const PROOF: &str = "proof.pebble-challtestsrv.test";
/// Longest time for one answer of its management.
const ANSWER: Duration = Duration::from_secs(2);

/// The server. It ends when dropped.
pub struct DnsServer {
    /// Where it answers, over UDP and TCP.
    pub address: SocketAddr,
    management: String,
    http: reqwest::Client,
    process: Child,
    _folder: TempDir,
}

impl Drop for DnsServer {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl DnsServer {
    /// Starts it; it knows no record.
    ///
    /// # Errors
    /// When the program is not installed, or does not start.
    pub async fn start() -> Result<Self> {
        Self::start_with("").await
    }

    /// Starts it; it leads every name to this machine, unless it is told otherwise.
    ///
    /// # Errors
    /// When the program is not installed, or does not start.
    pub async fn start_leading_here() -> Result<Self> {
        Self::start_with("127.0.0.1").await
    }

    async fn start_with(ipv4: &str) -> Result<Self> {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        for _ in 0..20 {
            // Another process can take a port in between. Then the program says so, and runs on.
            if let Some(server) = Self::try_start(ipv4).await? {
                return Ok(server);
            }
        }
        bail!("{PROGRAM} does not start")
    }

    async fn try_start(ipv4: &str) -> Result<Option<Self>> {
        let (address, management) = (free_for_both()?, free()?);
        let folder = tempfile::tempdir()?;
        let log = folder.path().join("log");
        let out = File::create(&log)?;
        let process = Command::new(PROGRAM)
            .args(["-dns01", &address.to_string(), "-management", &management.to_string()])
            .args(["-http01", "", "-https01", "", "-tlsalpn01", ""])
            .args(["-defaultIPv4", ipv4, "-defaultIPv6", ""])
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("{PROGRAM}: install the Debian package pebble"))?;
        let http = reqwest::Client::builder().no_proxy().timeout(ANSWER).build()?;
        let management = format!("http://{management}");
        let mut server = Self { address, management, http, process, _folder: folder };
        Ok(server.is_up(&log).await?.then_some(server))
    }

    /// Waits until it answers on both of its ports, or has not got them.
    async fn is_up(&mut self, log: &Path) -> Result<bool> {
        let dns = Dns::new(&DnsConfig { servers: vec![self.address] })?;
        let proof = Uuid::new_v4().to_string();
        for _ in 0..500 {
            let said = std::fs::read_to_string(log)?;
            if self.process.try_wait()?.is_some() || said.contains("already in use") {
                return Ok(false);
            }
            if self.add_txt(PROOF, &proof).await.is_ok()
                && dns.txt(PROOF).await.is_ok_and(|answer| answer.records().contains(&proof))
            {
                self.clear("txt", PROOF).await?;
                return Ok(true);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(false)
    }

    /// Ends it, for those who only share it.
    pub fn terminate(&self) {
        if let Some(process) = i32::try_from(self.process.id()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(process, Signal::KILL);
        }
    }

    /// Adds a text.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn add_txt(&self, host: &str, text: &str) -> Result<()> {
        self.tell("set-txt", json!({ "host": fqdn(host), "value": text })).await
    }

    /// Makes a name an alias.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn set_cname(&self, host: &str, target: &str) -> Result<()> {
        self.tell("set-cname", json!({ "host": fqdn(host), "target": fqdn(target) })).await
    }

    /// Adds IPv4 addresses.
    ///
    /// # Errors
    /// When the server does not take them.
    pub async fn add_a(&self, host: &str, addresses: &[&str]) -> Result<()> {
        self.tell("add-a", json!({ "host": fqdn(host), "addresses": addresses })).await
    }

    /// Adds IPv6 addresses.
    ///
    /// # Errors
    /// When the server does not take them.
    pub async fn add_aaaa(&self, host: &str, addresses: &[&str]) -> Result<()> {
        self.tell("add-aaaa", json!({ "host": fqdn(host), "addresses": addresses })).await
    }

    /// Lets only this authority issue.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn add_caa(&self, host: &str, tag: &str, value: &str) -> Result<()> {
        let policies = json!([{ "tag": tag, "value": value }]);
        self.tell("add-caa", json!({ "host": fqdn(host), "policies": policies })).await
    }

    /// Answers every question for a name with SERVFAIL.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn fail(&self, host: &str) -> Result<()> {
        self.tell("set-servfail", json!({ "host": fqdn(host) })).await
    }

    /// Removes records: `txt`, `cname`, `a`, `aaaa`, `caa`, or `servfail`.
    ///
    /// # Errors
    /// When the server does not take it.
    pub async fn clear(&self, kind: &str, host: &str) -> Result<()> {
        self.tell(&format!("clear-{kind}"), json!({ "host": fqdn(host) })).await
    }

    async fn tell(&self, what: &str, body: Value) -> Result<()> {
        let answer =
            self.http.post(format!("{}/{what}", self.management)).json(&body).send().await?;
        ensure!(answer.status().is_success(), "{PROGRAM}: {what} {body}: {}", answer.status());
        Ok(())
    }
}

fn fqdn(host: &str) -> String {
    format!("{}.", host.trim_end_matches('.'))
}

fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// A port that was free just now for UDP and for TCP.
fn free_for_both() -> Result<SocketAddr> {
    for _ in 0..100 {
        let tcp = TcpListener::bind("127.0.0.1:0")?;
        if UdpSocket::bind(tcp.local_addr()?).is_ok() {
            return Ok(tcp.local_addr()?);
        }
    }
    bail!("no free port")
}
