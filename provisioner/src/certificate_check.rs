//! Whether a chain and a key are what a router can serve for a hostname: read, matched, verified.
//! Whatever comes from outside passes here before it takes the place of what serves.

use std::sync::LazyLock;

use rustls::{
    RootCertStore, client::verify_server_cert_signed_by_trust_anchor, crypto::aws_lc_rs,
    server::ParsedCertificate, sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem::PemObject};
use time::OffsetDateTime;
use x509_parser::{extensions::GeneralName, prelude::X509Certificate, public_key::PublicKey};

use crate::acme::schedule::Validity;

/// Most certificates in a chain.
const MAX_CHAIN: usize = 10;
/// Smallest RSA key, in bits.
const MIN_RSA_BITS: usize = 2_048;
/// The elliptic curves that browsers take, by their object identifiers.
const CURVES: [&str; 3] = ["1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"];

/// The authorities that the system trusts, read once.
static SYSTEM_ROOTS: LazyLock<RootCertStore> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
});

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
    let chain = read_chain(chain_pem)?;
    let leaf_der = chain.first().ok_or_else(|| chain_is("there is no certificate in the chain"))?;
    let leaf = parse(leaf_der)?;
    check_strength(&leaf)?;
    check_key(&chain, key_pem)?;
    check_name(&leaf, hostname)?;
    let validity = Validity {
        not_before: leaf.validity().not_before.to_datetime(),
        not_after: leaf.validity().not_after.to_datetime(),
    };
    if validity.not_after <= now {
        return Err(chain_is(format!("the certificate ended at {}", day(validity.not_after))));
    }
    if validity.not_before > now + time::Duration::minutes(5) {
        return Err(chain_is(format!(
            "the certificate is not valid before {}",
            day(validity.not_before)
        )));
    }
    check_chain(&chain, now.max(validity.not_before), anchors)?;
    let chain_pem = chain.iter().map(to_pem).collect();
    Ok(Checked { chain_pem, validity, issuer: leaf.issuer().to_string() })
}

fn day(at: OffsetDateTime) -> String {
    format!("{} {:02}:{:02} UTC", at.date(), at.hour(), at.minute())
}

fn read_chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, Unfit> {
    // Some authorities once sent NUL bytes; no PEM has them.
    if pem.contains('\0') {
        return Err(chain_is("the chain contains NUL bytes"));
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem.as_bytes()).collect();
    let mut chain = chain.map_err(|error| chain_is(format!("the chain is not PEM: {error}")))?;
    if chain.len() > MAX_CHAIN {
        return Err(chain_is(format!("the chain has more than {MAX_CHAIN} certificates")));
    }
    // Some put the leaf in a second time.
    if let Some(leaf) = chain.first().cloned() {
        let mut first = true;
        chain.retain(|certificate| std::mem::take(&mut first) || *certificate != leaf);
    }
    Ok(chain)
}

fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Unfit> {
    match x509_parser::parse_x509_certificate(der) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(chain_is("a certificate of the chain cannot be read")),
    }
}

fn check_strength(leaf: &X509Certificate<'_>) -> Result<(), Unfit> {
    let key = leaf.public_key();
    let weak = |text: String| Err(Unfit::Key(text));
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if rsa.key_size() >= MIN_RSA_BITS => Ok(()),
        Ok(PublicKey::RSA(rsa)) => weak(format!(
            "the key has {} bits of RSA; at least {MIN_RSA_BITS} are needed (better: ECDSA P-256)",
            rsa.key_size()
        )),
        Ok(PublicKey::EC(_)) => {
            let curve = key.algorithm.parameters.as_ref().and_then(|curve| curve.as_oid().ok());
            match curve.map(|curve| curve.to_id_string()) {
                Some(curve) if CURVES.contains(&curve.as_str()) => Ok(()),
                _ => weak("the key's curve is none of P-256, P-384 and P-521".to_owned()),
            }
        }
        _ => weak("the key is neither RSA nor ECDSA, which browsers need".to_owned()),
    }
}

fn check_key(chain: &[CertificateDer<'static>], key_pem: &str) -> Result<(), Unfit> {
    let unreadable =
        || Unfit::Key("the key is no private key in PEM without a passphrase".to_owned());
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes()).map_err(|_| unreadable())?;
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|_| unreadable())?;
    CertifiedKey::new(chain.to_vec(), key)
        .keys_match()
        .map_err(|_| Unfit::Key("the key does not belong to the certificate".to_owned()))
}

fn check_name(leaf: &X509Certificate<'_>, hostname: &str) -> Result<(), Unfit> {
    let names: Vec<String> = match leaf.subject_alternative_name() {
        Ok(Some(names)) => names
            .value
            .general_names
            .iter()
            .filter_map(|name| match name {
                GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    };
    let parent = hostname.split_once('.').map_or("", |(_, parent)| parent);
    let covers = |name: &String| {
        name == hostname || (!hostname.starts_with('*') && name.strip_prefix("*.") == Some(parent))
    };
    if names.iter().any(covers) {
        return Ok(());
    }
    let names = if names.is_empty() { "no hostname".to_owned() } else { names.join(", ") };
    Err(chain_is(format!("the certificate is not for {hostname}; it is for {names}")))
}

fn check_chain(
    chain: &[CertificateDer<'static>],
    now: OffsetDateTime,
    anchors: &Anchors<'_>,
) -> Result<(), Unfit> {
    let [leaf_der, rest @ ..] = chain else { return Err(chain_is("the chain is empty")) };
    for (lower, upper) in chain.iter().zip(rest) {
        let (lower, upper) = (parse(lower)?, parse(upper)?);
        if lower.issuer().as_raw() != upper.subject().as_raw() {
            return Err(chain_is(format!(
                "the chain is broken: '{}' is followed by '{}' instead of '{}'",
                lower.subject(),
                upper.subject(),
                lower.issuer()
            )));
        }
    }
    let mut roots = SYSTEM_ROOTS.clone();
    let last_der = chain.last().unwrap_or(leaf_der);
    let last = parse(last_der)?;
    let ends_in_root = last.issuer().as_raw() == last.subject().as_raw() && !rest.is_empty();
    let trusts_last = match anchors {
        Anchors::Complete => ends_in_root,
        Anchors::Issued(more) => {
            let more = more.iter().map(|root| CertificateDer::from(root.as_slice()));
            roots.add_parsable_certificates(more.map(CertificateDer::into_owned));
            !rest.is_empty()
        }
    };
    if trusts_last {
        roots.add_parsable_certificates([last_der.clone()]);
    }
    let leaf = ParsedCertificate::try_from(leaf_der)
        .map_err(|error| chain_is(format!("the certificate cannot be used: {error}")))?;
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        u64::try_from(now.unix_timestamp()).unwrap_or_default(),
    ));
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&leaf, &roots, rest, at, algorithms).map_err(
        |error| match error {
            rustls::Error::InvalidCertificate(rustls::CertificateError::UnknownIssuer) => {
                chain_is(format!(
                    "the chain is not complete: it ends with '{}', issued by '{}', which browsers \
                     need to be given too",
                    last.subject(),
                    last.issuer()
                ))
            }
            error => chain_is(format!("the chain does not verify: {error}")),
        },
    )
}

fn to_pem(der: &CertificateDer<'_>) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut pem = "-----BEGIN CERTIFICATE-----\n".to_owned();
    for line in text.as_bytes().chunks(64) {
        pem.push_str(&String::from_utf8_lossy(line));
        pem.push('\n');
    }
    pem.push_str("-----END CERTIFICATE-----\n");
    pem
}

#[cfg(test)]
mod tests;
