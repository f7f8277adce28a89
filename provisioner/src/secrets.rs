//! Everything secret: the regions' keys and what is sealed with them, new passwords, keys and
//! tokens, and the one-way forms in which others keep them. Nothing here is ever logged.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use aws_lc_rs::rand;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use control_types::seal::{KeyRing, SealError};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use uuid::Uuid;

mod one_way;

pub use one_way::{ScramVerifier, hash_password, token_hash};

/// Random bytes in a password or a token: more than anyone can guess.
const SECRET_BYTES: usize = 32;
/// Letters of an access key: no two look alike.
const ACCESS_KEY_LETTERS: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";

/// Why a secret could not be made, sealed or opened. It tells nothing of the secret.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The configuration names no keys for a region.
    #[error("region {0} has no keys: name its key file in `region_keys`")]
    NoKeys(String),
    /// A key file belongs to another region than the configuration says.
    #[error("the key file given for region {expected} belongs to region {found}")]
    WrongRegion {
        /// The region in the configuration.
        expected: String,
        /// The region in the file.
        found: String,
    },
    /// A ring refused.
    #[error("{place} of region {region}")]
    Seal {
        /// Which value.
        place: String,
        /// Whose keys.
        region: String,
        /// Why.
        source: SealError,
    },
    /// A key file cannot be used.
    #[error("the keys of region {region}")]
    Load {
        /// Whose keys.
        region: String,
        /// Why.
        source: SealError,
    },
    /// What was sealed is not what it should be.
    #[error("{place} was sealed in another form than expected")]
    Form {
        /// Which value.
        place: String,
    },
    /// The system gives no random bytes.
    #[error("the system gives no random bytes")]
    Random,
    /// A password cannot be hashed.
    #[error("the password cannot be hashed: {0}")]
    Hash(String),
}

/// A value that lies sealed in one place of the control database, as JSON.
pub trait SealedValue: Serialize + DeserializeOwned {
    /// The table's column; the row's id is added to it.
    const PLACE: &'static str;
}

/// `placement.sealed_secrets`: what an instance needs to reach its site.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlacementSecrets {
    /// Of the login role.
    pub database_password: String,
    /// The key of the site's prefix.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
}

impl PlacementSecrets {
    /// New ones.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, SecretError> {
        Ok(Self {
            database_password: random_text()?,
            access_key: random_access_key()?,
            secret_key: random_text()?,
        })
    }
}

impl SealedValue for PlacementSecrets {
    const PLACE: &'static str = "placement.secrets";
}

/// `cluster_backup.sealed_secrets`: what the backups of a cluster need.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupSecrets {
    /// The key of their prefix.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// What they are encrypted with.
    pub passphrase: String,
}

impl BackupSecrets {
    /// New ones.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn generate() -> Result<Self, SecretError> {
        Ok(Self {
            access_key: random_access_key()?,
            secret_key: random_text()?,
            passphrase: random_text()?,
        })
    }
}

impl SealedValue for BackupSecrets {
    const PLACE: &'static str = "cluster_backup.secrets";
}

/// In the parameters of an operation that creates a site: what opens the administrator's invitation.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct InvitationToken(pub String);

impl SealedValue for InvitationToken {
    const PLACE: &'static str = "operation.invitation";
}

/// `preview.sealed_key`: what opens a preview.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PreviewKey(pub String);

impl SealedValue for PreviewKey {
    const PLACE: &'static str = "preview.key";
}

/// `cluster.sealed_admin_url`: where the provisioner administers a cluster.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClusterAdminUrl(pub String);

impl SealedValue for ClusterAdminUrl {
    const PLACE: &'static str = "cluster.admin_url";
}

/// `object_store.sealed_admin`: how the provisioner administers an object store.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectStoreAdmin {
    /// A key that reaches the whole bucket.
    pub access_key: String,
    /// Its secret.
    pub secret_key: String,
    /// Where keys of prefixes are put.
    pub key_admin_url: String,
    /// The bearer token for that.
    pub key_admin_token: String,
}

impl SealedValue for ObjectStoreAdmin {
    const PLACE: &'static str = "object_store.admin";
}

/// The keys of all regions. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Keys(Arc<BTreeMap<String, KeyRing>>);

impl Keys {
    /// Reads the key file of every region.
    ///
    /// # Errors
    /// All that is wrong with the files, one error each.
    pub fn load(files: &BTreeMap<String, PathBuf>) -> Result<Self, Vec<SecretError>> {
        let mut rings = BTreeMap::new();
        let mut errors = Vec::new();
        for (region, path) in files {
            match KeyRing::load(path) {
                Ok(ring) if ring.region() == region => {
                    rings.insert(region.clone(), ring);
                }
                Ok(ring) => errors.push(SecretError::WrongRegion {
                    expected: region.clone(),
                    found: ring.region().to_owned(),
                }),
                Err(source) => errors.push(SecretError::Load { region: region.clone(), source }),
            }
        }
        if errors.is_empty() { Ok(Self(Arc::new(rings))) } else { Err(errors) }
    }

    /// Keys that are at hand.
    pub fn from_rings(rings: impl IntoIterator<Item = KeyRing>) -> Self {
        Self(Arc::new(rings.into_iter().map(|ring| (ring.region().to_owned(), ring)).collect()))
    }

