//! A certificate authority that speaks ACME: `pebble` of the Debian package of that name.

use std::{
    fs::{File, Permissions},
    net::{SocketAddr, TcpListener},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use provisioner::{
    acme::{schedule::Allowance, settings::AuthoritySettings},
    certificate_authority::CertificateAuthority,
};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use serde_json::json;
use tempfile::TempDir;

use crate::Visitor;

/// The key of the contract that it insists on, where it insists on one.
const CONTRACT_KEY: [u8; 32] = [7; 32];

/// How it behaves.
#[derive(Clone, Debug)]
pub struct PebbleOptions {
    /// Nonces that it refuses, in percent.
    pub bad_nonces: u32,
    /// Longest pause before it looks at a challenge, in seconds. Each is drawn.
    pub sleep: u32,
    /// Authorizations that it uses again, in percent.
    pub reuse: u32,
    /// The id of the contract that it insists on (RFC 8555 section 7.3.4).
    pub binding: Option<String>,
}

impl Default for PebbleOptions {
    fn default() -> Self {
        Self { bad_nonces: 5, sleep: 0, reuse: 50, binding: None }
    }
}

/// The authority. It ends when dropped.
pub struct Pebble {
    /// Where it listens.
    pub address: SocketAddr,
    /// Its directory.
    pub directory_url: String,
    /// The root that vouches for its own server, not for what it issues.
    pub server_root: PathBuf,
    external_account: Option<(String, Vec<u8>)>,
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
    ///
    /// # Errors
    /// When the program is not installed, or does not start.
    pub async fn start(
        dns: SocketAddr,
        https_port: u16,
        http_port: u16,
        options: PebbleOptions,
    ) -> Result<Self> {
        for _ in 0..20 {
            // Another process can take a port in between: then the program ends at once.
            let pebble = Self::try_start(dns, (https_port, http_port), &options).await?;
            if let Some(pebble) = pebble {
                return Ok(pebble);
            }
        }
        bail!("pebble does not start")
    }

    async fn try_start(
        dns: SocketAddr,
        (https_port, http_port): (u16, u16),
        options: &PebbleOptions,
    ) -> Result<Option<Self>> {
        let folder = tempfile::Builder::new().prefix("ta3lem-pebble-").tempdir_in("/tmp")?;
        // The platform, which another user may run, reads the root.
        std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
        let path = |name: &str| folder.path().join(name);
        write_identity(folder.path())?;
        let (address, management) = (free()?, free()?);
        let contract = options.binding.as_ref();
        let keys = contract.map(|id| json!({ id: URL_SAFE_NO_PAD.encode(CONTRACT_KEY) }));
        let config = json!({ "pebble": {
            "listenAddress": address, "managementListenAddress": management,
            "certificate": path("cert.pem"), "privateKey": path("key.pem"),
            "httpPort": http_port, "tlsPort": https_port,
            "externalAccountBindingRequired": keys.is_some(),
            "externalAccountMACKeys": keys.unwrap_or_default(),
        }});
        std::fs::write(path("config.json"), config.to_string())?;
        let out = File::create(path("log"))?;
        let process = Command::new("pebble")
            .arg("-config")
            .arg(path("config.json"))
            .args(["-dnsserver", &dns.to_string()])
            .env("PEBBLE_WFE_NONCEREJECT", options.bad_nonces.to_string())
            .env("PEBBLE_VA_SLEEPTIME", options.sleep.to_string())
            .env("PEBBLE_AUTHZREUSE", options.reuse.to_string())
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .context("pebble: install the Debian package pebble")?;
        let mut pebble = Self {
            address,
            directory_url: format!("https://localhost:{}/dir", address.port()),
            server_root: path("root.pem"),
            external_account: contract.map(|id| (id.clone(), CONTRACT_KEY.to_vec())),
            management: format!("https://localhost:{}", management.port()),
            folder,
            process,
        };
        Ok(pebble.is_up().await?.then_some(pebble))
    }

    /// Waits until it answers on both of its ports, or ends. Only this one has a certificate of the
    /// root that was made for it, so nobody else's answer is taken for its own.
    async fn is_up(&mut self) -> Result<bool> {
        let visitor = Visitor::new(&self.server_root)?;
        for _ in 0..1_000 {
            if let Some(status) = self.process.try_wait()? {
                let said = std::fs::read_to_string(self.log())?;
                let is_taken = said.contains("already in use");
                ensure!(is_taken, "pebble ended ({status}): {said}");
                return Ok(false);
            }
            if visitor.open(&self.directory_url).await.is_ok()
                && visitor.open(&self.root_url()).await.is_ok()
            {
                return Ok(true);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(false)
    }

    /// What the provisioner's settings need to use it under this name.
    ///
    /// # Errors
    /// When its root cannot be read.
    pub fn settings(&self, name: &str) -> Result<AuthoritySettings> {
        let root = CertificateDer::from_pem_file(&self.server_root)?;
        Ok(AuthoritySettings {
            name: name.to_owned(),
            directory_url: self.directory_url.clone(),
            contact: vec!["mailto:ops@example.test".to_owned()],
            roots: vec![root.as_ref().to_vec()],
            external_account: self.external_account.clone(),
            profile: None,
            allowance: Allowance::in_three_hours(300),
        })
    }

    /// Somebody who trusts what it issues, and nobody else.
    ///
    /// # Errors
    /// When it does not tell its root.
    pub async fn visitor(&self) -> Result<Visitor> {
        let root = self.issuing_root().await?;
        let file = self.folder.path().join("issuing-root.pem");
        std::fs::write(&file, root)?;
        Visitor::new(&file)
    }

    /// The root of what it issues, in PEM.
    ///
    /// # Errors
    /// When it does not tell.
    pub async fn issuing_root(&self) -> Result<String> {
        Visitor::new(&self.server_root)?.read(&self.root_url()).await
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

    fn root_url(&self) -> String {
        format!("{}/roots/0", self.management)
    }

    fn log(&self) -> PathBuf {
        self.folder.path().join("log")
    }
}

/// A root of its own, and what it vouches for.
fn write_identity(folder: &Path) -> Result<()> {
    let (root, key) = CertificateAuthority::generate()?;
    let issued = CertificateAuthority::from_pem(&root, &key)?.issue(&"localhost".parse()?)?;
    for (name, text) in
        [("root.pem", &root), ("cert.pem", &issued.chain_pem), ("key.pem", &issued.key_pem)]
    {
        std::fs::write(folder.join(name), text)?;
        std::fs::set_permissions(folder.join(name), Permissions::from_mode(0o644))?;
    }
    Ok(())
}

fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
