//! pgBackRest: what it is told, and what it says.

mod info;
mod restore;

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    process::{Output, Stdio},
};

use anyhow::{Context as _, bail, ensure};
use http::Uri;
use provisioner_api::backups::{BackupKind, KeeperSettings};

pub use info::Known;
pub use restore::{NoBackup, Wanted};

use super::{
    background::{self, EndsBy},
    config::{KeeperConfig, ObjectStoreConfig, PostgresConfig},
    schedule::Due,
};
use crate::{
    config,
    data_dir::{make_directory, write_private},
};

/// The name of the one cluster of a repository. Short: see the prefix in `migrations/control`.
const STANZA: &str = "s";
/// The oldest version that works: the one that this was tested with.
const OLDEST: (u32, u32) = (2, 45);
/// How long the archiving of one segment may take, in seconds. pgBackRest has been seen to hang when the
/// object store went away, and the server archives nothing else meanwhile.
const ARCHIVE_SECS: u32 = 120;
/// The region that signatures name, for endpoints that are not Amazon's.
const SIGNING_REGION: &str = "us-east-1";

/// The program.
///
/// # Errors
/// When it is not installed, or too old: the message names the package.
pub async fn program() -> anyhow::Result<PathBuf> {
    let how = "install the package `pgbackrest` (Debian, Ubuntu, Fedora, Homebrew; Arch: AUR)";
    let mut candidates = config::search_path().into_iter().map(|path| path.join("pgbackrest"));
    let program = candidates.find(|program| program.is_file());
    let program = program.with_context(|| {
        format!("pgBackRest was not found, which makes the backups of the clusters: {how}")
    })?;
    let said = tokio::process::Command::new(&program)
        .arg("version")
        .stdin(Stdio::null())
        .output()
        .await
        .with_context(|| format!("{} cannot be run", program.display()))?;
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    let version = parse_version(&text)
        .with_context(|| format!("{} does not tell its version", program.display()))?;
    ensure!(
        version >= OLDEST,
        "pgBackRest {}.{} is too old ({}.{} or newer is needed): {how}",
        version.0,
        version.1,
        OLDEST.0,
        OLDEST.1
    );
    Ok(program)
}

/// Of `pgBackRest 2.45`.
fn parse_version(text: &str) -> Option<(u32, u32)> {
    let version = text.trim().strip_prefix("pgBackRest ")?;
    let (major, rest) = version.split_once('.')?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Some((major.parse().ok()?, digits.parse().ok()?))
}

/// The file that a keeper with this directory writes for pgBackRest.
pub fn config_file(directory: &Path) -> PathBuf {
    directory.join("pgbackrest.conf")
}

/// The file with the password of the keeper's role, as Postgres' programs read it.
pub fn password_file(directory: &Path) -> PathBuf {
    directory.join("pgpass")
}

/// What a server whose keeper has this directory must have as its `archive_command`.
pub fn archive_command(program: &Path, directory: &Path) -> String {
    let (file, program) = (quoted(&config_file(directory)), quoted(program));
    let timeout = if cfg!(target_os = "linux") {
        format!("timeout -k 10 {ARCHIVE_SECS} ")
    } else {
        String::new()
    };
    // Before the keeper has written the file there is nowhere to go: the server keeps the segment.
    // People's requests come first, but the archiving must keep up with them.
    format!(
        "test -e {file} && {timeout}nice -n 5 {program} --config={file} --stanza={STANZA} archive-push '%p'"
    )
}

/// For the shell, in a setting where `%` has a meaning of its own.
fn quoted(path: &Path) -> String {
    let text = path.to_string_lossy().replace('\'', "'\\''").replace('%', "%%");
    format!("'{text}'")
}

/// pgBackRest for one cluster.
pub struct Pgbackrest {
    program: PathBuf,
    directory: PathBuf,
    postgres: PostgresConfig,
    object_store: ObjectStoreConfig,
    password: Option<String>,
}

