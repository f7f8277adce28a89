//! Finds the provisioner and the token, and turns what goes wrong on the way into words.

use std::{
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use ops::config;
use provisioner_api::client::{Client, ClientError};
use serde::Deserialize;

use crate::{
    failure::{Code, Failure},
    output::printable,
};

/// Pauses before the further tries of a change.
const PAUSES: [Duration; 3] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1)];

/// Where the provisioner is, as the user says it.
#[derive(Clone, Debug, Default, Args)]
pub struct ConnectionArgs {
    /// The provisioner's API, as http://127.0.0.1:7000; otherwise the one in the data directory
    #[arg(long, value_name = "URL", env = "TA3LEM_API", hide_env_values = true, global = true)]
    #[arg(value_parser = api_url, help_heading = "Provisioner")]
    pub api: Option<String>,
    /// A file with the API token (TA3LEM_TOKEN may hold the token itself)
    #[arg(
        long,
        value_name = "FILE",
        env = "TA3LEM_TOKEN_FILE",
        hide_env_values = true,
        global = true
    )]
    #[arg(help_heading = "Provisioner")]
    pub token_file: Option<PathBuf>,
    /// The data directory of the platform on this machine: /var/lib/ta3lem for root, otherwise
    /// ~/.local/share/ta3lem
    #[arg(
        long,
        value_name = "DIR",
        env = "TA3LEM_DATA_DIR",
        hide_env_values = true,
        global = true
    )]
    #[arg(help_heading = "Provisioner")]
    pub data_dir: Option<PathBuf>,
}

/// The part of `ready.json` that the CLI needs: what `ta3lem up` says about a running platform.
#[derive(Deserialize)]
struct Ready {
    api: ReadyApi,
}

#[derive(Deserialize)]
struct ReadyApi {
    url: String,
    token_file: PathBuf,
}

/// A provisioner, and where we know it from.
pub struct Connection {
    /// The typed client.
    pub client: Client,
    token_from: String,
    local: bool,
}

/// When a change may be sent once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// Only if no connection came about: twice would not be once.
    NotSent,
    /// After every silence: an idempotency key makes many requests one.
    SameKey,
}

impl Connection {
    /// Finds everything; speaks to nobody yet.
    ///
    /// # Errors
    /// When the API or the token cannot be found.
    pub fn open(args: &ConnectionArgs) -> Result<Self, Failure> {
        let ready_file = match (&args.data_dir, config::default_data_dir()) {
            (Some(dir), _) => dir.join("ready.json"),
            (None, Ok(dir)) => dir.join("ready.json"),
            // All is told already.
            (None, Err(_)) if args.api.is_some() => PathBuf::new(),
            (None, Err(error)) => return Err(Failure::new(Code::Failed, format!("{error:#}"))),
        };
        let ready = read_ready(&ready_file);
        let (url, local) = match (&args.api, &ready) {
            (Some(url), Ok(ready)) => (url.clone(), same_url(url, &ready.url)),
            (Some(url), Err(_)) => (url.clone(), false),
            (None, Ok(ready)) => (ready.url.clone(), true),
            (None, Err(reason)) => return Err(not_running(&ready_file, reason)),
        };
        let (token, token_from) = if let Some(file) = &args.token_file {
            read_token(file)?
        } else if let Some(token) = config::token() {
            let token = token.to_str().unwrap_or_default();
            (checked_token(token, "TA3LEM_TOKEN")?, "TA3LEM_TOKEN".to_owned())
        } else if let (true, Ok(ready)) = (local, &ready) {
            read_token(&ready.token_file)?
        } else {
            // The local token is not sent to whatever --api names.
            let message = format!("there is no token for the provisioner at {url}");
            return Err(Failure::new(Code::NotAuthorised, message)
                .hint("give its file with --token-file, or the token in TA3LEM_TOKEN"));
        };
        let client = Client::new(&url, &token)
            .map_err(|error| Failure::new(Code::Failed, error.to_string()))?;
        Ok(Self { client, token_from, local })
    }

    /// The answer to a question, or the reason in words.
    ///
    /// # Errors
    /// What the client met.
    pub fn answer<T>(&self, answer: Result<T, ClientError>) -> Result<T, Failure> {
        answer.map_err(|error| self.explain(error))
    }

    /// Sends a change, and again when the way to the provisioner fails.
    ///
    /// # Errors
    /// What the client met at the last try.
    pub async fn change<T>(
        &self,
        again: Again,
        send: impl AsyncFn(&Client) -> Result<T, ClientError>,
    ) -> Result<T, Failure> {
        for pause in PAUSES {
            match send(&self.client).await {
                Err(error) if may_repeat(&error, again) => tokio::time::sleep(pause).await,
                answer => return self.answer(answer),
            }
        }
        self.answer(send(&self.client).await)
    }

