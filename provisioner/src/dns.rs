//! What the DNS says. Nothing is remembered here: whoever just changed a record must see it. (The
//! server that is asked may remember answers for as long as their TTL says.)

mod caa;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig},
    net::{DnsError, NetError, NoRecords, runtime::TokioRuntimeProvider},
    proto::{
        op::ResponseCode,
        rr::{Name, RData, Record, RecordType},
    },
};
use serde::Deserialize;

pub use caa::{CaaRecord, CaaSet};

/// How long one server may take over one question.
const ATTEMPT: Duration = Duration::from_secs(2);
/// How long a question may take in all, over all servers and repetitions.
const QUESTION: Duration = Duration::from_secs(8);
/// A longer chain of aliases is followed by nobody.
const MAX_ALIASES: usize = 8;

/// Which servers are asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsConfig {
    /// Addresses with ports, as `127.0.0.1:8053`. Those of the system when there are none.
    #[serde(default)]
    pub servers: Vec<SocketAddr>,
}

/// The system's own configuration of its resolver is of no use.
#[derive(Debug, thiserror::Error)]
#[error("dns: the system's resolver configuration cannot be used; name servers in dns.servers")]
pub struct DnsSetupError(#[source] NetError);

/// There was no answer. It says nothing of the records.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the DNS does not say which {kind} records '{name}' has: {reason}")]
pub struct LookupError {
    /// What was asked for.
    pub name: String,
    /// The type of record.
    pub kind: &'static str,
    /// Why there is no answer, in words.
    pub reason: String,
}

/// An answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// The name has records of this type.
    Records {
        /// At least one.
        records: Vec<T>,
        /// How long the answer may be remembered, in seconds.
        ttl_secs: u32,
    },
    /// The name exists, without a record of this type.
    NoRecord,
    /// There is no such name.
    NoName,
}

impl<T> Answer<T> {
    /// The records; none when there are none.
    pub fn records(&self) -> &[T] {
        match self {
            Self::Records { records, .. } => records,
            Self::NoRecord | Self::NoName => &[],
        }
    }

    /// How long the answer may be remembered, in seconds; none when there are no records.
    pub fn ttl_secs(&self) -> Option<u32> {
        match self {
            Self::Records { ttl_secs, .. } => Some(*ttl_secs),
            Self::NoRecord | Self::NoName => None,
        }
    }
}

/// One step from a name to the one that it is an alias of (a CNAME record).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Alias {
    /// Lower case, without the trailing dot.
    pub from: String,
    /// Lower case, without the trailing dot.
    pub to: String,
    /// How long the record may be remembered, in seconds.
    pub ttl_secs: u32,
}

/// Asks the DNS.
#[derive(Clone)]
pub struct Dns {
    resolver: TokioResolver,
    servers: String,
}

impl Dns {
    /// Asks the configured servers, or those of the system. Nobody is asked yet.
    ///
    /// # Errors
    /// When no servers are configured, and the system has no configuration that can be used.
    pub fn new(config: &DnsConfig) -> Result<Self, DnsSetupError> {
        let mut builder = if config.servers.is_empty() {
            TokioResolver::builder_tokio().map_err(DnsSetupError)?
        } else {
            let servers = ResolverConfig::from_name_servers(name_servers(&config.servers));
            TokioResolver::builder_with_config(servers, TokioRuntimeProvider::default())
        };
        let options = builder.options_mut();
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.timeout = ATTEMPT;
        options.attempts = 2;
        options.try_tcp_on_error = true;
        let servers = match config.servers.as_slice() {
            [] => "the system's DNS servers".to_owned(),
            servers => servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
        };
        Ok(Self { resolver: builder.build().map_err(DnsSetupError)?, servers })
    }

    /// The texts of a name, each joined from its parts.
    ///
    /// # Errors
    /// When there was no answer.
    pub async fn txt(&self, name: &str) -> Result<Answer<String>, LookupError> {
        self.ask(name, RecordType::TXT, |data| match data {
            RData::TXT(text) => Some(String::from_utf8_lossy(&text.txt_data.concat()).into_owned()),
            _ => None,
        })
        .await
    }

    /// The IPv4 addresses of a name. Aliases are followed.
    ///
    /// # Errors
    /// When there was no answer.
    pub async fn ipv4(&self, name: &str) -> Result<Answer<Ipv4Addr>, LookupError> {
        self.ask(name, RecordType::A, |data| match data {
            RData::A(address) => Some(address.0),
            _ => None,
        })
        .await
    }

    /// The IPv6 addresses of a name. Aliases are followed.
    ///
    /// # Errors
    /// When there was no answer.
    pub async fn ipv6(&self, name: &str) -> Result<Answer<Ipv6Addr>, LookupError> {
        self.ask(name, RecordType::AAAA, |data| match data {
            RData::AAAA(address) => Some(address.0),
            _ => None,
        })
        .await
    }

