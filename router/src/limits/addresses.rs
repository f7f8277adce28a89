//! What one client address may take: connections, handshakes, requests. Of IPv6 the /64 counts, since
//! that is what one subscriber has. There is room for a fixed number of addresses, so nobody can make
//! this grow; a connection keeps what it needs of it, so that a request looks nothing up.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
};

use tokio::time::Instant;

use super::{
    Limits,
    gcra::{Bucket, Rate, nanos},
};
use crate::config::network::Network;

const SHARDS: usize = 64;
/// Addresses remembered in one shard. All shards together have three times as many as there may be
/// connections by default.
const SHARD_ADDRESSES: usize = 1_024;
/// Of IPv6, what one subscriber has.
const SUBSCRIBER: u128 = u128::MAX << 64;

type Shard = Mutex<HashMap<u128, Arc<Address>>>;

/// All addresses that take something now or did a moment ago.
#[derive(Debug)]
pub struct Addresses {
    shards: Box<[Shard]>,
    exempt: Vec<Network>,
    connections: u32,
    handshakes: Rate,
    requests: Rate,
}

/// One address.
#[derive(Debug, Default)]
struct Address {
    connections: AtomicU32,
    handshakes: Bucket,
    requests: Bucket,
    held: AtomicU64,
}

/// A connection of an address, counted for as long as this lives.
#[derive(Debug)]
pub struct Admission(Option<Admitted>);

#[derive(Debug)]
struct Admitted {
    address: Arc<Address>,
    handshakes: Rate,
    requests: Rate,
}

impl Addresses {
    /// Nobody yet.
    pub fn new(limits: &Limits) -> Self {
        Self {
            shards: (0..SHARDS).map(|_| Shard::default()).collect(),
            exempt: limits.exempt.clone(),
            connections: limits.connections_per_address,
            handshakes: limits.handshakes(),
            requests: limits.requests(),
        }
    }

    /// Counts a connection of an address; none when it has too many.
    pub fn admit(&self, address: IpAddr) -> Option<Admission> {
        if self.exempt.iter().any(|network| network.contains(address)) {
            return Some(Admission(None));
        }
        let address = self.entry(key(address));
        if address.connections.fetch_add(1, Relaxed) >= self.connections {
            address.connections.fetch_sub(1, Relaxed);
            return None;
        }
        let (handshakes, requests) = (self.handshakes, self.requests);
        Some(Admission(Some(Admitted { address, handshakes, requests })))
    }

    /// Whether an address may have another connection at `now`, as far as is known. Counts nothing, so
    /// that whoever only pretends to be there takes nothing of it.
    pub fn has_room(&self, address: IpAddr, now: Instant) -> bool {
        if self.exempt.iter().any(|network| network.contains(address)) {
            return true;
        }
        let key = key(address);
        let Some(shard) = self.shards.get(shard_of(key)) else { return true };
        let known = shard.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        known.is_none_or(|one| {
            one.connections.load(Relaxed) < self.connections
                && one.handshakes.has_one(self.handshakes, nanos(now))
        })
    }

    fn entry(&self, key: u128) -> Arc<Address> {
        let Some(shard) = self.shards.get(shard_of(key)) else { return Arc::default() };
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if !shard.contains_key(&key) && shard.len() >= SHARD_ADDRESSES {
            make_room(&mut shard);
        }
        if shard.len() >= SHARD_ADDRESSES && !shard.contains_key(&key) {
            // More addresses are connected than are remembered: this one is on its own.
            return Arc::default();
        }
        Arc::clone(shard.entry(key).or_default())
    }
}

/// Forgets who takes nothing; if that is not enough, who is not connected.
fn make_room(shard: &mut HashMap<u128, Arc<Address>>) {
    let now = nanos(Instant::now());
    shard.retain(|_, address| {
        Arc::strong_count(address) > 1
            || !address.handshakes.is_full(now)
            || !address.requests.is_full(now)
    });
    if shard.len() >= SHARD_ADDRESSES {
        shard.retain(|_, address| Arc::strong_count(address) > 1);
    }
}

