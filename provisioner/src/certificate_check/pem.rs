//! What people send as PEM, and what else it may be.

use rustls_pki_types::{
    CertificateDer, PrivateKeyDer,
    pem::{Error, PemObject},
};

use super::{Unfit, chain_is};

/// Most certificates in a chain.
const MAX_CHAIN: usize = 10;

/// The certificates of a chain, as they stand there.
pub fn chain(text: &str) -> Result<Vec<CertificateDer<'static>>, Unfit> {
    // Some authorities once sent NUL bytes; no PEM has them.
    if text.contains('\0') {
        return Err(chain_is("the chain is no text: it contains NUL bytes"));
    }
    let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let mut chain = chain.map_err(|error| chain_is(damage("the chain", &error)))?;
    if chain.is_empty() {
        return Err(chain_is(match text {
            text if text.trim().is_empty() => "there is no certificate in the chain: it is empty",
            text if text.contains("PRIVATE KEY-----") => {
                "there is no certificate in the chain, but a private key: chain and key were \
                 swapped, it seems"
            }
            text if text.contains("CERTIFICATE REQUEST-----") => {
                "there is no certificate in the chain, but a request for one: send it to an \
                 authority, and upload what that sends back"
            }
            _ => {
                "there is no certificate in the chain: it must be PEM, with blocks that begin with \
                 -----BEGIN CERTIFICATE----- (a file in DER becomes PEM by: openssl x509 -inform der)"
            }
        }));
    }
    if chain.len() > MAX_CHAIN {
        return Err(chain_is(format!(
            "the chain has more than {MAX_CHAIN} certificates; send the hostname's own and those \
             between it and the authority's root"
        )));
    }
    // Some put the leaf in a second time.
    if let Some(leaf) = chain.first().cloned() {
        let mut first = true;
        chain.retain(|certificate| std::mem::take(&mut first) || *certificate != leaf);
    }
    Ok(chain)
}

/// The one private key.
pub fn key(text: &str) -> Result<PrivateKeyDer<'static>, Unfit> {
    let wrong = |reason: &str| Err(Unfit::Key(reason.to_owned()));
    if text.contains("ENCRYPTED PRIVATE KEY-----") || text.contains("Proc-Type: 4,ENCRYPTED") {
        return wrong(
            "the key is locked with a passphrase; take it away before the upload: openssl pkey -in \
             FILE -out NEW-FILE",
        );
    }
    let keys: Result<Vec<_>, _> = PrivateKeyDer::pem_slice_iter(text.as_bytes()).collect();
    let mut keys = keys.map_err(|error| Unfit::Key(damage("the key", &error)))?;
    match (keys.pop(), keys.len()) {
        (Some(key), 0) => Ok(key),
        (Some(_), more) => Err(Unfit::Key(format!(
            "there are {} private keys; send the one that belongs to the certificate",
            more + 1
        ))),
        (None, _) if text.trim().is_empty() => wrong("there is no private key: it is empty"),
        (None, _) if text.contains("BEGIN CERTIFICATE-----") => wrong(
            "there is no private key, but a certificate: chain and key were swapped, it seems",
        ),
        (None, _) if text.contains("PUBLIC KEY-----") => {
            wrong("this is a public key; the private key that was made with it is needed")
        }
        (None, _) => wrong(
            "there is no private key: it must be PEM, and begin with -----BEGIN PRIVATE KEY----- (or \
             EC or RSA PRIVATE KEY)",
        ),
    }
}

/// Where PEM is broken. What stands there is not repeated: it may be a key.
fn damage(what: &str, error: &Error) -> String {
    let how = match error {
        Error::MissingSectionEnd { .. } => "a block has no -----END line, so its end was cut off",
        Error::IllegalSectionStart { .. } => "a -----BEGIN line is not as it should be",
        Error::Base64Decode(_) => "a block holds characters that do not belong there",
        _ => "it cannot be read",
    };
    format!("{what} is damaged PEM: {how}. Copy it anew, all lines of it")
}

/// The PEM block of a certificate.
pub fn of_certificate(der: &CertificateDer<'_>) -> String {
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
