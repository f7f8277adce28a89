//! Networks in the configuration, as `10.0.0.0/8` or `2001:db8::/32`. IPv4 counts as the part of IPv6
//! that it is mapped to, so that there is one kind of address.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, de::Error as _};

/// An address and how many of its bits count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Network {
    bits: u128,
    prefix: u32,
}

/// Not a network.
#[derive(Debug, thiserror::Error)]
#[error("'{0}' is not a network; write it as 10.0.0.0/8 or 2001:db8::/32")]
pub struct NotANetwork(String);

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

impl Network {
    fn new(address: IpAddr, prefix: u32) -> Self {
        let prefix = if address.is_ipv4() { prefix + 96 } else { prefix };
        Self { bits: bits(address) & Self::mask(prefix), prefix }
    }

    const fn mask(prefix: u32) -> u128 {
        if prefix == 0 { 0 } else { u128::MAX << (128 - prefix) }
    }

    /// This machine.
    pub fn loopback() -> Vec<Self> {
        vec![
            Self::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8),
            Self::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
        ]
    }

    /// Whether the address is in this network.
    pub fn contains(&self, address: IpAddr) -> bool {
        bits(address) & Self::mask(self.prefix) == self.bits
    }
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let wrong = || NotANetwork(text.to_owned());
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let prefix = match prefix {
            None => most,
            Some(prefix) => prefix.parse().map_err(|_| wrong())?,
        };
        if prefix > most { Err(wrong()) } else { Ok(Self::new(address, prefix)) }
    }
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", Ipv6Addr::from_bits(self.bits), self.prefix)
    }
}

impl<'de> Deserialize<'de> for Network {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_has_its_addresses_and_no_others() {
        for (network, inside, outside) in [
            ("10.0.0.0/8", "10.255.1.2", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.8"),
            ("2001:db8::/32", "2001:db8:1::9", "2001:db9::"),
            ("0.0.0.0/0", "203.0.113.9", "2001:db8::1"),
            ("::1/128", "::1", "::2"),
        ] {
            let network: Network = network.parse().expect("is a network");
            assert!(network.contains(inside.parse().expect("an address")), "{network:?}");
            assert!(!network.contains(outside.parse().expect("an address")), "{network:?}");
        }
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "::/129", "10.0.0.0/-1", "host/8"] {
            assert!(wrong.parse::<Network>().is_err(), "{wrong}");
        }
    }
}
