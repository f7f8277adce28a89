//! Whether a key is good enough, and the certificate's own.

use rustls::{crypto::aws_lc_rs, sign::CertifiedKey};
use rustls_pki_types::CertificateDer;
use x509_parser::{prelude::X509Certificate, public_key::PublicKey};

use super::{Unfit, pem};

/// Smallest RSA key, in bits.
const MIN_RSA_BITS: usize = 2_048;
/// The elliptic curves that browsers take, by their object identifiers.
const CURVES: [&str; 3] = ["1.2.840.10045.3.1.7", "1.3.132.0.34", "1.3.132.0.35"];

/// Whether browsers take certificates of such a key.
pub fn check_strength(leaf: &X509Certificate<'_>) -> Result<(), Unfit> {
    let key = leaf.public_key();
    let weak = |text: String| {
        Err(Unfit::Key(format!(
            "{text}. Make a new key, best ECDSA P-256, and a certificate for it"
        )))
    };
    match key.parsed() {
        Ok(PublicKey::RSA(rsa)) if rsa.key_size() >= MIN_RSA_BITS => Ok(()),
        Ok(PublicKey::RSA(rsa)) => weak(format!(
            "the key has {} bits of RSA; at least {MIN_RSA_BITS} are needed",
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

/// Whether the key is the first certificate's.
pub fn check_match(chain: &[CertificateDer<'static>], key_pem: &str) -> Result<(), Unfit> {
    let key = pem::key(key_pem)?;
    let key = aws_lc_rs::sign::any_supported_type(&key).map_err(|_| {
        Unfit::Key(
            "the key cannot be read: it was damaged on the way, or is of a kind that browsers do \
             not take"
                .to_owned(),
        )
    })?;
    CertifiedKey::new(chain.to_vec(), key).keys_match().map_err(|_| {
        Unfit::Key(
            "the key does not belong to the certificate; upload the one that the certificate was \
             requested with"
                .to_owned(),
        )
    })
}
