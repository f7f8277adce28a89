//! Ports: those that people see must be free before anything starts; private ones are remembered,
//! so that they stay what they were.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr, TcpListener},
};

use anyhow::{Context as _, bail};

use crate::data_dir::{DataDir, write_private};

/// How many ports after the wanted one are tried for the routers of further regions.
const TRIES: u16 = 200;

/// Below those that systems give to connections (Linux from 32768, macOS from 49152).
const PRIVATE: std::ops::Range<u16> = 15_000..32_000;

/// A router's public ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RouterPorts {
    /// For TLS.
    pub https: u16,
    /// For plain HTTP.
    pub http: u16,
}

/// The ports of each of `n` routers: the first has the wanted ones, the others the next free ones.
///
/// # Errors
/// When a wanted port is taken or not allowed: the message names the option.
pub fn for_routers(https: u16, http: u16, n: usize) -> anyhow::Result<Vec<RouterPorts>> {
    if https == http {
        bail!("--https-port and --http-port must differ (both are {https})");
    }
    must_be_free(https, "--https-port")?;
    must_be_free(http, "--http-port")?;
    let mut taken = vec![https, http];
    let mut next = |after: u16, what: &str| {
        let mut candidates = (after.saturating_add(1)..=u16::MAX).take(usize::from(TRIES));
        let found = candidates.find(|port| !taken.contains(port) && is_free(*port));
        let port = found.with_context(|| format!("{what}: no free port after {after}"))?;
        taken.push(port);
        anyhow::Ok(port)
    };
    let mut ports = vec![RouterPorts { https, http }];
    while ports.len() < n {
        let last = ports[ports.len() - 1];
        ports.push(RouterPorts {
            https: next(last.https, "--https-port")?,
            http: next(last.http, "--http-port")?,
        });
    }
    Ok(ports)
}

/// Whether a port of the loopback address can be listened at.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

fn must_be_free(port: u16, option: &str) -> anyhow::Result<()> {
    if port == 0 {
        bail!("{option}: 0 is not a port that a browser can open");
    }
    match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => bail!(
            "port {port} is taken by another program: choose another one with {option}, as in \
             `{option} {}`",
            port.checked_add(1000).unwrap_or(9443)
        ),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            bail!("this user may not listen at port {port}: choose one above 1023 with {option}")
        }
        Err(error) => Err(error).with_context(|| format!("{option}: cannot listen at {port}")),
    }
}

/// A private address for a component: the port of last time if it is free, else a new one.
///
/// # Errors
/// When no port is free or it cannot be remembered.
pub fn remembered(data: &DataDir, component: &str) -> anyhow::Result<SocketAddr> {
    let file = data.config().join("ports.json");
    let mut ports: BTreeMap<String, u16> = std::fs::read(&file)
        .ok()
        .and_then(|text| serde_json::from_slice(&text).ok())
        .unwrap_or_default();
    if let Some(port) = ports.get(component).copied().filter(|port| is_free(*port)) {
        return Ok((Ipv4Addr::LOCALHOST, port).into());
    }
    // The component listens a moment later: of the ports that the system gives by itself, one would be
    // somebody's connection by then now and then. Nor do those listen yet that chose one just before.
    let mut candidates = (0..TRIES).map(|_| rand::random_range(PRIVATE));
    let is_ours = |port: &u16| ports.values().any(|taken| taken == port);
    let port = candidates.find(|port| !is_ours(port) && is_free(*port));
    let port = port.context("no free port on 127.0.0.1")?;
    ports.insert(component.to_owned(), port);
    write_private(&file, &serde_json::to_vec_pretty(&ports)?)?;
    Ok((Ipv4Addr::LOCALHOST, port).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_named_with_its_option() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        let message = for_routers(port, 1, 1).expect_err("taken").to_string();
        assert!(message.contains("--https-port") && message.contains(&port.to_string()));
        assert!(for_routers(4433, 4433, 1).is_err());
    }

    #[test]
    fn further_routers_get_ports_of_their_own() {
        let free = || {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
            listener.local_addr().expect("an address").port()
        };
        let ports = for_routers(free(), free(), 3).expect("free ports");
        let mut all: Vec<_> = ports.iter().flat_map(|ports| [ports.https, ports.http]).collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 6);
    }
}
