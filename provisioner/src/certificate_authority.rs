//! The local certificate authority: issues certificates for the sites' hostnames where no public
//! authority can (the embedded default). Whoever trusts its root trusts all of the platform's sites.

use std::path::Path;

use control_types::Hostname;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256, SerialNumber, SigningKey as _,
};
use time::{Duration, OffsetDateTime};

use crate::secrets::{SecretError, random_bytes};

/// How long a certificate is good for, as public authorities do it.
const LEAF_VALIDITY: Duration = Duration::days(90);
/// How long an authority is good for.
const AUTHORITY_VALIDITY: Duration = Duration::days(3650);
/// A certificate is good from a while ago, for machines whose clocks are behind.
const CLOCK_SKEW: Duration = Duration::hours(1);
/// What a certificate's `issuer` column says.
pub const ISSUER: &str = "local";

/// Why the authority cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// A file cannot be read.
    #[error("certificate authority: cannot read {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The certificate is not one of an authority, or the key does not belong to it.
    #[error("certificate authority: {0}")]
    Unfit(&'static str),
    /// A certificate or key cannot be read or made.
    #[error("certificate authority")]
    Certificate(#[from] rcgen::Error),
    /// No random bytes.
    #[error("certificate authority")]
    Random(#[from] SecretError),
}

/// A certificate and its private key. The key is not shown by `Debug`.
pub struct IssuedCertificate {
    /// The chain to send: the certificate itself. The root is not in it, since clients have it.
    pub chain_pem: String,
    /// The private key (PKCS#8).
    pub key_pem: String,
    /// Good from then.
    pub not_before: OffsetDateTime,
    /// Good until then.
    pub not_after: OffsetDateTime,
}

impl std::fmt::Debug for IssuedCertificate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "IssuedCertificate({} to {})", self.not_before, self.not_after)
    }
}

/// An authority with its key in memory.
pub struct CertificateAuthority {
    issuer: Issuer<'static, KeyPair>,
    not_after: OffsetDateTime,
}

impl CertificateAuthority {
    /// The authority in two PEM files.
    ///
    /// # Errors
    /// When a file cannot be read, or the two are no authority.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, AuthorityError> {
        let read = |path: &Path| {
            std::fs::read_to_string(path)
                .map_err(|source| AuthorityError::Read { path: path.display().to_string(), source })
        };
        Self::from_pem(&read(certificate)?, &read(key)?)
    }

    /// The authority in two PEM texts.
    ///
    /// # Errors
    /// When the two are no authority.
    pub fn from_pem(certificate_pem: &str, key_pem: &str) -> Result<Self, AuthorityError> {
        let key = KeyPair::from_pem(key_pem)?;
        let not_after = check(certificate_pem, &key)?;
        Ok(Self { issuer: Issuer::from_ca_cert_pem(certificate_pem, key)?, not_after })
    }

    /// A new authority: the PEM texts of its certificate and of its key.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<(String, String), AuthorityError> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(Vec::<String>::new())?;
        let id = hex::encode(random_bytes::<4>()?);
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::OrganizationName, "Ta3lem");
        // The id tells the authorities of several installations apart in a list of trusted ones.
        params.distinguished_name.push(DnType::CommonName, format!("Ta3lem Local Authority {id}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.serial_number = Some(random_serial()?);
        params.not_before = OffsetDateTime::now_utc() - CLOCK_SKEW;
        params.not_after = params.not_before + AUTHORITY_VALIDITY;
        let certificate = params.self_signed(&key)?;
        Ok((certificate.pem(), key.serialize_pem()))
    }

    /// How certificates of this authority are marked in the control database.
    pub const fn name(&self) -> &'static str {
        "local"
    }

    /// The authority's signature under a record: ECDSA with P-256 and SHA-256, as its certificate's key
    /// verifies it (DER).
    ///
    /// # Errors
    /// When the key does not sign.
    pub fn sign(&self, record: &[u8]) -> Result<Vec<u8>, AuthorityError> {
        Ok(self.issuer.key().sign(record)?)
    }

    /// A certificate for one hostname, with a new key. It never outlives the authority.
    ///
    /// # Errors
    /// When the authority has run out, or the system gives no random bytes.
    pub fn issue(&self, hostname: &Hostname) -> Result<IssuedCertificate, AuthorityError> {
        let now = OffsetDateTime::now_utc();
        if self.not_after <= now {
            return Err(AuthorityError::Unfit("its certificate has run out; make a new authority"));
        }
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(vec![hostname.to_string()])?;
        // Names stand in the alternative names only: a common name holds at most 64 letters.
        params.distinguished_name = DistinguishedName::new();
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.serial_number = Some(random_serial()?);
        params.not_before = whole_seconds(now - CLOCK_SKEW);
        params.not_after = whole_seconds((now + LEAF_VALIDITY).min(self.not_after));
        let (not_before, not_after) = (params.not_before, params.not_after);
        let certificate = params.signed_by(&key, &self.issuer)?;
        Ok(IssuedCertificate {
            chain_pem: certificate.pem(),
            key_pem: key.serialize_pem(),
            not_before,
            not_after,
        })
    }
}

