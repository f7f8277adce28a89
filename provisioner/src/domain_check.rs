//! Looks at what the DNS says of a domain, and at what it should say. Seeing (`observe`) asks the
//! DNS; deciding (`decide`) is a pure function of what was seen.

mod decide;
mod look;
#[cfg(test)]
mod tests;

use std::{net::IpAddr, time::Duration};

use control_types::{Hostname, hostname};

pub use decide::{decide, leads};
pub use look::look;

use crate::dns::{Alias, Answer, CaaSet, Dns, LookupError};

/// The name of the TXT record is this and the hostname.
pub const TXT_PREFIX: &str = "_ta3lem.";
/// What the TXT record holds before the token.
const TXT_KEY: &str = "ta3lem-site-verification=";
/// How long looking may take in all.
const LOOK: Duration = Duration::from_secs(20);

/// What the DNS should say, and what is known of the domain already.
#[derive(Clone, Debug)]
pub struct Expected {
    /// The domain.
    pub hostname: Hostname,
    /// The site's hostname on the platform's own domain.
    pub platform_name: String,
    /// What the TXT record shall hold.
    pub token: String,
    /// Whether a CNAME record shows ownership. It does not for a name that another site had: it may
    /// still point here from then.
    pub cname_proves: bool,
    /// Whether ownership needs no showing any more.
    pub owned: bool,
    /// Where visitors of the site's region arrive.
    pub edge: Vec<IpAddr>,
    /// Where visitors of the other regions arrive.
    pub other_edges: Vec<IpAddr>,
    /// The names that our authorities go by in CAA records. Empty when they do not look at them.
    pub authorities: Vec<String>,
}

impl Expected {
    /// The name of the TXT record.
    pub fn txt_name(&self) -> String {
        format!("{TXT_PREFIX}{}", self.hostname)
    }

    /// The text of the TXT record.
    pub fn txt_value(&self) -> String {
        format!("{TXT_KEY}{}", self.token)
    }

    fn is_local(&self) -> bool {
        hostname::is_local(self.hostname.as_str())
    }
}

/// What the DNS said.
#[derive(Clone, Debug)]
pub struct Observed {
    /// At the name of the TXT record.
    pub txt: Result<Answer<String>, LookupError>,
    /// From the hostname on.
    pub aliases: Result<Vec<Alias>, LookupError>,
    /// IPv4 addresses of the hostname, over its aliases.
    pub ipv4: Result<Answer<std::net::Ipv4Addr>, LookupError>,
    /// IPv6 addresses of the hostname, over its aliases.
    pub ipv6: Result<Answer<std::net::Ipv6Addr>, LookupError>,
    /// Who may issue certificates for the hostname.
    pub caa: Result<CaaSet, LookupError>,
}

/// Asks the DNS everything at once.
pub async fn observe(dns: &Dns, expected: &Expected) -> Observed {
    let name = expected.hostname.as_str();
    let txt_name = expected.txt_name();
    let (txt, aliases, ipv4, ipv6, caa) = tokio::join!(
        in_time(&txt_name, "TXT", dns.txt(&txt_name)),
        in_time(name, "CNAME", dns.aliases(name)),
        in_time(name, "A", dns.ipv4(name)),
        in_time(name, "AAAA", dns.ipv6(name)),
        in_time(name, "CAA", dns.caa(name)),
    );
    Observed { txt, aliases, ipv4, ipv6, caa }
}

async fn in_time<T>(
    name: &str,
    kind: &'static str,
    looking: impl Future<Output = Result<T, LookupError>>,
) -> Result<T, LookupError> {
    tokio::time::timeout(LOOK, looking).await.unwrap_or_else(|_| {
        let reason = format!("no answer within {} s", LOOK.as_secs());
        Err(LookupError { name: name.to_owned(), kind, reason })
    })
}
