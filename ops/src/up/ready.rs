//! The file that tells scripts where everything is. It exists only while everything is up.

use std::path::PathBuf;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use super::process::ProcessRecord;
use crate::data_dir::{DataDir, write_private};

/// Its content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// The provisioner's API.
    pub api: Api,
    /// The certificate of the local authority (PEM).
    pub certificate_authority: PathBuf,
    /// The regions and their routers.
    pub regions: Vec<RegionReady>,
    /// The sites that there were when all was up.
    pub sites: Vec<SiteReady>,
    /// One per component, `ta3lem up` itself included.
    pub processes: Vec<ProcessRecord>,
}

/// Where the API is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Api {
    /// As `http://127.0.0.1:41234`.
    pub url: String,
    /// The file with its bearer token.
    pub token_file: PathBuf,
}

/// A region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionReady {
    /// As `id-jakarta`.
    pub name: String,
    /// Its router.
    pub router: RouterReady,
}

/// A router's addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterReady {
    /// As `127.0.0.1:8443`.
    pub https: String,
    /// As `127.0.0.1:8080`.
    pub http: String,
    /// As `http://127.0.0.1:9100`.
    pub admin: String,
    /// Its process.
    pub process_id: Option<u32>,
}

/// A site.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SiteReady {
    /// Its slug.
    pub slug: String,
    /// Its name.
    pub name: String,
    /// Where it is.
    pub region: String,
    /// Opens as it stands.
    pub url: String,
    /// All its URLs, the primary one first.
    pub urls: Vec<String>,
    /// Demo accounts; of other sites no password is known.
    pub logins: Vec<Login>,
}

/// A demo account.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Login {
    /// Signs in.
    pub email: String,
    /// With this.
    pub password: String,
    /// As this.
    pub role: String,
}

impl Ready {
    /// Writes it, whole or not at all, to the data directory and to `copies`.
    ///
    /// # Errors
    /// When one of the files cannot be written.
    pub fn write(&self, data: &DataDir, copies: Option<&std::path::Path>) -> anyhow::Result<()> {
        let text = serde_json::to_vec_pretty(self)?;
        write_private(&data.ready_file(), &text)?;
        if let Some(copy) = copies {
            let copy = std::path::absolute(copy)?;
            write_private(&copy, &text)
                .with_context(|| format!("--ready-file: cannot write {}", copy.display()))?;
        }
        Ok(())
    }

    /// What a running `ta3lem up` wrote.
    ///
    /// # Errors
    /// When there is no such file: nothing is up.
    pub fn read(data: &DataDir) -> anyhow::Result<Self> {
        let file = data.ready_file();
        let text =
            std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is malformed", file.display()))
    }
}

/// Removes the files: not everything is up any more.
pub fn remove(data: &DataDir, copy: Option<&std::path::Path>) {
    let _ = std::fs::remove_file(data.ready_file());
    if let Some(copy) = copy {
        let _ = std::fs::remove_file(copy);
    }
}
