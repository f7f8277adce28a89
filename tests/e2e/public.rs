//! A platform that gets certificates from an authority of its own, as the world's platforms do.

use anyhow::Result;
use sqlx::PgPool;
use tests::{
    Stack,
    dns_server::DnsServer,
    pebble::{Pebble, PebbleOptions},
    stack::{Start, free_ports},
};

/// The platform, and what it asks.
pub struct Public {
    pub stack: Stack,
    pub dns: DnsServer,
    pub pebble: Pebble,
    pub control: PgPool,
    /// Where its routers take connections over TLS.
    pub https_port: u16,
}

impl Public {
    pub async fn start(manners: PebbleOptions) -> Result<Self> {
        let mut tries = 0;
        loop {
            tries += 1;
            match Self::try_start(manners.clone()).await {
                // The authority has to know the ports before the routers take them, and somebody
                // else was quicker.
                Err(error) if tries < 5 && error.to_string().contains("already in use") => {}
                outcome => return outcome,
            }
        }
    }

    async fn try_start(manners: PebbleOptions) -> Result<Self> {
        let dns = DnsServer::start().await?;
        let (https_port, http_port) = free_ports()?;
        let pebble = Pebble::start(dns.address, https_port, http_port, manners).await?;
        let start = Start {
            dns: Some(dns.address),
            ports: Some((https_port, http_port)),
            acme: Some((pebble.directory_url.clone(), pebble.server_root.clone())),
            ..Start::default()
        };
        let stack = tokio::task::spawn_blocking(|| Stack::start(start)).await??;
        let control = PgPool::connect(&stack.control_database_url()?).await?;
        Ok(Self { stack, dns, pebble, control, https_port })
    }

    pub async fn stop(self) -> Result<()> {
        self.control.close().await;
        tokio::task::spawn_blocking(|| self.stack.stop()).await??;
        Ok(())
    }
}