    /// The regions that have keys.
    pub fn regions(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// The ring of `region`.
    ///
    /// # Errors
    /// When the configuration names none.
    pub fn ring(&self, region: &str) -> Result<&KeyRing, SecretError> {
        self.0.get(region).ok_or_else(|| SecretError::NoKeys(region.to_owned()))
    }

    /// Seals `value` for its place in the row `id`.
    ///
    /// # Errors
    /// When the region has no keys.
    pub fn seal<T: SealedValue>(
        &self,
        region: &str,
        id: Uuid,
        value: &T,
    ) -> Result<Vec<u8>, SecretError> {
        let place = place::<T>(id);
        let json =
            serde_json::to_vec(value).map_err(|_| SecretError::Form { place: place.clone() })?;
        self.seal_bytes(region, &place, &json)
    }

    /// Opens what [`Keys::seal`] sealed for the same row.
    ///
    /// # Errors
    /// When the region has no keys, or the value is not one of that row.
    pub fn open<T: SealedValue>(
        &self,
        region: &str,
        id: Uuid,
        sealed: &[u8],
    ) -> Result<T, SecretError> {
        let place = place::<T>(id);
        let json = self.open_bytes(region, &place, sealed)?;
        // The error of serde may quote the value, so it is not passed on.
        serde_json::from_slice(&json).map_err(|_| SecretError::Form { place })
    }

    /// Seals the private key of the certificate `id`. Routers open it, so it is the PEM text itself.
    ///
    /// # Errors
    /// When the region has no keys.
    pub fn seal_certificate_key(
        &self,
        region: &str,
        id: Uuid,
        key_pem: &str,
    ) -> Result<Vec<u8>, SecretError> {
        self.seal_bytes(region, &control_types::seal::certificate_key(id), key_pem.as_bytes())
    }

    /// Opens what [`Keys::seal_certificate_key`] sealed.
    ///
    /// # Errors
    /// When the region has no keys, or the value is not one of that row.
    pub fn open_certificate_key(
        &self,
        region: &str,
        id: Uuid,
        sealed: &[u8],
    ) -> Result<String, SecretError> {
        let place = control_types::seal::certificate_key(id);
        let pem = self.open_bytes(region, &place, sealed)?;
        String::from_utf8(pem).map_err(|_| SecretError::Form { place })
    }

    fn seal_bytes(&self, region: &str, place: &str, value: &[u8]) -> Result<Vec<u8>, SecretError> {
        self.ring(region)?.seal(place, value).map_err(|source| SecretError::Seal {
            place: place.to_owned(),
            region: region.to_owned(),
            source,
        })
    }

    fn open_bytes(&self, region: &str, place: &str, sealed: &[u8]) -> Result<Vec<u8>, SecretError> {
        self.ring(region)?.open(place, sealed).map_err(|source| SecretError::Seal {
            place: place.to_owned(),
            region: region.to_owned(),
            source,
        })
    }
}

fn place<T: SealedValue>(id: Uuid) -> String {
    format!("{}/{id}", T::PLACE)
}

/// A new password, secret key or token: 43 letters that need no escaping anywhere.
///
/// # Errors
/// When the system gives no random bytes.
pub fn random_text() -> Result<String, SecretError> {
    Ok(URL_SAFE_NO_PAD.encode(random_bytes::<SECRET_BYTES>()?))
}

/// A new access key, as long as those of S3.
///
/// # Errors
/// When the system gives no random bytes.
pub fn random_access_key() -> Result<String, SecretError> {
    let letter = |byte: u8| char::from(ACCESS_KEY_LETTERS[usize::from(byte % 32)]);
    Ok(random_bytes::<20>()?.into_iter().map(letter).collect())
}

/// Random bytes of the system's generator.
///
/// # Errors
/// When the system gives none.
pub fn random_bytes<const N: usize>() -> Result<[u8; N], SecretError> {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).map_err(|_| SecretError::Random)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        let ring = |region| KeyRing::generate(region).expect("random bytes");
        Keys::from_rings([ring("id-jakarta"), ring("sg-singapore")])
    }

    #[test]
    fn a_secret_opens_in_its_row_region_and_form_only() {
        let keys = keys();
        let id = Uuid::now_v7();
        let secrets = PlacementSecrets::generate().expect("random bytes");
        let sealed = keys.seal("id-jakarta", id, &secrets).expect("seals");
        let open = |region: &str, id| keys.open::<PlacementSecrets>(region, id, &sealed);
        assert!(open("id-jakarta", id).expect("opens") == secrets);
        assert!(open("sg-singapore", id).is_err());
        assert!(open("id-jakarta", Uuid::now_v7()).is_err());
        assert!(matches!(open("id-bandung", id), Err(SecretError::NoKeys(_))));
        assert!(keys.open::<ClusterAdminUrl>("id-jakarta", id, &sealed).is_err());
    }

    #[test]
    fn random_texts_differ_and_need_no_escaping() {
        let texts = [(); 2].map(|()| random_text().expect("random bytes"));
        assert_ne!(texts[0], texts[1]);
        assert_eq!(texts[0].len(), 43);
        assert!(texts[0].bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)));
        let key = random_access_key().expect("random bytes");
        assert!(key.len() == 20 && key.bytes().all(|b| ACCESS_KEY_LETTERS.contains(&b)), "{key}");
    }

    #[test]
    fn every_wrong_key_file_is_reported() {
        let folder = tempfile::tempdir().expect("a folder");
        let write = |name: &str, region: &str| {
            let path = folder.path().join(name);
            std::fs::write(&path, KeyRing::generate(region).expect("random").to_json())
                .expect("writes");
            path
        };
        let files = BTreeMap::from([
            ("a".to_owned(), write("a", "a")),
            ("b".to_owned(), write("b", "c")),
            ("d".to_owned(), folder.path().join("absent")),
        ]);
        assert_eq!(Keys::load(&files).expect_err("two are wrong").len(), 2);
        let files = BTreeMap::from([("a".to_owned(), folder.path().join("a"))]);
        assert_eq!(Keys::load(&files).expect("loads").regions().collect::<Vec<_>>(), ["a"]);
    }
}