impl Pgbackrest {
    /// For the cluster of a keeper.
    ///
    /// # Errors
    /// When it is not installed, or the role's password cannot be read.
    pub async fn new(config: &KeeperConfig) -> anyhow::Result<Self> {
        Ok(Self {
            program: program().await?,
            directory: config.directory.clone(),
            postgres: config.postgres.clone(),
            object_store: config.object_store.clone(),
            password: config.password()?,
        })
    }

    /// Writes its configuration: the server archives from now on.
    ///
    /// # Errors
    /// When it cannot be written, or the endpoint does not take TLS.
    pub fn configure(&self, settings: &KeeperSettings) -> anyhow::Result<()> {
        for directory in [&self.directory, &self.locks(), &self.spool()] {
            make_directory(directory)?;
        }
        // Neither in an argument nor in an environment: others can read those.
        let password = self.password.as_deref().unwrap_or_default();
        let password = password.replace('\\', "\\\\").replace(':', "\\:");
        write_private(&password_file(&self.directory), format!("*:*:*:*:{password}\n").as_bytes())?;
        let text = self.config_text(settings)?;
        write_private(&config_file(&self.directory), text.as_bytes())
    }

    fn locks(&self) -> PathBuf {
        self.directory.join("lock")
    }

    fn spool(&self) -> PathBuf {
        self.directory.join("spool")
    }

    fn config_text(&self, settings: &KeeperSettings) -> anyhow::Result<String> {
        let uri: Uri = settings.endpoint.parse().context("the object store's endpoint")?;
        let is_tls = uri.scheme_str() == Some("https");
        let host = match (&self.object_store.host, uri.host()) {
            (Some(host), _) => host.as_str(),
            (None, Some(host)) if is_tls => host,
            _ => bail!(
                "object_store.host: pgBackRest speaks TLS only and the endpoint is {}: name the host \
                 that takes TLS at that port",
                settings.endpoint
            ),
        };
        let port = uri.port_u16().unwrap_or(if is_tls { 443 } else { 80 });
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let mut lines = vec![
            ("repo1-type", "s3".to_owned()),
            ("repo1-path", format!("/{}", settings.prefix)),
            ("repo1-s3-bucket", settings.bucket.clone()),
            ("repo1-s3-endpoint", host.to_owned()),
            ("repo1-s3-region", SIGNING_REGION.to_owned()),
            ("repo1-s3-uri-style", "path".to_owned()),
            ("repo1-s3-key", settings.access_key.clone()),
            ("repo1-s3-key-secret", settings.secret_key.clone()),
            ("repo1-storage-host", host.to_owned()),
            ("repo1-storage-port", port.to_string()),
            ("repo1-storage-verify-tls", "y".to_owned()),
            ("repo1-cipher-type", "aes-256-cbc".to_owned()),
            ("repo1-cipher-pass", settings.passphrase.clone()),
            ("repo1-bundle", "y".to_owned()),
            ("repo1-retention-full-type", "time".to_owned()),
            ("repo1-retention-full", settings.retention_days.to_string()),
            ("compress-type", "lz4".to_owned()),
            ("process-max", "2".to_owned()),
            ("io-timeout", "30".to_owned()),
            ("lock-path", path(&self.locks())),
            ("spool-path", path(&self.spool())),
            ("log-level-file", "off".to_owned()),
            ("log-level-console", "warn".to_owned()),
        ];
        if let Some(file) = &self.object_store.ca_file {
            lines.push(("repo1-storage-ca-file", path(file)));
        }
        let server = [
            ("pg1-path", path(&self.postgres.data_directory)),
            ("pg1-socket-path", path(&self.postgres.socket_directory)),
            ("pg1-port", self.postgres.port.to_string()),
            ("pg1-user", self.postgres.user.clone()),
        ];
        let mut text = "# Written by `ta3lem cluster keep`.\n[global]\n".to_owned();
        for (name, value) in lines.iter().chain([&("", String::new())]).chain(&server) {
            if name.is_empty() {
                let _ = writeln!(text, "\n[{STANZA}]");
                continue;
            }
            // The file has no way to write such a value.
            ensure!(!value.contains('\n') && !value.is_empty(), "{name}: an unusable value");
            let _ = writeln!(text, "{name}={value}");
        }
        Ok(text)
    }

