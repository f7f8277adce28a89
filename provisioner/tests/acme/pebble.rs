//! pebble of the Debian package, with its bad manners set.

use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command},
    time::Duration,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use provisioner::acme::settings::AuthoritySettings;
use serde_json::json;
use tempfile::TempDir;

use crate::rig::{Rig, free_port};

/// How it behaves.
#[derive(Clone)]
pub struct PebbleOptions {
    /// Nonces that it refuses, in percent.
    pub bad_nonces: u32,
    /// Longest pause before it looks at a challenge, in seconds.
    pub sleep: u32,
    /// Authorizations that it uses again, in percent.
    pub reuse: u32,
    /// The id of the contract that it insists on.
    pub binding: Option<String>,
}

impl Default for PebbleOptions {
    fn default() -> Self {
        Self { bad_nonces: 5, sleep: 0, reuse: 50, binding: None }
    }
}

/// Ends when dropped.
pub struct Pebble {
    process: Child,
    log: PathBuf,
    url: String,
    roots: Vec<Vec<u8>>,
    external_account: Option<(String, Vec<u8>)>,
    _folder: TempDir,
}

impl Drop for Pebble {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Pebble {
    pub async fn start(rig: &Rig, options: PebbleOptions) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        let hostname = "localhost".parse().expect("a hostname");
        let issued = rig.ca.authority.issue(&hostname).expect("issues");
        std::fs::write(path("cert.pem"), &issued.chain_pem).expect("writes");
        std::fs::write(path("key.pem"), &issued.key_pem).expect("writes");
        let port = free_port();
        let key = [7; 32];
        let keys = options.binding.as_ref().map(|id| json!({ id: URL_SAFE_NO_PAD.encode(key) }));
        let config = json!({ "pebble": {
            "listenAddress": format!("127.0.0.1:{port}"),
            "managementListenAddress": format!("127.0.0.1:{}", free_port()),
            "certificate": path("cert.pem"),
            "privateKey": path("key.pem"),
            "httpPort": rig.http_port,
            "tlsPort": rig.tls_port,
            "externalAccountBindingRequired": keys.is_some(),
            "externalAccountMACKeys": keys.unwrap_or_default(),
        }});
        std::fs::write(path("config.json"), config.to_string()).expect("writes");
        let log = path("log");
        let out = File::create(&log).expect("a log");
        let process = Command::new("pebble")
            .arg("-config")
            .arg(path("config.json"))
            .args(["-dnsserver", &rig.dns.address.to_string()])
            .env("PEBBLE_WFE_NONCEREJECT", options.bad_nonces.to_string())
            .env("PEBBLE_VA_SLEEPTIME", options.sleep.to_string())
            .env("PEBBLE_AUTHZREUSE", options.reuse.to_string())
            .stdout(out.try_clone().expect("a log"))
            .stderr(out)
            .spawn()
            .expect("the Debian package pebble is installed");
        while tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let url = format!("https://localhost:{port}/dir");
        let external_account = options.binding.map(|id| (id, key.to_vec()));
        Self { process, log, url, roots: vec![rig.ca.der()], external_account, _folder: folder }
    }

    pub fn config(&self, name: &str) -> AuthoritySettings {
        AuthoritySettings {
            name: name.to_owned(),
            directory_url: self.url.clone(),
            contact: vec!["mailto:ops@example.test".to_owned()],
            roots: self.roots.clone(),
            external_account: self.external_account.clone(),
            profile: None,
        }
    }

    /// Orders that it took.
    pub fn n_orders(&self) -> usize {
        let log = std::fs::read_to_string(&self.log).expect("the log");
        log.lines().filter(|line| line.contains("Added order")).count()
    }
}
