//! The local certificate authority: it vouches for the sites' hostnames on this machine. Made once
//! and kept, so that trusting it once is enough.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose, PKCS_ECDSA_P256_SHA256,
};
use rustls::{ServerConfig, pki_types::PrivatePkcs8KeyDer};
use time::{Duration, OffsetDateTime};

use crate::data_dir::{DataDir, write_private};

const YEARS: i64 = 10;

/// Where the authority's two files lie.
#[derive(Clone, Debug)]
pub struct Authority {
    /// The certificate, for everybody.
    pub certificate: PathBuf,
    /// Its key, for the provisioner.
    pub key: PathBuf,
}

impl Authority {
    /// The authority of a data directory, whether it exists or not.
    pub fn of(data: &DataDir) -> Self {
        Self {
            certificate: data.root().join("authority.pem"),
            key: data.secrets().join("authority.key.pem"),
        }
    }

    /// Makes it, unless it exists.
    ///
    /// # Errors
    /// When it cannot be made, or only one of its files is there.
    pub fn ensure(&self) -> anyhow::Result<()> {
        match (self.certificate.exists(), self.key.exists()) {
            (true, true) => Ok(()),
            (true, false) => anyhow::bail!(
                "the key {} is missing; remove {} to make a new authority",
                self.key.display(),
                self.certificate.display()
            ),
            // The key is written first: without a certificate it is of no use to anybody.
            (false, _) => self.make(),
        }
    }

    fn make(&self) -> anyhow::Result<()> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![
            KeyUsagePurpose::KeyCertSign,
            KeyUsagePurpose::CrlSign,
            KeyUsagePurpose::DigitalSignature,
        ];
        // Browsers list authorities by name: several data directories must be told apart.
        let number = &crate::data_dir::random_secret()[..6];
        params.distinguished_name.push(DnType::OrganizationName, "Ta3lem");
        params
            .distinguished_name
            .push(DnType::CommonName, format!("Ta3lem local authority {number}"));
        params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(365 * YEARS);
        let certificate = params.self_signed(&key)?;
        write_private(&self.key, key.serialize_pem().as_bytes())?;
        write_private(&self.certificate, certificate.pem().as_bytes())?;
        make_readable(&self.certificate)
    }

    /// What the platform's own servers on this machine show to those who know the authority: a new
    /// certificate for `localhost`, good for as long as the authority.
    ///
    /// # Errors
    /// When the authority's files cannot be read.
    pub fn server_config(&self) -> anyhow::Result<Arc<ServerConfig>> {
        let read = |path: &Path| {
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let issuer = KeyPair::from_pem(&read(&self.key)?)?;
        let issuer = Issuer::from_ca_cert_pem(&read(&self.certificate)?, issuer)?;
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new(["localhost".to_owned(), "127.0.0.1".to_owned()])?;
        params.distinguished_name = DistinguishedName::new();
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.not_before = OffsetDateTime::now_utc() - Duration::days(1);
        params.not_after = OffsetDateTime::now_utc() + Duration::days(self.days_left()?);
        let certificate = params.signed_by(&key, &issuer)?;
        let key = PrivatePkcs8KeyDer::from(key.serialize_der());
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key.into())?;
        Ok(Arc::new(config))
    }

    /// Days until the certificate ends; negative when it has.
    ///
    /// # Errors
    /// When the certificate cannot be read.
    pub fn days_left(&self) -> anyhow::Result<i64> {
        let text = std::fs::read(&self.certificate)
            .with_context(|| format!("cannot read {}", self.certificate.display()))?;
        let (_, pem) = x509_parser::pem::parse_x509_pem(&text)
            .with_context(|| format!("{} is malformed", self.certificate.display()))?;
        let ends = pem.parse_x509().context("not a certificate")?.validity().not_after;
        Ok((ends.to_datetime() - OffsetDateTime::now_utc()).whole_days())
    }
}

/// The certificate is no secret: browsers of other users may want it.
fn make_readable(path: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o644))
        .with_context(|| format!("cannot change {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_authority_is_made_once() {
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let directory = tempfile::tempdir().expect("a directory");
        let data = DataDir::at(directory.path()).expect("a path");
        data.prepare().expect("made");
        let authority = Authority::of(&data);
        authority.ensure().expect("made");
        let first = std::fs::read(&authority.certificate).expect("there");
        authority.ensure().expect("kept");
        assert_eq!(first, std::fs::read(&authority.certificate).expect("there"));
        assert!(authority.days_left().expect("readable") > 3600);
        std::fs::remove_file(&authority.key).expect("removed");
        assert!(authority.ensure().is_err());
    }
}
