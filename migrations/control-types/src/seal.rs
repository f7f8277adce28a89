//! Secrets at rest: AES-256-GCM with the key of the region that they belong to. The row that a
//! secret lies in is authenticated with it, so that a sealed value copied into another row does not
//! open. Not for streams: a value is held in memory whole.

use std::{collections::BTreeMap, fmt, path::Path};

use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    hkdf::{HKDF_SHA256, Salt},
    rand,
};
use serde::{Deserialize, Serialize};

/// First byte of every sealed value: the layout `version, length of key id, key id, nonce,
/// ciphertext and tag`.
const LAYOUT: u8 = 1;
/// Bytes of a key.
const KEY_BYTES: usize = 32;
/// Keeps what is derived apart from anything else that the keys are used for.
const DERIVATION: &[u8] = b"ta3lem key ring derivation 1";

/// Why something could not be sealed or opened. It never tells more about the value.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The file of keys cannot be read.
    #[error("cannot read the region's key file {path}")]
    Read {
        /// The file.
        path: String,
        /// Why.
        source: std::io::Error,
    },
    /// The file of keys is not what it should be.
    #[error("the region's key file is malformed: {0}")]
    Malformed(&'static str),
    /// The value is not a sealed one.
    #[error("not a sealed value")]
    Layout,
    /// The value was sealed with a key that is not on this ring.
    #[error("sealed with key '{0}', which this region's ring does not have")]
    UnknownKey(String),
    /// The wrong key, the wrong row, or a changed value.
    #[error("the sealed value does not open: wrong key, wrong row or changed bytes")]
    Open,
}

/// The keys of one region: one that seals, and older ones that still open.
#[derive(Clone)]
pub struct KeyRing {
    region: String,
    active: String,
    keys: BTreeMap<String, [u8; KEY_BYTES]>,
}

/// The place of a certificate's private key, for [`KeyRing::seal`] and [`KeyRing::open`]: the one
/// that the provisioner seals for the routers.
pub fn certificate_key(id: uuid::Uuid) -> String {
    format!("certificate.key/{id}")
}

/// How a ring lies in its file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyFile {
    region: String,
    active: String,
    keys: BTreeMap<String, String>,
}

impl KeyRing {
    /// A ring with one new random key.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate(region: &str) -> Result<Self, SealError> {
        let mut key = [0; KEY_BYTES];
        rand::fill(&mut key).map_err(|_| SealError::Malformed("no random bytes"))?;
        let active = "k1".to_owned();
        Ok(Self {
            region: region.to_owned(),
            keys: BTreeMap::from([(active.clone(), key)]),
            active,
        })
    }

    /// The ring in a file as written by [`KeyRing::to_json`].
    ///
    /// # Errors
    /// When the file cannot be read or is malformed.
    pub fn load(path: &Path) -> Result<Self, SealError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| SealError::Read { path: path.display().to_string(), source })?;
        Self::from_json(&text)
    }

    /// Reads what [`KeyRing::to_json`] wrote.
    ///
    /// # Errors
    /// When the text is malformed.
    pub fn from_json(text: &str) -> Result<Self, SealError> {
        let file: KeyFile = serde_json::from_str(text)
            .map_err(|_| SealError::Malformed("not the expected JSON"))?;
        let mut keys = BTreeMap::new();
        for (id, text) in file.keys {
            let mut key = [0; KEY_BYTES];
            hex::decode_to_slice(text, &mut key)
                .map_err(|_| SealError::Malformed("a key is not 64 hexadecimal digits"))?;
            if id.is_empty() || id.len() > 64 {
                return Err(SealError::Malformed("a key's id has 1 to 64 bytes"));
            }
            keys.insert(id, key);
        }
        if !keys.contains_key(&file.active) {
            return Err(SealError::Malformed("the active key is not among the keys"));
        }
        Ok(Self { region: file.region, active: file.active, keys })
    }

    /// The ring as text for a file that only its owner can read.
    pub fn to_json(&self) -> String {
        let keys = self.keys.iter().map(|(id, key)| (id.clone(), hex::encode(key))).collect();
        let file = KeyFile { region: self.region.clone(), active: self.active.clone(), keys };
        serde_json::to_string_pretty(&file).unwrap_or_default()
    }

    /// The region that the keys belong to.
    pub fn region(&self) -> &str {
        &self.region
    }

    /// Seals `value` for the place that `row` names, as in `certificate.key/<id>`.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn seal(&self, row: &str, value: &[u8]) -> Result<Vec<u8>, SealError> {
        let key = self.key(&self.active)?;
        let mut buffer = value.to_vec();
        let nonce = key
            .seal_in_place_append_tag(Aad::from(row.as_bytes()), &mut buffer)
            .map_err(|_| SealError::Open)?;
        let id = self.active.as_bytes();
        let length = u8::try_from(id.len()).map_err(|_| SealError::Malformed("key id too long"))?;
        let mut sealed = Vec::with_capacity(2 + id.len() + NONCE_LEN + buffer.len());
        sealed.extend([LAYOUT, length]);
        sealed.extend(id);
        sealed.extend(nonce.as_ref());
        sealed.extend(buffer);
        Ok(sealed)
    }

    /// Opens what [`KeyRing::seal`] sealed for the same place.
    ///
    /// # Errors
    /// When the value is no sealed one, or was sealed with another key or for another place.
    pub fn open(&self, row: &str, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        let [LAYOUT, length, rest @ ..] = sealed else { return Err(SealError::Layout) };
        let (id, rest) = rest.split_at_checked(usize::from(*length)).ok_or(SealError::Layout)?;
        let (nonce, ciphertext) = rest.split_at_checked(NONCE_LEN).ok_or(SealError::Layout)?;
        let id = std::str::from_utf8(id).map_err(|_| SealError::Layout)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| SealError::Layout)?;
        let mut buffer = ciphertext.to_vec();
        let length = self
            .key(id)?
            .open_in_place(nonce, Aad::from(row.as_bytes()), &mut buffer)
            .map_err(|_| SealError::Open)?
            .len();
        buffer.truncate(length);
        Ok(buffer)
    }

    /// Secrets for the purpose that `label` names, one for each key, that of the active key first.
    /// Whoever has the ring has the same; from them neither the keys nor the secrets of another
    /// label can be told.
    ///
    /// # Errors
    /// When the cryptography fails.
    pub fn derive(&self, label: &str) -> Result<Vec<[u8; KEY_BYTES]>, SealError> {
        let others = self.keys.iter().filter(|(id, _)| **id != self.active);
        let active = self.keys.get_key_value(&self.active);
        let derived = active.into_iter().chain(others).map(|(_, key)| {
            let mut secret = [0; KEY_BYTES];
            Salt::new(HKDF_SHA256, DERIVATION)
                .extract(key)
                .expand(&[self.region.as_bytes(), &[0], label.as_bytes()], HKDF_SHA256)
                .and_then(|material| material.fill(&mut secret))
                .map_err(|_| SealError::Malformed("no secret can be derived"))?;
            Ok(secret)
        });
        derived.collect()
    }

    fn key(&self, id: &str) -> Result<RandomizedNonceKey, SealError> {
        let bytes = self.keys.get(id).ok_or_else(|| SealError::UnknownKey(id.to_owned()))?;
        RandomizedNonceKey::new(&AES_256_GCM, bytes)
            .map_err(|_| SealError::Malformed("a key has the wrong length"))
    }
}

