//! The configuration file of a keeper (JSON).

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use crate::data_dir::existing_secret;

/// What a keeper is told at its start. The rest comes from the provisioner.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeeperConfig {
    /// The provisioner's API, as `http://127.0.0.1:7000`.
    pub api: String,
    /// The file with the token that was registered for this keeper
    /// (`PUT /v1/clusters/{name}/keeper`).
    pub token_file: PathBuf,
    /// The server beside it.
    pub postgres: PostgresConfig,
    /// Where the keeper's own files lie: its configuration of pgBackRest, locks. Made when absent.
    pub directory: PathBuf,
    /// How pgBackRest reaches the object store, where that differs from how the others do.
    #[serde(default)]
    pub object_store: ObjectStoreConfig,
}

/// The server beside a keeper.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PostgresConfig {
    /// Its data directory.
    pub data_directory: PathBuf,
    /// The directory of its socket.
    pub socket_directory: PathBuf,
    /// Its port.
    pub port: u16,
    /// A role that may begin and end backups, switch segments and read settings: a superuser, or one
    /// with what pgBackRest's manual lists. Only a superuser can bring a database back.
    pub user: String,
    /// The file with its password; none when the server asks for none.
    #[serde(default)]
    pub password_file: Option<PathBuf>,
    /// Where its programs are: `postgres`, `pg_dump`, `pg_restore`. The server tells it when absent.
    #[serde(default)]
    pub bin_directory: Option<PathBuf>,
}

/// How pgBackRest reaches the object store. It speaks TLS only.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectStoreConfig {
    /// The host that it connects to, and that the certificate is for; that of the endpoint when absent.
    #[serde(default)]
    pub host: Option<String>,
    /// What vouches for the certificate (PEM); what the system trusts when absent.
    #[serde(default)]
    pub ca_file: Option<PathBuf>,
}

impl KeeperConfig {
    /// Reads the file.
    ///
    /// # Errors
    /// When it cannot be read, is malformed, or names what is not there.
    pub fn load(file: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read(file).with_context(|| format!("cannot read {}", file.display()))?;
        let config: Self = serde_json::from_slice(&text)
            .with_context(|| format!("{} is malformed", file.display()))?;
        let version = config.postgres.data_directory.join("PG_VERSION");
        ensure!(
            version.exists(),
            "postgres.data_directory: there is no cluster in {}",
            config.postgres.data_directory.display()
        );
        ensure!(config.directory.is_absolute(), "directory: must be an absolute path");
        Ok(config)
    }

    /// The token that opens the provisioner's API for this keeper.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn token(&self) -> anyhow::Result<String> {
        existing_secret(&self.token_file).context("token_file")
    }

    /// The password of the role.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn password(&self) -> anyhow::Result<Option<String>> {
        let file = self.postgres.password_file.as_deref();
        file.map(existing_secret).transpose().context("postgres.password_file")
    }
}
