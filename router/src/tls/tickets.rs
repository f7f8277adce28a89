//! Session tickets that any router of the region opens. Their keys follow from the region's ring and
//! the time, so nothing has to hand them round or rotate them: every six hours there is another key,
//! and the two before it still open.

use std::{
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use arc_swap::ArcSwapOption;
use aws_lc_rs::{
    aead::{AES_256_GCM, Aad, NONCE_LEN, Nonce, RandomizedNonceKey},
    error::Unspecified,
    hkdf::{HKDF_SHA256, Prk},
};
use control_types::seal::{KeyRing, SealError};
use rustls::server::ProducesTickets;

const LABEL: &str = "tls session tickets";
/// How long a key makes tickets.
const EPOCH_SECS: u64 = 6 * 3_600;
/// How many keys before the current one still open.
const EPOCHS_BEFORE: u64 = 2;
/// What a ticket begins with, so that its key is found. It tells nothing but the epoch.
const NAME_BYTES: usize = 8;

/// Seconds since 1970.
type Clock = fn() -> u64;

/// Makes and opens tickets.
pub struct Tickets<C = Clock> {
    // One for each key of the ring, that of the active key first.
    secrets: Vec<[u8; 32]>,
    clock: C,
    keys: ArcSwapOption<Keys>,
}

struct Keys {
    epoch: u64,
    // The first one makes tickets.
    keys: Vec<Key>,
}

struct Key {
    name: [u8; NAME_BYTES],
    aead: RandomizedNonceKey,
}

impl Tickets {
    /// The tickets of the ring's region.
    ///
    /// # Errors
    /// When the cryptography fails.
    pub fn new(ring: &KeyRing) -> Result<Self, SealError> {
        Self::with_clock(ring, || {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
        })
    }
}

impl<C: Fn() -> u64> Tickets<C> {
    fn with_clock(ring: &KeyRing, clock: C) -> Result<Self, SealError> {
        let tickets = Self { secrets: ring.derive(LABEL)?, clock, keys: ArcSwapOption::empty() };
        tickets.keys().ok_or(SealError::Malformed("no key for tickets can be derived"))?;
        Ok(tickets)
    }

    fn keys(&self) -> Option<Arc<Keys>> {
        let epoch = (self.clock)() / EPOCH_SECS;
        if let Some(keys) = &*self.keys.load()
            && keys.epoch == epoch
        {
            return Some(Arc::clone(keys));
        }
        let mut keys = Vec::new();
        for back in 0..=EPOCHS_BEFORE {
            for secret in &self.secrets {
                keys.push(Key::derive(secret, epoch.saturating_sub(back)).ok()?);
            }
        }
        let keys = Arc::new(Keys { epoch, keys });
        self.keys.store(Some(Arc::clone(&keys)));
        Some(keys)
    }
}

impl Key {
    fn derive(secret: &[u8; 32], epoch: u64) -> Result<Self, Unspecified> {
        let secret = Prk::new_less_safe(HKDF_SHA256, secret);
        let derive = |purpose: &[u8]| {
            let mut bytes = [0; 32];
            secret.expand(&[purpose, &epoch.to_be_bytes()], HKDF_SHA256)?.fill(&mut bytes)?;
            Ok::<_, Unspecified>(bytes)
        };
        let mut name = [0; NAME_BYTES];
        name.copy_from_slice(&derive(b"name")?[..NAME_BYTES]);
        Ok(Self { name, aead: RandomizedNonceKey::new(&AES_256_GCM, &derive(b"key")?)? })
    }
}

impl<C: Fn() -> u64 + Send + Sync> ProducesTickets for Tickets<C> {
    fn enabled(&self) -> bool {
        true
    }

    /// What a ticket that is made at the end of an epoch has for sure.
    fn lifetime(&self) -> u32 {
        u32::try_from(EPOCHS_BEFORE * EPOCH_SECS).unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let keys = self.keys()?;
        let key = keys.keys.first()?;
        let mut sealed = plain.to_vec();
        let nonce = key.aead.seal_in_place_append_tag(Aad::from(key.name), &mut sealed).ok()?;
        Some([&key.name[..], nonce.as_ref(), &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (name, rest) = ticket.split_at_checked(NAME_BYTES)?;
        let (nonce, sealed) = rest.split_at_checked(NONCE_LEN)?;
        let keys = self.keys()?;
        let key = keys.keys.iter().find(|key| key.name == name)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).ok()?;
        let mut plain = sealed.to_vec();
        let length = key.aead.open_in_place(nonce, Aad::from(key.name), &mut plain).ok()?.len();
        plain.truncate(length);
        Some(plain)
    }
}

impl<C> fmt::Debug for Tickets<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tickets")
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ring: &KeyRing, epoch: u64) -> Tickets<impl Fn() -> u64 + Send + Sync> {
        Tickets::with_clock(ring, move || epoch * EPOCH_SECS + 7).expect("derives")
    }

    #[test]
    fn a_ticket_opens_at_any_router_of_its_region_for_three_epochs() {
        let ring = KeyRing::generate("r").expect("random bytes");
        let ticket = at(&ring, 100).encrypt(b"session").expect("seals");
        for (epoch, opens) in [(99, false), (100, true), (101, true), (102, true), (103, false)] {
            let opened = at(&ring, epoch).decrypt(&ticket);
            assert_eq!(opened, opens.then(|| b"session".to_vec()), "{epoch}");
        }
        let other = KeyRing::generate("r").expect("random bytes");
        assert_eq!(at(&other, 100).decrypt(&ticket), None);
        let again = at(&ring, 100).encrypt(b"session").expect("seals");
        assert_ne!(ticket, again, "a nonce of its own");
    }

    #[test]
    fn keys_follow_the_clock() {
        use std::sync::atomic::{AtomicU64, Ordering};
        let ring = KeyRing::generate("r").expect("random bytes");
        let now = Arc::new(AtomicU64::new(0));
        let clock = Arc::clone(&now);
        let tickets = Tickets::with_clock(&ring, move || clock.load(Ordering::Relaxed));
        let tickets = tickets.expect("derives");
        let first = tickets.encrypt(b"x").expect("seals");
        now.store(3 * EPOCH_SECS, Ordering::Relaxed);
        assert_eq!(tickets.decrypt(&first), None);
        let second = tickets.encrypt(b"x").expect("seals");
        assert_eq!(at(&ring, 3).decrypt(&second), Some(b"x".to_vec()));
    }

    #[test]
    fn an_older_key_of_the_ring_still_opens() {
        let [one, two] = ["1", "2"].map(|digit| digit.repeat(64));
        let ring = |active: &str| {
            let text = format!(
                r#"{{"region":"r","active":"{active}","keys":{{"a":"{one}","b":"{two}"}}}}"#
            );
            KeyRing::from_json(&text).expect("reads")
        };
        let ticket = at(&ring("a"), 5).encrypt(b"x").expect("seals");
        assert_eq!(at(&ring("b"), 6).decrypt(&ticket), Some(b"x".to_vec()));
    }

    proptest! {
        #[test]
        fn nothing_but_a_ticket_opens(at_byte in 0_usize..60, bit in 0_u8..8, cut in 0_usize..60) {
            let ring = KeyRing::generate("r").expect("random bytes");
            let tickets = at(&ring, 9);
            let mut ticket = tickets.encrypt(&[7; 40]).expect("seals");
            prop_assert_eq!(tickets.decrypt(&ticket[..cut]), None);
            ticket[at_byte] ^= 1 << bit;
            prop_assert_eq!(tickets.decrypt(&ticket), None);
        }
    }
}
