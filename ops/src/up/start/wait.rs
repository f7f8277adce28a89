//! The files that processes read and write at their start, and waiting for them.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;

use super::PATIENCE;
use crate::data_dir::{DataDir, write_private};

/// Writes the configuration of a process.
pub fn write_config(
    data: &DataDir,
    name: &str,
    config: &serde_json::Value,
) -> anyhow::Result<PathBuf> {
    let file = data.config().join(format!("{name}.json"));
    write_private(&file, &serde_json::to_vec_pretty(config)?)?;
    Ok(file)
}

/// Makes sure that a file is not there.
pub fn absent(file: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        _ => Ok(()),
    }
}

/// Waits for a file that is written whole.
pub async fn appears<T: serde::de::DeserializeOwned>(file: &Path) -> anyhow::Result<T> {
    until(|| async {
        let text = tokio::fs::read(file)
            .await
            .with_context(|| format!("it did not write {} in time", file.display()))?;
        serde_json::from_slice(&text).with_context(|| format!("{} is malformed", file.display()))
    })
    .await
}

/// Tries until it succeeds or patience ends; the last error counts.
pub async fn until<T, F: Future<Output = anyhow::Result<T>>>(
    mut attempt: impl FnMut() -> F,
) -> anyhow::Result<T> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(error) if tokio::time::Instant::now() >= deadline => return Err(error),
            // Other processes: there is no event to wait for.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}
