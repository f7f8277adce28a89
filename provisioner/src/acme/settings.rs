//! The part of the configuration that says which authorities issue certificates, and how names are
//! proven to them. All mistakes are told together.

use std::{collections::BTreeSet, path::PathBuf, time::Duration};

use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use control_types::state::AcmeChallengeKind;
use serde::Deserialize;

use crate::acme::schedule::Allowance;

/// Longest name of an authority: it is a label of metrics.
const MAX_NAME: usize = 40;
/// What Let's Encrypt takes from an account in three hours.
const ORDERS_IN_THREE_HOURS: u32 = 300;
/// How long a name may rest at least and at most, in seconds, when its provisioner was killed.
const CLAIM_SECS: std::ops::RangeInclusive<u16> = 3..=600;

/// `acme` in the configuration.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeConfig {
    /// In the order in which they are tried.
    pub authorities: Vec<AcmeAuthorityConfig>,
    /// In the order in which they are tried.
    #[serde(default = "both_challenges")]
    pub challenges: Vec<ChallengeConfig>,
    /// Whether a name must lead to the regions' `edge_addresses` before anything is ordered for it.
    /// To be switched off where the provisioner's DNS servers say other addresses than the world's.
    #[serde(default = "yes")]
    pub check_addresses: bool,
    /// For how long a provisioner claims a name without a sign of life, in seconds: so long a name
    /// rests when its provisioner was killed.
    #[serde(default = "claim_secs")]
    pub claim_secs: u16,
}

const fn yes() -> bool {
    true
}

/// An authority.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeAuthorityConfig {
    /// What logs, metrics and the control database call it. Once it has issued, never given to
    /// another one.
    pub name: String,
    /// Where it says what it offers (RFC 8555 section 7.1.1).
    pub directory_url: String,
    /// Whom it may write to, as `mailto:ops@example.org`.
    #[serde(default)]
    pub contact: Vec<String>,
    /// What vouches for its own server (PEM), when that is not an authority that the system trusts.
    #[serde(default)]
    pub root_certificates: Option<PathBuf>,
    /// What binds our account to a contract with it (RFC 8555 section 7.3.4).
    #[serde(default)]
    pub external_account: Option<ExternalAccountConfig>,
    /// Which of its kinds of certificates is wanted.
    #[serde(default)]
    pub profile: Option<String>,
    /// How many orders it takes from an account in three hours. Renewals that it suggested itself
    /// do not count.
    #[serde(default = "orders_in_three_hours")]
    pub orders_in_three_hours: u32,
}

/// A contract with an authority.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExternalAccountConfig {
    /// As the authority says.
    pub key_id: String,
    /// A file with the key, in base64url as authorities give it.
    pub hmac_key_file: PathBuf,
}

/// A way to prove a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum ChallengeConfig {
    /// A file that the authority fetches over plain HTTP.
    #[serde(rename = "http-01")]
    Http01,
    /// A certificate that the authority sees in a handshake.
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn01,
}

impl From<ChallengeConfig> for AcmeChallengeKind {
    fn from(challenge: ChallengeConfig) -> Self {
        match challenge {
            ChallengeConfig::Http01 => Self::Http01,
            ChallengeConfig::TlsAlpn01 => Self::TlsAlpn01,
        }
    }
}

fn both_challenges() -> Vec<ChallengeConfig> {
    vec![ChallengeConfig::Http01, ChallengeConfig::TlsAlpn01]
}

fn claim_secs() -> u16 {
    30
}

fn orders_in_three_hours() -> u32 {
    ORDERS_IN_THREE_HOURS
}

/// The configuration, with the files read.
#[derive(Clone, Debug)]
pub struct AcmeSettings {
    /// In the order in which they are tried; at least one.
    pub authorities: Vec<AuthoritySettings>,
    /// In the order in which they are tried; at least one.
    pub challenges: Vec<AcmeChallengeKind>,
    /// How long a claim holds without a sign of life.
    pub claim: Duration,
    /// Whether a name must lead here before anything is ordered for it.
    pub checks_addresses: bool,
}

/// An authority.
#[derive(Clone)]
pub struct AuthoritySettings {
    /// What everybody here calls it.
    pub name: String,
    /// Where it says what it offers.
    pub directory_url: String,
    /// Whom it may write to.
    pub contact: Vec<String>,
    /// What vouches for its own server, besides the system's authorities (DER).
    pub roots: Vec<Vec<u8>>,
    /// The contract: id and key.
    pub external_account: Option<(String, Vec<u8>)>,
    /// Which of its kinds of certificates is wanted.
    pub profile: Option<String>,
    /// How many orders it takes from an account.
    pub allowance: Allowance,
}

impl std::fmt::Debug for AuthoritySettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AuthoritySettings({} at {})", self.name, self.directory_url)
    }
}

impl AcmeConfig {
    /// Reads the files and checks everything. Adds what is wrong to `mistakes`.
    pub fn resolve(&self, mistakes: &mut Vec<String>) -> AcmeSettings {
        if self.authorities.is_empty() {
            mistakes.push("acme.authorities is empty; name one, or leave out `acme`".to_owned());
        }
        if self.challenges.is_empty() {
            mistakes.push("acme.challenges is empty; name http-01, tls-alpn-01 or both".to_owned());
        }
        let different: BTreeSet<_> = self.challenges.iter().collect();
        if different.len() < self.challenges.len() {
            mistakes.push("acme.challenges names one twice".to_owned());
        }
        if !CLAIM_SECS.contains(&self.claim_secs) {
            let (least, most) = (CLAIM_SECS.start(), CLAIM_SECS.end());
            mistakes.push(format!(
                "acme.claim_secs: {} is not from {least} to {most}",
                self.claim_secs
            ));
        }
        let mut names = BTreeSet::new();
        let mut authorities = Vec::new();
        for (index, authority) in self.authorities.iter().enumerate() {
            let mut wrong =
                |text: String| mistakes.push(format!("acme.authorities[{index}].{text}"));
            if !names.insert(&authority.name) {
                wrong(format!("name: '{}' is used twice", authority.name));
            }
            authorities.push(authority.resolve(&mut wrong));
        }
        let challenges = self.challenges.iter().copied().map(Into::into).collect();
        let claim = Duration::from_secs(self.claim_secs.into());
        AcmeSettings { authorities, challenges, claim, checks_addresses: self.check_addresses }
    }
}

