//! `ta3lem doctor`: what is missing or wrong on this machine, in words. It changes nothing.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, SystemTime},
};

use provisioner_api::client::Client;
use serde::Serialize;

use crate::{
    config,
    data_dir::DataDir,
    keeper,
    up::{
        authority::Authority,
        binaries_beside_this, ports,
        postgres::{Binaries, Cluster},
        process,
        progress::{line, paint},
        ready::Ready,
        start::REGIONS,
    },
};

/// Under this the clusters soon cannot write.
const LOW_DISK_BYTES: u64 = 2 * 1024 * 1024 * 1024;
/// How long a component may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);
/// The certificate of a site may not be valid yet when the clock is off by more.
const CLOCK_MUST_BE_AFTER: Duration = Duration::from_secs(1_750_000_000);

/// Says what is missing or wrong here.
#[derive(Clone, Debug, clap::Args)]
pub struct DoctorArgs {
    /// The data directory to look at
    #[arg(long, value_name = "DIR", env = "TA3LEM_DATA_DIR", hide_env_values = true)]
    pub data_dir: Option<PathBuf>,
    /// The HTTPS port that `ta3lem up` would use
    #[arg(long, value_name = "PORT", default_value_t = 8443)]
    pub https_port: u16,
    /// The HTTP port that `ta3lem up` would use
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    pub http_port: u16,
    /// Answer in JSON
    #[arg(long)]
    pub json: bool,
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but not for ever.
    Warning,
    /// Does not work.
    Wrong,
}

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: String,
    /// How it is.
    pub verdict: Verdict,
    /// In words; says what to do when something is wrong.
    pub detail: String,
}

