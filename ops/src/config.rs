//! What the environment says: the only place that reads it.
#![allow(clippy::disallowed_methods, reason = "this is the one place that reads the environment")]

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Where the data lies when `--data-dir` is not given: `/var/lib/ta3lem` for root and for the user
/// that root's run hands over to, else below the user's own data directory.
///
/// # Errors
/// When the user has no home directory.
pub fn default_data_dir() -> anyhow::Result<PathBuf> {
    if rustix::process::geteuid().is_root() {
        return Ok(PathBuf::from("/var/lib/ta3lem"));
    }
    if let Some(data) =
        std::env::var_os("XDG_DATA_HOME").filter(|data| Path::new(data).is_absolute())
    {
        return Ok(Path::new(&data).join("ta3lem"));
    }
    let home = std::env::var_os("HOME").filter(|home| !home.is_empty());
    let home = home.context("HOME is not set: say where the data is to lie with --data-dir")?;
    Ok(Path::new(&home).join(".local/share/ta3lem"))
}

/// The directories in which commands are looked for.
pub fn search_path() -> Vec<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).filter(|directory| directory.is_absolute()).collect()
}

/// The API token itself (`TA3LEM_TOKEN`); never an argument, since everybody can read those.
pub fn token() -> Option<std::ffi::OsString> {
    std::env::var_os("TA3LEM_TOKEN").filter(|token| !token.is_empty())
}

/// Whether colours are welcome (`NO_COLOR`, `TERM=dumb`).
pub fn wants_colour() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// The variables by which Postgres drivers and programs are led elsewhere.
pub fn postgres_variables() -> Vec<std::ffi::OsString> {
    let names = std::env::vars_os().map(|(name, _)| name);
    names.filter(|name| name.as_encoded_bytes().starts_with(b"PG")).collect()
}
