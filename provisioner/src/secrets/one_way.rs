//! The one-way forms in which others keep passwords and tokens.

use std::fmt;

use argon2::{
    Algorithm, Argon2, Params, Version,
    password_hash::{PasswordHasher, SaltString},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};

use super::{SecretError, random_bytes};

/// Rounds of SCRAM, as Postgres does them itself. The passwords are random, so more gain nothing.
const SCRAM_ITERATIONS: u32 = 4096;

/// What is kept of a token. A token is random and long, so a plain hash is enough.
pub fn token_hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// What Postgres keeps of a password (RFC 5802 and 7677). Given to `CREATE ROLE` instead of the
/// password, it keeps the password out of the server's log and saves the server the rounds.
#[derive(Clone, PartialEq, Eq)]
pub struct ScramVerifier(String);

impl ScramVerifier {
    /// The verifier of a password, with a new salt. The password is one of [`random_text`]: plain
    /// ASCII, so there is nothing to normalise.
    ///
    /// # Errors
    /// When the system gives no random bytes.
    pub fn of_password(password: &str) -> Result<Self, SecretError> {
        Self::with_salt(password, &random_bytes::<16>()?)
    }

    fn with_salt(password: &str, salt: &[u8]) -> Result<Self, SecretError> {
        let mut salted = [0; 32];
        pbkdf2::pbkdf2::<Hmac<Sha256>>(password.as_bytes(), salt, SCRAM_ITERATIONS, &mut salted)
            .map_err(|error| SecretError::Hash(error.to_string()))?;
        let stored_key = Sha256::digest(hmac_of(&salted, b"Client Key")?);
        let server_key = hmac_of(&salted, b"Server Key")?;
        Ok(Self(format!(
            "SCRAM-SHA-256${SCRAM_ITERATIONS}:{}${}:{}",
            STANDARD.encode(salt),
            STANDARD.encode(stored_key),
            STANDARD.encode(server_key)
        )))
    }

    /// As Postgres takes it in place of a password.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for ScramVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramVerifier")
    }
}

fn hmac_of(key: &[u8], text: &[u8]) -> Result<[u8; 32], SecretError> {
    let mut hmac = Hmac::<Sha256>::new_from_slice(key)
        .map_err(|error| SecretError::Hash(error.to_string()))?;
    hmac.update(text);
    Ok(hmac.finalize().into_bytes().into())
}

/// The argon2id hash of a password that a person chose, as the tenant-app checks it (19 MiB, two
/// passes). It takes tens of milliseconds of a processor, so it runs on a thread of its own.
///
/// # Errors
/// When the system gives no random bytes.
pub async fn hash_password(password: String) -> Result<String, SecretError> {
    let hashing = tokio::task::spawn_blocking(move || {
        let params = Params::new(19 * 1024, 2, 1, None)
            .map_err(|error| SecretError::Hash(error.to_string()))?;
        let salt = SaltString::encode_b64(&random_bytes::<16>()?)
            .map_err(|error| SecretError::Hash(error.to_string()))?;
        let hash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password(password.as_bytes(), &salt)
            .map_err(|error| SecretError::Hash(error.to_string()))?;
        Ok(hash.to_string())
    });
    hashing.await.map_err(|error| SecretError::Hash(error.to_string()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifier_is_the_one_that_rfc_7677_shows() {
        // The exchange of RFC 7677 section 3: password "pencil", this salt, 4096 rounds. Its client
        // proof and server signature follow from exactly these two keys.
        let salt = STANDARD.decode("W22ZaJ0SNY7soEsUEjb6gQ==").expect("base64");
        let verifier = ScramVerifier::with_salt("pencil", &salt).expect("hashes");
        assert_eq!(
            verifier.as_str(),
            "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
             WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU="
        );
        assert!(!format!("{verifier:?}").contains('$'));
    }

    #[tokio::test]
    async fn a_password_hash_names_its_cost() {
        let hash = hash_password("pencil".to_owned()).await.expect("hashes");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
    }
}
