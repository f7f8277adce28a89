//! An authority that nobody knows but who is given its root: it certifies what a story wants.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, PKCS_ECDSA_P256_SHA256,
};
use tempfile::TempDir;
use time::{Duration, OffsetDateTime};

/// The authority, and a directory for the files of whoever uploads.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate.
    pub root: String,
    folder: TempDir,
}

/// A certificate and its key.
pub struct Made {
    pub leaf: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = params_of(name)?;
        let root = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), root, folder: tempfile::tempdir()? })
    }

    /// An authority that this one vouches for.
    pub fn below(&self, name: &str) -> Result<Self> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let params = params_of(name)?;
        let root = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), root, folder: tempfile::tempdir()? })
    }

    /// A certificate that began `since` days ago and is good for `left` more.
    pub fn make(&self, name: &str, since: i64, left: i64) -> Result<Made> {
        let key = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256)?;
        let mut params = CertificateParams::new([name.to_owned()])?;
        let now = OffsetDateTime::now_utc();
        params.not_before = now - Duration::days(since);
        params.not_after = now + Duration::days(left);
        let leaf = params.signed_by(&key, &self.issuer)?.pem();
        Ok(Made { leaf, key: key.serialize_pem() })
    }

    /// A file with these bytes.
    pub fn file(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<PathBuf> {
        let path = self.folder.path().join(name);
        std::fs::write(&path, bytes)?;
        Ok(path)
    }
}

fn params_of(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::<String>::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.distinguished_name.push(DnType::CommonName, name);
    Ok(params)
}

/// What only a tool of others makes: weak keys, locked keys.
pub fn openssl(arguments: &[&str], input: &Path) -> Result<String> {
    let output = Command::new("openssl")
        .args(arguments)
        .arg("-in")
        .arg(input)
        .output()
        .context("openssl: install the Debian package openssl")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// A certificate with an RSA key of 1024 bits, signed by itself.
pub fn weak(authority: &Authority, name: &str) -> Result<Made> {
    let key = authority.file("weak.key", "")?;
    let output = Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:1024", "-nodes", "-days", "9", "-subj", "/CN=weak"])
        .args(["-addext", &format!("subjectAltName=DNS:{name}")])
        .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
        .arg(&key)
        .output()
        .context("openssl: install the Debian package openssl")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(Made { leaf: String::from_utf8(output.stdout)?, key: std::fs::read_to_string(key)? })
}