fn shard_of(key: u128) -> usize {
    let mixed = key.wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    usize::try_from(mixed >> 122).unwrap_or(0) % SHARDS
}

fn key(address: IpAddr) -> u128 {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits() & SUBSCRIBER,
    }
}

impl Admission {
    /// Whether the address may shake hands at `now`.
    pub fn may_shake_hands(&self, now: Instant) -> bool {
        self.0.as_ref().is_none_or(|one| one.address.handshakes.take(one.handshakes, nanos(now)))
    }

    /// Whether the address may send a request at `now`.
    pub fn may_ask(&self, now: Instant) -> bool {
        self.0.as_ref().is_none_or(|one| one.address.requests.take(one.requests, nanos(now)))
    }

    /// Counts a request of the address that waits for a held site, unless so many wait already.
    pub fn hold(&self, most: u64) -> Option<HeldOfAddress> {
        let Some(one) = &self.0 else { return Some(HeldOfAddress(None)) };
        if one.address.held.fetch_add(1, Relaxed) >= most {
            one.address.held.fetch_sub(1, Relaxed);
            return None;
        }
        Some(HeldOfAddress(Some(Arc::clone(&one.address))))
    }
}

impl Drop for Admission {
    fn drop(&mut self) {
        if let Some(one) = &self.0 {
            one.address.connections.fetch_sub(1, Relaxed);
        }
    }
}

/// A waiting request of an address, counted for as long as this lives.
#[derive(Debug)]
pub struct HeldOfAddress(Option<Arc<Address>>);

impl Drop for HeldOfAddress {
    fn drop(&mut self) {
        if let Some(address) = &self.0 {
            address.held.fetch_sub(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn addresses() -> Addresses {
        let limits = Limits { connections_per_address: 2, request_burst: 3, ..Limits::default() };
        Addresses::new(&limits)
    }

    #[test]
    fn an_address_has_its_share_and_no_more() {
        let addresses = addresses();
        let one: IpAddr = Ipv4Addr::new(192, 0, 2, 1).into();
        let first = addresses.admit(one).expect("the first");
        let second = addresses.admit(one).expect("the second");
        assert!(addresses.admit(one).is_none());
        assert!(addresses.admit(Ipv4Addr::new(192, 0, 2, 2).into()).is_some());
        assert!(!addresses.has_room(one, Instant::now()), "looking counts nothing");
        assert!(addresses.has_room(Ipv4Addr::new(192, 0, 2, 3).into(), Instant::now()));
        // The requests of all its connections count together.
        let now = Instant::now();
        let asked = (0..5).filter(|_| first.may_ask(now)).count();
        assert_eq!((asked, second.may_ask(now)), (3, false));
        drop(first);
        assert!(addresses.admit(one).is_some_and(|third| !third.may_ask(now)));
        let held: Vec<_> = (0..4).filter_map(|_| second.hold(2)).collect();
        assert_eq!(held.len(), 2);
        for _ in 0..5 {
            assert!(addresses.admit(Ipv4Addr::LOCALHOST.into()).is_some());
        }
    }

    #[test]
    fn of_ipv6_the_network_of_a_subscriber_counts() {
        let addresses = addresses();
        let of = |network: u16, host: u16| -> IpAddr {
            Ipv6Addr::new(0x2001, 0xdb8, 0, network, 0, 0, 0, host).into()
        };
        let kept: Vec<_> = (0..5).filter_map(|host| addresses.admit(of(1, host))).collect();
        assert_eq!(kept.len(), 2);
        assert!(addresses.admit(of(2, 0)).is_some());
    }

    #[test]
    fn nobody_can_make_it_grow() {
        let addresses = addresses();
        for number in 0..200_000_u32 {
            let admission = addresses.admit(Ipv4Addr::from_bits(0x0b00_0000 + number).into());
            assert!(admission.is_some_and(|admission| admission.may_ask(Instant::now())));
        }
        let remembered: usize =
            addresses.shards.iter().map(|shard| shard.lock().expect("not poisoned").len()).sum();
        assert!(remembered <= SHARDS * SHARD_ADDRESSES, "{remembered}");
    }
}
