//! Whether a chain and a key are what a router can serve for a hostname: read, matched, verified.
//! Whatever comes from outside passes here before it takes the place of what serves. A refusal says
//! what is wrong and what to do in plain words, never in those of a library.

mod chain;
mod key;
mod pem;

use rustls_pki_types::CertificateDer;
use time::OffsetDateTime;
use x509_parser::{extensions::GeneralName, prelude::X509Certificate};

use crate::acme::schedule::Validity;

/// Why a chain and a key cannot be served.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Something is wrong with the chain.
    #[error("{0}")]
    Chain(String),
    /// Something is wrong with the key.
    #[error("{0}")]
    Key(String),
}

fn chain_is(reason: impl Into<String>) -> Unfit {
    Unfit::Chain(reason.into())
}

/// Whom a chain may lead to.
pub enum Anchors<'a> {
    /// An authority that the system trusts, or the root at the end of the chain itself: what a
    /// person uploads must be complete.
    Complete,
    /// Whatever the authority that issued it sends. These roots besides (DER).
    Issued(&'a [Vec<u8>]),
}

/// A chain and a key that belong together.
#[derive(Debug)]
pub struct Checked {
    /// Leaf first, one PEM block each, nothing else.
    pub chain_pem: String,
    /// From when until when.
    pub validity: Validity,
    /// Who issued it, in the certificate's words.
    pub issuer: String,
}

/// Checks a chain and a key for `hostname` (`*.example.org` for a wildcard) at `now`.
///
/// # Errors
/// Says what is wrong, in words for whoever sent them.
pub fn check(
    hostname: &str,
    chain_pem: &str,
    key_pem: &str,
    now: OffsetDateTime,
    anchors: &Anchors<'_>,
) -> Result<Checked, Unfit> {
    let ders = pem::chain(chain_pem)?;
    let chain: Vec<_> = ders.iter().map(parse).collect::<Result<_, _>>()?;
    let leaf = chain.first().ok_or_else(|| chain_is("there is no certificate in the chain"))?;
    // From what concerns all of it to what concerns a detail: who sent something else altogether is
    // told that, and not what follows from it.
    chain::check_leaf(hostname, &chain)?;
    key::check_strength(leaf)?;
    key::check_match(&ders, key_pem)?;
    check_name(leaf, hostname)?;
    let validity = Validity {
        not_before: leaf.validity().not_before.to_datetime(),
        not_after: leaf.validity().not_after.to_datetime(),
    };
    if validity.not_after <= now {
        return Err(chain_is(format!(
            "the certificate ended at {}; get a new one from the authority",
            moment(validity.not_after)
        )));
    }
    if validity.not_before > now + time::Duration::minutes(5) {
        return Err(chain_is(format!(
            "the certificate is not valid before {}; upload it then",
            moment(validity.not_before)
        )));
    }
    chain::check_order(&chain)?;
    chain::verify(&ders, &chain, now.max(validity.not_before), anchors)?;
    let chain_pem = ders.iter().map(pem::of_certificate).collect();
    Ok(Checked { chain_pem, validity, issuer: leaf.issuer().to_string() })
}

fn moment(at: OffsetDateTime) -> String {
    format!("{} {:02}:{:02} UTC", at.date(), at.hour(), at.minute())
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Unfit> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(chain_is(
            "a certificate of the chain cannot be read: it was damaged on the way, or is none. Copy \
             it anew from what the authority sent",
        )),
    }
}

fn names(leaf: &X509Certificate<'_>) -> Vec<String> {
    let Ok(Some(names)) = leaf.subject_alternative_name() else { return Vec::new() };
    let of_dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(of_dns).collect()
}

fn covers(leaf: &X509Certificate<'_>, hostname: &str) -> bool {
    let parent = hostname.split_once('.').map_or("", |(_, parent)| parent);
    names(leaf).iter().any(|name| {
        name == hostname || (!hostname.starts_with('*') && name.strip_prefix("*.") == Some(parent))
    })
}

fn check_name(leaf: &X509Certificate<'_>, hostname: &str) -> Result<(), Unfit> {
    if covers(leaf, hostname) {
        return Ok(());
    }
    let names = names(leaf);
    Err(chain_is(if names.is_empty() {
        format!(
            "the certificate is not for {hostname}: it names no hostname at all (a common name is \
             not looked at). Get one with {hostname} among its alternative names"
        )
    } else {
        format!(
            "the certificate is not for {hostname}; it is for {}. Get one for {hostname}, or upload \
             this one for the name that it is for",
            names.join(", ")
        )
    }))
}

#[cfg(test)]
mod tests;