    /// An error of the client in words, with what to do.
    pub fn explain(&self, error: ClientError) -> Failure {
        match error {
            ClientError::Refused(problem) => self.refused(problem),
            ClientError::Unreachable { url, source } => {
                let message =
                    format!("the provisioner at {url} does not answer: {}", innermost(&source));
                let hint = if self.local {
                    "start the platform with `ta3lem up`; `ta3lem doctor` says what is wrong"
                } else {
                    "check --api (TA3LEM_API), and that the provisioner runs there"
                };
                Failure::new(Code::Unreachable, message).hint(hint)
            }
            error @ ClientError::Unexpected { .. } => {
                Failure::new(Code::Unreachable, error.to_string())
                    .hint("check --api (TA3LEM_API), and that both sides have the same version")
            }
        }
    }

    fn refused(&self, problem: Box<provisioner_api::Problem>) -> Failure {
        let (code, hint) = match problem.status {
            401 | 403 => {
                let hint = format!(
                    "the token came from {}; name another with --token-file or TA3LEM_TOKEN",
                    self.token_from
                );
                (Code::NotAuthorised, Some(hint))
            }
            404 => (Code::NotFound, None),
            409 => (Code::Conflict, None),
            502..=504 if problem.field.is_none() => {
                (Code::Unreachable, Some("wait a moment and try again".into()))
            }
            _ => (Code::Failed, None),
        };
        let message = printable(&problem.to_string());
        Failure { code, message, hint, problem: Some(problem), told: false }
    }
}

fn may_repeat(error: &ClientError, again: Again) -> bool {
    match error {
        ClientError::Unreachable { source, .. } => again == Again::SameKey || source.is_connect(),
        // The first request is still being taken in.
        ClientError::Refused(problem) => {
            again == Again::SameKey && problem.kind == "/problems/repeated"
        }
        ClientError::Unexpected { .. } => false,
    }
}

fn read_ready(file: &Path) -> Result<ReadyApi, io::Error> {
    let text = fs::read(file)?;
    Ok(serde_json::from_slice::<Ready>(&text)?.api)
}

fn not_running(ready_file: &Path, reason: &io::Error) -> Failure {
    let file = ready_file.display();
    let failure = |message| Failure::new(Code::Unreachable, message);
    match reason.kind() {
        io::ErrorKind::NotFound => failure(format!("no platform runs here: {file} does not exist"))
            .hint("start one with `ta3lem up`, or name a provisioner with --api and --token-file"),
        io::ErrorKind::PermissionDenied => failure(format!("{file} cannot be read: {reason}"))
            .hint("run this as the user who ran `ta3lem up`"),
        _ => failure(format!("{file} cannot be used: {reason}"))
            .hint("`ta3lem up` writes it anew; or name a provisioner with --api and --token-file"),
    }
}

fn read_token(file: &Path) -> Result<(String, String), Failure> {
    let origin = file.display().to_string();
    let text = fs::read_to_string(file).map_err(|error| {
        Failure::new(Code::NotAuthorised, format!("the token file {origin}: {error}"))
            .hint("name another with --token-file; its owner is the user who ran `ta3lem up`")
    })?;
    Ok((checked_token(&text, &origin)?, origin))
}

fn checked_token(text: &str, origin: &str) -> Result<String, Failure> {
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let message = format!("{origin} holds no token: one line of visible characters is wanted");
        return Err(Failure::new(Code::NotAuthorised, message));
    }
    Ok(token.to_owned())
}

/// Reads `--api`.
fn api_url(text: &str) -> Result<String, String> {
    let url: reqwest::Url = text.parse().map_err(|error| format!("{error}"))?;
    match url.scheme() {
        "http" if url.has_host() && url.username().is_empty() => Ok(text.to_owned()),
        "https" => {
            Err("the provisioner speaks plain HTTP on a private address; reach a remote one \
                        through a tunnel, as `ssh -L 7000:127.0.0.1:7000 HOST`"
                .into())
        }
        _ => Err("a URL as http://127.0.0.1:7000 is wanted".into()),
    }
}

fn same_url(one: &str, other: &str) -> bool {
    one.trim_end_matches('/') == other.trim_end_matches('/')
}

fn innermost(error: &reqwest::Error) -> String {
    let mut reason: &dyn Error = error;
    while let Some(source) = reason.source() {
        reason = source;
    }
    reason.to_string()
}