    /// Makes the repository, unless it is there, and sees a segment of the log arrive in it.
    ///
    /// # Errors
    /// What pgBackRest says.
    pub async fn prepare(&self) -> anyhow::Result<()> {
        if let Err(error) = self.run(&["stanza-create"]).await {
            // The server is of another version than the one that the repository was made with.
            if !error.to_string().contains("stanza-upgrade") {
                return Err(error);
            }
            self.run(&["stanza-upgrade"]).await?;
        }
        self.run(&["check"]).await.map(drop)
    }

    /// What is in the repository.
    ///
    /// # Errors
    /// What pgBackRest says.
    pub async fn info(&self) -> anyhow::Result<Known> {
        info::parse(&self.run(&["info", "--output=json"]).await?)
    }

    /// Makes a base backup, and removes those that need not be kept.
    ///
    /// # Errors
    /// What pgBackRest says.
    pub async fn backup(&self, due: Due) -> anyhow::Result<()> {
        let kind = match due.kind {
            BackupKind::Full => "--type=full",
            BackupKind::Differential => "--type=diff",
            BackupKind::Incremental => "--type=incr",
        };
        // The first one begins with a checkpoint at once. The others wait for one that the server makes
        // at its own pace, so that nobody notices.
        let begin = if due.is_first { "--start-fast" } else { "--no-start-fast" };
        self.run(&[kind, begin, "backup"]).await.map(drop)
    }

    /// Runs it behind everybody else. When this is dropped it is killed: an unfinished backup is taken up
    /// again by the next one.
    async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = background::command(&self.program, EndsBy::Kill)
            .await
            .env("PGPASSFILE", password_file(&self.directory))
            .arg(format!("--config={}", config_file(&self.directory).display()))
            .arg(format!("--stanza={STANZA}"))
            .args(arguments)
            .output()
            .await
            .context("pgbackrest cannot be run")?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let command = arguments.iter().find(|argument| !argument.starts_with('-'));
        bail!("pgbackrest {}: {}", command.unwrap_or(&""), complaint(&output))
    }
}

/// What it complains of: its last error with the lines that belong to it.
fn complaint(output: &Output) -> String {
    const MOST: usize = 400;
    let text = [&output.stdout[..], &output.stderr[..]].concat();
    let text = String::from_utf8_lossy(&text);
    let said = match text.rfind("ERROR: ") {
        Some(at) => text.get(at + "ERROR: ".len()..).unwrap_or_default(),
        None => &text,
    };
    let words: Vec<_> = said.split_whitespace().collect();
    let said: String = words.join(" ").chars().take(MOST).collect();
    if said.is_empty() { output.status.to_string() } else { said }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;

    use super::*;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("pgBackRest 2.45\n"), Some((2, 45)));
        assert_eq!(parse_version("pgBackRest 2.58.0"), Some((2, 58)));
        assert_eq!(parse_version("pgBackRest 2.59dev"), Some((2, 59)));
        assert_eq!(parse_version("bash: pgbackrest: not found"), None);
    }

    #[test]
    fn a_path_is_one_word_to_the_shell() {
        let command = archive_command("/bin/pgbackrest".as_ref(), Path::new("/a b/it's 5%"));
        assert!(
            command.starts_with("test -e '/a b/it'\\''s 5%%/pgbackrest.conf' && "),
            "{command}"
        );
        assert!(command.ends_with(" --stanza=s archive-push '%p'"), "{command}");
    }

    #[test]
    fn a_complaint_is_short_and_whole() {
        let output = |stdout: &str, stderr: &str| Output {
            status: std::process::ExitStatus::from_raw(256 * 55),
            stdout: stdout.into(),
            stderr: stderr.into(),
        };
        let text = "P00   WARN: something\nP00  ERROR: [103]: unable to find a valid repository\n\
                    \x20           HINT: is it there?\n";
        assert_eq!(
            complaint(&output(text, "")),
            "[103]: unable to find a valid repository HINT: is it there?"
        );
        assert_eq!(complaint(&output("", "nice: no such file\n")), "nice: no such file");
        assert!(complaint(&output("", "")).contains("55"));
    }
}
