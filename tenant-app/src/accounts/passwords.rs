//! Passwords: Argon2id with 19 MiB, two passes, one lane. At most two are computed at once, away
//! from the threads that answer requests.

use std::sync::{Arc, LazyLock};

use anyhow::anyhow;
use argon2::{
    Algorithm, Argon2, Params, PasswordHash, PasswordHasher as _, PasswordVerifier as _, Version,
    password_hash::SaltString,
};
use tokio::sync::Semaphore;

use crate::rejection::Rejection;

/// The fewest characters.
pub const MIN_CHARS: usize = 10;
/// The most bytes; longer ones only cost time.
pub const MAX_BYTES: usize = 512;

/// What an unknown account's password is compared with, so that the answer takes as long.
static NOBODY: LazyLock<String> = LazyLock::new(|| hash_now("nobody").unwrap_or_default());

/// The gate to hashing.
pub struct Passwords(Arc<Semaphore>);

impl Default for Passwords {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(2)))
    }
}

impl Passwords {
    /// Whether the password is the one of the hash. Without a hash: no, after the same time.
    ///
    /// # Errors
    /// When hashing fails.
    pub async fn verify(&self, password: String, hash: Option<String>) -> Result<bool, Rejection> {
        self.run(move || {
            // Made here, so that the first time is paid by both kinds of attempt alike.
            let nobody = NOBODY.as_str();
            let known = hash.is_some();
            let hash = hash.as_deref().unwrap_or(nobody);
            let Ok(hash) = PasswordHash::new(hash) else { return Ok(false) };
            Ok(hasher()?.verify_password(password.as_bytes(), &hash).is_ok() && known)
        })
        .await
    }

    /// A new hash.
    ///
    /// # Errors
    /// When hashing fails.
    pub async fn hash(&self, password: String) -> Result<String, Rejection> {
        self.run(move || hash_now(&password)).await
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
    ) -> Result<T, Rejection> {
        let permit = Arc::clone(&self.0).acquire_owned().await;
        let work = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            work()
        });
        let done = work.await.map_err(|error| Rejection::Internal(error.into()))?;
        done.map_err(Rejection::Internal)
    }
}

fn hasher() -> anyhow::Result<Argon2<'static>> {
    let params = Params::new(19 * 1024, 2, 1, None).map_err(|error| anyhow!("argon2: {error}"))?;
    Ok(Argon2::new(Algorithm::Argon2id, Version::V0x13, params))
}

fn hash_now(password: &str) -> anyhow::Result<String> {
    let salt = SaltString::encode_b64(&rand::random::<[u8; 16]>())
        .map_err(|error| anyhow!("argon2: {error}"))?;
    let hash = hasher()?.hash_password(password.as_bytes(), &salt);
    hash.map(|hash| hash.to_string()).map_err(|error| anyhow!("argon2: {error}"))
}

/// Why a new password is refused, as a key of `locales/`.
pub fn weakness(password: &str, account: &[&str]) -> Option<&'static str> {
    if password.chars().count() < MIN_CHARS {
        return Some("password-too-short");
    }
    if password.len() > MAX_BYTES {
        return Some("password-too-long");
    }
    let lower = password.to_lowercase();
    let mut letters: Vec<char> = lower.chars().collect();
    letters.sort_unstable();
    letters.dedup();
    let is_common = ["password", "qwerty", "123456", "kata sandi", "katasandi", "rahasia", "admin"]
        .iter()
        .any(|word| lower.starts_with(word) && lower.len() < word.len() + 6);
    let is_own = account.iter().any(|text| text.len() > 3 && lower.contains(&text.to_lowercase()));
    (letters.len() < 5 || is_common || is_own).then_some("password-too-simple")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_passwords_are_named() {
        assert_eq!(weakness("short", &[]), Some("password-too-short"));
        assert_eq!(weakness(&"a1".repeat(300), &[]), Some("password-too-long"));
        assert_eq!(weakness("aaaaaaaaaaaa", &[]), Some("password-too-simple"));
        assert_eq!(weakness("password123", &[]), Some("password-too-simple"));
        assert_eq!(weakness("ani@acme.test1", &["ani@acme.test"]), Some("password-too-simple"));
        assert_eq!(weakness("kuda hijau di atap", &["ani@acme.test"]), None);
    }

    #[tokio::test]
    async fn only_the_right_password_of_a_known_account() {
        let passwords = Passwords::default();
        let hash = passwords.hash("right".to_owned()).await.expect("a hash");
        assert!(hash.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"), "{hash}");
        let verify = |password: &str, hash: Option<&str>| {
            passwords.verify(password.to_owned(), hash.map(str::to_owned))
        };
        assert!(verify("right", Some(&hash)).await.expect("an answer"));
        assert!(!verify("wrong", Some(&hash)).await.expect("an answer"));
        assert!(!verify("nobody", None).await.expect("an answer"));
        assert!(!verify("x", Some("pbkdf2_sha25600000=")).await.expect("an answer"));
    }
}