impl fmt::Debug for KeyRing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyRing({}, {} keys)", self.region, self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_opens_in_its_own_row_and_region_only() {
        let ring = KeyRing::generate("id-jakarta").expect("random bytes");
        let sealed = ring.seal("t.c/1", b"secret").expect("seals");
        assert_eq!(ring.open("t.c/1", &sealed).expect("opens"), b"secret");
        assert!(matches!(ring.open("t.c/2", &sealed), Err(SealError::Open)));
        let other = KeyRing::generate("sg-singapore").expect("random bytes");
        assert!(matches!(other.open("t.c/1", &sealed), Err(SealError::Open)));
        for cut in 0..sealed.len() {
            assert!(ring.open("t.c/1", &sealed[..cut]).is_err());
        }
        assert_ne!(sealed, ring.seal("t.c/1", b"secret").expect("seals"), "a nonce of its own");
    }

    #[test]
    fn what_is_derived_is_of_the_ring_and_the_label_and_the_active_key_comes_first() {
        let [one, two] = ["1", "2"].map(|digit| digit.repeat(64));
        let ring = |active: &str, region: &str| {
            let text = format!(
                r#"{{"region":"{region}","active":"{active}","keys":{{"a":"{one}","b":"{two}"}}}}"#
            );
            KeyRing::from_json(&text).expect("reads").derive("x")
        };
        let first = ring("a", "r").expect("derives");
        assert_eq!(first, ring("a", "r").expect("derives"));
        let second = ring("b", "r").expect("derives");
        assert_eq!([first[0], first[1]], [second[1], second[0]]);
        assert_ne!(first[0], first[1]);
        assert_ne!(first, ring("a", "s").expect("derives"));
        let generated = KeyRing::generate("r").expect("random bytes");
        assert_ne!(
            generated.derive("x").expect("derives"),
            generated.derive("y").expect("derives")
        );
    }

    #[test]
    fn a_ring_survives_its_file() {
        let ring = KeyRing::generate("r").expect("random bytes");
        let sealed = ring.seal("x", b"v").expect("seals");
        let again = KeyRing::from_json(&ring.to_json()).expect("reads");
        assert_eq!(again.open("x", &sealed).expect("opens"), b"v");
        assert!(!format!("{ring:?}").contains(&ring.to_json()[60..90]));
    }
}
