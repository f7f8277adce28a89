//! A real browser: headless Chromium behind its driver, with a home of its own in which the local
//! authority is trusted, as a visitor would import it.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use fantoccini::{Client, ClientBuilder, elements::Element};
use serde_json::json;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

/// A browser that runs.
pub struct Browser {
    /// Its one window.
    pub client: Client,
    driver: Child,
    _home: TempDir,
}

impl Browser {
    /// Starts a browser with a window of this size in pixels.
    ///
    /// # Errors
    /// When Chromium, its driver or certutil are missing or do not start.
    pub async fn start(authority: &Path, width: u32, height: u32) -> Result<Self> {
        let home = tempfile::Builder::new().prefix("ta3lem-browser-").tempdir()?;
        trust(home.path(), authority).await?;
        let mut driver = Command::new("chromedriver")
            .arg("--port=0")
            .env("HOME", home.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("chromedriver (package chromium-driver)")?;
        let port = port(&mut driver).await?;
        let profile = home.path().join("profile");
        let capabilities = json!({ "goog:chromeOptions": { "args": [
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--hide-scrollbars", "--disable-dev-shm-usage",
            format!("--window-size={width},{height}"),
            format!("--user-data-dir={}", profile.display()),
        ] } });
        let capabilities = capabilities.as_object().cloned().context("capabilities")?;
        let client = ClientBuilder::new(hyper_util::client::legacy::connect::HttpConnector::new())
            .capabilities(capabilities)
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .context("Chromium")?;
        client.set_window_size(width, height).await?;
        Ok(Self { client, driver, _home: home })
    }

    /// Clicks, and waits until the page that follows is there.
    ///
    /// # Errors
    /// When no other page comes.
    pub async fn press(&self, element: Element) -> Result<()> {
        let mark = "window.pressed = true; return true";
        self.client.execute(mark, Vec::new()).await?;
        element.click().await?;
        let is_next = "return !window.pressed && document.readyState === 'complete'";
        for _ in 0..400 {
            if let Ok(serde_json::Value::Bool(true)) =
                self.client.execute(is_next, Vec::new()).await
            {
                return Ok(());
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        bail!("no other page came after the click, still at {}", self.client.current_url().await?)
    }

    /// Leaves a picture of the window in `target/e2e`.
    ///
    /// # Errors
    /// When it cannot be written.
    pub async fn screenshot(&self, name: &str) -> Result<()> {
        let test = std::env::current_exe()?;
        let target = test.ancestors().nth(3).context("no target directory")?;
        let directory: PathBuf = target.join("e2e");
        std::fs::create_dir_all(&directory)?;
        let picture = self.client.screenshot().await?;
        std::fs::write(directory.join(format!("{name}.png")), picture)?;
        Ok(())
    }

    /// Ends it.
    ///
    /// # Errors
    /// When it does not answer any more.
    pub async fn close(mut self) -> Result<()> {
        self.client.close().await?;
        self.driver.kill().await?;
        Ok(())
    }
}

/// The port that the driver chose, from what it prints.
async fn port(driver: &mut Child) -> Result<u16> {
    let stdout = driver.stdout.take().context("no output")?;
    let mut lines = BufReader::new(stdout).lines();
    while let Some(line) = lines.next_line().await? {
        if let Some((_, port)) = line.split_once("on port ") {
            let digits: String = port.chars().take_while(char::is_ascii_digit).collect();
            // It first repeats what it was asked for.
            if digits == "0" {
                continue;
            }
            // Its later words go nowhere; it must not block on them.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return Ok(digits.parse()?);
        }
    }
    bail!("chromedriver ended without a port")
}

async fn trust(home: &Path, authority: &Path) -> Result<()> {
    let database = home.join(".pki/nssdb");
    std::fs::create_dir_all(&database)?;
    let database = format!("sql:{}", database.display());
    for arguments in [
        vec!["-N", "--empty-password"],
        vec!["-A", "-t", "C,,", "-n", "ta3lem", "-i", authority.to_str().context("a path")?],
    ] {
        let output = Command::new("certutil")
            .args(["-d", &database])
            .args(&arguments)
            .output()
            .await
            .context("certutil (package libnss3-tools)")?;
        ensure!(
            output.status.success(),
            "certutil {arguments:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}