impl AcmeAuthorityConfig {
    fn resolve(&self, wrong: &mut impl FnMut(String)) -> AuthoritySettings {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let reserved = ["local", "uploaded"].contains(&self.name.as_str());
        if self.name.is_empty() || self.name.len() > MAX_NAME || !self.name.chars().all(plain) {
            wrong(format!("name: '{}' is not 1 to {MAX_NAME} of a-z, 0-9 and '-'", self.name));
        } else if reserved {
            wrong(format!("name: '{}' has a meaning of its own", self.name));
        }
        match url::Url::parse(&self.directory_url) {
            Ok(url) if url.scheme() == "https" && url.has_host() => {}
            _ => wrong(format!("directory_url: '{}' is no https URL", self.directory_url)),
        }
        if self.orders_in_three_hours < 3 {
            wrong(format!("orders_in_three_hours: {} is below 3", self.orders_in_three_hours));
        }
        for contact in &self.contact {
            let mail = contact.strip_prefix("mailto:");
            if !mail.is_some_and(|mail| mail.contains('@') && !mail.contains(char::is_whitespace)) {
                wrong(format!("contact: '{contact}' is not as mailto:ops@example.org"));
            }
        }
        let external_account = self.external_account.as_ref().and_then(|account| {
            let key = account.key().map_err(|mistake| wrong(format!("external_account.{mistake}")));
            Some((account.key_id.clone(), key.ok()?))
        });
        AuthoritySettings {
            name: self.name.clone(),
            directory_url: self.directory_url.clone(),
            contact: self.contact.clone(),
            roots: self.roots(wrong),
            external_account,
            profile: self.profile.clone(),
            allowance: Allowance::in_three_hours(self.orders_in_three_hours),
        }
    }

    fn roots(&self, wrong: &mut impl FnMut(String)) -> Vec<Vec<u8>> {
        use rustls_pki_types::{CertificateDer, pem::PemObject};
        let Some(path) = &self.root_certificates else { return Vec::new() };
        let roots = CertificateDer::pem_file_iter(path)
            .and_then(|certificates| certificates.collect::<Result<Vec<_>, _>>());
        match roots {
            Ok(roots) if !roots.is_empty() => {
                roots.into_iter().map(|root| root.as_ref().to_vec()).collect()
            }
            Ok(_) => {
                wrong(format!("root_certificates: no certificate in {}", path.display()));
                Vec::new()
            }
            Err(error) => {
                wrong(format!("root_certificates {}: {error}", path.display()));
                Vec::new()
            }
        }
    }
}

impl ExternalAccountConfig {
    fn key(&self) -> Result<Vec<u8>, String> {
        let path = self.hmac_key_file.display();
        if self.key_id.is_empty() {
            return Err("key_id is empty".to_owned());
        }
        let text = std::fs::read_to_string(&self.hmac_key_file)
            .map_err(|error| format!("hmac_key_file {path}: {error}"))?;
        let text = text.trim();
        // What was read is a secret, so no message shows it.
        let key = URL_SAFE_NO_PAD
            .decode(text.trim_end_matches('='))
            .or_else(|_| STANDARD.decode(text))
            .map_err(|_| format!("hmac_key_file {path}: not in base64url"))?;
        if key.len() < 16 {
            return Err(format!("hmac_key_file {path}: shorter than 16 bytes"));
        }
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_mistakes_are_told_at_once() {
        let config: AcmeConfig = serde_json::from_str(
            r#"{"authorities": [
                {"name": "A b", "directory_url": "http://x", "contact": ["ops@example.org"],
                 "root_certificates": "/nowhere.pem",
                 "external_account": {"key_id": "k", "hmac_key_file": "/nowhere"}},
                {"name": "local", "directory_url": "https://a.test/dir"},
                {"name": "ok", "directory_url": "https://a.test/dir", "contact": ["mailto:a@b.c"]},
                {"name": "ok", "directory_url": "https://b.test/dir", "orders_in_three_hours": 2}],
              "challenges": ["http-01", "http-01"], "claim_secs": 1}"#,
        )
        .expect("reads");
        let mut mistakes = Vec::new();
        config.resolve(&mut mistakes);
        let expected = [
            "acme.challenges",
            "acme.claim_secs",
            "[0].name",
            "[0].directory_url",
            "[0].contact",
            "[0].external_account.hmac_key_file",
            "[0].root_certificates",
            "[1].name",
            "[3].name",
            "[3].orders_in_three_hours",
        ];
        assert_eq!(mistakes.len(), expected.len(), "{mistakes:#?}");
        for (mistake, part) in mistakes.iter().zip(expected) {
            assert!(mistake.contains(part), "{mistake} should be of {part}");
        }
        assert!(
            serde_json::from_str::<AcmeConfig>(r#"{"authorities": [], "challenges": ["dns-01"]}"#)
                .is_err()
        );
    }
}