/// Looks at everything and says it. Fails if something is wrong.
pub async fn run(args: DoctorArgs) -> ExitCode {
    let findings = match examine(&args).await {
        Ok(findings) => findings,
        Err(error) => {
            eprintln!("ta3lem doctor: {error:#}");
            return ExitCode::FAILURE;
        }
    };
    if args.json {
        line(&serde_json::to_string_pretty(&findings).unwrap_or_default());
    } else {
        for finding in &findings {
            let mark = match finding.verdict {
                Verdict::Ok => paint("32", "ok     "),
                Verdict::Warning => paint("33", "warning"),
                Verdict::Wrong => paint("31", "wrong  "),
            };
            line(&format!("  {mark}  {:<26} {}", finding.check, finding.detail));
        }
    }
    let wrong = findings.iter().filter(|finding| finding.verdict == Verdict::Wrong).count();
    if wrong > 0 {
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

struct Findings(Vec<Finding>);

impl Findings {
    fn add(&mut self, check: &str, verdict: Verdict, detail: impl Into<String>) {
        self.0.push(Finding { check: check.to_owned(), verdict, detail: detail.into() });
    }

    fn result(&mut self, check: &str, result: anyhow::Result<String>) {
        match result {
            Ok(detail) => self.add(check, Verdict::Ok, detail),
            Err(error) => self.add(check, Verdict::Wrong, format!("{error:#}")),
        }
    }
}

async fn examine(args: &DoctorArgs) -> anyhow::Result<Vec<Finding>> {
    let directory = args.data_dir.clone().map_or_else(config::default_data_dir, Ok)?;
    let data = DataDir::at(&directory)?;
    let mut findings = Findings(Vec::new());
    findings.result(
        "programs",
        binaries_beside_this().map(|directory| format!("all in {}", directory.display())),
    );
    findings.result(
        "Postgres server",
        Binaries::find(&data)
            .await
            .map(|found| format!("version {} in {}", found.major, found.directory.display())),
    );
    findings
        .result("pgBackRest", keeper::program().await.map(|program| program.display().to_string()));
    check_clock(&mut findings);
    check_disk(&mut findings, data.root());
    let is_ours = match data.is_ours() {
        Ok(is_ours) => is_ours,
        Err(error) => {
            findings.add("data directory", Verdict::Wrong, format!("{error:#}"));
            return Ok(findings.0);
        }
    };
    check_data_directory(&mut findings, &data, is_ours);
    let is_up = matches!(data.holder(), Ok(Some(_)));
    if !is_up {
        for (port, option) in [(args.https_port, "--https-port"), (args.http_port, "--http-port")] {
            if ports::is_free(port) {
                findings.add(&format!("port {port}"), Verdict::Ok, "free");
            } else {
                let detail = format!("taken: choose another one with {option}");
                findings.add(&format!("port {port}"), Verdict::Wrong, detail);
            }
        }
        check_leftovers(&mut findings, &data);
        findings.add("platform", Verdict::Ok, "not up; `ta3lem up` starts it");
    } else {
        check_running(&mut findings, &data).await;
    }
    if is_ours {
        check_authority(&mut findings, &data);
    }
    Ok(findings.0)
}

fn check_clock(findings: &mut Findings) {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    if now > CLOCK_MUST_BE_AFTER {
        findings.add("clock", Verdict::Ok, "plausible");
    } else {
        let detail = "far in the past: certificates are not valid yet then. Set the clock";
        findings.add("clock", Verdict::Wrong, detail);
    }
}

fn check_disk(findings: &mut Findings, root: &Path) {
    let existing = root.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    let free = rustix::fs::statvfs(existing).map(|stat| stat.f_bavail * stat.f_frsize);
    match free {
        Ok(free) if free < LOW_DISK_BYTES => findings.add(
            "disk space",
            Verdict::Wrong,
            format!("{} left at {}: make room", gigabytes(free), existing.display()),
        ),
        Ok(free) => findings.add("disk space", Verdict::Ok, format!("{} free", gigabytes(free))),
        Err(error) => findings.add("disk space", Verdict::Warning, error.to_string()),
    }
}

fn gigabytes(bytes: u64) -> String {
    let tenths = bytes / 100_000_000;
    format!("{}.{} GB", tenths / 10, tenths % 10)
}

fn check_data_directory(findings: &mut Findings, data: &DataDir, is_ours: bool) {
    use std::os::unix::fs::MetadataExt as _;

    let root = data.root();
    let detail = match std::fs::metadata(root) {
        Err(_) => format!("{}: not there yet; `ta3lem up` makes it", root.display()),
        Ok(_) if !is_ours => {
            let detail = format!("{} was not made by `ta3lem up`", root.display());
            return findings.add("data directory", Verdict::Warning, detail);
        }
        Ok(metadata) if metadata.mode() & 0o066 != 0 => {
            let detail = format!("{0} is open to others: chmod 711 {0}", root.display());
            return findings.add("data directory", Verdict::Wrong, detail);
        }
        Ok(metadata) => {
            let me = rustix::process::geteuid();
            if !me.is_root() && metadata.uid() != me.as_raw() {
                let detail = format!("{} belongs to user id {}", root.display(), metadata.uid());
                return findings.add("data directory", Verdict::Wrong, detail);
            }
            format!("{}", root.display())
        }
    };
    findings.add("data directory", Verdict::Ok, detail);
}

fn check_leftovers(findings: &mut Findings, data: &DataDir) {
    let records = process::records(data).unwrap_or_default();
    let alive: Vec<_> = records.iter().filter(|record| record.is_alive()).collect();
    if !alive.is_empty() {
        let names: Vec<_> = alive.iter().map(|record| record.component.as_str()).collect();
        let detail = format!(
            "a killed run left {}: `ta3lem down{}` stops them",
            names.join(", "),
            data.as_option()
        );
        findings.add("leftovers", Verdict::Warning, detail);
    }
}

fn check_authority(findings: &mut Findings, data: &DataDir) {
    let authority = Authority::of(data);
    match authority.days_left() {
        Ok(days) if days < 30 => findings.add(
            "certificate authority",
            Verdict::Warning,
            format!("ends in {days} days: remove {}", authority.certificate.display()),
        ),
        Ok(days) => {
            findings.add("certificate authority", Verdict::Ok, format!("valid for {days} days"));
        }
        Err(error) => {
            findings.add("certificate authority", Verdict::Warning, format!("{error:#}"));
        }
    }
}

async fn check_running(findings: &mut Findings, data: &DataDir) {
    let ready = match Ready::read(data) {
        Ok(ready) => ready,
        Err(_) => {
            let detail =
                format!("still starting or stopping; its log: {}", data.log("ta3lem").display());
            return findings.add("platform", Verdict::Warning, detail);
        }
    };
    findings.add("platform", Verdict::Ok, "up");
    for process in &ready.processes {
        let verdict = if process.is_alive() { Verdict::Ok } else { Verdict::Wrong };
        let detail = match verdict {
            Verdict::Ok => format!("process {}", process.process_id),
            _ => format!("not running; its log: {}", process.log.display()),
        };
        findings.add(&process.component, verdict, detail);
    }
    check_clusters(findings, data).await;
    for region in &ready.regions {
        let url = format!("{}/readyz", region.router.admin);
        findings.result(&format!("router of {}", region.name), answers(&url).await);
    }
    check_provisioner(findings, &ready).await;
}

async fn check_clusters(findings: &mut Findings, data: &DataDir) {
    let names = std::iter::once("control").chain(REGIONS.iter().map(|region| region.name));
    for name in names {
        let cluster = Cluster::existing(data, name);
        let result = match cluster {
            Ok(cluster) => cluster.connect().await.map(|_| "accepts connections".into()),
            Err(error) => Err(error),
        };
        findings.result(&format!("cluster {name}"), result);
    }
}

async fn answers(url: &str) -> anyhow::Result<String> {
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let http = reqwest::Client::builder().no_proxy().timeout(PATIENCE).build()?;
    let answer = http.get(url).send().await?;
    anyhow::ensure!(answer.status().is_success(), "{url} answers {}", answer.status());
    Ok("ready".to_owned())
}

async fn check_provisioner(findings: &mut Findings, ready: &Ready) {
    let token = match std::fs::read_to_string(&ready.api.token_file) {
        Ok(token) => token,
        Err(error) => {
            let detail = format!("cannot read {}: {error}", ready.api.token_file.display());
            return findings.add("API", Verdict::Wrong, detail);
        }
    };
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let client = match Client::new(&ready.api.url, token.trim()) {
        Ok(client) => client,
        Err(error) => return findings.add("API", Verdict::Wrong, error.to_string()),
    };
    let api = client.ready().await.map(|()| ready.api.url.clone()).map_err(Into::into);
    findings.result("API", api);
    let (clusters, stores) = (client.clusters().await, client.object_stores().await);
    let seen = |name: String, error: Option<String>| match error {
        Some(error) => (name, Verdict::Wrong, error),
        None => (name, Verdict::Ok, "reached by the provisioner".to_owned()),
    };
    let clusters = clusters.unwrap_or_default().into_iter().map(|cluster| {
        let detail = seen(format!("cluster {}", cluster.name), cluster.last_error);
        let full = cluster.n_databases >= i64::from(cluster.max_databases);
        if full && detail.1 == Verdict::Ok {
            return (detail.0, Verdict::Warning, "full: new sites need another one".to_owned());
        }
        detail
    });
    let stores = stores.unwrap_or_default().into_iter();
    let stores = stores.map(|store| seen(format!("object store {}", store.name), store.last_error));
    let backups = client.backups().await.unwrap_or_default().into_iter().map(|backups| {
        let name = format!("backups of {}", backups.cluster);
        match (backups.problem, backups.at_risk_secs) {
            (Some(problem), _) => (name, Verdict::Warning, problem),
            (None, risk) => {
                let detail = format!("complete but for the last {} s", risk.unwrap_or_default());
                (name, Verdict::Ok, detail)
            }
        }
    });
    for (check, verdict, detail) in clusters.chain(stores).chain(backups) {
        findings.add(&check, verdict, detail);
    }
}