    /// The aliases from a name to the one that it stands for, in order; none when the name is no
    /// alias.
    ///
    /// # Errors
    /// When there was no answer, or the aliases go in a circle.
    pub async fn aliases(&self, name: &str) -> Result<Vec<Alias>, LookupError> {
        let mut chain: Vec<Alias> = Vec::new();
        let mut from = canonical(name);
        loop {
            let answer = self
                .ask(&from, RecordType::CNAME, |data| match data {
                    RData::CNAME(target) => Some(canonical(&target.0.to_ascii())),
                    _ => None,
                })
                .await?;
            let Answer::Records { mut records, ttl_secs } = answer else { return Ok(chain) };
            let to = records.swap_remove(0);
            let circle = to == canonical(name) || chain.iter().any(|alias| alias.to == to);
            if circle || chain.len() == MAX_ALIASES {
                let reason = if circle {
                    format!("its aliases go in a circle, by way of '{to}'")
                } else {
                    format!("it leads over more than {MAX_ALIASES} aliases")
                };
                return Err(LookupError { name: name.to_owned(), kind: "CNAME", reason });
            }
            chain.push(Alias { from, to: to.clone(), ttl_secs });
            from = to;
        }
    }

    /// Who may issue certificates for a name: the CAA records of the name, or of the nearest name
    /// above it that has any (RFC 8659 section 3).
    ///
    /// # Errors
    /// When there was no answer; an authority would not issue then.
    pub async fn caa(&self, name: &str) -> Result<CaaSet, LookupError> {
        let name = canonical(name);
        let mut at = name.as_str();
        loop {
            let answer = self
                .ask(at, RecordType::CAA, |data| match data {
                    RData::CAA(record) => Some(CaaRecord {
                        critical: record.issuer_critical,
                        tag: record.tag.to_ascii_lowercase(),
                        value: String::from_utf8_lossy(&record.value).into_owned(),
                    }),
                    _ => None,
                })
                .await?;
            if let Answer::Records { records, .. } = answer {
                return Ok(CaaSet { at: Some(at.to_owned()), records });
            }
            match at.split_once('.') {
                Some((_, parent)) => at = parent,
                None => return Ok(CaaSet::default()),
            }
        }
    }

    async fn ask<T>(
        &self,
        name: &str,
        kind: RecordType,
        read: impl Fn(&RData) -> Option<T>,
    ) -> Result<Answer<T>, LookupError> {
        let failed = |reason| LookupError { name: canonical(name), kind: kind.into(), reason };
        let mut asked =
            Name::from_ascii(name).map_err(|error| failed(format!("no name for it: {error}")))?;
        // So that no search list of the system is tried.
        asked.set_fqdn(true);
        let looked = tokio::time::timeout(QUESTION, self.resolver.lookup(asked, kind)).await;
        match looked.unwrap_or(Err(NetError::Timeout)) {
            Ok(lookup) => Ok(found(lookup.answers(), name, kind, read)),
            Err(NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. }))) => {
                match response_code {
                    ResponseCode::NXDomain => Ok(Answer::NoName),
                    ResponseCode::NoError => Ok(Answer::NoRecord),
                    code => Err(failed(self.refused(code))),
                }
            }
            Err(error) => Err(failed(self.in_words(&error))),
        }
    }

    fn in_words(&self, error: &NetError) -> String {
        match error {
            NetError::Timeout => format!("no answer in time from {}", self.servers),
            NetError::Dns(DnsError::ResponseCode(code)) => self.refused(*code),
            NetError::NoConnections => format!("no connection to {}", self.servers),
            NetError::Io(error) => format!("{} cannot be asked: {error}", self.servers),
            error => format!("asking {} failed: {error}", self.servers),
        }
    }

    fn refused(&self, code: ResponseCode) -> String {
        let name = match code {
            ResponseCode::ServFail => "SERVFAIL",
            ResponseCode::Refused => "REFUSED",
            ResponseCode::FormErr => "FORMERR",
            ResponseCode::NotImp => "NOTIMP",
            code => return format!("{} answered '{code}'", self.servers),
        };
        format!("{} answered {name}", self.servers)
    }
}

fn name_servers(addresses: &[SocketAddr]) -> Vec<NameServerConfig> {
    let mut by_address: BTreeMap<IpAddr, Vec<ConnectionConfig>> = BTreeMap::new();
    for address in addresses {
        let connections = by_address.entry(address.ip()).or_default();
        for mut connection in [ConnectionConfig::udp(), ConnectionConfig::tcp()] {
            connection.port = address.port();
            connections.push(connection);
        }
    }
    by_address
        .into_iter()
        .map(|(address, connections)| NameServerConfig::new(address, true, connections))
        .collect()
}

/// Lower case, without the trailing dot.
fn canonical(name: &str) -> String {
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

/// What an answer says of `name`: the records of this type that it has by itself or over aliases in
/// the same answer. Whatever else a server put into the answer is nothing.
fn found<T>(
    answers: &[Record],
    name: &str,
    kind: RecordType,
    read: impl Fn(&RData) -> Option<T>,
) -> Answer<T> {
    let mut owner = canonical(name);
    let mut ttl_secs = u32::MAX;
    if kind != RecordType::CNAME {
        for _ in 0..=MAX_ALIASES {
            let next = answers.iter().find_map(|record| match &record.data {
                RData::CNAME(to) if canonical(&record.name.to_ascii()) == owner => {
                    Some((canonical(&to.0.to_ascii()), record.ttl))
                }
                _ => None,
            });
            let Some((to, ttl)) = next else { break };
            owner = to;
            ttl_secs = ttl_secs.min(ttl);
        }
    }
    let mut records = Vec::new();
    for record in answers {
        if canonical(&record.name.to_ascii()) != owner {
            continue;
        }
        if let Some(value) = read(&record.data) {
            ttl_secs = ttl_secs.min(record.ttl);
            records.push(value);
        }
    }
    if records.is_empty() { Answer::NoRecord } else { Answer::Records { records, ttl_secs } }
}
