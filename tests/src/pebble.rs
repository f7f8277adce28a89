//! A certificate authority that speaks ACME: `pebble` of the Debian package of that name.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use provisioner::certificate_authority::CertificateAuthority;
use serde_json::json;
use tempfile::TempDir;

use crate::Visitor;

/// The authority. It ends when dropped.
pub struct Pebble {
    /// Its directory.
    pub directory_url: String,
    /// The root that vouches for its own server, not for what it issues.
    pub server_root: PathBuf,
    management: String,
    folder: TempDir,
    process: Child,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Pebble {
    /// Starts an authority that asks `dns` where names lead, and looks for challenges at these ports.
    /// It refuses a third of all nonces.
    ///
    /// # Errors
    /// When the program is not installed, or does not start.
    pub async fn start(dns: SocketAddr, https_port: u16, http_port: u16) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("ta3lem-pebble-").tempdir_in("/tmp")?;
        // The platform, which another user may run, reads the root.
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
        let path = |name: &str| folder.path().join(name);
        let (root, key) = CertificateAuthority::generate()?;
        let authority = CertificateAuthority::from_pem(&root, &key)?;
        let issued = authority.issue(&"localhost".parse()?)?;
        for (name, text) in
            [("root.pem", &root), ("cert.pem", &issued.chain_pem), ("key.pem", &issued.key_pem)]
        {
            std::fs::write(path(name), text)?;
            std::fs::set_permissions(path(name), std::fs::Permissions::from_mode(0o644))?;
        }
        let (listen, management) = (free()?, free()?);
        let config = json!({ "pebble": {
            "listenAddress": listen, "managementListenAddress": management,
            "certificate": path("cert.pem"), "privateKey": path("key.pem"),
            "httpPort": http_port, "tlsPort": https_port,
        }});
        std::fs::write(path("config.json"), config.to_string())?;
        let out = File::create(path("log"))?;
        let mut process = Command::new("pebble")
            .arg("-config")
            .arg(path("config.json"))
            .args(["-dnsserver", &dns.to_string()])
            .env("PEBBLE_WFE_NONCEREJECT", "33")
            .env("PEBBLE_VA_SLEEPTIME", "1")
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("pebble: install the Debian package pebble")?;
        for _ in 0..1_000 {
            if let Some(status) = process.try_wait()? {
                bail!("pebble ended ({status}): {}", std::fs::read_to_string(path("log"))?);
            }
            let up = tokio::net::TcpStream::connect(listen).await.is_ok();
            if up && tokio::net::TcpStream::connect(management).await.is_ok() {
                return Ok(Self {
                    directory_url: format!("https://localhost:{}/dir", listen.port()),
                    server_root: path("root.pem"),
                    management: format!("https://localhost:{}", management.port()),
                    folder,
                    process,
                });
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let _ = process.kill();
        bail!("pebble does not start")
    }

    /// Somebody who trusts what it issues, and nobody else.
    ///
    /// # Errors
    /// When it does not tell its root.
    pub async fn visitor(&self) -> Result<Visitor> {
        let own = Visitor::new(&self.server_root)?;
        let root = own.read(&format!("{}/roots/0", self.management)).await?;
        let file = self.folder.path().join("issuing-root.pem");
        std::fs::write(&file, root)?;
        Visitor::new(&file)
    }

    /// How many orders it took.
    ///
    /// # Errors
    /// When its log cannot be read.
    pub fn orders(&self) -> Result<usize> {
        let log = std::fs::read_to_string(self.log())?;
        ensure!(!log.is_empty(), "pebble says nothing");
        Ok(log.lines().filter(|line| line.contains("Added order")).count())
    }

    fn log(&self) -> impl AsRef<Path> {
        self.folder.path().join("log")
    }
}

fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
