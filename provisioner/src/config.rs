//! The provisioner's configuration: one JSON file, read before anything starts. All mistakes are
//! told together.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use control_types::Hostname;
use serde::Deserialize;

use crate::{
    acme::settings::{AcmeConfig, AcmeSettings},
    dns::DnsConfig,
};

/// What the file says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Where the API listens; port 0 for any free one.
    pub listen: SocketAddr,
    /// Where the control database is, with the password of its owner.
    pub control_database_url: String,
    /// The file of each region's keys.
    pub region_keys: BTreeMap<String, PathBuf>,
    /// The domain that sites get their first hostname below.
    pub platform_domain: String,
    /// The authority that issues certificates for names that no public one certifies.
    pub certificate_authority: AuthorityConfig,
    /// The public authorities that issue all others; none when the local one issues all.
    #[serde(default)]
    pub acme: Option<AcmeConfig>,
    /// Which DNS servers are asked about custom domains.
    #[serde(default)]
    pub dns: DnsConfig,
    /// What runs instances.
    pub runtime: RuntimeConfig,
    /// Holds the token that is valid from the start.
    pub bootstrap_token_file: PathBuf,
    /// Written when the API listens: its address and the process id.
    #[serde(default)]
    pub ready_file: Option<PathBuf>,
    /// What is logged, as in `info` or `provisioner=debug,info`.
    #[serde(default = "info")]
    pub log: String,
}

/// The local certificate authority.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorityConfig {
    /// Its certificate (PEM).
    pub certificate: PathBuf,
    /// Its key (PEM, PKCS#8).
    pub key: PathBuf,
}

/// What runs instances.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum RuntimeConfig {
    /// Processes on this machine.
    Local {
        /// Sockets and the notes that let a restarted provisioner find its instances.
        directory: PathBuf,
        /// One log per site.
        logs: PathBuf,
        /// The program.
        tenant_app: PathBuf,
        /// Whether the instances end with the provisioner when it is asked to stop.
        #[serde(default)]
        stop_instances_on_exit: bool,
    },
}

fn info() -> String {
    "info".to_owned()
}

/// A configuration that has been checked.
#[derive(Clone, Debug)]
pub struct Resolved {
    /// As the file says.
    pub config: Config,
    /// In canonical form.
    pub platform_domain: Hostname,
    /// The public certificate authorities.
    pub acme: Option<AcmeSettings>,
    /// From its file.
    pub bootstrap_token: String,
}

/// Reads and checks the file; every mistake is one line.
///
/// # Errors
/// All mistakes that were found.
pub fn load(path: &Path) -> Result<Resolved, Vec<String>> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| vec![format!("cannot read {}: {error}", path.display())])?;
    let config: Config = serde_json::from_str(&text)
        .map_err(|error| vec![format!("{} is not valid: {error}", path.display())])?;
    let mut mistakes = Vec::new();
    let platform_domain = config.platform_domain.parse::<Hostname>();
    if let Err(error) = &platform_domain {
        mistakes.push(format!("platform_domain '{}': {error}", config.platform_domain));
    }
    if config.control_database_url.parse::<sqlx::postgres::PgConnectOptions>().is_err() {
        mistakes.push("control_database_url is not a Postgres URL".to_owned());
    }
    if config.region_keys.is_empty() {
        mistakes.push("region_keys names no region".to_owned());
    }
    let bootstrap_token = std::fs::read_to_string(&config.bootstrap_token_file)
        .map(|token| token.trim().to_owned())
        .map_err(|error| {
            format!("bootstrap_token_file {}: {error}", config.bootstrap_token_file.display())
        });
    match &bootstrap_token {
        Ok(token) if token.len() < 32 => {
            mistakes.push("bootstrap_token_file: a token has at least 32 characters".to_owned());
        }
        Ok(_) => {}
        Err(mistake) => mistakes.push(mistake.clone()),
    }
    let RuntimeConfig::Local { tenant_app, .. } = &config.runtime;
    if !tenant_app.is_file() {
        mistakes.push(format!("runtime.tenant_app: there is no file {}", tenant_app.display()));
    }
    let acme = config.acme.as_ref().map(|acme| acme.resolve(&mut mistakes));
    match (platform_domain, bootstrap_token) {
        (Ok(platform_domain), Ok(bootstrap_token)) if mistakes.is_empty() => {
            Ok(Resolved { config, platform_domain, acme, bootstrap_token })
        }
        _ => Err(mistakes),
    }
}
