//! Where the binaries under test are: beside the test itself.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// The binary of this name, as built by `cargo build --workspace --bins`.
///
/// # Errors
/// When it was not built.
pub fn binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe()?;
    // target/<profile>/deps/<test>
    let directory = test.parent().and_then(|deps| deps.parent()).context("no target directory")?;
    let path = directory.join(name);
    ensure!(
        path.is_file(),
        "{} is not built: run `cargo build --workspace --bins`",
        path.display()
    );
    Ok(path)
}
