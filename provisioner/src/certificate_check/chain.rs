//! Whether the certificates of a chain stand in order, and lead to an authority that is trusted.

use std::sync::LazyLock;

use rustls::{
    CertificateError, RootCertStore, client::verify_server_cert_signed_by_trust_anchor,
    crypto::aws_lc_rs, server::ParsedCertificate,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use x509_parser::prelude::X509Certificate;

use super::{Anchors, Unfit, chain_is, covers, moment};

/// The authorities that the system trusts, read once.
static SYSTEM_ROOTS: LazyLock<RootCertStore> = LazyLock::new(|| {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    roots
});

/// What to do when the order is wrong.
const ORDER: &str = "the hostname's own certificate stands first, and after each the one of who \
                     issued it";

fn is_self_issued(certificate: &X509Certificate<'_>) -> bool {
    certificate.issuer().as_raw() == certificate.subject().as_raw()
}

/// Whether the first certificate is that of a hostname, and not of an authority.
pub fn check_leaf(hostname: &str, chain: &[X509Certificate<'_>]) -> Result<(), Unfit> {
    let [leaf, rest @ ..] = chain else { return Ok(()) };
    if !covers(leaf, hostname) && rest.iter().any(|other| !other.is_ca() && covers(other, hostname))
    {
        return Err(chain_is(format!("the chain is in the wrong order: {ORDER}")));
    }
    if !leaf.is_ca() {
        return Ok(());
    }
    Err(chain_is(if rest.iter().any(|other| !other.is_ca()) {
        format!("the chain is in the wrong order: {ORDER}")
    } else if covers(leaf, hostname) {
        format!(
            "the certificate is marked as that of an authority (CA:TRUE), so browsers do not take \
             it for {hostname}. Get one that an authority issued for the hostname"
        )
    } else {
        format!(
            "the first certificate is that of an authority ('{}'), which serves no hostname; the \
             one for {hostname} must stand there",
            leaf.subject()
        )
    }))
}

/// Whether each certificate is followed by that of its issuer, which is an authority.
pub fn check_order(chain: &[X509Certificate<'_>]) -> Result<(), Unfit> {
    for (lower, upper) in chain.iter().zip(chain.iter().skip(1)) {
        if lower.issuer().as_raw() != upper.subject().as_raw() {
            let issuer = lower.issuer().as_raw();
            let is_there = chain.iter().any(|other| other.subject().as_raw() == issuer);
            let (lower_name, issuer, upper) = (lower.subject(), lower.issuer(), upper.subject());
            return Err(chain_is(if is_self_issued(lower) {
                format!(
                    "after '{lower_name}', which is a root, nothing may follow, but '{upper}' does: \
                     {ORDER}"
                )
            } else if is_there {
                format!(
                    "the chain is in the wrong order: after '{lower_name}' must follow '{issuer}', \
                     which issued it, and not '{upper}'"
                )
            } else {
                format!(
                    "the chain is not complete: '{lower_name}' was issued by '{issuer}', whose \
                     certificate is missing; '{upper}' stands in its place"
                )
            }));
        }
        if !upper.is_ca() {
            return Err(chain_is(format!(
                "'{}' is no authority and cannot have issued '{}'; send the chain as the authority \
                 gave it",
                upper.subject(),
                lower.subject()
            )));
        }
    }
    Ok(())
}

/// Whether the signatures and all else in an ordered chain are as browsers want them at `now`.
pub fn verify(
    ders: &[CertificateDer<'static>],
    chain: &[X509Certificate<'_>],
    now: OffsetDateTime,
    anchors: &Anchors<'_>,
) -> Result<(), Unfit> {
    let ([leaf_der, rest @ ..], Some(last_der), Some(last)) = (ders, ders.last(), chain.last())
    else {
        return Err(chain_is("there is no certificate in the chain"));
    };
    if rest.is_empty() && is_self_issued(last) {
        return Err(chain_is(
            "the certificate is signed by itself, so no browser trusts it; get one from an authority",
        ));
    }
    check_dates(chain, now)?;
    let mut roots = SYSTEM_ROOTS.clone();
    let trusts_last = match anchors {
        Anchors::Complete => is_self_issued(last) && !rest.is_empty(),
        Anchors::Issued(more) => {
            let more = more.iter().map(|root| CertificateDer::from(root.as_slice()));
            roots.add_parsable_certificates(more.map(CertificateDer::into_owned));
            !rest.is_empty()
        }
    };
    if trusts_last {
        roots.add_parsable_certificates([last_der.clone()]);
    }
    let leaf = ParsedCertificate::try_from(leaf_der).map_err(|error| in_words(&error, last))?;
    let at = UnixTime::since_unix_epoch(std::time::Duration::from_secs(
        u64::try_from(now.unix_timestamp()).unwrap_or_default(),
    ));
    let algorithms = aws_lc_rs::default_provider().signature_verification_algorithms.all;
    verify_server_cert_signed_by_trust_anchor(&leaf, &roots, rest, at, algorithms)
        .map_err(|error| in_words(&error, last))
}

/// Whether the authorities' certificates are valid now. A root's own dates matter to nobody.
fn check_dates(chain: &[X509Certificate<'_>], now: OffsetDateTime) -> Result<(), Unfit> {
    for authority in chain.iter().skip(1).filter(|authority| !is_self_issued(authority)) {
        let (from, until) = (
            authority.validity().not_before.to_datetime(),
            authority.validity().not_after.to_datetime(),
        );
        let subject = authority.subject();
        if until <= now {
            return Err(chain_is(format!(
                "the certificate of the authority '{subject}' in the chain ended at {}; get the \
                 chain anew from it",
                moment(until)
            )));
        }
        if from > now {
            return Err(chain_is(format!(
                "the certificate of the authority '{subject}' in the chain is not valid before {}",
                moment(from)
            )));
        }
    }
    Ok(())
}

/// What the library found, in our words: its own say nothing to who sent the chain.
fn in_words(error: &rustls::Error, last: &X509Certificate<'_>) -> Unfit {
    use CertificateError as Why;
    tracing::debug!(%error, "a chain was refused");
    let rustls::Error::InvalidCertificate(why) = error else { return chain_is(AGAINST_RULES) };
    chain_is(match why {
        Why::UnknownIssuer => {
            return chain_is(format!(
                "the chain is not complete: it ends with '{}', issued by '{}', which browsers need \
                 to be given too; add the certificates that the authority sent with it (and its \
                 root, when the world does not know it)",
                last.subject(),
                last.issuer()
            ));
        }
        Why::BadSignature => {
            "a certificate of the chain was not signed by the one that follows, although its name \
             fits: the authority has another one of this name. Get the chain anew from it"
        }
        Why::InvalidPurpose | Why::InvalidPurposeContext { .. } => {
            "the certificate is not meant for servers (its extended key usage lacks serverAuth); get \
             one that is"
        }
        Why::UnsupportedSignatureAlgorithmContext { .. }
        | Why::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "a certificate of the chain is signed in a way that browsers do not take any more (as \
             with SHA-1); have it issued anew"
        }
        Why::Expired
        | Why::ExpiredContext { .. }
        | Why::NotValidYet
        | Why::NotValidYetContext { .. } => {
            "a certificate of the chain is not valid now; get the chain anew from the authority"
        }
        Why::BadEncoding => {
            "a certificate of the chain cannot be read: it was damaged on the way. Copy it anew \
             from what the authority sent"
        }
        _ => AGAINST_RULES,
    })
}

/// For what is too rare to have words of its own.
const AGAINST_RULES: &str = "browsers would refuse the chain: a certificate in it breaks the rules for \
                             certificates (RFC 5280), as an authority that may not issue for this \
                             name. Ask the authority for a new one";
