//! Certificates: sealed as they are read, opened on demand. The private keys of this region lie
//! sealed in memory and on disk; those in use are open in a bounded cache.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use control_types::{
    SiteId,
    seal::{KeyRing, SealError, certificate_key},
};
use moka::sync::Cache;
use rustls::{crypto::aws_lc_rs::sign::any_supported_type, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use uuid::Uuid;

use crate::shared::Shared;

/// Most private keys held open, of 1.7 KB each. Opening one takes a tenth of what a handshake takes,
/// so a router with many more sites is not slower by much, and 100,000 sites fit into 300 MB.
const OPEN_CERTIFICATES: u64 = 8_192;

/// A certificate whose private key is sealed.
#[derive(Debug)]
pub struct SealedCertificate {
    /// The row.
    pub id: Uuid,
    /// Whose it is; none for the platform's own.
    pub site_id: Option<SiteId>,
    /// The hostname in canonical form.
    pub hostname: Box<str>,
    /// The certificates between it and a root.
    pub issuers: Arc<Issuers>,
    /// The end of its validity, in seconds since 1970.
    pub not_after: i64,
    /// The version of its site.
    pub version: i64,
    fingerprint: u64,
    // The leaf, and behind it the sealed key.
    bytes: Box<[u8]>,
    leaf_length: usize,
}

/// What follows the leaf in a chain: the same value for all chains that end alike.
#[derive(Debug)]
pub struct Issuers {
    ders: Box<[CertificateDer<'static>]>,
    fingerprint: u64,
}

/// Why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// No certificate in the chain.
    #[error("the chain is not PEM with at least one certificate")]
    Chain,
    /// The private key does not open.
    #[error("the private key cannot be opened")]
    Sealed(#[from] SealError),
    /// What was opened is no private key.
    #[error("what was sealed is no private key in PEM or DER")]
    Key,
    /// rustls cannot use the key, or it is not the key of the leaf.
    #[error("the private key does not fit the certificate")]
    Mismatch(#[from] rustls::Error),
}

impl SealedCertificate {
    /// A certificate as it lies in the control database.
    ///
    /// # Errors
    /// When the chain is not PEM.
    pub fn from_pem(
        id: Uuid,
        site_id: Option<SiteId>,
        hostname: &str,
        chain_pem: &str,
        sealed_key: Vec<u8>,
        not_after: i64,
        version: i64,
    ) -> Result<Self, CertificateError> {
        let chain: Result<Vec<_>, _> =
            CertificateDer::pem_slice_iter(chain_pem.as_bytes()).collect();
        let mut chain = chain.map_err(|_| CertificateError::Chain)?.into_iter();
        let leaf = chain.next().ok_or(CertificateError::Chain)?;
        // Some authorities and people put the leaf into the chain a second time.
        let issuers = Issuers::shared(chain.filter(|der| *der != leaf).collect());
        let key = sealed_key.as_slice();
        Ok(Self::new(id, site_id, hostname, (&leaf, issuers), key, not_after, version))
    }

    /// A certificate from its leaf, what follows it, and its key.
    pub fn new(
        id: Uuid,
        site_id: Option<SiteId>,
        hostname: &str,
        (leaf, issuers): (&[u8], Arc<Issuers>),
        sealed_key: &[u8],
        not_after: i64,
        version: i64,
    ) -> Self {
        let mut hasher = DefaultHasher::new();
        leaf.hash(&mut hasher);
        sealed_key.hash(&mut hasher);
        issuers.fingerprint.hash(&mut hasher);
        Self {
            id,
            site_id,
            hostname: hostname.into(),
            issuers,
            not_after,
            version,
            fingerprint: hasher.finish(),
            bytes: [leaf, sealed_key].concat().into(),
            leaf_length: leaf.len(),
        }
    }

    /// The certificate itself, in DER.
    pub fn leaf(&self) -> &[u8] {
        self.bytes.get(..self.leaf_length).unwrap_or_default()
    }

    /// The private key, sealed with the key of the region.
    pub fn sealed_key(&self) -> &[u8] {
        self.bytes.get(self.leaf_length..).unwrap_or_default()
    }

    /// Opens the private key, and holds it against the certificate.
    ///
    /// # Errors
    /// When it does not open, or is the key of another certificate.
    pub fn open(&self, ring: &KeyRing) -> Result<CertifiedKey, CertificateError> {
        let certified = self.open_unchecked(ring)?;
        certified.keys_match()?;
        Ok(certified)
    }

    fn open_unchecked(&self, ring: &KeyRing) -> Result<CertifiedKey, CertificateError> {
        let key = ring.open(&certificate_key(self.id), self.sealed_key())?;
        let key = if key.starts_with(b"-----") {
            PrivateKeyDer::from_pem_slice(&key).map_err(|_| CertificateError::Key)?
        } else {
            PrivateKeyDer::try_from(key).map_err(|_| CertificateError::Key)?
        };
        let leaf = CertificateDer::from(self.leaf().to_vec());
        let chain = std::iter::once(leaf).chain(self.issuers.ders.iter().cloned()).collect();
        Ok(CertifiedKey::new(chain, any_supported_type(&key)?))
    }
}

impl Issuers {
    /// The one value that all chains with this end have.
    pub fn shared(ders: Vec<CertificateDer<'static>>) -> Arc<Self> {
        static ALL: Shared<Vec<CertificateDer<'static>>, Arc<Issuers>> = Shared::new();
        ALL.get(&ders, || {
            let new = Self::new(ders.clone());
            (new.ders.to_vec(), Arc::new(new))
        })
        .unwrap_or_else(|| Arc::new(Self::new(ders)))
    }

    fn new(ders: Vec<CertificateDer<'static>>) -> Self {
        let mut hasher = DefaultHasher::new();
        ders.hash(&mut hasher);
        // A chain is cloned for each open key: that must not copy the bytes again.
        Self { ders: ders.into_iter().map(shared).collect(), fingerprint: hasher.finish() }
    }

    /// In DER, the one that issued the leaf first.
    pub fn ders(&self) -> &[CertificateDer<'static>] {
        &self.ders
    }
}

/// The same bytes once for all chains: there are few intermediates and many chains.
fn shared(der: CertificateDer<'static>) -> CertificateDer<'static> {
    static ALL: Shared<&'static [u8], &'static [u8]> = Shared::new();
    let kept = ALL.get(der.as_ref(), || {
        let kept: &'static [u8] = Box::leak(der.as_ref().into());
        (kept, kept)
    });
    kept.map_or_else(|| der.clone(), CertificateDer::from)
}

/// The open private keys in use.
#[derive(Debug)]
pub struct OpenCertificates {
    ring: KeyRing,
    // None for a row that does not open, so that it is tried and logged once.
    open: Cache<(Uuid, u64), Option<Arc<CertifiedKey>>>,
}

impl OpenCertificates {
    /// Nothing open yet.
    pub fn new(ring: KeyRing) -> Self {
        Self { ring, open: Cache::new(OPEN_CERTIFICATES) }
    }

    /// The certificate ready for a handshake; none when it cannot be used.
    pub fn open(&self, sealed: &SealedCertificate) -> Option<Arc<CertifiedKey>> {
        let row = (sealed.id, sealed.fingerprint);
        if let Some(known) = self.open.get(&row) {
            return known;
        }
        self.open.get_with(row, || match sealed.open(&self.ring) {
            Ok(certified) => Some(Arc::new(certified)),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(host = %sealed.hostname, error, "a certificate cannot be used");
                None
            }
        })
    }

    /// The certificate of a challenge. Not kept, and not held against its key: a reader of
    /// certificates must refuse the critical extension that makes it a challenge's.
    pub fn open_challenge(&self, sealed: &SealedCertificate) -> Option<Arc<CertifiedKey>> {
        match sealed.open_unchecked(&self.ring) {
            Ok(certified) => Some(Arc::new(certified)),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::error!(host = %sealed.hostname, error, "a challenge cannot be used");
                None
            }
        }
    }

    /// How many are open.
    pub fn len(&self) -> u64 {
        self.open.entry_count()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sealed(ring: &KeyRing, swap_key: bool) -> SealedCertificate {
        let pair = rcgen::generate_simple_self_signed(["a.test".to_owned()]).expect("makes one");
        let other = rcgen::KeyPair::generate().expect("makes a key");
        let key = if swap_key { other.serialize_der() } else { pair.signing_key.serialize_der() };
        let id = Uuid::now_v7();
        let key = ring.seal(&certificate_key(id), &key).expect("seals");
        let pem = pair.cert.pem();
        SealedCertificate::from_pem(id, None, "a.test", &format!("{pem}{pem}"), key, 0, 0)
            .expect("is a certificate")
    }

    #[test]
    fn a_certificate_opens_with_its_own_key_only() {
        let ring = KeyRing::generate("r").expect("random bytes");
        let good = sealed(&ring, false);
        assert!(good.issuers.ders().is_empty(), "the doubled leaf is dropped");
        let cache = OpenCertificates::new(ring.clone());
        assert!(cache.open(&good).is_some());
        assert!(matches!(sealed(&ring, true).open(&ring), Err(CertificateError::Mismatch(_))));
        let other = KeyRing::generate("r").expect("random bytes");
        assert!(OpenCertificates::new(other).open(&good).is_none());
    }
}
