//! `ta3lem up`: the whole platform on one machine. It starts everything in order, keeps it running,
//! and stops it in order when asked to. All state lies in the data directory; a run that was killed
//! at any moment is taken up by the next one.

pub mod ports;
pub mod privileges;
pub mod process;
pub mod leftovers;
pub mod progress;
pub mod supervisor;
pub mod platform;
pub mod authority;
pub mod postgres;
pub mod control_database;
pub mod start;
pub mod demo;
pub mod ready;
pub mod summary;
pub mod signals;

use std::{
    ffi::OsString,
    fs::OpenOptions,
    io::{IsTerminal as _, Write as _},
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::PathBuf,
    process::ExitCode,
    sync::Mutex,
    time::Instant,
};

use anyhow::{Context as _, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use self::{
    platform::Platform,
    progress::{line, note, paint},
    ready::Ready,
};
use crate::{
    config,
    data_dir::{DataDir, Lock},
};

/// Starts the whole platform on this machine, and stops it with Ctrl-C.
#[derive(Clone, Debug, clap::Args)]
pub struct UpArgs {
    /// Where everything is kept [default: /var/lib/ta3lem for root, else ~/.local/share/ta3lem]
    #[arg(long, value_name = "DIR", env = "TA3LEM_DATA_DIR", hide_env_values = true)]
    pub data_dir: Option<PathBuf>,
    /// The first region's port for HTTPS; further regions get the next free ones
    #[arg(long, value_name = "PORT", default_value_t = 8443)]
    pub https_port: u16,
    /// The first region's port for HTTP, which leads to HTTPS
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub http_port: u16,
    /// Ask this DNS server about custom domains, and not those of the system; may come again
    #[arg(long, value_name = "ADDR:PORT")]
    pub dns_server: Vec<SocketAddr>,
    /// Get certificates for names that are not below localhost from this ACME authority
    #[arg(long, value_name = "URL")]
    pub acme_directory: Option<String>,
    /// What vouches for the server of the ACME authority, when the system does not (PEM)
    #[arg(long, value_name = "FILE", requires = "acme_directory")]
    pub acme_root: Option<PathBuf>,
    /// Whom the ACME authority may write to
    #[arg(long, value_name = "MAIL", requires = "acme_directory")]
    pub acme_contact: Option<String>,
    /// Send spans of requests to this OpenTelemetry collector (OTLP over HTTP), as
    /// http://127.0.0.1:4318/v1/traces
    #[arg(long, value_name = "URL")]
    pub traces_endpoint: Option<String>,
    /// Which part of the requests these are, 0 to 1 [default: 0.01]
    #[arg(long, value_name = "N", requires = "traces_endpoint", value_parser = part)]
    pub traces_ratio: Option<f64>,
    /// Make no demo sites on the first run
    #[arg(long)]
    pub no_demo: bool,
    /// Write JSON with all addresses, logins and processes here when all is up
    #[arg(long, value_name = "FILE")]
    pub ready_file: Option<PathBuf>,
    /// Remove all data first
    #[arg(long)]
    pub reset: bool,
    /// Do not ask before a reset
    #[arg(long, requires = "reset")]
    pub yes: bool,
    /// When started by root: run as this user [default: ta3lem, postgres or nobody]
    #[arg(long, value_name = "USER")]
    pub run_as: Option<String>,
}

fn part(text: &str) -> Result<f64, String> {
    let number = text.parse().ok().filter(|number| (0.0..=1.0).contains(number));
    number.ok_or_else(|| "must be between 0 and 1".to_owned())
}

impl UpArgs {
    /// The arguments for the same again, less those that are paths or chose the user.
    fn without_paths(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = vec![
            "--https-port".into(),
            self.https_port.to_string().into(),
            "--http-port".into(),
            self.http_port.to_string().into(),
        ];
        for server in &self.dns_server {
            arguments.extend(["--dns-server".into(), server.to_string().into()]);
        }
        if let Some(url) = &self.acme_directory {
            arguments.extend(["--acme-directory".into(), url.into()]);
        }
        if let Some(root) = &self.acme_root {
            arguments.extend(["--acme-root".into(), root.into()]);
        }
        if let Some(mail) = &self.acme_contact {
            arguments.extend(["--acme-contact".into(), mail.into()]);
        }
        if let Some(url) = &self.traces_endpoint {
            arguments.extend(["--traces-endpoint".into(), url.into()]);
        }
        if let Some(ratio) = self.traces_ratio {
            arguments.extend(["--traces-ratio".into(), ratio.to_string().into()]);
        }
        let flags = [("--no-demo", self.no_demo), ("--reset", self.reset), ("--yes", self.yes)];
        arguments.extend(flags.iter().filter(|(_, on)| *on).map(|(flag, _)| OsString::from(flag)));
        arguments
    }
}

/// Runs until it is asked to stop.
pub async fn run(args: UpArgs) -> ExitCode {
    match prepare_and_serve(args).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("ta3lem up: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn prepare_and_serve(args: UpArgs) -> anyhow::Result<ExitCode> {
    let directory = args.data_dir.clone().map_or_else(config::default_data_dir, Ok)?;
    let data = DataDir::at(&directory)?;
    if rustix::process::geteuid().is_root() {
        match privileges::hand_over(&args, &data)? {}
    }
    // Nothing made from here on is for others, whatever the caller's umask says.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let (stop, hurry) = signals::listen()?;
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let begun = Instant::now();
    let (lock, data) = claim(&args, data).await?;
    log_to_file(&data)?;
    line(&format!("{} in {}", paint("1", "Ta3lem"), data.root().display()));
    let platform = Platform::new(data.clone(), hurry);
    let result = serve(&platform, &args, &stop, begun).await;
    ready::remove(&data, args.ready_file.as_deref());
    if let Err(error) = &result {
        line("");
        eprintln!("ta3lem up: {error:#}");
    }
    line("");
    platform.stop().await;
    drop(lock);
    Ok(if result.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Takes the data directory, empties it if asked to, and stops what a killed run left in it.
async fn claim(args: &UpArgs, data: DataDir) -> anyhow::Result<(Lock, DataDir)> {
    if data.root().exists() && data.is_ours()? {
        let lock = data.lock()?;
        leftovers::stop(&data).await?;
        if args.reset {
            confirm_reset(args, &data)?;
            data.empty(&lock)?;
            note(format!("all data in {} was removed", data.root().display()));
        }
        data.prepare()?;
        return Ok((lock, data));
    }
    data.prepare()?;
    Ok((data.lock()?, data))
}

fn confirm_reset(args: &UpArgs, data: &DataDir) -> anyhow::Result<()> {
    if args.yes {
        return Ok(());
    }
    if !std::io::stdin().is_terminal() {
        bail!("--reset removes all data in {}: confirm it with --yes", data.root().display());
    }
    let mut out = std::io::stdout().lock();
    write!(out, "Remove all sites and all data in {}? [y/N] ", data.root().display())?;
    out.flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    ensure!(matches!(answer.trim(), "y" | "Y" | "yes"), "nothing was removed");
    Ok(())
}

/// Starts everything, tells the person and the scripts, and waits for the end.
async fn serve(
    platform: &Platform,
    args: &UpArgs,
    stop: &CancellationToken,
    begun: Instant,
) -> anyhow::Result<()> {
    let mut ready = tokio::select! {
        ready = start::start(platform, args) => ready?,
        () = stop.cancelled() => {
            note("asked to stop during the start");
            return Ok(());
        }
    };
    let mut changes = platform.changes();
    let mut replace = signal(SignalKind::user_defined2())?;
    write_ready(platform, args, &mut ready)?;
    line(&summary::text(&ready, &platform.data, begun.elapsed().as_secs_f64()));
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = replace.recv() => {
                note("the routers are replaced");
                platform.replace_routers();
            }
            changed = changes.changed() => {
                changed.context("the supervisor is gone")?;
                write_ready(platform, args, &mut ready)?;
            }
        }
    }
}

fn write_ready(platform: &Platform, args: &UpArgs, ready: &mut Ready) -> anyhow::Result<()> {
    ready.processes = platform.processes();
    for region in &mut ready.regions {
        let name = format!("router-{}", region.name);
        let process = ready.processes.iter().find(|process| process.component == name);
        region.router.process_id = process.map(|process| process.process_id);
    }
    ready.write(&platform.data, args.ready_file.as_deref())
}

/// What runs inside this process logs like the others.
fn log_to_file(data: &DataDir) -> anyhow::Result<()> {
    let path = data.log("ta3lem");
    let mut options = OpenOptions::new();
    let file = options
        .append(true)
        .create(true)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open the log {}", path.display()))?;
    // s3s notes each request with all its headers at level info.
    let filter = tracing_subscriber::EnvFilter::new("info,s3s=warn,s3s_fs=warn");
    // A caller may have set up logging already; that is fine too.
    let _ = tracing_subscriber::fmt()
        .json()
        .with_env_filter(filter)
        .with_writer(Mutex::new(file))
        .try_init();
    Ok(())
}

/// The directory of this program, which has the other binaries of its build beside it.
///
/// # Errors
/// When one of them is missing.
pub fn binaries_beside_this() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe().context("this program's path is unknown")?;
    let directory = this.parent().context("a program has a directory")?.to_owned();
    let missing: Vec<_> =
        privileges::BINARIES.iter().filter(|name| !directory.join(name).is_file()).collect();
    ensure!(
        missing.is_empty(),
        "{missing:?} not found in {}: build all of them, as `ops/up` does",
        directory.display()
    );
    Ok(directory)
}
