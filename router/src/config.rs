//! What a router is told at its start: one JSON file. All mistakes are reported at once, before
//! anything starts. Nothing else in the router reads a file or a variable for its settings.

use std::{
    fmt,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use control_types::Hostname;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::{limits::Limits, traces};

pub mod network;

use network::Network;

/// The settings of one router.
#[derive(Clone)]
pub struct Config {
    /// The router's name in the control database and in its own log lines.
    pub name: String,
    /// The region whose certificates it holds and whose keys it can open.
    pub region: String,
    /// The domain below which every site has its first hostname.
    pub platform_domain: Hostname,
    /// Where browsers connect.
    pub https_listen: SocketAddr,
    /// Where browsers speak HTTP/3, over UDP; nowhere without it.
    pub http3_listen: Option<SocketAddr>,
    /// Where plain HTTP is redirected from.
    pub http_listen: SocketAddr,
    /// The private listener: health, metrics, routes.
    pub admin_listen: SocketAddr,
    /// The private listener where other regions' routers pass connections on; none without it.
    pub passthrough_listen: Option<SocketAddr>,
    /// Which networks these routers are in. Whoever is there can claim to be any client.
    pub passthrough_from: Vec<Network>,
    /// Load balancers in front: their connections must begin with a PROXY header, no others may.
    pub proxy_protocol_from: Vec<Network>,
    /// Authorities for connections to other regions' routers, in PEM; those of the system without it.
    pub trusted_roots: Option<PathBuf>,
    /// A URL with a role that can select from schema `routing` and nothing else. Secret.
    pub control_database_url: String,
    /// The region's ring of keys, which opens the certificates' private keys.
    pub region_keys: PathBuf,
    /// The last known routes, for a start without the control database.
    pub snapshot_file: PathBuf,
    /// Written once the router listens.
    pub ready_file: PathBuf,
    /// The filter of the log, as in `info` or `info,router=debug`.
    pub log: String,
    /// How long requests in flight may take after a request to stop.
    pub drain: Duration,
    /// What clients may take.
    pub limits: Limits,
    /// Threads that serve connections; as many as there are cores when absent.
    pub workers: usize,
    /// Where spans of requests go; nowhere without it.
    pub traces: Option<traces::Settings>,
    /// Where the next router asks for this one's sockets; without it there is no handover.
    pub handover_socket: Option<PathBuf>,
}

/// Everything that is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
#[error("the configuration {file} has mistakes:\n  {}", mistakes.join("\n  "))]
pub struct ConfigError {
    file: String,
    mistakes: Vec<String>,
}

impl Config {
    /// The configuration in a file.
    ///
    /// # Errors
    /// Every mistake in the file at once.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError {
            file: file.clone(),
            mistakes: vec![format!("it cannot be read: {error}")],
        })?;
        Self::parse(&text).map_err(|mistakes| ConfigError { file, mistakes })
    }

    fn parse(text: &str) -> Result<Self, Vec<String>> {
        let fields: Map<String, Value> = serde_json::from_str(text)
            .map_err(|error| vec![format!("it is not a JSON object: {error}")])?;
        let mut fields = Fields { fields, mistakes: Vec::new() };
        let name: Option<String> = fields.required("name", "a text");
        let region: Option<String> = fields.required("region", "the name of a region");
        let platform_domain = fields.required("platform_domain", "a hostname");
        let https_listen = fields.required("https_listen", "address:port");
        let http3_listen = fields.optional("http3_listen", "address:port");
        let http_listen = fields.required("http_listen", "address:port");
        let admin_listen = fields.required("admin_listen", "address:port");
        let passthrough_listen = fields.optional("passthrough_listen", "address:port");
        let passthrough_from = fields.networks("passthrough_from");
        let proxy_protocol_from = fields.networks("proxy_protocol_from");
        let trusted_roots = fields.optional("trusted_roots", "the path of a PEM file");
        if passthrough_listen.is_some() && passthrough_from.is_empty() {
            let missing = "passthrough_from: missing; passthrough_listen needs it";
            fields.mistakes.push(missing.to_owned());
        }
        let url: Option<String> = fields.required("control_database_url", "a postgres URL");
        let region_keys = fields.required("region_keys", "the path of a key file");
        let snapshot_file = fields.required("snapshot_file", "a path");
        let ready_file = fields.required("ready_file", "a path");
        let log = fields.optional("log", "a log filter").unwrap_or_else(|| "info".to_owned());
        let drain_secs = fields.optional("drain_secs", "a number of seconds").unwrap_or(30_u32);
        let limits = fields.limits();
        let traces = fields.traces();
        let workers: Option<u16> = fields.optional("workers", "a number of threads");
        if workers == Some(0) {
            fields.mistakes.push("workers: at least one thread must serve".to_owned());
        }
        let handover_socket = fields.optional("handover_socket", "a path");
        if url
            .as_deref()
            .is_some_and(|url| url.parse::<sqlx::postgres::PgConnectOptions>().is_err())
        {
            // The text is not repeated: it may hold a password.
            fields.mistakes.push("control_database_url: not a postgres URL".to_owned());
        }
        if log.parse::<tracing_subscriber::EnvFilter>().is_err() {
            fields.mistakes.push("log: not a log filter".to_owned());
        }
        let mistakes = fields.finish();
        let whole = || {
            Some(Self {
                name: name?,
                region: region?,
                platform_domain: platform_domain?,
                https_listen: https_listen?,
                http3_listen,
                http_listen: http_listen?,
                admin_listen: admin_listen?,
                passthrough_listen,
                passthrough_from,
                proxy_protocol_from,
                trusted_roots,
                control_database_url: url?,
                region_keys: region_keys?,
                snapshot_file: snapshot_file?,
                ready_file: ready_file?,
                log,
                drain: Duration::from_secs(drain_secs.into()),
                limits,
                traces,
                workers: workers.map_or_else(cores, usize::from),
                handover_socket,
            })
        };
        if mistakes.is_empty() { whole().ok_or(mistakes) } else { Err(mistakes) }
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// The fields not looked at yet, and what was wrong so far.
struct Fields {
    fields: Map<String, Value>,
    mistakes: Vec<String>,
}

impl Fields {
    fn required<T: DeserializeOwned>(&mut self, name: &str, what: &str) -> Option<T> {
        if !self.fields.contains_key(name) {
            self.mistakes.push(format!("{name}: missing; it is {what}"));
        }
        self.optional(name, what)
    }

    fn optional<T: DeserializeOwned>(&mut self, name: &str, what: &str) -> Option<T> {
        let value = self.fields.remove(name)?;
        if value.as_str().is_some_and(str::is_empty) {
            self.mistakes.push(format!("{name}: empty; it must be {what}"));
            return None;
        }
        let parsed = serde_json::from_value(value).ok();
        if parsed.is_none() {
            self.mistakes.push(format!("{name}: must be {what}"));
        }
        parsed
    }

    fn networks(&mut self, name: &str) -> Vec<Network> {
        self.optional(name, "a list of networks, as in [\"10.0.0.0/8\"]").unwrap_or_default()
    }

    fn limits(&mut self) -> Limits {
        let Some(value) = self.fields.remove("limits") else { return Limits::default() };
        match serde_json::from_value::<Limits>(value) {
            Ok(limits) => {
                self.mistakes.extend(limits.mistakes());
                limits
            }
            Err(error) => {
                self.mistakes.push(format!("limits: {error}"));
                Limits::default()
            }
        }
    }

    fn traces(&mut self) -> Option<traces::Settings> {
        let value = self.fields.remove("traces")?;
        match serde_json::from_value::<traces::Settings>(value) {
            Ok(settings) => {
                self.mistakes.extend(settings.mistakes());
                Some(settings)
            }
            Err(error) => {
                self.mistakes.push(format!("traces: {error}"));
                None
            }
        }
    }

    fn finish(mut self) -> Vec<String> {
        for name in self.fields.keys() {
            self.mistakes.push(format!("{name}: there is no such field"));
        }
        self.mistakes
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Config({}, {})", self.name, self.region)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"name":"r1","region":"id-jakarta","platform_domain":"localhost",
        "https_listen":"127.0.0.1:8443","http_listen":"127.0.0.1:8080",
        "admin_listen":"127.0.0.1:0","control_database_url":"postgres://u:p@h/d",
        "region_keys":"/k","snapshot_file":"/s","ready_file":"/r","log":"info","drain_secs":5,
        "passthrough_listen":"127.0.0.1:0","passthrough_from":["127.0.0.0/8","::1"]}"#;

    #[test]
    fn a_good_file_is_taken_as_it_is() {
        let config = Config::parse(GOOD).expect("parses");
        assert_eq!(config.drain, Duration::from_secs(5));
        assert_eq!(config.platform_domain.as_str(), "localhost");
        assert_eq!(config.http3_listen, None, "HTTP/3 is an option");
        assert_eq!((config.passthrough_from.len(), config.proxy_protocol_from.len()), (2, 0));
    }

    #[test]
    fn all_mistakes_are_named_at_once_and_no_secret_is() {
        let bad = GOOD
            .replace("\"name\":\"r1\",", "")
            .replace("127.0.0.1:8443", "nowhere")
            .replace("postgres://u:p@h/d", "mysql//hush")
            .replace("127.0.0.0/8", "127.0.0.0/64")
            .replace("\"drain_secs\"", "\"http3_listen\":443,\"drain_secs\"")
            .replace("\"log\"", "\"colour\":1,\"limits\":{\"colours\":2},\"log\"");
        let mistakes = Config::parse(&bad).expect_err("is refused").join("\n");
        for name in [
            "name",
            "https_listen",
            "http3_listen: must be",
            "control_database_url",
            "colour:",
            "colours",
            "passthrough_from: must be",
        ] {
            assert!(mistakes.contains(name), "{name} in {mistakes}");
        }
        assert!(!mistakes.contains("hush"));
    }

    #[test]
    fn traces_go_somewhere_or_nowhere() {
        let with = |traces: &str| {
            Config::parse(&GOOD.replace("\"log\"", &format!("\"traces\":{traces},\"log\"")))
        };
        assert!(Config::parse(GOOD).expect("parses").traces.is_none());
        let settings = with(r#"{"endpoint":"http://[::1]:4318/v1/traces","ratio":1}"#);
        let settings = settings.expect("parses").traces.expect("are set");
        assert_eq!((settings.endpoint.host(), settings.ratio), (Some("[::1]"), 1.0));
        for (bad, named) in [
            (r#"{"ratio":0.5}"#, "endpoint"),
            (r#"{"endpoint":"collector:4318"}"#, "traces.endpoint"),
            (r#"{"endpoint":"ftp://collector/"}"#, "traces.endpoint"),
            (r#"{"endpoint":"http://c/","ratio":1.5}"#, "traces.ratio"),
            (r#"{"endpoint":"http://c/","parents_from":["x"]}"#, "network"),
            (r#"{"endpoint":"http://c/","colour":1}"#, "colour"),
        ] {
            let mistakes = with(bad).expect_err("is refused").join("\n");
            assert!(mistakes.contains(named), "{named} in {mistakes}");
        }
    }
}