/// Whether this is the certificate of an authority and the key belongs to it. Returns its end.
fn check(certificate_pem: &str, key: &KeyPair) -> Result<OffsetDateTime, AuthorityError> {
    let (_, pem) = x509_parser::pem::parse_x509_pem(certificate_pem.as_bytes())
        .map_err(|_| AuthorityError::Unfit("the certificate is not in PEM form"))?;
    let certificate =
        pem.parse_x509().map_err(|_| AuthorityError::Unfit("the certificate cannot be read"))?;
    if !certificate.is_ca() {
        return Err(AuthorityError::Unfit("the certificate is not one of an authority"));
    }
    if certificate.public_key().subject_public_key.data.as_ref() != key.public_key_raw() {
        return Err(AuthorityError::Unfit("the key does not belong to the certificate"));
    }
    Ok(certificate.validity().not_after.to_datetime())
}

fn whole_seconds(at: OffsetDateTime) -> OffsetDateTime {
    at.replace_nanosecond(0).unwrap_or(at)
}

/// A positive number of 127 bits that says nothing.
fn random_serial() -> Result<SerialNumber, AuthorityError> {
    let mut bytes = random_bytes::<16>()?;
    bytes[0] = bytes[0] & 0x7f | 0x40;
    Ok(SerialNumber::from_slice(&bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_issued_certificate_is_for_its_name_only_and_signed_by_the_authority() {
        let (certificate, key) = CertificateAuthority::generate().expect("an authority");
        let authority = CertificateAuthority::from_pem(&certificate, &key).expect("loads");
        let hostname: Hostname = "acme.localhost".parse().expect("a hostname");
        let issued = authority.issue(&hostname).expect("issues");
        assert_eq!(issued.not_after - issued.not_before, LEAF_VALIDITY + CLOCK_SKEW);
        assert!(issued.key_pem.starts_with("-----BEGIN PRIVATE KEY-----"));
        assert_eq!(issued.chain_pem.matches("BEGIN CERTIFICATE").count(), 1);

        let (_, root) = x509_parser::pem::parse_x509_pem(certificate.as_bytes()).expect("pem");
        let root = root.parse_x509().expect("parses");
        let (_, leaf) = x509_parser::pem::parse_x509_pem(issued.chain_pem.as_bytes()).expect("pem");
        let leaf = leaf.parse_x509().expect("parses");
        assert_eq!(leaf.issuer(), root.subject());
        assert!(!leaf.is_ca());
        let names = leaf.subject_alternative_name().expect("readable").expect("present");
        assert_eq!(names.value.general_names.len(), 1);
        assert!(format!("{:?}", names.value.general_names[0]).contains("acme.localhost"));
        let again = authority.issue(&hostname).expect("issues");
        assert_ne!(again.chain_pem, issued.chain_pem);
    }

    #[test]
    fn what_is_no_authority_is_refused() {
        let (certificate, key) = CertificateAuthority::generate().expect("an authority");
        let (_, other_key) = CertificateAuthority::generate().expect("an authority");
        assert!(matches!(
            CertificateAuthority::from_pem(&certificate, &other_key),
            Err(AuthorityError::Unfit("the key does not belong to the certificate"))
        ));
        let authority = CertificateAuthority::from_pem(&certificate, &key).expect("loads");
        let leaf = authority.issue(&"a.localhost".parse().expect("a hostname")).expect("issues");
        assert!(CertificateAuthority::from_pem(&leaf.chain_pem, &leaf.key_pem).is_err());
        assert!(CertificateAuthority::from_pem("", &key).is_err());
    }
}
